"""Store the records of every version: whole, or as changes since another version.

``<commit>.jsonl.zst`` has record lines sorted by git path. ``<commit>.delta.zst`` has a first line
``{"base":"<commit>","depth":<n>}`` and then the lines that differ: ``-`` of the base, ``+`` of the
version (model.changes). So the size of a version depends on its changes, not on the dataset.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import zstandard

from neuromirror.mint import ZstdFrameError, read_lines
from neuromirror.model import (
    CommitId,
    Count,
    InvalidDocumentError,
    LinePair,
    compose_pairs,
    convert,
    dump_pairs,
    load_pairs,
    parse_json,
    patch_lines,
    reverse_pairs,
)
from neuromirror.store.durable_files import finish_file, fsync_path, make_folder
from neuromirror.store.errors import StoreDamagedError

MAX_DELTA_DEPTH = 16
"""The length of a chain of deltas, beyond which a version is stored whole."""


class RecordsFolder:
    """The records of all versions of all datasets, below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, dataset_id: str, commit: str, ending: str) -> Path:
        return self._root / dataset_id[:3] / dataset_id[3:] / f"{commit}.{ending}.zst"

    def has(self, dataset_id: str, commit: str) -> bool:
        """Return whether the folder has a version's records."""
        return any(self._path(dataset_id, commit, ending).exists() for ending in ("jsonl", "delta"))

    def write(
        self, dataset_id: str, commit: str, record_lines: Iterable[bytes], scratch: Path
    ) -> None:
        """Store a version whole."""
        if not self.has(dataset_id, commit):
            _write(self._path(dataset_id, commit, "jsonl"), record_lines, scratch)

    def write_changes(
        self,
        dataset_id: str,
        commit: str,
        base: str,
        pairs: Iterable[LinePair],
        scratch: Path,
    ) -> bool:
        """Store a version as its changes since ``base``.

        Returns
        -------
        bool
            False where the chain of deltas would be too long; then nothing is stored.
        """
        if self.has(dataset_id, commit):
            return True
        depth = self._depth(dataset_id, base) + 1
        if depth > MAX_DELTA_DEPTH:
            return False
        head = json.dumps({"base": base, "depth": depth}, separators=(",", ":")).encode()
        target = self._path(dataset_id, commit, "delta")
        _write(target, _prepend(head, dump_pairs(pairs)), scratch)
        return True

    def _depth(self, dataset_id: str, commit: str) -> int:
        path = self._path(dataset_id, commit, "delta")
        if not path.exists():
            return 0
        return _read_header(_read(path), path).depth

    def read_changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[LinePair]] | None:
        """Return the base of a version and the changes since; None if it is stored whole.

        Raises StoreDamagedError, also while the pairs are read.
        """
        path = self._path(dataset_id, commit, "delta")
        if not path.exists():
            return None
        record_lines = _read(path)
        return _read_header(record_lines, path).base, load_pairs(record_lines)

    def pairs_between(self, dataset_id: str, old: str, new: str) -> Iterator[LinePair] | None:
        """Yield the pairs of lines in which two versions differ, without reading either whole.

        Returns None if the versions' chains of deltas share no version. Raises
        StoreDamagedError, also while the pairs are read.
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
        while changed := self.read_changes(dataset_id, found[-1]):
            found.append(changed[0])
            if len(found) > MAX_DELTA_DEPTH + 1:
                path = self._path(dataset_id, commit, "delta")
                raise StoreDamagedError(
                    f"the records {path} have a chain of more than {MAX_DELTA_DEPTH} deltas, or a "
                    "cycle; restore the file from a backup"
                )
        return found if self.has(dataset_id, found[-1]) else []

    def _read_pairs(self, dataset_id: str, commit: str) -> Iterator[LinePair]:
        found = self.read_changes(dataset_id, commit)
        if found is not None:
            yield from found[1]

    def _check_pairs(
        self, pairs: Iterator[LinePair], dataset_id: str, old: str, new: str
    ) -> Iterator[LinePair]:
        try:
            yield from pairs
        except ValueError as error:
            raise StoreDamagedError(
                f"the records of commits {old} and {new} do not match each other ({error}); "
                f"restore "
                f"{self._path(dataset_id, new, '*').parent} from a backup"
            ) from error

    def record_lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        """Yield a version's record lines, sorted by git path; raise StoreDamagedError."""
        found = self.read_changes(dataset_id, commit)
        if found is None:
            yield from _read(self._path(dataset_id, commit, "jsonl"))
            return
        base, pairs = found
        self._base_chain(dataset_id, commit)
        try:
            yield from patch_lines(self.record_lines(dataset_id, base), pairs)
        except ValueError as error:
            raise StoreDamagedError(
                f"the records of commit {commit} do not match those of {base} ({error}); restore "
                f"{self._path(dataset_id, base, '*')} from a backup"
            ) from error


def _prepend(head: bytes, lines: Iterable[bytes]) -> Iterator[bytes]:
    yield head
    yield from lines


class _DeltaHeader(msgspec.Struct):
    """The first line of a version that is stored as changes."""

    base: CommitId
    depth: Count


def _read_header(lines: Iterator[bytes], path: Path) -> _DeltaHeader:
    try:
        return convert(parse_json(next(lines), str(path)), _DeltaHeader, str(path))
    except (InvalidDocumentError, StopIteration) as error:
        raise StoreDamagedError(
            f"{path} has no valid first line; restore it from a backup"
        ) from error


def _write(target: Path, lines: Iterable[bytes], scratch: Path) -> None:
    make_folder(target.parent)
    draft = scratch / target.name
    with draft.open("wb") as file:
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as zstd:
            block = bytearray()
            for line in lines:
                block += line
                block += b"\n"
                if len(block) > 1 << 18:
                    zstd.write(bytes(block))
                    block.clear()
            zstd.write(bytes(block))
        finish_file(file)
    os.replace(draft, target)
    fsync_path(target.parent)


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from read_lines(file)
    except (FileNotFoundError, ZstdFrameError) as error:
        raise StoreDamagedError(
            f"the records {path} cannot be read ({error}); restore the file from a backup, or run "
            "'neuromirror rebuild-index', which reads them back from git"
        ) from error
