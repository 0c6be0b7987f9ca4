"""Memory of a program: its process and all that it starts, except for servers."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_EVERY = 0.05
_PAGE = resource.getpagesize()


class Memory:
    """Measures the memory of this process and its children during a ``with`` block.

    Processes in a session of their own, such as the benches' servers, are not counted. The others
    are sampled many times per second from /proc. ``getrusage`` would report too much, because a
    process starts with the size of its parent; it is used only without /proc.
    """

    def __init__(self) -> None:
        self._peak = 0
        self._largest = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Memory:
        if Path("/proc/self/stat").exists():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def peak_mb(self) -> int:
        """The peak of the sum over all processes, in MB."""
        if self._thread.ident is not None:
            return round(max(_high_water("self"), self._peak) / 2**20)
        both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1024
        return round(sum(resource.getrusage(who).ru_maxrss for who in both) * unit / 2**20)

    @property
    def largest_mb(self) -> int:
        """The peak of the largest process that this process started, in MB.

        0 without /proc, and if no process ran long enough to be sampled.
        """
        return round(self._largest / 2**20)

    def _look(self) -> None:
        session = _session("self")
        while not self._ended.wait(_EVERY):
            children = list(_below("self", session))
            self._peak = max(self._peak, sum(map(_resident, ["self", *children])))
            self._largest = max(self._largest, *map(_high_water, children), 0)


def _below(process: str, session: str) -> Iterator[str]:
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    if _session(child) == session:
                        if _command(child) != _command(process):
                            yield child
                        yield from _below(child, session)


def _command(process: str) -> bytes:
    """Return the command line of a process; before exec, that of its parent.

    Between vfork and exec it has its parent's memory, not as much again.
    """
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def _session(process: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[3]
    return ""


def _resident(process: str) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    return 0


def _high_water(process: str) -> int:
    """Return the peak memory of a process in bytes; 0 if it has exited."""
    with suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text()
        # a process that has exited and not been waited for has no memory
        return int((status.partition("VmHWM:")[2].split() or ["0"])[0]) * 1024
    return 0
