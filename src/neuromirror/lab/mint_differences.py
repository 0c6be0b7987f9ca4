"""What is not the same in two mints of one state: files, plain files of git, the commit itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuromirror.crawl import StateDifference
from neuromirror.git import REGULAR_FILE_MODE, SYMLINK_MODE, TREE_MODE, ObjectReader
from neuromirror.model import FileRecord, SnapshotEntry, diff_lines, parse_json, path_to_text

MAX_NAMED_PATHS = 20
"""Paths of a kind that are named; the rest is counted."""

_MAX_SHOWN = 3
_DESCRIPTION = b".neuromirror/dataset.json"
# they differ because something else does
_DERIVED_FIELDS = frozenset(
    ("state", "metadata", "files", "bytes", "evidence", "documents", "parts")
)

_Entry = tuple[bytes, bytes]
"""Mode and 20-byte id of a tree's entry."""


@dataclass(frozen=True, slots=True)
class VersionIds:
    """A version's commit and tree (hex) and its state digest (``sha256:<hex>``)."""

    commit: str
    tree: str
    state: str


@dataclass(slots=True)
class PathSample:
    """How many there are, and the first :data:`MAX_NAMED_PATHS` of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: bytes) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < MAX_NAMED_PATHS:
            self.first.append(path_to_text(path))

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        more = f", … and {self.count - _MAX_SHOWN} more" if self.count > _MAX_SHOWN else ""
        return ", ".join(self.first[:_MAX_SHOWN]) + more


@dataclass(slots=True)
class MintDifferences:
    """In what a version that was minted again differs from the one in the store; paths as in git.

    ``added`` and ``removed`` are files, ``other_bytes`` those of another size or checksum,
    ``other_checksums`` those of the same size that are known by checksums of other kinds, so that
    nothing tells whether the bytes are the same. ``documents`` are plain files of git: upstream's
    documents and our own. ``described`` are the words of ``.neuromirror/dataset.json`` with
    another value (``title``, ``exceptions``, …), ``parts`` sub-datasets at another commit.
    ``links`` are symlinks that lead elsewhere, told where no file differs. ``commit`` says in
    sentences what differs in the commit object beside its tree.
    """

    added: PathSample = field(default_factory=PathSample)
    removed: PathSample = field(default_factory=PathSample)
    other_bytes: PathSample = field(default_factory=PathSample)
    other_checksums: PathSample = field(default_factory=PathSample)
    documents: PathSample = field(default_factory=PathSample)
    parts: PathSample = field(default_factory=PathSample)
    links: PathSample = field(default_factory=PathSample)
    described: list[str] = field(default_factory=list)
    commit: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.sentences())

    def sentences(self) -> list[str]:
        """All of it in words, the weightiest first."""
        counted = [
            (self.added, "file added", "files added"),
            (self.removed, "file removed", "files removed"),
            (self.other_bytes, "file with other bytes", "files with other bytes"),
            (
                self.other_checksums,
                "file known by other checksums",
                "files known by other checksums",
            ),
            (self.parts, "sub-dataset in another state", "sub-datasets in another state"),
            (self.documents, "plain file differs", "plain files differ"),
            (self.links, "symlink leads elsewhere", "symlinks lead elsewhere"),
        ]
        sentences = [
            f"{paths.count} {one if paths.count == 1 else many} ({paths})"
            for paths, one, many in counted
            if paths
        ]
        if self.described:
            sentences.append(f"the dataset is described otherwise ({', '.join(self.described)})")
        if not sentences and self.commit:
            return [f"only the commit differs: {'; '.join(self.commit)}"]
        return sentences


@dataclass(frozen=True, slots=True)
class MintedSide:
    """One of two mints: a bare repository, a commit in it, and its record lines by git path."""

    repository: Path
    commit: str
    lines: Iterable[bytes]


def find_differences(stored: MintedSide, minted: MintedSide, scratch: Path) -> MintDifferences:
    """What differs between a version in the store and the same minted again.

    ``scratch`` is a folder for files of the size of the records; raises ObjectMissingError and
    StoreDamagedError where a side cannot be read.
    """
    found = MintDifferences()
    with ExitStack() as stack:
        old = stack.enter_context(ObjectReader(stored.repository))
        new = stack.enter_context(ObjectReader(minted.repository))
        trees = old.read_commit_tree(stored.commit), new.read_commit_tree(minted.commit)
        if trees[0] != trees[1]:
            between = StateDifference(
                scratch / "differences", diff_lines(stored.lines, minted.lines)
            )
            for before, after in between.changes():
                _classify(found, before, after)
            _compare_trees(found, old, new, *trees)
        found.commit = _compare_commits(old.read(stored.commit), new.read(minted.commit))
    return found


def _classify(found: MintDifferences, old: SnapshotEntry | None, new: SnapshotEntry | None) -> None:
    there = old or new
    assert there is not None
    if there.subdataset is not None or (new is not None and new.subdataset is not None):
        ids = [
            None if one is None or one.subdataset is None else one.subdataset.commit
            for one in (old, new)
        ]
        if ids[0] != ids[1]:
            found.parts.add(there.git_path)
    elif old is None:
        found.added.add(there.git_path)
    elif new is None:
        found.removed.add(there.git_path)
    elif old.key != new.key:
        same_size = old.record.size == new.record.size
        kind = found.other_bytes
        if same_size and not _contradict(old.record, new.record):
            kind = found.other_checksums
        kind.add(there.git_path)


def _contradict(old: FileRecord, new: FileRecord) -> bool:
    """Whether a checksum of one kind has two values."""
    others = ((one.value, new.digest(one.algorithm)) for one in old.digests)
    return any(other is not None and other.value != value for value, other in others)


def _compare_trees(
    found: MintDifferences, old: ObjectReader, new: ObjectReader, before: bytes, after: bytes
) -> None:
    """Plain files that differ; links and sub-datasets are weighed by their records."""
    links, described = PathSample(), set[str]()
    for path, one, other in tree_changes(old, new, before, after, b""):
        if path == _DESCRIPTION and one is not None and other is not None:
            described = _changed_fields(old.read(one[1].hex()), new.read(other[1].hex()))
        elif any(entry is not None and entry[0] == REGULAR_FILE_MODE for entry in (one, other)):
            found.documents.add(path)
        elif one is not None and other is not None and one[0] == other[0] == SYMLINK_MODE:
            links.add(path)
    found.described = sorted(described - _DERIVED_FIELDS)
    if not found:
        found.links, found.described = links, sorted(described)


def _changed_fields(before: bytes, after: bytes) -> set[str]:
    old, new = _parse_description(before), _parse_description(after)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _parse_description(content: bytes) -> dict[str, Any]:
    try:
        described = parse_json(content, _DESCRIPTION.decode())
    except ValueError:
        return {}
    return described if isinstance(described, dict) else {}


def tree_changes(
    old: ObjectReader, new: ObjectReader, before: bytes | None, after: bytes | None, folder: bytes
) -> Iterator[tuple[bytes, _Entry | None, _Entry | None]]:
    """Yields path and both entries of all that differs and is no folder."""
    olds = {} if before is None else old.read_tree(before)
    news = {} if after is None else new.read_tree(after)
    for name in sorted(olds.keys() | news.keys()):
        one, other = olds.get(name), news.get(name)
        if one == other:
            continue
        below = [
            entry[1] if entry is not None and entry[0] == TREE_MODE else None
            for entry in (one, other)
        ]
        if any(below):
            yield from tree_changes(old, new, below[0], below[1], folder + name + b"/")
        left = None if below[0] else one
        right = None if below[1] else other
        if left is not None or right is not None:
            yield folder + name, left, right


def _compare_commits(before: bytes, after: bytes) -> list[str]:
    """What differs in two commit objects beside their trees."""
    old, new = _parse_commit(before), _parse_commit(after)
    found = []
    for role in ("author", "committer"):
        if old[role][0] != new[role][0]:
            found.append(f"its {role} is {old[role][0]!r} in the store, {new[role][0]!r} now")
    if old["committer"][1] != new["committer"][1]:
        times = [_format_time(one["committer"][1]) for one in (old, new)]
        found.append(f"its time is {times[0]} in the store, {times[1]} now")
    if old["message"] != new["message"]:
        lines = [dict.fromkeys(one["message"].splitlines()) for one in (old, new)]
        only = [[line for line in lines[a] if line not in lines[b]] for a, b in ((0, 1), (1, 0))]
        shown = [" / ".join(repr(line) for line in some[:_MAX_SHOWN]) or "nothing" for some in only]
        found.append(f"its message has {shown[0]} in the store, {shown[1]} now")
    if old["parent"] != new["parent"]:
        shown = [one["parent"][:12] or "none" for one in (old, new)]
        found.append(f"its parent is {shown[0]} in the store, {shown[1]} now")
    return found


def _parse_commit(content: bytes) -> dict[str, Any]:
    head, _, message = content.decode("utf-8", "surrogateescape").partition("\n\n")
    fields: dict[str, Any] = {"parent": "", "author": ("", ""), "committer": ("", "")}
    for line in head.splitlines():
        header, _, value = line.partition(" ")
        if header in ("author", "committer"):
            who, _, when = value.rpartition("> ")
            fields[header] = (f"{who}>", when)
        elif header == "parent":
            fields[header] = f"{fields[header]} {value}".strip()
    return {**fields, "message": message}


def _format_time(stamp: str) -> str:
    seconds, _, zone = stamp.partition(" ")
    if not seconds.isdecimal():
        return repr(stamp)
    formatted = datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
    return formatted if zone == "+0000" else f"{formatted} (zone {zone})"
