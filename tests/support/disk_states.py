"""The states of a folder in which a kill at any step of some work would leave it."""

import os
import pickle
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support.store_publisher import is_disk_step, run_in_child

_CLOCK_TICK = 50_000_000
"""Nanoseconds by which the time of a change may be older than the change."""


class _Node(NamedTuple):
    """A file, symlink or folder."""

    inode: int
    mode: int
    modified: int
    content: bytes | str | None


_State = dict[str, _Node]


def disk_states(folder: Path, work: Callable[[], object], at_least: int = 2) -> Iterator[int]:
    """Run the work once; yield for each state in which a kill at a step would leave the folder.

    A process that is killed leaves the files as they are. The work runs in a child process, which
    reads the folder before each step (see :func:`run_in_child`) and at the end. At each yield, the
    folder is in one of these states, and no process has a lock in it. Equal consecutive states are
    yielded once. Fails if there are fewer than ``at_least``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch, "states")
        run_in_child(lambda: found.write_bytes(pickle.dumps(_watch(folder, work))))
        states: list[_State] = pickle.loads(found.read_bytes())
    assert len(states) >= at_least
    for number, state in enumerate(states, start=1):
        _restore(folder, state)
        yield number


def _watch(folder: Path, work: Callable[[], object]) -> list[_State]:
    """Run the work; return the states of the folder before each step and at the end."""
    started = time.time_ns() - _CLOCK_TICK
    states = [_read(folder, {}, started)]

    def add_state() -> None:
        state = _read(folder, states[-1], started)
        if _without_times(state) != _without_times(states[-1]):
            states.append(state)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_disk_step(event, arguments):
            add_state()

    sys.addaudithook(hook)
    work()
    add_state()
    return states


def _read(folder: Path, last: _State, started: int) -> _State:
    """Read a folder; files that did not change since the start are taken from the last state."""
    state: _State = {}
    left = [str(folder)] if os.path.lexists(folder) else []
    while left:
        path = left.pop()
        found = os.lstat(path)
        known = last.get(path)
        content: bytes | str | None = None
        if stat.S_ISDIR(found.st_mode):
            left += sorted(entry.path for entry in os.scandir(path))
        elif stat.S_ISLNK(found.st_mode):
            content = os.readlink(path)
        elif known and known.inode == found.st_ino and found.st_mtime_ns < started:
            content = known.content
        else:
            content = Path(path).read_bytes()
        state[path] = _Node(found.st_ino, found.st_mode, found.st_mtime_ns, content)
    return state


def _without_times(state: _State) -> dict[str, tuple[int, bytes | str | None]]:
    return {path: (node.mode, node.content) for path, node in state.items()}


def _restore(folder: Path, state: _State) -> None:
    """Replace a folder by a state of it."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, node in state.items():
        if node.content is None:
            os.mkdir(path)
        elif isinstance(node.content, str):
            os.symlink(node.content, path)
            continue
        else:
            Path(path).write_bytes(node.content)
            os.utime(path, ns=(node.modified, node.modified))
        os.chmod(path, stat.S_IMODE(node.mode))
