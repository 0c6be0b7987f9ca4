"""Compare two states, of one dataset or of two, in the store or in a clone.

Both are read once, in the order of paths, and the differences are sorted on disk, so that memory
does not grow with the number of files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from neuromirror import model
from neuromirror.annex import record_of_key
from neuromirror.crawl.guards import has_different_bytes
from neuromirror.git import REGULAR_FILE_MODE, ObjectReader
from neuromirror.index import Index, UnknownDatasetError, UnknownVersionError, VersionRow
from neuromirror.lab.lock_manifests import ListedFile, ListedSubdataset, stored_record_lines
from neuromirror.lab.rebuild import MintedCommit
from neuromirror.lab.reproduce import tree_changes
from neuromirror.mint import LineSorter
from neuromirror.mint.documents import OWN_NAMES
from neuromirror.store import Store
from neuromirror.transfer.repository_check import check_repository


class DiffSide(Struct, frozen=True):
    """One of the two states that are compared.

    Attributes
    ----------
    name
        The name of the side in messages.
    git_dir
        The git directory that has the commit.
    commit
        The commit id in hex.
    form
        ``files``, or ``manifest`` for a dataset of which most files are only in the manifest.
    has_records
        Whether the record lines have more than git has; False for a clone.
    lines
        Returns the record lines, by git path.
    changes_since
        Returns the pairs of lines that differ from another commit of the dataset, or None if both
        states must be read in full.
    subdataset
        Returns the side of a subdataset, or None if it is not available.
    """

    name: str
    git_dir: Path
    commit: str
    form: str
    has_records: bool
    lines: Callable[[], Iterator[bytes]]
    changes_since: Callable[[str], Iterator[model.LinePair] | None]
    subdataset: Callable[[model.SnapshotEntry], DiffSide | None]


def version_side(store: Store, index: Index, row: VersionRow) -> DiffSide:
    """Return a version in a store as one side of a comparison.

    Parameters
    ----------
    store
        The store that has the version.
    index
        The index of the store.
    row
        The version, as returned by ``index.versions.resolve``.

    Returns
    -------
    DiffSide
        The side, with the records of the index.
    """

    def subdataset(placed: model.SnapshotEntry) -> DiffSide | None:
        assert placed.subdataset is not None
        try:
            inner = index.versions.resolve(
                f"{row.mirror}:{placed.subdataset.local_id}", placed.subdataset.commit
            )
        except (UnknownDatasetError, UnknownVersionError):
            return None  # withdrawn from the store
        return version_side(store, index, inner)

    dataset = row.dataset_ref
    has_records = store.records.has(dataset.dataset_id, row.records)
    return DiffSide(
        row.name,
        store.repositories.of(dataset).path,
        row.commit,
        row.form or "files",
        has_records,
        lambda: stored_record_lines(store, row),
        lambda commit: store.records.between(dataset.dataset_id, commit, row.commit),
        subdataset,
    )


def clone_side(git_dir: Path, root: Path, commit: str) -> DiffSide:
    """Return a commit of a clone as one side of a comparison.

    Its records have only the fields that annex keys contain.

    Parameters
    ----------
    git_dir
        The clone's git directory.
    root
        The top of the clone's work tree.
    commit
        The commit id in hex.

    Returns
    -------
    DiffSide
        The side, without records of the index.
    """
    committed = MintedCommit(git_dir, commit)

    def lines() -> Iterator[bytes]:
        return (model.dump_snapshot_entry(_to_placed(entry)) for entry in committed.entries())

    def subdataset(placed: model.SnapshotEntry) -> DiffSide | None:
        assert placed.subdataset is not None
        folder = root / placed.git_path.decode()
        if not os.path.lexists(folder / ".git"):
            return None
        return clone_side(check_repository(folder).git_dir, folder, placed.subdataset.commit)

    return DiffSide(
        str(root), git_dir, commit, committed.form, False, lines, lambda _: None, subdataset
    )


def lines_as_in_git(side: DiffSide) -> Iterator[bytes]:
    """Yield the record lines of a side, reduced to the fields and files in git."""
    for line in side.lines():
        placed = model.load_snapshot_entry(line)
        if not model.is_in_git(placed, side.form):
            continue
        if placed.subdataset is not None:
            yield model.dump_snapshot_entry(
                _entry_of_subdataset(placed.git_path, placed.subdataset)
            )
        elif placed.key:
            yield model.dump_snapshot_entry(_entry_of_key(placed.git_path, placed.key))


def _to_placed(one: ListedFile | ListedSubdataset) -> model.SnapshotEntry:
    path = one.path.encode()
    if isinstance(one, ListedSubdataset):
        local_id = one.name.partition(":")[2]
        subdataset = model.Subdataset(
            one.dataset_id, local_id, one.commit, one.state, one.files, one.bytes
        )
        return _entry_of_subdataset(path, subdataset)
    return _entry_of_key(path, one.key)


def _entry_of_subdataset(path: bytes, subdataset: model.Subdataset) -> model.SnapshotEntry:
    return model.SnapshotEntry(path, "", model.FileRecord(path, None), subdataset)


def _entry_of_key(path: bytes, key: str) -> model.SnapshotEntry:
    return model.SnapshotEntry(path, key, record_of_key(key, path))


Kind = Literal["added", "removed", "changed", "moved", "metadata", "document"]
"""The kind of a difference.

``changed``: different bytes at the same path; ``moved``: the same bytes at another path, and no
longer at the old one; ``metadata``: the same bytes with other URLs, times or checksums;
``document``: an added, removed or changed plain file in git.
"""


class FileChange(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A file or subdataset that differs.

    Attributes
    ----------
    kind
        How the file changed.
    path
        The path in the new state; for a removed file, its old path.
    before
        The old path of a moved file.
    old_digest, new_digest
        Digests as in the canonical manifest; of a subdataset, the digests of its states.
    old_size, new_size
        Sizes in bytes; of a subdataset, the size of all its files.
    files
        The number of files in a subdataset; None for a file.
    message
        A remark about the change, or an empty text.
    """

    kind: Kind
    path: str
    before: str | None = None
    old_digest: str | None = None
    new_digest: str | None = None
    old_size: int | None = None
    new_size: int | None = None
    files: int | None = None
    message: str = ""

    @property
    def is_subdataset(self) -> bool:
        """Whether a subdataset differs, not a file."""
        return self.files is not None


class ChangeCounts(Struct):
    """Counts of files, bytes and subdatasets by kind of change.

    Attributes
    ----------
    files
        Number of files by kind of change, the values of :attr:`FileChange.kind`.
    bytes
        Size in bytes of these files; of removed files the old size, of all others the new one.
    subdatasets
        Number of subdatasets by kind of change.
    """

    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    subdatasets: Counter[str] = field(default_factory=Counter)

    def add(self, change: FileChange) -> None:
        """Count a change.

        Parameters
        ----------
        change
            The change.
        """
        if change.files is not None:
            self.subdatasets[change.kind] += 1
            return
        self.files[change.kind] += 1
        size = change.old_size if change.kind == "removed" else change.new_size
        self.bytes[change.kind] += size or 0


def diff(
    old: DiffSide, new: DiffSide, scratch: Path, *, recursive: bool = False, below: str = ""
) -> Iterator[FileChange]:
    """Yield the changes from ``old`` to ``new`` in the order of paths, then those of documents.

    Parameters
    ----------
    old
        The earlier state.
    new
        The later state.
    scratch
        A folder for temporary files, which large differences need.
    recursive
        Compare the files of changed subdatasets that are available on both sides.
    below
        The path of both sides in an outer dataset, with a slash at its end, to start paths with.

    Yields
    ------
    FileChange
        A change; moved files are one change.

    Raises
    ------
    StoreDamagedError, ObjectMissingError, CommitUnreadableError
        A side cannot be read.
    """
    reduce = not (old.has_records and new.has_records)
    lines = [lines_as_in_git(side) if reduce else side.lines() for side in (old, new)]
    # the store often has the difference of two versions of one dataset
    known = None if reduce or old.git_dir != new.git_dir else new.changes_since(old.commit)
    opened: list[tuple[model.SnapshotEntry, model.SnapshotEntry]] = []
    with ExitStack() as stack:
        removed, added, out = (stack.enter_context(LineSorter(scratch)) for _ in range(3))

        def put(change: FileChange) -> None:
            out.add(_sortable(model.text_to_path(change.path)) + b"\0" + _encode(change))

        for before, after in model.load_changes(
            model.diff_lines(*lines) if known is None else known
        ):
            subdataset = (before and before.subdataset) or (after and after.subdataset)
            if subdataset is not None or (before is not None and after is not None):
                change = _at_same_path(before, after, below)
                if change is not None:
                    put(change)
                if before and after and before.subdataset and after.subdataset:
                    opened.append((before, after))
            else:
                one = before or after
                assert one is not None
                (removed if after is None else added).add(_row(one))
        for change in _moves(removed, added, below):
            put(change)
        yield from (_decode(row.partition(b"\0")[2]) for row in out)
    yield from _documents(old, new, below)
    if recursive:
        for before, after in opened:
            sides = old.subdataset(before), new.subdataset(after)
            if sides[0] is not None and sides[1] is not None:
                folder = f"{below}{model.path_to_text(after.git_path)}/"
                yield from diff(sides[0], sides[1], scratch, recursive=True, below=folder)


_MAX_GROUPS = 5
"""Groups of changed fields that a message has."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FileChange).decode


def _sortable(name: bytes) -> bytes:
    """Return a name as a sort key without line breaks."""
    return name.replace(b"\n", b" ")


def _row(placed: model.SnapshotEntry) -> bytes:
    """Encode an entry as a row that sorts by content, then by file name."""
    record, path = placed.record, placed.git_path
    digest = model.manifest_digest(record)
    if digest != "none":
        content = f"{digest} {record.size}".encode()
    else:
        content = placed.key.encode() or path
    name = path.rpartition(b"/")[2]
    return b"\0".join((_sortable(content), _sortable(name), model.dump_snapshot_entry(placed)))


def _moves(removed: Iterable[bytes], added: Iterable[bytes], below: str) -> Iterator[FileChange]:
    """Yield moved, added and removed files from the sorted rows of both sides."""
    olds, news = iter(removed), iter(added)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        before = None if old is None else old.split(b"\0", 2)
        after = None if new is None else new.split(b"\0", 2)
        if before is not None and after is not None and before[0] == after[0]:
            path = below + model.path_to_text(model.load_snapshot_entry(before[2]).git_path)
            entry = model.load_snapshot_entry(after[2])
            yield _change("moved", entry, entry, below, before=path)
            old, new = next(olds, None), next(news, None)
        elif after is None or (before is not None and before[0] < after[0]):
            assert before is not None
            yield _change("removed", model.load_snapshot_entry(before[2]), None, below)
            old = next(olds, None)
        else:
            yield _change("added", None, model.load_snapshot_entry(after[2]), below)
            new = next(news, None)


def _change(
    kind: Kind,
    old: model.SnapshotEntry | None,
    new: model.SnapshotEntry | None,
    below: str,
    *,
    before: str | None = None,
    message: str = "",
) -> FileChange:
    entry = new or old
    assert entry is not None
    sides: dict[str, Any] = {}
    for side, one in (("old", old), ("new", new)):
        if one is not None and one.subdataset is not None:
            part = one.subdataset
            sides |= {f"{side}_digest": part.state, f"{side}_size": part.bytes, "files": part.files}
        elif one is not None:
            digest = model.manifest_digest(one.record)
            sides[f"{side}_digest"] = None if digest == "none" else digest
            sides[f"{side}_size"] = one.record.size
    path = below + model.path_to_text(entry.git_path)
    return FileChange(kind, path, before, message=message, **sides)


def _at_same_path(
    old: model.SnapshotEntry | None, new: model.SnapshotEntry | None, below: str
) -> FileChange | None:
    """Return the change of a file or subdataset at one path, or None if it is equal."""
    if old is None or new is None:
        return _change("added" if old is None else "removed", old, new, below)
    kind: Kind = "changed"
    message = ""
    if old.subdataset is not None and new.subdataset is not None:
        if (old.subdataset.dataset_id, old.subdataset.state) == (
            new.subdataset.dataset_id,
            new.subdataset.state,
        ):
            if old.subdataset.commit == new.subdataset.commit:
                return None
            kind, message = "metadata", "another commit of the same state"
    elif old.subdataset is not None or new.subdataset is not None:
        message = "was a file, is a subdataset" if new.subdataset else "was a subdataset, is a file"
    elif old.key == new.key or _same_bytes(old.record, new.record):
        kind, message = "metadata", _changed_fields(old.record, new.record)
    elif not has_different_bytes(old.record, new.record):
        message = "no common checksum algorithm; the content may be equal"
    return _change(kind, old, new, below, message=message)


def _same_bytes(old: model.FileRecord, new: model.FileRecord) -> bool:
    if has_different_bytes(old, new):
        return False
    shared = any(new.digest(digest.algorithm) is not None for digest in old.digests)
    return shared or (old.upstream_id is not None and old.upstream_id == new.upstream_id)


def _changed_fields(old: model.FileRecord, new: model.FileRecord) -> str:
    pairs = {
        "checksums": (set(old.digests), set(new.digests)),
        "URLs": (old.locations, new.locations),
        "time": (old.modified, new.modified),
        "upstream id": (old.upstream_id, new.upstream_id),
        "retention": (old.durability, new.durability),
        "upstream path": (old.path, new.path),
    }
    return ", ".join(name for name, (one, other) in pairs.items() if one != other)


def _changed_metadata(old: bytes, new: bytes) -> str:
    """Return which fields of which assets differ between two lists of metadata, for a message."""
    olds, news = (
        {str(one.get("path")): one for one in map(msgspec.json.decode, side.splitlines())}
        for side in (old, new)
    )
    assets: dict[str, list[str]] = {}
    for path in olds.keys() & news.keys():
        before, after = olds[path], news[path]
        names = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        )
        if names:
            assets.setdefault(", ".join(names), []).append(path)
    groups = sorted(assets.items(), key=lambda one: (-len(one[1]), one[0]))
    texts = [
        f"{names} of {paths[0] if len(paths) == 1 else f'{len(paths)} assets'}"
        for names, paths in groups[:_MAX_GROUPS]
    ]
    more = "; …" if len(groups) > _MAX_GROUPS else ""
    return f": {'; '.join(texts)}{more}" if texts else ""


def _documents(old: DiffSide, new: DiffSide, below: str) -> Iterator[FileChange]:
    """Yield the changes of plain files in git, without those that the mirror writes."""
    with ExitStack() as stack:
        one = other = stack.enter_context(ObjectReader(old.git_dir))
        if new.git_dir != old.git_dir:
            other = stack.enter_context(ObjectReader(new.git_dir))
        trees = one.read_commit_tree(old.commit), other.read_commit_tree(new.commit)
        for path, was, entry in tree_changes(one, other, *trees, b""):
            plain = [side is not None and side[0] == REGULAR_FILE_MODE for side in (was, entry)]
            if not any(plain) or path.partition(b"/")[0] in OWN_NAMES:
                continue
            message = "changed" if all(plain) else "added" if plain[1] else "removed"
            if was is not None and entry is not None and all(plain) and path.endswith(b".jsonl"):
                message += _changed_metadata(one.read(was[1].hex()), other.read(entry[1].hex()))
            yield FileChange("document", below + model.path_to_text(path), message=message)
