"""The program ``git-annex-remote-neuromirror``: blocks of volumes, and files that need a token.

It implements git-annex's external special remote protocol with the extension ASYNC: git-annex
starts one process for all jobs, so that Python and the decoders are loaded once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from types import SimpleNamespace

_MISSING = "git-annex-remote-neuromirror needs the package annexremote: pip install annexremote"


class _Job(Thread):
    """Answers the messages of one job of git-annex, in turn; ``prefix`` is on each message.

    The prefix is empty before the extension is negotiated.
    """

    _sending = Lock()

    def __init__(self, prefix: str) -> None:
        super().__init__(daemon=True)
        self._prefix = prefix
        self._reply = ""
        self.messages: SimpleQueue[str] = SimpleQueue()
        self.start()

    def run(self) -> None:
        from annexremote import Master  # type: ignore[import-untyped]

        from neuromirror.volume.lazy_remote import LazyRemote

        master = Master(self)
        master.LinkRemote(LazyRemote(master))
        master.protocol.do_EXTENSIONS = _extensions
        if self._prefix:
            master.protocol.version = ""  # sent already
        with suppress(BrokenPipeError, SystemExit):
            master.Listen(SimpleNamespace(readline=self.messages.get))
            return
        os._exit(1)  # git-annex is gone, or was sent an error after which it waits for no reply

    def write(self, text: str) -> None:
        """Add to the reply."""
        self._reply += text

    def flush(self) -> None:
        """Send the reply."""
        lines, self._reply = self._reply.strip("\n"), ""
        if lines:
            with self._sending:
                sys.stdout.write(self._prefix + lines.replace("\n", f"\n{self._prefix}") + "\n")
                sys.stdout.flush()


def _extensions(offered: str) -> str:
    return "EXTENSIONS ASYNC" if "ASYNC" in offered.split() else "EXTENSIONS"


def main() -> None:
    """Run the special remote: answer git-annex on stdin and stdout until stdin ends."""
    with suppress(ImportError, OSError, ValueError):  # a core dump would hold tokens
        import resource  # not on every system

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        import annexremote  # noqa: F401
    except ImportError:
        # git-annex prints the text of an ERROR reply, but no traceback
        sys.stdout.write(f"VERSION 1\nERROR {_MISSING}\n")
        sys.exit(1)
    jobs = {"": _Job("")}
    try:
        for line in sys.stdin:
            parts = line.split(" ", 2)
            prefix, message = (f"J {parts[1]} ", parts[2]) if parts[0] == "J" else ("", line)
            if prefix not in jobs:
                jobs[prefix] = _Job(prefix)
            jobs[prefix].messages.put(message)
        for job in jobs.values():
            job.messages.put("")
            job.join()
    except KeyboardInterrupt:
        os._exit(1)  # without waiting for the requests in progress


if __name__ == "__main__":
    main()
