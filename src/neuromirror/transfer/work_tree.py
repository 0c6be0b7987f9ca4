"""Verification of the files in a work tree against its commit.

Several threads read files; results come in the order of the commit, and memory use does not depend
on the number of files.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.annex import hash_mixed, key_file_name, parse_link_target, parse_pointer
from neuromirror.git import GITLINK_MODE, SYMLINK_MODE
from neuromirror.model import path_to_text
from neuromirror.net import results_in_order
from neuromirror.transfer.content_bodies import KeyChecksum, key_checksum
from neuromirror.transfer.outcomes import NOT_HERE, Finding, FindingKind, Status
from neuromirror.transfer.repository_check import common_dir
from neuromirror.transfer.verified_repository import (
    InspectedEntry,
    Item,
    ObjectDamagedError,
    VerifiedEntry,
    VerifiedRepository,
    VerifyScope,
    object_id,
    unreadable_entry,
)

if TYPE_CHECKING:
    from neuromirror.transfer.annex_objects import BlockDigestsRecorder, ContentDigester

_BLOCK: Final = 1 << 20
_QUEUED_PER_JOB: Final = 4
"""Queued tasks per thread, so that a large file does not block the others."""
_MAX_GROUP: Final = 64
_MAX_GROUP_BYTES: Final = 8 << 20
_POINTER: Final = 1 << 12
_CHANGED: Final = "differs from the commit"
_MISSING: Final = "missing from the work tree"

_T = TypeVar("_T")
_R = TypeVar("_R")


class _Updatable(Protocol):
    """Receives the bytes of a file in order."""

    def update(self, data: memoryview, /) -> None:
        """Add the next bytes."""
        ...


class VerificationStoppedError(Exception):
    """Stops the threads of a verification, because the caller needs no further results."""


def map_in_order(
    jobs: int, stop: threading.Event, work: Callable[[_T], _R], items: Iterable[_T]
) -> Generator[_R, None, None]:
    """Yield ``work(item)`` for each item, in order, computed by ``jobs`` threads.

    ``stop`` is set when the caller stops, by an error or by :meth:`Generator.close`.
    """
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="verify")
    waits = True
    try:
        yield from results_in_order(pool, jobs * (1 + _QUEUED_PER_JOB), work, items)
    except BaseException as error:
        stop.set()
        # after Ctrl-C, do not wait for a server that may take minutes to respond
        waits = not isinstance(error, KeyboardInterrupt)
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)


def _grouped(entries: Iterable[tuple[VerifiedEntry, int]]) -> Iterator[list[VerifiedEntry]]:
    """Group entries into tasks large enough for a thread: many small files, or one large one.

    Each entry comes with its size in bytes, 0 if unknown.
    """
    some: list[VerifiedEntry] = []
    size = 0
    for entry, more in entries:
        if some and (len(some) >= _MAX_GROUP or size + more > _MAX_GROUP_BYTES):
            yield some
            some, size = [], 0
        some.append(entry)
        size += more
    if some:
        yield some


class WorkTreeInspector(Struct, eq=False):
    """Compares the files in the work trees of clones with their commits, in ``jobs`` threads.

    With ``digests``, the content of an annexed file is read only if its block digests are needed.
    """

    scope: VerifyScope
    jobs: int
    digests: BlockDigestsRecorder | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def inspect(
        self, clone: VerifiedRepository, below: bytes, entries: Iterable[VerifiedEntry]
    ) -> Iterator[InspectedEntry]:
        """Yield the result for each entry, in order; ``below`` is the folder of the clone."""
        looker = _EntryVerifier(clone, below, self.scope, self._stop, self.digests)
        tasks = _grouped((entry, looker.size(entry)) for entry in entries)
        for some in map_in_order(self.jobs, self._stop, looker.inspect, tasks):
            yield from some


class _EntryVerifier(Struct, eq=False, dict=True):
    """Verifier for the entries of one work tree; thread-safe."""

    clone: VerifiedRepository
    below: bytes
    scope: VerifyScope
    stop: threading.Event
    digests: BlockDigestsRecorder | None

    @cached_property
    def root(self) -> bytes:
        """The work tree, with a slash at its end."""
        assert self.clone.work_tree is not None
        return os.fsencode(self.clone.work_tree) + b"/"

    def size(self, entry: VerifiedEntry) -> int:
        """Return the approximate number of bytes to read for an entry."""
        try:
            return os.stat(self.root + entry.path).st_size
        except OSError:
            return 0

    def inspect(self, entries: list[VerifiedEntry]) -> list[InspectedEntry]:
        """Return the results for some entries; raises VerificationStoppedError."""
        found = []
        for entry in entries:
            try:
                found.append(self._inspect_entry(entry))
            except ObjectDamagedError as error:
                path = path_to_text(self.below + entry.path)
                found.append(unreadable_entry(entry, path, error))
        return found

    def _inspect_entry(self, entry: VerifiedEntry) -> InspectedEntry:
        if entry.mode == GITLINK_MODE:
            return InspectedEntry(entry, None)
        location = self.root + entry.path
        if entry.mode == SYMLINK_MODE:
            try:
                target = os.readlink(location)
            except OSError:
                target = b""
            same = target != b"" and object_id("blob", target) == entry.sha
            same = same or (not target and self._is_left_out(entry))
            key = parse_link_target(
                target if same and target else self.clone.read("blob", entry.sha)
            )
        else:
            same = True
            key = parse_pointer(self.clone.read("blob", entry.sha))
        if key is not None and not self.scope.is_selected(self.below + entry.path):
            return InspectedEntry(entry, key)
        path = path_to_text(self.below + entry.path)
        if entry.mode == SYMLINK_MODE and (key is None or not (same or _is_file(location))):
            kind: FindingKind = "document" if key is None else "file"
            message = _CHANGED if os.path.lexists(location) else _MISSING
            finding = Finding(path=path, kind=kind, checked="checked")
            if not same:
                finding = Finding(status="error", path=path, kind=kind, key=key, message=message)
        elif key is None:
            finding = self._verify_document(entry, path)
        else:
            # a regular file instead of a link was unlocked
            finding = self._verify_content(key, path, location, entry)
        return InspectedEntry(entry, key, (finding,))

    def _verify_document(self, entry: VerifiedEntry, path: str) -> Finding:
        """Verify a file that is stored in git, by its git object id."""
        try:
            with _open_regular(self.root + entry.path) as descriptor:
                size = os.fstat(descriptor).st_size
                sha = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
                _read(descriptor, size, [sha], self.stop)
        except FileNotFoundError:
            if self._is_left_out(entry):
                size = len(self.clone.read("blob", entry.sha))
                return Finding(path=path, kind="document", checked="checked", size=size)
            return Finding(status="error", path=path, kind="document", message=_MISSING)
        except OSError as error:
            return Finding(status="error", path=path, kind="document", message=_read_error(error))
        if sha.hexdigest() != entry.sha:
            return Finding(status="error", path=path, kind="document", message=_CHANGED)
        return Finding(path=path, kind="document", checked="checked", size=size)

    def _is_left_out(self, entry: VerifiedEntry) -> bool:
        """Return whether a sparse checkout leaves a missing file out."""
        return not os.path.lexists(self.root + entry.path) and entry.path in self.clone.left_out

    def _verify_content(
        self, key: str, path: str, location: bytes, entry: VerifiedEntry
    ) -> Finding:
        """Verify the content of an annexed file."""
        try:
            proof = key_checksum(key)
        except ValueError as error:
            return Finding(status="error", path=path, key=key, message=str(error))
        equivalent_keys = self.clone.equivalent_keys(key) if key.startswith("VURL") else []
        if self._is_left_out(entry):
            location = self._object_path(key)
        try:
            with _open_regular(location) as descriptor:
                if not self._is_pointer(descriptor, key, proof):
                    return self._compare(descriptor, key, path, proof, equivalent_keys)
            with _open_regular(self._object_path(key)) as descriptor:
                return self._compare(descriptor, key, path, proof, equivalent_keys)
        except FileNotFoundError:
            where = {"path": path, "key": key, "size": proof.size}
            return Finding(status=self.scope.missing_status, message=NOT_HERE, **where)  # type: ignore[arg-type]
        except OSError as error:
            message = _read_error(error)
            return Finding(status="error", path=path, key=key, size=proof.size, message=message)

    def _is_pointer(self, descriptor: int, key: str, proof: KeyChecksum) -> bool:
        """Return whether an unlocked file is still a pointer; its content may be in the annex."""
        if proof.algorithm and os.fstat(descriptor).st_size == proof.size:
            return False
        return parse_pointer(os.pread(descriptor, _POINTER, 0)) == key

    def _object_path(self, key: str) -> bytes:
        name = key_file_name(key)
        folder = os.fsencode(common_dir(self.clone.git_dir)) + b"/annex/objects/" + hash_mixed(key)
        return folder + b"/" + name + b"/" + name

    def _compare(
        self, descriptor: int, key: str, path: str, proof: KeyChecksum, equivalent_keys: list[str]
    ) -> Finding:
        digester = None
        if self.digests is not None:
            size = os.fstat(descriptor).st_size
            digester = self.digests.start(key, size)
            if digester is None:
                return Finding(status="notneeded", path=path, key=key, size=size)
        if not equivalent_keys:
            return _compare_descriptor(descriptor, key, path, proof, self.stop, digester)
        found = _compare_descriptor(descriptor, key, path, proof, self.stop)
        if found.failed:
            return found
        others: list[Finding] = []
        for one in equivalent_keys:
            # the digests of bytes that match none of the keys must not be recorded
            digester = None if self.digests is None else self.digests.start(key, found.size)
            others.append(
                _compare_descriptor(descriptor, one, path, key_checksum(one), self.stop, digester)
            )
            if not others[-1].failed:
                break
        # the keys of the first download are not pinned: a match is not stronger evidence, but a
        # mismatch is an error
        if others[-1].failed:
            return replace(others[0], key=key)
        return replace(found, message=f"{found.message}; the bytes match the first download")


def verify_plain_files(
    items: Iterable[Item], folder: Path, missing_status: Status, jobs: int
) -> Generator[Finding, None, None]:
    """Yield findings for files in a folder without git, in order, read in ``jobs`` threads.

    Parameters
    ----------
    items
        Expected files, with paths relative to the folder. Findings among them are yielded
        unchanged.
    folder
        The folder.
    missing_status
        The status of the finding for a missing file.
    """
    stop = threading.Event()
    root = os.fsencode(folder) + b"/"

    def inspect(item: Item) -> Finding:
        if isinstance(item, Finding):
            return item
        path, key = path_to_text(item.path), item.key
        try:
            proof = key_checksum(key)
            with _open_regular(root + item.path) as descriptor:
                return _compare_descriptor(descriptor, key, path, proof, stop)
        except (FileNotFoundError, NotADirectoryError):
            return Finding(status=missing_status, path=path, key=key, message=NOT_HERE)
        except (OSError, ValueError) as error:
            message = _read_error(error) if isinstance(error, OSError) else str(error)
            return Finding(status="error", path=path, key=key, message=message)

    yield from map_in_order(jobs, stop, inspect, items)


def _compare_descriptor(
    descriptor: int,
    key: str,
    path: str,
    proof: KeyChecksum,
    stop: threading.Event,
    digester: ContentDigester | None = None,
) -> Finding:
    """Compare an open file with its key, and record its block digests."""
    size = os.fstat(descriptor).st_size
    beside = [] if digester is None else [digester]
    checksum = ""

    def checksum_by(by: KeyChecksum) -> str:
        nonlocal checksum
        hashing = by.hasher()
        assert hashing is not None
        _read(descriptor, size, [hashing, *beside], stop)
        checksum = hashing.hexdigest()
        return checksum

    found = compare_content(key, path, proof, size, checksum_by)
    if digester is None or found.failed:
        return found
    if not proof.algorithm:
        _read(descriptor, size, beside, stop)
    fault = digester.finish(checksum)
    return replace(found, status="error", message=fault) if fault else found


def _read(descriptor: int, size: int, hashers: Sequence[_Updatable], stop: threading.Event) -> None:
    """Hash a file from its start; raises VerificationStoppedError."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    buffer = bytearray(min(size + 1, _BLOCK))
    view = memoryview(buffer)
    while count := os.readv(descriptor, [buffer]):
        for hasher in hashers:
            hasher.update(view[:count])
        if stop.is_set():
            raise VerificationStoppedError


def compare_content(
    key: str, path: str, proof: KeyChecksum, size: int, checksum_by: Callable[[KeyChecksum], str]
) -> Finding:
    """Return whether content has the size and checksum in its key, as a finding.

    Parameters
    ----------
    key, path
        Annex key and path of the file.
    proof
        Size and checksum in the key.
    size
        Size of the content in bytes.
    checksum_by
        Computes the checksum of the content; called only if the size matches.
    """
    if proof.size is not None and proof.size != size:
        message = f"different bytes: the size is {size}, expected {proof.size}"
        return Finding(status="error", path=path, key=key, size=proof.size, message=message)
    if not proof.algorithm:
        evidence = proof.evidence
        message = "only the size is known" if proof.size is not None else "no checksum is known"
        return Finding(
            path=path, key=key, size=size, evidence=evidence, checked="claimed", message=message
        )
    checksum = checksum_by(proof)
    if not proof.matches(checksum, size):
        message = f"different bytes: the {proof.algorithm} is {checksum}, expected {proof.value}"
        return Finding(status="error", path=path, key=key, size=size, message=message)
    message = "" if proof.evidence else f"by {proof.algorithm}"
    return Finding(
        path=path, key=key, size=size, evidence=proof.evidence, checked="checked", message=message
    )


@contextmanager
def _open_regular(path: bytes) -> Iterator[int]:
    """Open a regular file for reading; raises OSError for anything else."""
    # do not block on a named pipe
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_file(path: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _read_error(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
