"""Store the records of every version: whole, or as changes since another version.

``<commit>.jsonl.zst`` has record lines sorted by git path. ``<commit>.delta.zst`` has a first line
``{"base":"<commit>","depth":<n>}`` and then the lines that differ: ``-`` of the base, ``+`` of the
version (model.changes). So the size of a version depends on its changes, not on the dataset.

If upstream later states other URLs or claims for the same files, the version has further records
with the names ``<commit>.1``, ``<commit>.2``, and so on. The last ones count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain, takewhile
from pathlib import Path
from typing import IO

import msgspec

from neuromirror.mint import (
    SortedLines,
    ZstdFrameError,
    decompress_frame,
    names_in_folder,
    read_seekable_lines,
    write_seekable_lines,
)
from neuromirror.mint.seekable_lines import split_lines
from neuromirror.model import (
    Change,
    Count,
    InvalidDocumentError,
    LinePair,
    SnapshotEntry,
    StateDigest,
    compose_pairs,
    convert,
    dump_pairs,
    entry_line,
    line_path,
    load_changes,
    load_pairs,
    load_snapshot_entries,
    load_snapshot_entry,
    parse_json,
    patch_lines,
    reverse_pairs,
)
from neuromirror.model.journal import RecordsText
from neuromirror.store.durable_files import finish_file, fsync_path, make_folder
from neuromirror.store.errors import StoreDamagedError


def manifest_file(root: Path, state: str) -> Path:
    """Return the path of the manifest of a state (``sha256:<hex>``) in the store at ``root``."""
    digest = state.removeprefix("sha256:")
    return root / "manifests" / digest[:2] / f"{digest[2:]}.jsonl.zst"


def manifest_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a manifest, without newlines.

    Raises
    ------
    StoreDamagedError
        The manifest is missing, or its digest differs from its name. The digest is checked only
        after the last line.
    """
    digest = StateDigest()

    def hashed(file: IO[bytes]) -> Iterator[bytes]:
        for piece in decompress_frame(file):
            digest.add(piece)
            yield piece

    try:
        with path.open("rb") as file:
            yield from split_lines(hashed(file))
    except (FileNotFoundError, ZstdFrameError) as error:
        raise StoreDamagedError(
            f"the manifest {path} cannot be read ({error}); run 'neuromirror repair'"
        ) from error
    if manifest_file(path.parents[2], digest.value()) != path:
        raise StoreDamagedError(
            f"the digest of the manifest {path} differs from its name; run 'neuromirror repair'"
        )


MAX_DELTA_DEPTH = 16
"""The length of a chain of deltas, beyond which a version is stored whole."""


def next_records(name: str) -> str:
    """Return the name of the records of a version that follow those of this name.

    Parameters
    ----------
    name
        ``<commit>`` or ``<commit>.<number>``.

    Returns
    -------
    str
        ``<commit>.<number>``.
    """
    commit, _, number = name.partition(".")
    return f"{commit}.{int(number or 0) + 1}"


class Records:
    """The records of all versions of all datasets of a store, in files below one folder.

    A version is stored whole, or as the changes to another version.
    """

    def __init__(self, folder: Path, scratch: Callable[[], AbstractContextManager[Path]]) -> None:
        self._folder = folder
        self._new_scratch = scratch

    def _path(self, dataset_id: str, commit: str, ending: str) -> Path:
        return self._folder / dataset_id[:3] / dataset_id[3:] / f"{commit}.{ending}.zst"

    def mint_input_path(self, dataset_id: str, name: str) -> Path:
        """Return the path of what a version was minted from (store.mint_inputs)."""
        return self._path(dataset_id, name, "mint")

    def files(self, dataset_id: str, name: str) -> list[Path]:
        """Return the files of a version's records: whole, or as changes."""
        paths = (self._path(dataset_id, name, ending) for ending in ("jsonl", "delta"))
        return [path for path in paths if path.exists()]

    def has(self, dataset_id: str, commit: str) -> bool:
        """Return whether the store has a version's records.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.

        Returns
        -------
        bool
            Whether the records are stored, whole or as changes.
        """
        return bool(self.files(dataset_id, commit))

    def newest(self, dataset_id: str, commit: str) -> str:
        """Return the name of a version's last records, which the other methods accept as a commit.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.

        Returns
        -------
        str
            ``<commit>``, or ``<commit>.<number>`` if upstream stated other URLs or claims later.
        """
        name = commit
        while self.has(dataset_id, following := next_records(name)):
            name = following
        return name

    def write(self, dataset_id: str, commit: str, lines: Iterable[bytes]) -> None:
        """Store a version's records.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.
        lines
            Record lines without newlines, sorted by git path.
        """
        self._write(dataset_id, commit, "jsonl", lines)

    def lookup(self, dataset_id: str, commit: str) -> RecordLookup:
        """Open a version's records for lookups of single paths.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.

        Returns
        -------
        RecordLookup
            The records; close them after use.

        Raises
        ------
        StoreDamagedError
            The records are missing or damaged; also raised by lookups.
        """
        *deltas, whole = self._base_chain(dataset_id, commit) or [commit]
        paths = [self._path(dataset_id, delta, "delta") for delta in deltas]
        return RecordLookup([*paths, self._path(dataset_id, whole, "jsonl")])

    def write_changes(
        self, dataset_id: str, commit: str, base: str, pairs: Iterable[LinePair]
    ) -> bool:
        """Store a version's records as changes since another version.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.
        base
            The commit id of the other version in hex.
        pairs
            The lines that differ, sorted by git path.

        Returns
        -------
        bool
            False if nothing was stored, because the chain of deltas would be too long: the
            version must be stored whole.
        """
        if self.has(dataset_id, commit):
            return True
        depth = self._depth(dataset_id, base) + 1
        if depth > MAX_DELTA_DEPTH:
            return False
        head = json.dumps({"base": base, "depth": depth}, separators=(",", ":")).encode()
        self._write(dataset_id, commit, "delta", chain((head,), dump_pairs(pairs)))
        return True

    def _depth(self, dataset_id: str, commit: str) -> int:
        path = self._path(dataset_id, commit, "delta")
        if not path.exists():
            return 0
        return _read_header(_read(path), path).depth

    def changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[Change]] | None:
        """Return the base of a version and the changes since; None if it is stored whole.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.

        Returns
        -------
        tuple[str, Iterator[Change]] | None
            The commit id of the base, and the changes in path order.

        Raises
        ------
        StoreDamagedError
            The records are damaged; also raised while the changes are read.
        """
        changes = self._read_changes(dataset_id, commit)
        return None if changes is None else (changes[0], load_changes(changes[1]))

    def _read_changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[LinePair]] | None:
        """Return the base of a version and the pairs of lines that differ from it."""
        path = self._path(dataset_id, commit, "delta")
        if not path.exists():
            return None
        record_lines = _read(path)
        return _read_header(record_lines, path).base, load_pairs(record_lines)

    def between(self, dataset_id: str, old: str, new: str) -> Iterator[LinePair] | None:
        """Return the pairs of lines in which two versions differ, without reading either whole.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        old, new
            The commit ids in hex.

        Returns
        -------
        Iterator[LinePair] | None
            The pairs; None if the versions' chains of deltas share no version, so that both must
            be read.

        Raises
        ------
        StoreDamagedError
            The records are missing or damaged; also raised during iteration.
        """
        olds, news = (self._base_chain(dataset_id, commit) for commit in (old, new))
        shared = next((commit for commit in news if commit in olds), None)
        if shared is None:
            return None
        pairs: Iterator[LinePair] = iter(())
        for commit in olds[: olds.index(shared)]:
            pairs = compose_pairs(pairs, reverse_pairs(self._read_pairs(dataset_id, commit)))
        for commit in reversed(news[: news.index(shared)]):
            pairs = compose_pairs(pairs, self._read_pairs(dataset_id, commit))
        return self._check_pairs(pairs, dataset_id, old, new)

    def _base_chain(self, dataset_id: str, commit: str) -> list[str]:
        """Return a version, its base, and so on to the version that is stored whole.

        The list is empty if the last one is missing.
        """
        found = [commit]
        while changed := self._read_changes(dataset_id, found[-1]):
            found.append(changed[0])
            if len(found) > MAX_DELTA_DEPTH + 1:
                path = self._path(dataset_id, commit, "delta")
                raise StoreDamagedError(
                    f"the records {path} have a chain of more than {MAX_DELTA_DEPTH} deltas, or a "
                    "cycle; run 'neuromirror repair'"
                )
        return found if self.has(dataset_id, found[-1]) else []

    def _read_pairs(self, dataset_id: str, commit: str) -> Iterator[LinePair]:
        changes = self._read_changes(dataset_id, commit)
        if changes is not None:
            yield from changes[1]

    def _check_pairs(
        self, pairs: Iterator[LinePair], dataset_id: str, old: str, new: str
    ) -> Iterator[LinePair]:
        try:
            yield from pairs
        except ValueError as error:
            raise StoreDamagedError(
                f"the records of commits {old} and {new} do not match each other ({error}); "
                "run 'neuromirror repair'"
            ) from error

    def read(self, dataset_id: str, commit: str) -> Iterator[SnapshotEntry]:
        """Yield a version's files, sorted by git path.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.

        Yields
        ------
        SnapshotEntry
            A file or subdataset.

        Raises
        ------
        StoreDamagedError
            The records are missing or damaged.
        """
        try:
            yield from load_snapshot_entries(self.lines(dataset_id, commit))
        except ValueError as error:
            raise StoreDamagedError(
                f"the records of commit {commit} have an invalid line ({error}); run "
                "'neuromirror repair'"
            ) from error

    def lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        """Return a version's record lines, sorted by git path.

        Parameters
        ----------
        dataset_id
            The UUID of the dataset.
        commit
            The commit id in hex.

        Returns
        -------
        Iterator[bytes]
            The lines, without newlines.

        Raises
        ------
        StoreDamagedError
            The records are missing or damaged; also raised during iteration.
        """
        changes = self._read_changes(dataset_id, commit)
        if changes is None:
            yield from _read(self._path(dataset_id, commit, "jsonl"))
            return
        base, pairs = changes
        self._base_chain(dataset_id, commit)
        try:
            yield from patch_lines(self.lines(dataset_id, base), pairs)
        except ValueError as error:
            raise StoreDamagedError(
                f"the records of commit {commit} do not match those of {base} ({error}); run "
                "'neuromirror repair'"
            ) from error

    def _write(self, dataset_id: str, commit: str, ending: str, lines: Iterable[bytes]) -> None:
        """Write a version's records, unless it has any."""
        target = self._path(dataset_id, commit, ending)
        make_folder(target.parent)
        # in any case: this removes the scratch folder of a killed process
        with self._new_scratch() as scratch:
            if self.has(dataset_id, commit):
                return
            draft = scratch / target.name
            with draft.open("wb") as file:
                write_seekable_lines(file, lines)
                finish_file(file)
            os.replace(draft, target)
        fsync_path(target.parent)


def check_records(records: Records, dataset_id: str, name: str, state: str, files: int) -> None:
    """Raise StoreDamagedError unless records can be read, and have a state and number of files."""
    digest, count = StateDigest(), 0
    for placed in records.read(dataset_id, name):
        digest.add(entry_line(placed))
        count += placed.subdataset is None
    if digest.value() != state or count != files:
        raise StoreDamagedError(
            f"the records {name} have {count} files and the state {digest.value()}, not {files} "
            f"and {state}"
        )


class RecordLookup:
    """The records of one version by path, read frame by frame. Thread-safe.

    Parameters
    ----------
    paths
        The version's file and those of its bases, newest first; the last one is whole.

    Raises
    ------
    StoreDamagedError
        A file is missing or damaged, which every method may raise, too.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._newest = paths[0]
        with ExitStack() as stack, self._explain():
            *deltas, whole = (
                stack.enter_context(SortedLines(path, line_path if is_whole else _pair_path))
                for path, is_whole in zip(paths, [False] * (len(paths) - 1) + [True], strict=True)
            )
            self._deltas, self._whole = deltas, whole
            self._files = stack.pop_all()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def find(self, path: bytes) -> SnapshotEntry | None:
        """Return the file or subdataset at a path; None if the version has none."""
        with self._explain():
            for delta in self._deltas:
                lines = takewhile(lambda one: _pair_path(one) == path, delta.lines_from(path))
                for _, new in load_pairs(lines):
                    return None if new is None else load_snapshot_entry(new)
            line = next(self._whole.lines_from(path), None)
            if line is None or line_path(line) != path:
                return None
            return load_snapshot_entry(line)

    def first_with_prefix(self, prefix: bytes) -> bytes | None:
        """Return the first path that starts with given bytes; None without one."""
        with self._explain():
            path = next(map(line_path, self._lines_from(prefix)), b"")
        return path if path.startswith(prefix) else None

    def below(self, folder: bytes) -> Iterator[SnapshotEntry]:
        """Yield all files and subdatasets below a folder, by path; b"" for the whole version."""
        start = folder + b"/" if folder else b""
        with self._explain():
            for line in self._lines_from(start):
                if not line_path(line).startswith(start):
                    return
                yield load_snapshot_entry(line)

    def entries(self, folder: bytes) -> Iterator[tuple[bytes, SnapshotEntry | None]]:
        """Yield the names in a folder in the order of paths, each with its file.

        A folder has no file and is not read to its end.
        """
        start = folder + b"/" if folder else b""
        with self._explain():
            for name, line in names_in_folder(self._lines_from, line_path, start):
                yield name, None if line is None else load_snapshot_entry(line)

    def _lines_from(self, start: bytes) -> Iterator[bytes]:
        lines = self._whole.lines_from(start)
        for delta in reversed(self._deltas):
            changed = (line for line in delta.lines_from(start) if not _is_header(line))
            lines = patch_lines(lines, load_pairs(changed))
        return lines

    @contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise StoreDamagedError(
                f"the records {self._newest} cannot be read ({error}); run "
                "'neuromirror repair', which reads them back from git"
            ) from error


def _is_header(line: bytes) -> bool:
    return not line.startswith((b"+", b"-"))


def _pair_path(line: bytes) -> bytes:
    """Return the path of a line of a delta; that of its header precedes all others."""
    return b"" if _is_header(line) else line_path(line[1:])


class _DeltaHeader(msgspec.Struct):
    """The first line of a version that is stored as changes."""

    base: RecordsText
    depth: Count


def _read_header(lines: Iterator[bytes], path: Path) -> _DeltaHeader:
    try:
        return convert(parse_json(next(lines), str(path)), _DeltaHeader, str(path))
    except (InvalidDocumentError, StopIteration) as error:
        raise StoreDamagedError(
            f"{path} has no valid first line; run 'neuromirror repair'"
        ) from error


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from read_seekable_lines(file)
    except (FileNotFoundError, ZstdFrameError) as error:
        raise StoreDamagedError(
            f"the records {path} cannot be read ({error}); run 'neuromirror repair', which reads "
            "them back from git"
        ) from error
