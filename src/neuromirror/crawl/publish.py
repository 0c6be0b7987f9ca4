"""Mint a snapshot and publish it: commits, refs, records, journal entry, in a crash-safe order.

Large Zarrs are split off first, and published as datasets of their own. A Zarr is a folder that
directly contains a marker object (model.ZARR_MARKERS), whatever its name; a Zarr inside another one
belongs to the outer one. Depending on the number of its objects it stays inline, becomes a
subdataset, or one of form ``manifest``, whose chunks are in the canonical manifest and not in git.
A dataset that is itself a Zarr, or that its source calls one array, stays whole, in the form for
its size.

The spool is sorted by git path, so a folder's files are contiguous: one pass finds the large
Zarrs, a second one extracts them. Both keep only the open folders in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from heapq import merge
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.annex import upstream_path
from neuromirror.config.mirror_files import ZarrLimits
from neuromirror.crawl.guards import StateDifference, difference_since
from neuromirror.crawl.plan import Visit, VisitOutcome
from neuromirror.crawl.recorder import RefMove, restore_records
from neuromirror.crawl.validate import RecordSpool, SpooledSnapshot, folder_in
from neuromirror.git import try_git
from neuromirror.index import VersionRow, is_indexed
from neuromirror.mint import (
    DeltaBase,
    MintResult,
    ParentCommits,
    Snapshot,
    UnsuitableBaseError,
    exceptions_json,
    inline_components_json,
    mint,
    mint_delta,
)
from neuromirror.model import (
    ZARR_MARKERS,
    AnnexBranchMoved,
    DatasetFacts,
    DatasetRef,
    Document,
    Evidence,
    FileRecord,
    InlineComponent,
    JournalEntry,
    LinksFound,
    SnapshotEntry,
    SnapshotHeader,
    Subdataset,
    VersionKind,
    VersionMinted,
    VersionRef,
    current_timestamp,
    dump_snapshot_entry,
    line_path,
    load_snapshot_entry,
    metadata_digest,
    state_label,
    time_label,
)
from neuromirror.store import (
    ANNEX_BRANCH,
    CUSTODY_BRANCH,
    DRAFT_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    read_versions_from_git,
)
from neuromirror.store.foreign_commits import (
    JournalRefs,
    check_commits,
    check_packs,
    find_foreign_refs,
    is_own_commit,
    read_history,
)
from neuromirror.store.mint_inputs import MintInput, write_mint_input
from neuromirror.store.records import next_records

_DELTA_LIMIT = 50_000
"""Changed files above which a state is minted in full: a delta keeps its changes in memory."""
_DELTA_SHARE = 8
_MIN_DELTA_BYTES = 1 << 20
"""Records are stored as a delta if at most one file in eight changed, from a megabyte on."""
_UPSTREAM_DRAFT = "draft"
"""DANDI's name of its draft."""


# --- before a visit


def catch_up(visit: Visit) -> None:
    """Record versions that are in git but not in the journal, after an interrupted visit.

    Raises
    ------
    RepositoryIncompleteError
        If the repository lacks something that the journal lists; nothing is recorded then.
    ForeignCommitsError
        If refs are not where neuromirror put them; nothing is recorded then.
    """
    repository, versions = visit.repository, visit.versions()
    if versions:
        check_packs(repository, visit.dataset.name)
    repository.remove_stale_files()
    refs = repository.refs()
    if not refs and not versions:
        return
    known = {row.commit for row in versions}
    _check_refs(visit, refs, versions)
    if not {refs.get(MAIN_BRANCH), refs.get(PUBLISHED_BRANCH)} <= known | {None}:
        missing = [
            _version_in(visit, entry)
            for entry in read_versions_from_git(repository, known, current_timestamp())
        ]
        for entry in missing:
            restore_records(visit.store, visit.dataset, entry)
        if missing:
            visit.recorder.record(*missing)
    repository.update_server_info()
    visit.store.repositories.alias(visit.dataset)


def _check_refs(visit: Visit, refs: dict[str, str], versions: list[VersionRow]) -> None:
    """Raise an error unless all refs are where neuromirror put them, with their commits."""
    repository, name = visit.repository, visit.dataset.name
    journal = JournalRefs(versions, is_subdataset=bool(visit.within))
    copies = refs.get(CUSTODY_BRANCH)
    if not journal.matches(refs) or not (copies is None or is_own_commit(repository.path, copies)):
        for ref in find_foreign_refs(repository, journal, read_history(repository)):
            raise ref.error(name, repository.path)
    check_commits(repository, name, refs)


@contextmanager
def component_visit(
    visit: Visit, dataset: DatasetRef, within: str, wait: float = 0.0
) -> Iterator[Visit]:
    """Yield the visit of a component, with its lock; afterwards clients of its store see it."""
    with visit.store.lock(dataset.dataset_id, dataset.name, wait):
        component = replace(visit, dataset=dataset, within=within, outcome=VisitOutcome())
        yield component
        if component.repository.exists():
            component.repository.update_server_info()


# --- split large Zarrs off a snapshot

_SUBDATASET_MEMBER = b',"subdataset":['  # only the record lines of links have it
# characters that an alias must not contain, or that would make it ambiguous
_UNSAFE = re.compile(r"[^A-Za-z0-9._+,-]|^[.-]|(?<=-)-", re.ASCII)
_LONGEST_ID = 200

_MARKED_NAMES = tuple(name + end for name in ZARR_MARKERS for end in (b"", b"%_"))


def submodule_path(path: bytes) -> bytes:
    """Return the git path of a submodule: git rejects one that looks like an option."""
    return b"%2D" + path[1:] if path.startswith(b"-") else path


def is_subdataset_line(line: bytes) -> bool:
    """Return whether a record line is a link to a subdataset."""
    return _SUBDATASET_MEMBER in line


class SplitZarr(Struct, frozen=True):
    """A Zarr that becomes a dataset of its own.

    Attributes
    ----------
    git_path
        The Zarr's path in the dataset around it.
    within
        The local id of that dataset.
    snapshot
        The Zarr's files, with paths relative to the Zarr.
    bytes
        The total size of these files in bytes.
    """

    git_path: bytes
    within: str
    snapshot: SpooledSnapshot
    bytes: int

    @property
    def dataset(self) -> DatasetRef:
        """The Zarr's own dataset."""
        return self.snapshot.header.version.dataset


def split_zarrs(
    snapshot: SpooledSnapshot, limits: ZarrLimits, scratch: Path
) -> tuple[SpooledSnapshot, list[SplitZarr]]:
    """Move the Zarrs with too many files out of a snapshot; return the rest and these Zarrs.

    In the rest, a subdataset without a state represents each Zarr until :func:`insert_subdatasets`
    sets its state. Documents and exceptions below a Zarr move with it.

    Parameters
    ----------
    snapshot
        The snapshot.
    limits
        The ``[zarr]`` table of the mirror file.
    scratch
        A folder for the files of the new snapshots.
    """
    documents = snapshot.header.documents
    if snapshot.files + len(documents) <= min(limits.inline, limits.manifest):
        return snapshot, []
    if snapshot.is_single_array:
        # its documents are in git in either form
        if snapshot.files + len(documents) <= limits.manifest:
            return snapshot, []
        return replace(snapshot, header=replace(snapshot.header, form="manifest")), []
    roots = _large_zarrs(snapshot.spool, documents, min(limits.inline, limits.manifest))
    if roots and not roots[0].path:
        if roots[0].objects <= limits.manifest:
            return snapshot, []
        return replace(snapshot, header=replace(snapshot.header, form="manifest")), []
    roots = [root for root in roots if root.objects > limits.inline]
    if not roots:
        return snapshot, []
    return _split(snapshot, {root.path: root.objects for root in roots}, limits.manifest, scratch)


def zarr_ref(around: DatasetRef, path: bytes) -> DatasetRef:
    """Return the reference to the dataset that a Zarr becomes when it is split off.

    Its local id is the one of the enclosing dataset and the path, with unsafe bytes escaped as
    ``=XX``; if that is too long, a UUID replaces the path.

    Parameters
    ----------
    around
        The enclosing dataset.
    path
        The Zarr's upstream path in it.
    """
    slash = "" if around.source_uri.endswith("/") else "/"
    uri = f"{around.source_uri}{slash}{quote(path, safe='/-._~+,=@')}/"
    start = f"{around.local_id}/" if around.local_id else ""
    named = DatasetRef(around.mirror, start + "/".join(map(_local_name, path.split(b"/"))), uri)
    if len(named.local_id) <= _LONGEST_ID:
        return named
    return DatasetRef(around.mirror, start + named.dataset_id, uri)


def _local_name(component: bytes) -> str:
    if not component:
        return "=_"
    return _UNSAFE.sub(lambda found: f"={ord(found.group()):02X}", component.decode("latin-1"))


def insert_subdatasets(
    snapshot: SpooledSnapshot, subdatasets: Mapping[bytes, Subdataset]
) -> SpooledSnapshot:
    """Return the snapshot with the states of its subdatasets, by git path.

    Raises
    ------
    ValueError
        For a path from which :func:`split_zarrs` split no Zarr. A Zarr without a given state keeps
        none, and minting refuses it.
    """
    if not subdatasets:
        return snapshot
    left = dict(subdatasets)
    target = RecordSpool(snapshot.spool.path.with_suffix(".linked"))
    with target.path.open("wb", buffering=1 << 18) as file:
        for line in snapshot.spool.lines():
            subdataset = left.pop(line_path(line), None)
            if subdataset is None:
                file.write(line + b"\n")
                continue
            entry = load_snapshot_entry(line)
            if entry.subdataset is None:
                raise ValueError(f"{entry.git_path!r} is a file, not a subdataset")
            file.write(dump_snapshot_entry(replace(entry, subdataset=subdataset)) + b"\n")
    if left:
        raise ValueError(f"no Zarr was split off at {min(left)!r}")
    return replace(snapshot, spool=target)


class _Root(Struct, frozen=True):
    """The git path of a Zarr, and the number of objects in it."""

    path: bytes
    objects: int


class _Folder:
    """An open folder during the pass over the sorted paths."""

    __slots__ = ("before", "has_marker", "path")

    def __init__(self, path: bytes, before: int, has_marker: bool) -> None:
        self.path = path
        self.before = before
        self.has_marker = has_marker


def _large_zarrs(spool: RecordSpool, documents: Sequence[Document], limit: int) -> list[_Root]:
    """Return the outermost Zarrs with more objects than ``limit``, in the order of their files."""
    marked = {
        folder
        for folder, _, name in (document.path.rpartition(b"/") for document in documents)
        if name in ZARR_MARKERS
    }
    found: list[_Root] = []
    count = 0
    folders = [_Folder(b"", 0, b"" in marked)]

    def close() -> None:
        folder = folders.pop()
        if not folder.has_marker:
            return
        start = folder.path + b"/" if folder.path else b""
        objects = count - folder.before
        objects += sum(document.path.startswith(start) for document in documents)
        if objects > limit:
            # the Zarrs below it are part of it
            while found and found[-1].path.startswith(start):
                found.pop()
            found.append(_Root(folder.path, objects))

    for line in spool.lines():
        path = line_path(line)
        end = path.rfind(b"/")
        folder = path[:end] if end > 0 else b""
        if folder != folders[-1].path:
            while folders[-1].path and not path.startswith(folders[-1].path + b"/"):
                close()
            at = len(folders[-1].path)
            while at < len(folder):
                at = folder.find(b"/", at + 1)
                at = len(folder) if at < 0 else at
                folders.append(_Folder(folder[:at], count, folder[:at] in marked))
        count += 1
        if path.endswith(_MARKED_NAMES) and not folders[-1].has_marker:
            record = load_snapshot_entry(line).record
            folders[-1].has_marker = record.path.rpartition(b"/")[2] in ZARR_MARKERS
    while folders:
        close()
    return found


def _split(
    snapshot: SpooledSnapshot, roots: Mapping[bytes, int], most_in_git: int, scratch: Path
) -> tuple[SpooledSnapshot, list[SplitZarr]]:
    """Split a snapshot at the Zarrs in ``roots``, which have so many objects."""
    header, zarrs = snapshot.header, list[SplitZarr]()
    spool = RecordSpool(scratch / "rest.jsonl")
    with spool.path.open("wb", buffering=1 << 18) as file:
        by_root = groupby(snapshot.spool.lines(), lambda line: folder_in(line_path(line), roots))
        for root, lines in by_root:
            if root is None:
                file.writelines(line + b"\n" for line in lines)
            else:
                form = "manifest" if roots[root] > most_in_git else "files"
                path = scratch / f"zarr-{len(zarrs)}.jsonl"
                zarrs.append(_extract_zarr(snapshot, root, form, lines, path))
    links = sorted(map(_unresolved_link, zarrs), key=lambda link: link.git_path)
    whole = RecordSpool(scratch / "without-zarrs.jsonl")
    with whole.path.open("wb", buffering=1 << 18) as file:
        for line in merge(spool.lines(), map(dump_snapshot_entry, links), key=line_path):
            file.write(line + b"\n")
    spool.path.unlink()
    upstream_roots = {upstream_path(root) for root in roots}
    documents = [one for one in header.documents if folder_in(one.path, roots) is None]
    exceptions = [one for one in header.exceptions if folder_in(one.path, upstream_roots) is None]
    inner = [zarr.snapshot for zarr in zarrs]
    rest = replace(
        snapshot,
        header=replace(header, documents=tuple(documents), exceptions=tuple(exceptions)),
        spool=whole,
        files=snapshot.files - sum(one.files for one in inner),
        pending_files=snapshot.pending_files - sum(one.pending_files for one in inner),
    )
    return rest, zarrs


def _extract_zarr(
    snapshot: SpooledSnapshot, root: bytes, form: str, lines: Iterable[bytes], path: Path
) -> SplitZarr:
    """Write the files of a Zarr, with their paths in it; return it as a state of its own dataset.

    The state depends only on the Zarr's content, not on the files around it.
    """
    around, upstream = snapshot.header, upstream_path(root)
    start, upstream_start = root + b"/", upstream + b"/"
    documents = [
        replace(document, path=document.path[len(start) :])
        for document in around.documents
        if document.path.startswith(start)
    ]
    exceptions = [
        replace(exception, path=exception.path[len(upstream_start) :])
        for exception in around.exceptions
        if exception.path.startswith(upstream_start)
    ]
    files = size = pending = 0
    newest: datetime | None = max(filter(None, (one.modified for one in documents)), default=None)
    with path.open("wb", buffering=1 << 18) as file:
        for line in lines:
            entry = load_snapshot_entry(line)
            record = entry.record
            if not record.path.startswith(upstream_start):
                raise ValueError(f"{record.path!r} is not below {upstream!r}")
            files += 1
            size += record.size or 0
            pending += record.evidence is not Evidence.SHA256
            if record.modified is not None and (newest is None or record.modified > newest):
                newest = record.modified
            record = replace(record, path=record.path[len(upstream_start) :])
            inner = SnapshotEntry(entry.git_path[len(start) :], entry.key, record)
            file.write(dump_snapshot_entry(inner) + b"\n")
    dataset, time = around.version.dataset, newest or around.version.time
    own, observed = zarr_ref(dataset, upstream), VersionKind.OBSERVED
    header = SnapshotHeader(
        version=VersionRef(own, around.version.upstream, observed, time),
        facts=DatasetFacts(title=root.decode()),
        documents=tuple(documents),
        exceptions=tuple(exceptions),
        newest=newest,
        web_remotes=around.web_remotes,
        special_remotes=around.special_remotes,
        unversioned=around.unversioned,
        form=form,
    )
    state = replace(
        snapshot,
        header=header,
        spool=RecordSpool(path),
        files=files,
        pending_files=pending if snapshot.pending_files else 0,
    )
    return SplitZarr(submodule_path(root), dataset.local_id, state, size)


def _unresolved_link(zarr: SplitZarr) -> SnapshotEntry:
    """Return a placeholder for a Zarr: a subdataset without a state."""
    path, dataset, snapshot = zarr.git_path, zarr.dataset, zarr.snapshot
    return SnapshotEntry(
        path,
        "",
        FileRecord(upstream_path(path), None, modified=snapshot.header.newest),
        Subdataset(dataset.dataset_id, dataset.local_id, "", "", snapshot.files, zarr.bytes),
    )


# --- states with large Zarrs


def _zarr_visits(
    visit: Visit, zarrs: Iterable[SplitZarr], scratch: Path
) -> Iterator[tuple[SplitZarr, Visit, Path]]:
    """Yield each Zarr with its visit, under its lock, and a folder of its own."""
    for number, zarr in enumerate(zarrs):
        own = scratch / f"component-{number}"
        own.mkdir()
        with component_visit(visit, zarr.dataset, zarr.within) as component:
            catch_up(component)
            yield zarr, component, own


def publish_state(
    visit: Visit, snapshot: SpooledSnapshot, branch: str, scratch: Path, label: str | None = None
) -> tuple[MintResult, bool]:
    """Publish the large Zarrs of a state, each as a dataset, then the state with links to them.

    What is already published is not written again. See :func:`publish`.
    """
    rest, zarrs = split_zarrs(snapshot, visit.settings.zarr, scratch)
    links: dict[bytes, Subdataset] = {}
    for zarr, component, own in _zarr_visits(visit, zarrs, scratch):
        minted, _ = publish(component, zarr.snapshot, MAIN_BRANCH, own)
        names = zarr.dataset.dataset_id, zarr.dataset.local_id, minted.commit, minted.state
        links[zarr.git_path] = Subdataset(*names, zarr.snapshot.files, zarr.bytes)
    return publish(visit, insert_subdatasets(rest, links), branch, scratch, label)


def renew_state(visit: Visit, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> None:
    """Record what upstream states now about the files of a version, such as their URLs.

    That includes the files of its large Zarrs. No version is created.
    """
    rest, zarrs = split_zarrs(snapshot, visit.settings.zarr, scratch)
    links: dict[bytes, Subdataset] = {}
    for line in visit.store.records.lines(visit.dataset.dataset_id, row.records):
        subdataset = load_snapshot_entry(line).subdataset if is_subdataset_line(line) else None
        if subdataset is not None:
            links[line_path(line)] = subdataset
    for zarr, component, own in _zarr_visits(visit, zarrs, scratch):
        for version in component.versions():
            if version.commit == links[zarr.git_path].commit:
                _renew(component, version, zarr.snapshot, own)
    own_links = {zarr.git_path: links[zarr.git_path] for zarr in zarrs}
    _renew(visit, row, insert_subdatasets(rest, own_links), scratch)


# --- mint and publish


def publish(
    visit: Visit, snapshot: SpooledSnapshot, branch: str, scratch: Path, label: str | None = None
) -> tuple[MintResult, bool]:
    """Mint a state on ``branch`` and publish it, unless it is there already.

    If the process is killed, the repository has the old state or the new one. The commits of a
    component have no parents: a link must follow from the component's state alone, and not from
    its earlier states. ``label`` is upstream's name of the version; without one, the label is the
    time of the state, or derived from its digest if upstream has no times.

    Returns the objects and the label of the version, and whether it is new.
    """
    repository = visit.repository
    repository.create()
    refs, versions = repository.refs(), visit.versions()
    last = refs.get(branch)
    parents = ParentCommits(None if visit.within else last, refs.get(ANNEX_BRANCH))
    base = _delta_base(visit, versions, refs)
    difference = None if base is None else difference_since(visit, base, snapshot, scratch)

    def choose_label(state: str) -> str:
        if label:
            return label
        return (
            component_label(snapshot, state) if visit.within else free_label(snapshot, state, refs)
        )

    minted = _mint(visit, snapshot, parents, choose_label, scratch, base, difference)
    states = {row.commit: row for row in versions}
    known = states.get(minted.commit)
    is_new = minted.commit != last and known is None
    renewed = ""
    if is_new:
        visit.store.add_manifest(minted.state, minted.manifest)
        _store_records(visit, minted.commit, minted.files, snapshot, base, difference)
    elif known is not None:
        renewed = _renew_records(visit, known, snapshot, scratch)
    has_moved = minted.annex_commit != parents.annex
    if is_new or renewed or has_moved:
        entry: JournalEntry
        new_refs = {ANNEX_BRANCH: minted.annex_commit}
        if is_new:
            new_refs |= {branch: minted.commit, TAG_PREFIX + minted.label: minted.commit}
            if branch == MAIN_BRANCH and snapshot.header.version.upstream == _UPSTREAM_DRAFT:
                new_refs[DRAFT_BRANCH] = minted.commit
            previous = None if last is None else states.get(last)
            entry = _version_entry(visit, snapshot, minted, previous)
        else:
            entry = _moved_entry(visit, minted, renewed)
        if is_new or has_moved:
            records = minted.commit if known is None else renewed or known.records
            name = minted.commit if is_new else minted.annex_commit
            _store_input(visit, name, snapshot, parents, minted, records)
        _move_refs(visit, minted, refs, new_refs, entry)
    return (minted if known is None else replace(minted, label=known.label)), is_new


def _renew(visit: Visit, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> None:
    """Record what upstream states now about the files of any version, such as their URLs.

    Nothing is recorded if the snapshot has another tree than the version.
    """
    repository = visit.repository
    difference = difference_since(visit, row, snapshot, scratch)
    if not difference.count:
        return
    refs = repository.refs()
    annex = refs.get(ANNEX_BRANCH)
    parent: str | None = row.commit
    if row.kind != VersionKind.OBSERVED.value:
        shown = try_git(repository.path, "rev-parse", "--verify", "--quiet", f"{row.commit}^")
        parent = shown.stdout.strip() or None
    parents = ParentCommits(parent, annex)
    minted = _mint(visit, snapshot, parents, lambda _: row.label, scratch, row, difference)
    if minted.commit != row.commit:
        minted.discard()
        return
    records = _renew_records(visit, row, snapshot, scratch)
    if minted.annex_commit != annex:
        name = minted.annex_commit
        _store_input(visit, name, snapshot, parents, minted, records or row.records)
    entry = _moved_entry(visit, minted, records)
    _move_refs(visit, minted, refs, {ANNEX_BRANCH: minted.annex_commit}, entry)


def _move_refs(
    visit: Visit,
    minted: MintResult,
    refs: dict[str, str],
    new_refs: dict[str, str],
    entry: JournalEntry,
) -> None:
    """Add the objects to the repository, then move all refs at once and record that."""
    for pack in minted.packs:
        visit.repository.add_pack(pack)
    move = RefMove({name: refs.get(name) for name in new_refs}, new_refs)
    visit.recorder.publish(visit.dataset, move, entry)


def _delta_base(
    visit: Visit, versions: list[VersionRow], refs: dict[str, str]
) -> VersionRow | None:
    """Return the last minted version, whose keys git-annex has, if its files exist."""
    if ANNEX_BRANCH not in refs or not versions:
        return None
    return versions[-1] if visit.store.manifest_path(versions[-1].state).exists() else None


def _mint(
    visit: Visit,
    snapshot: SpooledSnapshot,
    parents: ParentCommits,
    choose_label: Callable[[str], str],
    scratch: Path,
    base: VersionRow | None,
    difference: StateDifference | None,
) -> MintResult:
    repository, header, within = visit.repository.path, _header(visit, snapshot), visit.within
    if base is not None and difference is not None and difference.count <= _DELTA_LIMIT:
        start = DeltaBase(base.commit, visit.store.manifest_path(base.state))
        # for example, the manifest does not match its state digest: mint in full
        with suppress(UnsuitableBaseError):
            changes = difference.changes
            return mint_delta(
                header, changes, start, repository, parents, choose_label, scratch, within
            )
    whole = Snapshot.from_records(header, snapshot.spool.path, within)
    return mint(whole, repository, parents, choose_label, scratch)


def _header(visit: Visit, snapshot: SpooledSnapshot) -> SnapshotHeader:
    """Return the header of a state with its inline components."""
    if visit.within:
        return snapshot.header  # its inline components belong to the dataset around it
    inline = [
        InlineComponent(one.path, one.source_uri, one.upstream, one.files, one.size)
        for one in snapshot.components.inline
    ]
    return replace(snapshot.header, inline=tuple(sorted(inline, key=lambda one: one.path)))


# --- labels


def component_label(snapshot: SpooledSnapshot, state: str) -> str:
    """Return the label of a component's state, ``<time>-<digits>``.

    ``<time>`` is the UTC time of its newest object, ``<digits>`` are the first eight of the state
    digest. Without a time the label is ``state-<digits>``; with documents, eight digits of the
    metadata digest follow. Unlike :func:`free_label` it does not depend on the labels in use.
    """
    moment, documents = _upstream_time(snapshot), snapshot.header.documents
    if moment is not None:
        return f"{time_label(moment)}-{_digits(state)}"
    # without a time, only this distinguishes states that differ just in their documents
    metadata = f"-{_digits(metadata_digest(documents))}" if documents else ""
    return f"{state_label(state)}{metadata}"


def free_label(snapshot: SpooledSnapshot, state: str, refs: dict[str, str]) -> str:
    """Return an unused label for a state: the UTC time of its newest object, or ``state-<digits>``.

    ``<digits>`` are the first eight of the state digest, for a state without a time. They are also
    appended to a time that is in use, as a tag in ``refs``: ``<time>-<digits>``. If the result is
    in use, too, it gets the first free number from 2: ``<time>-<digits>-2``.
    """
    moment = _upstream_time(snapshot)
    label = state_label(state) if moment is None else time_label(moment)
    if moment is not None and TAG_PREFIX + label in refs:
        label = f"{label}-{_digits(state)}"
    candidate, number = label, 2
    while TAG_PREFIX + candidate in refs:
        candidate, number = f"{label}-{number}", number + 1
    return candidate


def _upstream_time(snapshot: SpooledSnapshot) -> datetime | None:
    """Return upstream's time of a state; None if it has none."""
    return snapshot.header.newest or snapshot.header.version.time


def _digits(digest: str) -> str:
    return digest.removeprefix("sha256:")[:8]


# --- records


def _store_records(
    visit: Visit,
    name: str,
    files: int,
    snapshot: SpooledSnapshot,
    base: VersionRow | None,
    difference: StateDifference | None,
) -> None:
    store, dataset_id = visit.store, visit.dataset.dataset_id
    if (
        base is not None
        and difference is not None
        and difference.count <= files // _DELTA_SHARE
        and snapshot.spool.path.stat().st_size > _MIN_DELTA_BYTES
        and store.records.write_changes(dataset_id, name, base.records, difference.pairs())
    ):
        return
    store.records.write(dataset_id, name, snapshot.spool.lines())


def _renew_records(visit: Visit, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> str:
    """Store what upstream states now about the files of a version, such as their URLs.

    Returns the name of the records; empty if nothing changed.
    """
    difference = difference_since(visit, row, snapshot, scratch)
    if not difference.count:
        return ""
    # a killed visit, or a lost journal entry, may have left records that the journal lacks;
    # the records of other versions may be stored as changes to them
    name = next_records(visit.store.records.newest(visit.dataset.dataset_id, row.commit))
    _store_records(visit, name, row.files, snapshot, row, difference)
    return name


def _store_input(
    visit: Visit,
    name: str,
    snapshot: SpooledSnapshot,
    parents: ParentCommits,
    minted: MintResult,
    records: str,
) -> None:
    """Store what repair needs, beside the records, to mint the same commits again."""
    mint_input = MintInput(
        *(name, _header(visit, snapshot), minted.label, visit.within, records, parents),
        *(minted.commit, minted.annex_commit),
    )
    last = visit.recorder.ask(lambda index: index.versions.last(visit.dataset.name))
    previous = None if last is None else last.commit
    write_mint_input(visit.store.records, visit.dataset.dataset_id, mint_input, previous)


# --- journal entries


def _version_entry(
    visit: Visit, snapshot: SpooledSnapshot, minted: MintResult, previous: VersionRow | None
) -> VersionMinted:
    dataset, header = visit.dataset, _header(visit, snapshot)
    facts, time = header.facts, header.version.time
    attributes: dict[str, list[str]] = {}
    for name, value in sorted(facts.attributes):
        attributes.setdefault(name, []).append(value)
    # an overwritten object without a digest changes its key, but not the state digest
    metadata_only = previous is not None and (
        previous.state == minted.state and previous.metadata != minted.metadata
    )
    entry = VersionMinted(
        mirror=dataset.mirror,
        local_id=dataset.local_id,
        source_uri=dataset.source_uri,
        label=minted.label,
        upstream=header.version.upstream,
        kind=header.version.kind.value,
        state=minted.state,
        commit=minted.commit,
        tree=minted.tree,
        annex_commit=minted.annex_commit,
        time=None if time is None else time.astimezone(UTC).isoformat(timespec="seconds"),
        files=minted.files,
        bytes=minted.bytes,
        exceptions=exceptions_json(header),
        evidence=dict(sorted(minted.evidence.items())),
        title=facts.title,
        license=list(facts.license),
        doi=facts.doi,
        metadata_only=metadata_only,
        at=current_timestamp(),
        metadata=minted.metadata,
        attributes=attributes,
        inputs=sorted(facts.inputs),
        form=header.form,
        manifest_only_files=minted.manifest_only.files,
        manifest_only_bytes=minted.manifest_only.bytes,
        inline=inline_components_json(header),
        in_subdatasets=minted.in_subdatasets.files,
    )
    return _version_in(visit, entry)


def _version_in(visit: Visit, entry: VersionMinted) -> VersionMinted:
    """Return the entry with the dataset around it, and indexed as the mirror file requires."""
    entry = replace(entry, within=visit.within)
    return replace(entry, indexed=is_indexed(entry, visit.settings.zarr.index_entries))


def _moved_entry(visit: Visit, minted: MintResult, records: str) -> AnnexBranchMoved:
    dataset = visit.dataset
    moved = (dataset.mirror, dataset.local_id, dataset.source_uri, minted.annex_commit)
    return AnnexBranchMoved(*moved, current_timestamp(), minted.commit if records else "", records)


def record_viewer_links(visit: Visit, links: tuple[tuple[str, str], ...]) -> None:
    """Record a dataset's links if they changed."""
    dataset, found = visit.dataset, sorted(links)
    if visit.recorder.ask(lambda index: index.datasets.links(dataset.name)) != found:
        rows = [list(link) for link in found]
        names = (dataset.mirror, dataset.local_id, dataset.source_uri)
        visit.recorder.record(LinksFound(*names, links=rows, at=current_timestamp()))
