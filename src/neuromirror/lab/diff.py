"""What differs between two states: of one dataset or of two, in the store or in a clone.

Both are read once, in order of path, and what differs is sorted on disk: memory does not grow with
the number of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from neuromirror.annex import key_digest, parse_key
from neuromirror.crawl import Difference
from neuromirror.crawl.compare import contradicts
from neuromirror.index import Index, UnknownDataset, UnknownVersion, VersionRow
from neuromirror.lab.again import stored_lines
from neuromirror.lab.committed import Committed
from neuromirror.lab.differences import tree_changes
from neuromirror.lab.manifests import ListedFile, ListedPart
from neuromirror.mint import FILE, LineSorter, ObjectReader
from neuromirror.mint.documents import OWN_NAMES
from neuromirror.model import (
    DatasetRef,
    Digest,
    FileRecord,
    LinePair,
    PlacedFile,
    Subdataset,
    diff_lines,
    dump_placed,
    in_git,
    load_placed,
    manifest_digest,
    raw,
    text,
)
from neuromirror.store import Store

Kind = Literal["added", "removed", "changed", "moved", "metadata", "document"]
"""How a file differs.

``changed``: other bytes at the same path; ``moved``: the same bytes at another path, and no more
at the old one; ``metadata``: the same bytes, of which other places, times or checksums are told.
A ``document`` is a plain file of git, whatever became of it.
"""


class FileChange(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A file that differs: its path, or the path that it had where it was removed.

    ``before`` is the path that a moved file had. Digests are as the canonical manifest spells them,
    sizes in bytes; ``files`` is given for a sub-dataset and counts the files in it, with sizes of
    all of them, and digests that are its states.
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


@dataclass(frozen=True, slots=True)
class Side:
    """One of two states that are compared.

    ``form`` is model.SnapshotHeader's; ``lines`` gives its record lines by git path; those of a
    clone (``told`` is False) say no more than git does. ``since`` gives the pairs of them that
    differ from another commit of the dataset, None where that takes reading both. ``part`` gives
    a sub-dataset's side, None where it is not at hand.
    """

    name: str
    git_dir: Path
    commit: str
    form: str
    told: bool
    lines: Callable[[], Iterator[bytes]]
    since: Callable[[str], Iterator[LinePair] | None]
    part: Callable[[PlacedFile], Side | None]


def version_side(store: Store, index: Index, row: VersionRow) -> Side:
    """A version in a store."""

    def part(placed: PlacedFile) -> Side | None:
        assert placed.part is not None
        try:
            inner = index.resolve(f"{row.mirror}:{placed.part.local_id}", placed.part.commit)
        except (UnknownDataset, UnknownVersion):
            return None  # it was taken out of the store
        return version_side(store, index, inner)

    dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
    told = store.has_records(dataset.dataset_id, row.commit)
    return Side(
        row.name,
        store.repository(dataset).path,
        row.commit,
        row.form or "files",
        told,
        lambda: stored_lines(store, row),
        lambda commit: store.records_between(dataset.dataset_id, commit, row.commit),
        part,
    )


def clone_side(git_dir: Path, root: Path, commit: str) -> Side:
    """A commit of a clone, of which what its keys say is known."""
    committed = Committed(git_dir, commit)

    def lines() -> Iterator[bytes]:
        return (dump_placed(_as_placed(one)) for one in committed.listed())

    def part(placed: PlacedFile) -> Side | None:
        assert placed.part is not None
        folder = root / placed.git_path.decode()
        inner = folder / ".git"
        return clone_side(inner, folder, placed.part.commit) if inner.is_dir() else None

    return Side(str(root), git_dir, commit, committed.form, False, lines, lambda _: None, part)


@dataclass(slots=True)
class Counts:
    """How many files and bytes there are of each kind; those of sub-datasets are of all in them."""

    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)

    def add(self, change: FileChange) -> None:
        """One more."""
        if change.files is not None:
            self.parts[change.kind] += 1
            return
        self.files[change.kind] += 1
        size = change.old_size if change.kind == "removed" else change.new_size
        self.bytes[change.kind] += size or 0


def diff(old: Side, new: Side, scratch: Path, *, recursive: bool = False) -> Iterator[FileChange]:
    """Yields what became of ``old`` in ``new``, in order of path; then documents.

    ``scratch`` is a folder for files of the size of what differs. ``recursive`` opens sub-datasets
    that differ and are at hand on both sides. Raises StoreDamaged, ObjectMissing or
    CommitUnreadable where a side cannot be read.
    """
    yield from _diff(old, new, scratch, "", recursive=recursive)


def _diff(
    old: Side, new: Side, scratch: Path, below: str, *, recursive: bool
) -> Iterator[FileChange]:
    reduce = not (old.told and new.told)
    lines = [_reduced(side) if reduce else side.lines() for side in (old, new)]
    # of two versions of one dataset the store often has kept no more than what changed
    known = None if reduce or old.git_dir != new.git_dir else new.since(old.commit)
    between = Difference(scratch / "difference", known or diff_lines(*lines))
    opened: list[tuple[PlacedFile, PlacedFile]] = []
    with ExitStack() as stack:
        gone, come, out = (stack.enter_context(LineSorter(scratch)) for _ in range(3))
        for before, after in between.changes():
            part = (before and before.part) or (after and after.part)
            if part is not None or (before is not None and after is not None):
                change = _at_same_path(before, after, below)
                if change is not None:
                    _put(out, change)
                if before is not None and after is not None and before.part and after.part:
                    opened.append((before, after))
            else:
                one = before or after
                assert one is not None
                (gone if after is None else come).add(_row(one))
        for change in _moves(gone, come, below):
            _put(out, change)
        yield from (_decode(row.partition(b"\0")[2]) for row in out)
    yield from _documents(old, new, below)
    if recursive:
        for before, after in opened:
            sides = old.part(before), new.part(after)
            if sides[0] is not None and sides[1] is not None:
                folder = f"{below}{text(after.git_path)}/"
                yield from _diff(sides[0], sides[1], scratch, folder, recursive=True)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FileChange).decode


def _put(out: LineSorter, change: FileChange) -> None:
    out.add(_sortable(raw(change.path)) + b"\0" + _encode(change))


def _sortable(name: bytes) -> bytes:
    """A name to sort rows by, in which no row may end."""
    return name.replace(b"\n", b" ")


def _row(placed: PlacedFile) -> bytes:
    """A row that sorts by content, and within it by file name, so that like finds like."""
    record, path = placed.record, placed.git_path
    digest = manifest_digest(record)
    if digest != "none":
        content = f"{digest} {record.size}".encode()
    else:
        content = placed.key.encode() or path
    name = path.rpartition(b"/")[2]
    return b"\0".join((_sortable(content), _sortable(name), dump_placed(placed)))


def _moves(gone: Iterable[bytes], come: Iterable[bytes], below: str) -> Iterator[FileChange]:
    """What was moved, added and removed, from the rows of what is gone and of what has come."""
    olds, news = iter(gone), iter(come)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        before = None if old is None else old.split(b"\0", 2)
        after = None if new is None else new.split(b"\0", 2)
        if before is not None and after is not None and before[0] == after[0]:
            yield _moved(load_placed(before[2]), load_placed(after[2]), below)
            old, new = next(olds, None), next(news, None)
        elif after is None or (before is not None and before[0] < after[0]):
            assert before is not None
            yield _lone("removed", load_placed(before[2]), below)
            old = next(olds, None)
        else:
            yield _lone("added", load_placed(after[2]), below)
            new = next(news, None)


def _lone(kind: Literal["added", "removed"], one: PlacedFile, below: str) -> FileChange:
    digest, size, files = _told(one)
    path = below + text(one.git_path)
    if kind == "added":
        return FileChange(kind, path, new_digest=digest, new_size=size, files=files)
    return FileChange(kind, path, old_digest=digest, old_size=size, files=files)


def _moved(old: PlacedFile, new: PlacedFile, below: str) -> FileChange:
    digest, size, _ = _told(new)
    return FileChange(
        "moved",
        below + text(new.git_path),
        before=below + text(old.git_path),
        old_digest=digest,
        new_digest=digest,
        old_size=size,
        new_size=size,
    )


def _told(one: PlacedFile) -> tuple[str | None, int | None, int | None]:
    """Digest and size, and of a sub-dataset the number of its files."""
    if one.part is not None:
        return one.part.state, one.part.bytes, one.part.files
    digest = manifest_digest(one.record)
    return (None if digest == "none" else digest), one.record.size, None


def _at_same_path(old: PlacedFile | None, new: PlacedFile | None, below: str) -> FileChange | None:
    """What became of a file or sub-dataset; None where nothing did that matters."""
    if new is None:
        assert old is not None
        return _lone("removed", old, below)
    if old is None:
        return _lone("added", new, below)
    kind: Kind = "changed"
    message = ""
    if old.part is not None and new.part is not None:
        if (old.part.dataset_id, old.part.state) == (new.part.dataset_id, new.part.state):
            if old.part.commit == new.part.commit:
                return None
            kind, message = "metadata", "another commit of the same state"
    elif old.part is not None or new.part is not None:
        message = "a file is a sub-dataset now" if new.part else "a sub-dataset is a file now"
    elif old.key == new.key or _same_bytes(old.record, new.record):
        kind, message = "metadata", _what_differs(old.record, new.record)
    elif not contradicts(old.record, new.record):
        message = "known by other checksums, so that nothing tells whether the bytes are the same"
    (old_digest, old_size, was), (new_digest, new_size, files) = _told(old), _told(new)
    return FileChange(
        kind,
        below + text(new.git_path),
        old_digest=old_digest,
        new_digest=new_digest,
        old_size=old_size,
        new_size=new_size,
        files=was if files is None else files,
        message=message,
    )


def _same_bytes(old: FileRecord, new: FileRecord) -> bool:
    if contradicts(old, new):
        return False
    shared = any(new.digest(one.algorithm) is not None for one in old.digests)
    return shared or (old.upstream_id is not None and old.upstream_id == new.upstream_id)


def _what_differs(old: FileRecord, new: FileRecord) -> str:
    pairs = {
        "checksums": (set(old.digests), set(new.digests)),
        "places": (old.locations, new.locations),
        "time": (old.modified, new.modified),
        "upstream's id": (old.upstream_id, new.upstream_id),
        "retention": (old.retention, new.retention),
        "upstream's name": (old.path, new.path),
    }
    return ", ".join(word for word, (one, other) in pairs.items() if one != other)


def _documents(old: Side, new: Side, below: str) -> Iterator[FileChange]:
    """Plain files of git that differ, but for those that a mirror adds itself."""
    with ExitStack() as stack:
        one = other = stack.enter_context(ObjectReader(old.git_dir))
        if new.git_dir != old.git_dir:
            other = stack.enter_context(ObjectReader(new.git_dir))
        trees = one.commit_tree(old.commit), other.commit_tree(new.commit)
        for path, was, entry in tree_changes(one, other, *trees, b""):
            plain = [side is not None and side[0] == FILE for side in (was, entry)]
            if not any(plain) or path.partition(b"/")[0] in OWN_NAMES:
                continue
            message = "changed" if all(plain) else "added" if plain[1] else "removed"
            yield FileChange("document", below + text(path), message=message)


def _reduced(side: Side) -> Iterator[bytes]:
    """The record lines of a side that say no more than git does, of no more than is in git."""
    for line in side.lines():
        placed = load_placed(line)
        if not in_git(placed, side.form):
            continue
        if placed.part is not None:
            yield dump_placed(PlacedFile(placed.git_path, "", _bare(placed.git_path), placed.part))
        elif placed.key:
            yield dump_placed(_of_key(placed.git_path, placed.key))


def _as_placed(one: ListedFile | ListedPart) -> PlacedFile:
    path = one.path.encode()
    if isinstance(one, ListedPart):
        local_id = one.name.partition(":")[2]
        part = Subdataset(one.dataset_id, local_id, one.commit, one.state, one.files, one.bytes)
        return PlacedFile(path, "", _bare(path), part)
    return _of_key(path, one.key)


def _bare(path: bytes) -> FileRecord:
    return FileRecord(path, None)


def _of_key(path: bytes, key: str) -> PlacedFile:
    """A file of which its key alone is known."""
    parts, digest = parse_key(key), key_digest(key)
    part_size = None
    if digest is not None and digest[0] == "etag":
        part_size = int(parts.name.rpartition("-")[2])
    digests = () if digest is None else (Digest(*digest, ""),)
    return PlacedFile(path, key, FileRecord(path, parts.size, digests, part_size=part_size))
