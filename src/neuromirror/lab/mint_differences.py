"""Compare two mints of one state: files, plain files in git, and the commit itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from neuromirror.crawl import StateDifference
from neuromirror.git import REGULAR_FILE_MODE, SYMLINK_MODE, TREE_MODE, ObjectReader
from neuromirror.model import (
    FileRecord,
    SnapshotEntry,
    count_of,
    diff_lines,
    parse_json,
    path_to_text,
)

MAX_NAMED_PATHS = 20
"""Maximum number of paths listed per kind of difference; the others are counted."""

_MAX_SHOWN = 3
_DESCRIPTION = b".neuromirror/dataset.json"
# fields that follow from other differences
_DERIVED_FIELDS = frozenset(
    ("state", "metadata", "files", "bytes", "evidence", "documents", "parts")
)

_Entry = tuple[bytes, bytes]
"""Mode and 20-byte id of a tree entry."""


class VersionIds(Struct, frozen=True):
    """The ids of a version.

    Attributes
    ----------
    commit
        The commit id in hex.
    tree
        The tree id in hex.
    state
        The state digest, ``sha256:<hex>``.
    """

    commit: str
    tree: str
    state: str


class PathSample(Struct):
    """A number of paths, and examples.

    Attributes
    ----------
    count
        The number of paths.
    first
        The first :data:`MAX_NAMED_PATHS` of them, as text.
    """

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: bytes) -> None:
        """Count a path.

        Parameters
        ----------
        path
            The path in git.
        """
        self.count += 1
        if len(self.first) < MAX_NAMED_PATHS:
            self.first.append(path_to_text(path))

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        more = f", … and {self.count - _MAX_SHOWN} more" if self.count > _MAX_SHOWN else ""
        return ", ".join(self.first[:_MAX_SHOWN]) + more


class MintDifferences(Struct):
    """The differences between a version in the store and the same version minted again.

    Attributes
    ----------
    added, removed
        Files on one side only.
    other_bytes
        Files with a different size or checksum.
    other_checksums
        Files of the same size that have checksums of other algorithms only, so that their content
        cannot be compared.
    documents
        Plain files in git: documents of upstream and of neuromirror.
    subdatasets
        Subdatasets at a different commit.
    links
        Symlinks with a different target, if no file differs.
    description_fields
        Fields of ``.neuromirror/dataset.json`` with a different value (``title``, ``exceptions``,
        …).
    commit
        Differences of the commit object other than its tree, as sentences.
    """

    added: PathSample = field(default_factory=PathSample)
    removed: PathSample = field(default_factory=PathSample)
    other_bytes: PathSample = field(default_factory=PathSample)
    other_checksums: PathSample = field(default_factory=PathSample)
    documents: PathSample = field(default_factory=PathSample)
    subdatasets: PathSample = field(default_factory=PathSample)
    links: PathSample = field(default_factory=PathSample)
    description_fields: list[str] = field(default_factory=list)
    commit: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.sentences())

    def sentences(self) -> list[str]:
        """Return the differences as text, most important first.

        Returns
        -------
        list[str]
            One sentence per kind of difference.
        """
        counted = [
            (self.added, "file", "added"),
            (self.removed, "file", "removed"),
            (self.other_bytes, "file", "with different content"),
            (self.other_checksums, "file", "with other kinds of checksums"),
            (self.subdatasets, "subdataset", "in another state"),
            (self.documents, "plain file", "differs" if self.documents.count == 1 else "differ"),
            (self.links, "symlink", "with another target"),
        ]
        sentences = [
            f"{count_of(paths.count, what)} {how} ({paths})"
            for paths, what, how in counted
            if paths
        ]
        if self.description_fields:
            fields = ", ".join(self.description_fields)
            sentences.append(f"the description of the dataset differs ({fields})")
        if not sentences and self.commit:
            return [f"only the commit differs: {'; '.join(self.commit)}"]
        return sentences


class MintedSide(Struct, frozen=True):
    """One side of a comparison: a bare repository, a commit, and its record lines by git path."""

    repository: Path
    commit: str
    lines: Iterable[bytes]


def find_differences(stored: MintedSide, minted: MintedSide, scratch: Path) -> MintDifferences:
    """Compare a version in the store with the same version minted again.

    Parameters
    ----------
    stored, minted
        The version in the store, and the one that was minted again.
    scratch
        A folder for temporary files of the size of the records.

    Raises
    ------
    ObjectMissingError, StoreDamagedError
        A side cannot be read.
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
    entry = old or new
    assert entry is not None
    if entry.subdataset is not None or (new is not None and new.subdataset is not None):
        ids = [
            None if one is None or one.subdataset is None else one.subdataset.commit
            for one in (old, new)
        ]
        if ids[0] != ids[1]:
            found.subdatasets.add(entry.git_path)
    elif old is None:
        found.added.add(entry.git_path)
    elif new is None:
        found.removed.add(entry.git_path)
    elif old.key != new.key:
        same_size = old.record.size == new.record.size
        kind = found.other_bytes
        if same_size and not _contradict(old.record, new.record):
            kind = found.other_checksums
        kind.add(entry.git_path)


def _contradict(old: FileRecord, new: FileRecord) -> bool:
    """Return whether the records have different values for one algorithm."""
    others = ((one.value, new.digest(one.algorithm)) for one in old.digests)
    return any(other is not None and other.value != value for value, other in others)


def _compare_trees(
    found: MintDifferences, old: ObjectReader, new: ObjectReader, before: bytes, after: bytes
) -> None:
    """Compare the plain files; links and subdatasets are compared by their records."""
    links, fields = PathSample(), set[str]()
    for path, one, other in tree_changes(old, new, before, after, b""):
        if path == _DESCRIPTION and one is not None and other is not None:
            fields = _changed_fields(old.read(one[1].hex()), new.read(other[1].hex()))
        elif any(entry is not None and entry[0] == REGULAR_FILE_MODE for entry in (one, other)):
            found.documents.add(path)
        elif one is not None and other is not None and one[0] == other[0] == SYMLINK_MODE:
            links.add(path)
    found.description_fields = sorted(fields - _DERIVED_FIELDS)
    if not found:
        found.links, found.description_fields = links, sorted(fields)


def _changed_fields(before: bytes, after: bytes) -> set[str]:
    old, new = _parse_description(before), _parse_description(after)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _parse_description(content: bytes) -> dict[str, Any]:
    try:
        description = parse_json(content, _DESCRIPTION.decode())
    except ValueError:
        return {}
    return description if isinstance(description, dict) else {}


def tree_changes(
    old: ObjectReader, new: ObjectReader, before: bytes | None, after: bytes | None, folder: bytes
) -> Iterator[tuple[bytes, _Entry | None, _Entry | None]]:
    """Compare two git trees recursively; yield each path that differs, with both entries.

    An entry is (mode, object id), and None on a side without the path. Folders have no items of
    their own.

    Parameters
    ----------
    old, new
        Readers of the repositories with the trees.
    before, after
        The ids of the trees; None for an empty tree.
    folder
        The path of the trees, empty or with a slash at its end.
    """
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
    """Return the differences of two commit objects other than their trees."""
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
