"""A shell in which the commands of a documentation page are typed."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from support.forked_commands import fork_command

_END = "--- that was the command ---"
_CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [1, 2])
server.sendall(request)
process = int.from_bytes(server.recv(8), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(process, number))
sys.exit(int.from_bytes(server.recv(8), "big", signed=True))
"""


class ForkedProgram:
    """A folder with a program ``neuromirror``, each call of which is forked from one process.

    So a page with twenty commands does not start Python and load its packages twenty times. The
    commands have no input.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self.path = Path(self._folder.name)
        address = self.path / "socket"
        program = self.path / "neuromirror"
        program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(address))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._folder.cleanup()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                process = self._fork(client)
                threading.Thread(target=self._wait, args=(process, client), daemon=True).start()

    @staticmethod
    def _fork(client: socket.socket) -> BaseProcess:
        head, descriptors, _, _ = socket.recv_fds(client, 8, 2)
        request = client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        arguments, folder, environment = json.loads(request)
        process = fork_command(
            arguments,
            *descriptors,
            environment=environment,
            first=(
                f"import os, sys; os.chdir({folder!r})\n"
                "sys.path[:0] = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))"
            ),
        )
        for descriptor in descriptors:
            os.close(descriptor)
        client.sendall((process.pid or 0).to_bytes(8, "big"))
        return process

    @staticmethod
    def _wait(process: BaseProcess, client: socket.socket) -> None:
        process.join()
        with client, suppress(OSError):
            client.sendall((process.exitcode or 0).to_bytes(8, "big", signed=True))


class Terminal:
    """A shell in a folder that keeps its variables and its place, as a person's does.

    Its ``neuromirror`` is a :class:`ForkedProgram`.
    """

    def __init__(self, folder: Path) -> None:
        self._program = ForkedProgram()
        self.environment = {
            **os.environ,
            "DATALAD_UI_PROGRESSBAR": "none",
            "PATH": f"{self._program.path}{os.pathsep}{os.environ['PATH']}",
        }
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )

    def type(self, command: str, code: int = 0) -> list[str]:
        """Run a command; return its lines. Fails for another exit code."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        # not from the shell's own stdin, which holds the next command
        stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n%s %s\\n' '{_END}' $?\n")
        stdin.flush()
        lines: list[str] = []
        for line in stdout:
            if line.startswith(_END):
                break
            lines.append(line.removesuffix("\n"))
        # the end mark has a line of its own, whether or not the command ended its last
        if lines and lines[-1] == "":
            lines.pop()
        assert line == f"{_END} {code}\n", f"$ {command}\n" + "\n".join([*lines, line])
        return lines

    def close(self) -> None:
        self._process.communicate()
        self._program.close()


def matches(shown: tuple[str, ...], came: list[str]) -> bool:
    """Return whether lines are as shown; ``…`` stands for anything, alone in a line for lines."""
    parts = [
        r"(?:[^\n]*\n)*?" if line == "…" else f"{'.*?'.join(map(re.escape, line.split('…')))}\n"
        for line in shown
    ]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in came)) is not None


def neighbouring_ports(count: int) -> int:
    """Return the first of so many ports in a row that are free.

    They are outside of the ephemeral port range (from 32768 or 49152 on): other tests take such all
    the time, and would have taken one before it is used.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with ExitStack() as taken:
            try:
                for one in range(port, port + count):
                    taken.enter_context(socket.socket()).bind(("127.0.0.1", one))
            except OSError:
                continue
            return port
