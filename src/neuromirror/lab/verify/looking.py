"""The files of a work tree, looked at one by one: what lies there, and whether it is what it was.

Files are read by several threads, some at a time; what comes out is in the order of the commit, and
memory does not grow with their number.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

from neuromirror.annex import hash_mixed, key_file
from neuromirror.lab.results import Status
from neuromirror.lab.verify.clone import Clone, Damaged, Entry, git_id, linked_key, pointed_key
from neuromirror.lab.verify.findings import NOT_HERE, Finding, What
from neuromirror.lab.verify.proofs import Hashing, Proof, proof_of
from neuromirror.lab.verify.walking import Looked, Scope, unreadable
from neuromirror.mint import LINK, SUBDATASET
from neuromirror.model import text

_BLOCK: Final = 1 << 20
_AHEAD: Final = 4
"""Tasks that wait for each one that is under way, so that a large file does not stop the rest."""
_TOGETHER: Final = 64
_TOGETHER_BYTES: Final = 8 << 20
_POINTER: Final = 1 << 12
_OTHER: Final = "it is not as it was committed"
_GONE: Final = "missing from the work tree"

_T = TypeVar("_T")
_R = TypeVar("_R")


class Stopped(Exception):
    """Nobody waits for this any more."""


def in_order(
    jobs: int, stop: threading.Event, work: Callable[[_T], _R], things: Iterable[_T]
) -> Generator[_R, None, None]:
    """What ``work`` makes of each thing, in the order of the things, several at a time.

    ``stop`` is set once nobody waits for more, because of an error or by :meth:`Generator.close`.
    """
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="verify")
    waiting: deque[Future[_R]] = deque()
    patient = True
    try:
        for thing in things:
            waiting.append(pool.submit(work, thing))
            if len(waiting) >= jobs * (1 + _AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BaseException as error:
        stop.set()
        # who presses Ctrl-C does not wait for a server that may answer in minutes
        patient = not isinstance(error, KeyboardInterrupt)
        raise
    finally:
        pool.shutdown(wait=patient, cancel_futures=True)


def _together(entries: Iterable[tuple[Entry, int]]) -> Iterator[list[Entry]]:
    """Entries in tasks worth a thread's while: many small ones, or one large one.

    Each comes with its size in bytes, as far as that is known.
    """
    some: list[Entry] = []
    size = 0
    for entry, more in entries:
        if some and (len(some) >= _TOGETHER or size + more > _TOGETHER_BYTES):
            yield some
            some, size = [], 0
        some.append(entry)
        size += more
    if some:
        yield some


class WorkTree:
    """Looks at what lies in clones' work trees, in ``jobs`` threads."""

    def __init__(self, scope: Scope, jobs: int) -> None:
        self._scope = scope
        self._jobs = jobs
        self._stop = threading.Event()

    def look(self, clone: Clone, below: bytes, entries: Iterable[Entry]) -> Iterator[Looked]:
        """What came of each entry of a clone, which stands in the folder ``below``, in order."""
        looker = _Looker(clone, below, self._scope, self._stop)
        tasks = _together((entry, looker.size(entry)) for entry in entries)
        for some in in_order(self._jobs, self._stop, looker.look, tasks):
            yield from some


class _Looker:
    """Looks at one work tree; its methods may be called by many threads."""

    def __init__(self, clone: Clone, below: bytes, scope: Scope, stop: threading.Event) -> None:
        assert clone.root is not None
        self._clone = clone
        self._below = below
        self._root = os.fsencode(clone.root) + b"/"
        self._wanted = scope.wanted
        self._absent: Status = scope.absent
        self._stop = stop

    def size(self, entry: Entry) -> int:
        """About how many bytes there are to be read of an entry."""
        try:
            return os.stat(self._root + entry.path).st_size
        except OSError:
            return 0

    def look(self, entries: list[Entry]) -> list[Looked]:
        """What came of each of some entries; raises Stopped."""
        return [self._look_or_tell(entry) for entry in entries]

    def _look_or_tell(self, entry: Entry) -> Looked:
        try:
            return self._look(entry)
        except Damaged as error:
            return unreadable(entry, text(self._below + entry.path), error)

    def _look(self, entry: Entry) -> Looked:
        if entry.mode == SUBDATASET:
            return Looked(entry, None)
        place = self._root + entry.path
        if entry.mode == LINK:
            try:
                target = os.readlink(place)
            except OSError:
                target = b""
            same = target != b"" and git_id("blob", target) == entry.sha
            key = linked_key(target if same else self._clone.read("blob", entry.sha))
        else:
            same = True
            key = pointed_key(self._clone.read("blob", entry.sha))
        if key is not None and not self._wanted(self._below + entry.path):
            return Looked(entry, key)
        path = text(self._below + entry.path)
        if entry.mode == LINK and (key is None or not (same or _is_file(place))):
            finding = _link(key, path, as_was=same, is_there=os.path.lexists(place))
        elif key is None:
            finding = self._document(entry, path)
        else:
            # a regular file in the place of a link is one that was unlocked
            finding = self._content(key, path, place)
        return Looked(entry, key, (finding,))

    def _document(self, entry: Entry, path: str) -> Finding:
        """A plain file of git, hashed as git does."""
        try:
            with _opened(self._root + entry.path) as descriptor:
                size = os.fstat(descriptor).st_size
                sha = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
                self._read(descriptor, size, sha)
        except FileNotFoundError:
            return Finding(status="error", path=path, what="document", message=_GONE)
        except OSError as error:
            return Finding(status="error", path=path, what="document", message=_told(error))
        if sha.hexdigest() != entry.sha:
            return Finding(status="error", path=path, what="document", message=_OTHER)
        return Finding(path=path, what="document", checked="checked", size=size)

    def _content(self, key: str, path: str, place: bytes) -> Finding:
        """An annexed file whose link, or pointer, is as it was committed."""
        try:
            proof = proof_of(key)
        except ValueError as error:
            return Finding(status="error", path=path, key=key, message=str(error))
        learnt = self._clone.learnt(key) if key.startswith("VURL") else []
        try:
            with _opened(place) as descriptor:
                if not self._is_pointer(descriptor, key, proof):
                    return self._compare(descriptor, key, path, proof, learnt)
            with _opened(self._object(key)) as descriptor:
                return self._compare(descriptor, key, path, proof, learnt)
        except FileNotFoundError:
            where = {"path": path, "key": key, "size": proof.size}
            return Finding(status=self._absent, message=NOT_HERE, **where)  # type: ignore[arg-type]
        except OSError as error:
            message = _told(error)
            return Finding(status="error", path=path, key=key, size=proof.size, message=message)

    def _is_pointer(self, descriptor: int, key: str, proof: Proof) -> bool:
        """Whether an unlocked file was not filled yet; its content may be in the annex anyway."""
        if proof.algorithm and os.fstat(descriptor).st_size == proof.size:
            return False
        return pointed_key(os.pread(descriptor, _POINTER, 0)) == key

    def _object(self, key: str) -> bytes:
        name = key_file(key)
        folder = os.fsencode(self._clone.git_dir) + b"/annex/objects/" + hash_mixed(key)
        return folder + b"/" + name + b"/" + name

    def _compare(
        self, descriptor: int, key: str, path: str, proof: Proof, learnt: list[str]
    ) -> Finding:
        size = os.fstat(descriptor).st_size

        def checksum(by: Proof) -> str:
            hashing = by.hashing()
            assert hashing is not None
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._read(descriptor, size, hashing)
            return hashing.hexdigest()

        found = compared(key, path, proof, size, checksum)
        if found.failed or not learnt:
            return found
        others = [compared(one, path, proof_of(one), size, checksum) for one in learnt]
        return _as_learnt(found, others)

    def _read(self, descriptor: int, size: int, hashing: Hashing) -> None:
        buffer = bytearray(min(size + 1, _BLOCK))
        view = memoryview(buffer)
        while count := os.readv(descriptor, [buffer]):
            hashing.update(view[:count])
            if self._stop.is_set():
                raise Stopped


def compared(
    key: str, path: str, proof: Proof, size: int, checksum_by: Callable[[Proof], str]
) -> Finding:
    """So many bytes beside what their key says; their checksum is asked for where it matters."""
    if proof.size is not None and proof.size != size:
        message = f"other bytes: {size} of them, not {proof.size}"
        return Finding(status="error", path=path, key=key, size=proof.size, message=message)
    if not proof.algorithm:
        word = proof.evidence
        message = "only its size is known" if proof.size is not None else "nothing is known of it"
        return Finding(
            path=path, key=key, size=size, evidence=word, checked="claimed", message=message
        )
    checksum = checksum_by(proof)
    if not proof.agrees(checksum, size):
        message = f"other bytes: their {proof.algorithm} is {checksum}, not {proof.value}"
        return Finding(status="error", path=path, key=key, size=size, message=message)
    message = "" if proof.evidence else f"by {proof.algorithm}"
    return Finding(
        path=path, key=key, size=size, evidence=proof.evidence, checked="checked", message=message
    )


def _as_learnt(found: Finding, others: list[Finding]) -> Finding:
    """A finding by size alone, where it is known what the bytes were when they were first got.

    Nobody has pinned that checksum: bytes that have it are no better proved, others are wrong.
    """
    same = next((one for one in others if not one.failed), None)
    if same is None:
        return replace(others[0], key=found.key)
    return replace(found, message=f"{found.message}; the bytes are those that were first got here")


def _link(key: str | None, path: str, *, as_was: bool, is_there: bool) -> Finding:
    """A link that is no file's, or that is another than was committed."""
    what: What = "document" if key is None else "file"
    if as_was:
        return Finding(path=path, what=what, checked="checked")
    message = _OTHER if is_there else _GONE
    return Finding(status="error", path=path, what=what, key=key, message=message)


@contextmanager
def _opened(place: bytes) -> Iterator[int]:
    """A regular file, open to be read; raises OSError for anything else."""
    # without waiting for whoever may write to a pipe
    descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_file(place: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(place).st_mode)
    except OSError:
        return False


def _told(error: OSError) -> str:
    return f"it cannot be read: {error.strerror or error}"
