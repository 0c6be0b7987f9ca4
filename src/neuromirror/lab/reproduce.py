"""Mint a version again from upstream and compare it with the one in the store.

The ids that must be equal depend on the kind of version:

- *Published* versions never change upstream: commit, tree and state digest must be equal. A commit
  contains the id of its parent, so all published versions before it are minted too.
- *Observed* states (a draft, the prefix of a bucket) are a chain that only the mirror has seen.
  Tree and state digest must be equal, if upstream still has the state: as the present one, or among
  the earlier states that it lists.

The states of subdatasets are minted too, on the parents that they have in the store, so that their
commits must be equal. The git-annex branch of a version is not compared: it depends on the order in
which states were observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror import model
from neuromirror.crawl import Mirror, StateDifference, open_recorder
from neuromirror.crawl.embargo import private_source
from neuromirror.git import REGULAR_FILE_MODE, SYMLINK_MODE, TREE_MODE, ObjectReader
from neuromirror.index import Index, SubdatasetRow, VersionRow
from neuromirror.lab.lock_manifests import stored_record_lines
from neuromirror.lab.rebuild import Reminter, SelectedVersionsSource
from neuromirror.sources import DatasetNotFoundError, Source
from neuromirror.store import TAG_PREFIX, Store
from neuromirror.store.private_store import is_private_store
from neuromirror.transfer.outcomes import MessageCallback

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
            self.first.append(model.path_to_text(path))

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
            f"{model.count_of(paths.count, what)} {how} ({paths})"
            for paths, what, how in counted
            if paths
        ]
        if self.description_fields:
            fields = ", ".join(self.description_fields)
            sentences.append(f"the description of the dataset differs ({fields})")
        if not sentences and self.commit:
            return [f"only the commit differs: {'; '.join(self.commit)}"]
        return sentences


def find_differences(
    readers: tuple[ObjectReader, ObjectReader],
    commits: tuple[str, str],
    lines: tuple[Iterable[bytes], Iterable[bytes]],
    scratch: Path,
) -> MintDifferences:
    """Compare a version in the store with the same version minted again, in this order.

    Parameters
    ----------
    readers
        Readers of the two repositories.
    commits
        The two commits.
    lines
        The record lines of the two, by git path.
    scratch
        A folder for temporary files of the size of the records.

    Raises
    ------
    ObjectMissingError, StoreDamagedError
        A side cannot be read.
    """
    found = MintDifferences()
    old, new = readers
    trees = old.read_commit_tree(commits[0]), new.read_commit_tree(commits[1])
    if trees[0] != trees[1]:
        between = StateDifference.write(scratch / "differences", model.diff_lines(*lines))
        for before, after in between.changes():
            _classify(found, before, after)
        _compare_trees(found, old, new, *trees)
    found.commit = _compare_commits(old.read(commits[0]), new.read(commits[1]))
    return found


def _classify(
    found: MintDifferences, old: model.SnapshotEntry | None, new: model.SnapshotEntry | None
) -> None:
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
        others = ((one.value, new.record.digest(one.algorithm)) for one in old.record.digests)
        if same_size and all(other is None or other.value == value for value, other in others):
            kind = found.other_checksums
        kind.add(entry.git_path)


def _compare_trees(
    found: MintDifferences, old: ObjectReader, new: ObjectReader, before: bytes, after: bytes
) -> None:
    """Compare the plain files; links and subdatasets are compared by their records."""
    links, fields = PathSample(), set[str]()
    for path, one, other in tree_changes(old, new, before, after, b""):
        if path == _DESCRIPTION and one is not None and other is not None:
            was = _parse_description(old.read(one[1].hex()))
            now = _parse_description(new.read(other[1].hex()))
            fields = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
        elif any(entry is not None and entry[0] == REGULAR_FILE_MODE for entry in (one, other)):
            found.documents.add(path)
        elif one is not None and other is not None and one[0] == other[0] == SYMLINK_MODE:
            links.add(path)
    found.description_fields = sorted(fields - _DERIVED_FIELDS)
    if not found:
        found.links, found.description_fields = links, sorted(fields)


def _parse_description(content: bytes) -> dict[str, Any]:
    try:
        description = model.parse_json(content, _DESCRIPTION.decode())
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


_PUBLISHED = ("commit", "tree", "state")
_OBSERVED = ("tree", "state")
_MAX_EARLIER_STATES = 8
"""Maximum number of earlier upstream states that are compared with an observed version."""


class SubdatasetReproduction(Struct, frozen=True):
    """A subdataset that differs between the version in the store and the one minted again.

    Attributes
    ----------
    path
        The path in git.
    dataset
        ``<mirror>:<local id>``.
    stored, minted
        Commit, tree and state digest of the subdataset, in the store and minted again. None if
        that version has no subdataset at the path.
    differences
        The differences between the two. None if one of the versions has no subdataset at the
        path, or if they have different datasets there.
    """

    path: str
    dataset: str
    stored: VersionIds | None
    minted: VersionIds | None
    differences: MintDifferences | None


class Reproduction(Struct, frozen=True):
    """The result of minting a version again.

    Attributes
    ----------
    dataset
        ``<mirror>:<local id>``.
    label
        The label of the version.
    kind
        The kind of the version, ``published`` or ``observed``.
    status
        ``ok`` (all ids in ``promised`` are equal), ``error`` (one of them differs) or
        ``impossible`` (upstream no longer has the state).
    message
        The result as text.
    promised
        The names of the ids that must be equal.
    stored, minted
        The ids in the store and the new ones; ``minted`` is None if nothing could be minted.
    reminted_labels
        The labels of the versions that were minted, oldest first.
    first
        The first of these versions that differs.
    differences
        The differences of ``first``; None if nothing differs.
    subdatasets
        The subdatasets of ``first`` that differ, at most 20.
    subdatasets_compared
        The number of subdatasets that were compared.
    """

    dataset: str
    label: str
    kind: str
    status: str
    message: str
    promised: tuple[str, ...]
    stored: VersionIds
    minted: VersionIds | None = None
    reminted_labels: tuple[str, ...] = ()
    first: str | None = None
    differences: MintDifferences | None = None
    subdatasets: tuple[SubdatasetReproduction, ...] = ()
    subdatasets_compared: int = 0

    @property
    def name(self) -> str:
        """Return ``<mirror>:<local id>@<label>``."""
        return f"{self.dataset}@{self.label}"

    @property
    def exit_code(self) -> int:
        """Return 0 if the status is ``ok``, else 1."""
        return 0 if self.status == "ok" else 1


def reproduce(
    row: VersionRow,
    store: Store,
    index: Index,
    mirror: Mirror,
    scratch: Path,
    progress: MessageCallback = lambda message: None,
) -> Reproduction:
    """Mint a version again from upstream and compare it with the one in the store.

    Nothing is written to ``store`` or ``index``.

    Parameters
    ----------
    row
        The version, as returned by ``index.versions.resolve``.
    store
        The store that has the version.
    index
        The index of the store.
    mirror
        The declared mirror of the dataset.
    scratch
        An empty or missing folder for the new stores; the caller removes it.
    progress
        Called with the name of each version before it is minted.

    Returns
    -------
    Reproduction
        The comparison; its ``exit_code`` is 0 if all promised ids are equal.

    Raises
    ------
    NetError, UnreliableListingError
        The archive cannot be read.
    StoreDamagedError, ObjectMissingError
        The store cannot be read.
    ConfigurationError
        The mirror is of another archive than the version.
    """
    return _Reproducer(row, store, index, mirror, scratch, progress).run()


class _Comparison(Struct):
    """The ids of a version, stored and minted again, and their differences."""

    stored: VersionIds
    minted: VersionIds
    differences: MintDifferences
    subdatasets: list[SubdatasetReproduction] = field(default_factory=list)
    subdatasets_compared: int = 0

    def is_equal(self, promised: Sequence[str]) -> bool:
        return all(getattr(self.stored, name) == getattr(self.minted, name) for name in promised)

    def describe(self) -> str:
        """Return the differences as text."""
        description = "; ".join(self.differences.sentences())
        for subdataset in self.subdatasets:
            inner = subdataset.differences.sentences() if subdataset.differences is not None else []
            if inner:
                return f"{description}; in {subdataset.path}: {'; '.join(inner)}"
        return description


class _Reproducer(Struct, frozen=True):
    """Mints one version again; the fields are the parameters of :func:`reproduce`."""

    row: VersionRow
    store: Store
    index: Index
    mirror: Mirror
    scratch: Path
    progress: MessageCallback

    def run(self) -> Reproduction:
        row = self.row
        is_published = row.kind == model.VersionKind.PUBLISHED.value
        stored = self._stored_ids(row)
        whole = Reproduction(
            dataset=row.dataset_name,
            label=row.label,
            kind=row.kind,
            status="impossible",
            message="",
            promised=_PUBLISHED if is_published else _OBSERVED,
            stored=stored,
        )
        if self.index.datasets.get(row.dataset_name).within:
            around = (
                " and ".join(self.index.datasets.superdatasets(row.dataset_name))
                or "other datasets"
            )
            message = f"a subdataset of {around}; reproduce a version of that dataset instead"
            return replace(whole, message=message)
        source = self.mirror.open()
        named = None
        with suppress(ValueError):
            named = source.dataset(row.local_id).source_uri
        if named != row.source_uri:
            raise model.ConfigurationError(
                f"{self.mirror.path}: the archive is {source.uri}, but {row.dataset_name} "
                f"in this store is {row.source_uri}; use the right --mirrors or --store"
            )
        if is_private_store(self.store.root):
            source = private_source(source) or source
        try:
            hint = source.hint(self.row.dataset_ref)
            versions = [] if hint.unavailable else source.versions(self.row.dataset_ref)
        except DatasetNotFoundError as error:
            return replace(whole, message=f"upstream no longer has the dataset: {error}")
        if hint.unavailable:
            return replace(whole, message=f"upstream does not list it now: {hint.unavailable}")
        if is_published:
            return self._reproduce_published(whole, source, hint, versions)
        return self._reproduce_observed(whole, source, hint, versions)

    # --- published versions

    def _reproduce_published(
        self,
        whole: Reproduction,
        source: Source,
        hint: model.DatasetHint,
        versions: list[model.VersionRef],
    ) -> Reproduction:
        row = self.row
        listed = [one for one in versions if one.kind is model.VersionKind.PUBLISHED]
        names = [one.upstream for one in listed]
        if row.upstream not in names:
            return replace(whole, message=f"upstream no longer lists version {row.upstream}")
        chain = listed[: names.index(row.upstream) + 1]
        versions_here = self.index.versions.of(row.dataset_name)
        kept = [one for one in versions_here if one.kind == row.kind and one.seq <= row.seq]
        rows = {one.upstream: one for one in kept}
        first: tuple[str, str | _Comparison] | None = None
        with self._open_reminter("published", hint) as reminter:
            for number, version in enumerate(chain):
                place = f"{number + 1} of {len(chain)}"
                self.progress(f"{row.dataset_name}@{version.upstream} ({place})")
                first = first or _history_difference(number, chain, kept)
                known = rows.get(version.upstream)
                minted = reminter.mint(SelectedVersionsSource(source, chain[: number + 1]), version)
                if known is not None:
                    last = self._compare(known, minted, reminter, _PUBLISHED)
                    if first is None and not last.is_equal(_PUBLISHED):
                        first = (known.label, last)
        whole = replace(
            whole,
            minted=last.minted,
            reminted_labels=tuple(one.upstream for one in chain),
            subdatasets_compared=last.subdatasets_compared,
        )
        if first is None:
            minted_too = f"; {len(chain)} versions minted" if len(chain) > 1 else ""
            message = f"commit, tree and state digest are equal{minted_too}"
            return replace(whole, status="ok", message=message)
        label, found = first
        what = found if isinstance(found, str) else found.describe()
        message = f"it differs: {what}"
        if label != row.label:
            same = last.is_equal(_OBSERVED)
            own = "its tree and state digest are equal" if same else f"itself: {last.describe()}"
            message = f"its history differs, first in {label}: {what}; {own}"
        whole = replace(whole, status="error", message=message, first=label)
        if isinstance(found, str):
            return whole
        return replace(whole, differences=found.differences, subdatasets=tuple(found.subdatasets))

    # --- observed states

    def _reproduce_observed(
        self,
        whole: Reproduction,
        source: Source,
        hint: model.DatasetHint,
        versions: list[model.VersionRef],
    ) -> Reproduction:
        row = self.row
        observed = [one for one in versions if one.kind is model.VersionKind.OBSERVED]
        present = next((one for one in observed if one.upstream == row.upstream), None)
        found: tuple[_Comparison, VersionRow] | None = None
        if present is not None:
            found = self._remint_state(present, None, source, hint, "present")
            if found[0].is_equal(_OBSERVED):
                return _equal_to(whole, found[0], "upstream's present state")
        earlier = self._earlier_candidates(source)
        for number, version in enumerate(earlier):
            compared, _ = self._remint_state(
                replace(version, upstream=row.upstream), version, source, hint, f"earlier-{number}"
            )
            if compared.is_equal(_OBSERVED):
                return _equal_to(whole, compared, f"upstream's earlier state {version.upstream!r}")
        tried = "upstream lists no earlier state that could match"
        if earlier:
            tried = f"none of the {len(earlier)} earlier states that upstream lists matches"
        if found is None or present is None:
            now = ", ".join(one.upstream for one in observed) or "nothing"
            message = f"upstream has changed (to {now}), and {tried}"
            return replace(whole, message=message)
        compared, minted = found
        whole = replace(
            whole,
            minted=compared.minted,
            first=row.label,
            differences=compared.differences,
            subdatasets=tuple(compared.subdatasets),
            subdatasets_compared=compared.subdatasets_compared,
        )
        moved = _upstream_change(
            row, minted, present, compared.differences
        ) or self._newer_equal_label(minted)
        if moved:
            differences = f"differences: {compared.describe()}"
            message = f"upstream has changed ({moved}), and {tried}; {differences}"
            return replace(whole, message=message)
        return replace(whole, status="error", message=f"it differs: {compared.describe()}")

    def _newer_equal_label(self, minted: VersionRow) -> str:
        """Return the newer stored version that equals the present state, or an empty text."""
        row = self.row
        for one in self.index.versions.of(row.dataset_name):
            same = (one.kind, one.tree, one.state) == (row.kind, minted.tree, minted.state)
            if same and one.seq > row.seq:
                return f"to {one.label}"
        return ""

    def _remint_state(
        self,
        version: model.VersionRef,
        upstream_version: model.VersionRef | None,
        source: Source,
        hint: model.DatasetHint,
        folder: str,
    ) -> tuple[_Comparison, VersionRow]:
        """Mint an observed state; return its comparison with the version, and its row."""
        name = (upstream_version or version).upstream
        self.progress(f"{self.row.dataset_name}, state {name}")
        narrowed = SelectedVersionsSource(
            source, [version], {version.upstream: upstream_version} if upstream_version else None
        )
        with self._open_reminter(folder, hint) as reminter:
            minted = reminter.mint(narrowed, version)
            return self._compare(self.row, minted, reminter, _OBSERVED), minted

    def _earlier_candidates(self, source: Source) -> list[model.VersionRef]:
        """Return the earlier upstream states that may be the version, most likely first."""
        row = self.row
        states = source.history(self.row.dataset_ref, None)
        named = [state for state in states if state.upstream == row.upstream]
        if named:
            return named
        # no file is newer than the time of the state, which existed when it was recorded
        oldest, newest = (datetime.fromisoformat(one) for one in (row.time, row.recorded_at))
        fitting = [
            state
            for state in states
            if state.time is not None and oldest <= state.time.replace(microsecond=0) <= newest
        ]
        return fitting[: -_MAX_EARLIER_STATES - 1 : -1]

    # --- both

    @contextmanager
    def _open_reminter(self, folder: str, hint: model.DatasetHint) -> Iterator[Reminter]:
        scratch = Store.open(self.scratch / folder, create=True)
        with open_recorder(scratch, scratch.index_path) as recorder:
            yield Reminter(self.mirror, hint, scratch, recorder)

    def _stored_ids(self, row: VersionRow) -> VersionIds:
        """Read the ids from git; the index is only a cache of them."""
        repository = self.store.repositories.of(row.dataset_ref)
        commit = repository.refs().get(TAG_PREFIX + row.label, row.commit)
        with ObjectReader(repository.path) as reader:
            return VersionIds(commit, reader.read_commit_tree(commit).hex(), row.state)

    def _compare(
        self, row: VersionRow, minted: VersionRow, reminter: Reminter, promised: Sequence[str]
    ) -> _Comparison:
        stored = self._stored_ids(row)
        compared = _Comparison(stored, _ids_of(minted), MintDifferences())
        self._compare_subdatasets(compared, row, minted, reminter)
        if not compared.is_equal(promised):
            compared.differences = self._differences(row, stored.commit, minted, reminter)
        return compared

    def _differences(
        self, row: VersionRow, commit: str, minted: VersionRow, reminter: Reminter
    ) -> MintDifferences:
        own, scratch = self.store, reminter.store
        with (
            ObjectReader(own.repositories.of(row.dataset_ref).path) as old,
            ObjectReader(scratch.repositories.of(minted.dataset_ref).path) as new,
            scratch.scratch() as folder,
        ):
            lines = stored_record_lines(own, row), stored_record_lines(scratch, minted)
            return find_differences((old, new), (commit, minted.commit), lines, folder)

    def _compare_subdatasets(
        self, compared: _Comparison, row: VersionRow, minted: VersionRow, reminter: Reminter
    ) -> None:
        olds = {subdataset.path: subdataset for subdataset in self.index.versions.subdatasets(row)}
        news = {subdataset.path: subdataset for subdataset in reminter.subdatasets(minted)}
        compared.subdatasets_compared = len(olds.keys() | news.keys())
        for path in sorted(olds.keys() | news.keys()):
            old, new = olds.get(path), news.get(path)
            if (old and old.commit) == (new and new.commit):
                continue
            compared.subdatasets.append(self._compare_subdataset(path, old, new, reminter))
            if len(compared.subdatasets) == MAX_NAMED_PATHS:
                return

    def _compare_subdataset(
        self, path: str, old: SubdatasetRow | None, new: SubdatasetRow | None, reminter: Reminter
    ) -> SubdatasetReproduction:
        before = None if old is None else self.index.versions.resolve(old.dataset, old.commit)
        after = None if new is None else reminter.version_at(new.dataset, new.commit)
        found = None
        if before is not None and after is not None and before.source_uri == after.source_uri:
            found = self._differences(before, before.commit, after, reminter)
        one = old or new
        assert one is not None
        return SubdatasetReproduction(
            path,
            one.dataset,
            None if before is None else _ids_of(before),
            None if after is None else _ids_of(after),
            found,
        )


def _ids_of(row: VersionRow) -> VersionIds:
    return VersionIds(row.commit, row.tree, row.state)


def _history_difference(
    number: int, chain: Sequence[model.VersionRef], kept: Sequence[VersionRow]
) -> tuple[str, str] | None:
    """Return a label and the problem if upstream and store differ at a position of the chain."""
    listed = chain[number].upstream
    here = kept[number] if number < len(kept) else None
    if here is not None and here.upstream == listed:
        return None
    if here is not None and here.upstream not in {one.upstream for one in chain}:
        return here.label, "upstream no longer lists it"
    return listed, "upstream lists it at this position, and the store does not"


def _equal_to(whole: Reproduction, compared: _Comparison, what: str) -> Reproduction:
    return replace(
        whole,
        status="ok",
        message=f"tree and state digest are equal to those of {what}; the commit of an observed "
        "state is not compared",
        minted=compared.minted,
        subdatasets_compared=compared.subdatasets_compared,
    )


def _upstream_change(
    row: VersionRow, minted: VersionRow, present: model.VersionRef, found: MintDifferences
) -> str:
    """Return how upstream shows that its state has changed, or an empty text."""
    if minted.upstream_time is None and row.upstream_time is None:
        return f"to {minted.label}; it has no times" if minted.state != row.state else ""
    if minted.time != row.time:
        return f"its state is from {minted.time}, this version from {row.time}"
    if found.added or found.other_bytes or found.documents or found.links:
        return ""
    # these changes do not update the time
    if found.removed:
        return "" if present.time is not None else "files were deleted"
    if found.subdatasets:
        return "subdatasets changed"
    return "it has different checksums of the files" if found.other_checksums else ""
