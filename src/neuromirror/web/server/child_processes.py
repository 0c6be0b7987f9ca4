"""Start processes of the catalogue that serve requests over a socket."""

from __future__ import annotations

import json
import logging
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any, Final

LENGTH: Final = struct.Struct("!Q")
"""The length of a message, which precedes it."""
MAX_MESSAGE_BYTES: Final = 32 << 20
"""Maximum size of a message in bytes; the processes send less."""

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from {module} import main; main()"
)
"""The process uses the module search path of this one."""
_MAX_LOG_LINE: Final = 4096
"""Maximum length of a log line; longer lines are split."""


def start_child(
    module: str, options: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process, and return it with this end of the socket that connects them.

    Its output is logged, in the form of this process's log.

    Parameters
    ----------
    module
        The module whose function ``main`` the process calls.
    options
        The options as JSON, its first argument; ``socket`` is the number of its end of the socket.
    environment
        Its environment, without secrets.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _PROGRAM.format(module=module), json.dumps(sys.path)),
                json.dumps({**options, "socket": theirs.fileno()}),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[theirs.fileno()],
        )
    assert process.stdout is not None  # a pipe
    threading.Thread(target=_log_lines, args=(process.stdout,), daemon=True).start()
    return process, ours


def _log_lines(output: IO[bytes]) -> None:
    with output:
        for line in iter(lambda: output.readline(_MAX_LOG_LINE), b""):
            text = line.decode(errors="replace").strip()
            if text:
                logging.getLogger(__name__).warning("%s", text)
