"""Mint a snapshot and publish it: commits, refs, records, journal entry, in a crash-safe order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.crawl.guards import StateDifference, difference_since
from neuromirror.crawl.plan import Visit, VisitOutcome
from neuromirror.crawl.recorder import RefMove, restore_records
from neuromirror.crawl.split_zarrs import insert_subdatasets, is_subdataset_line, split_zarrs
from neuromirror.crawl.validate import SpooledSnapshot
from neuromirror.git import try_git
from neuromirror.index import VersionRow, is_indexed
from neuromirror.mint import (
    DeltaBase,
    MintResult,
    ParentCommits,
    Snapshot,
    UnsuitableBaseError,
    mint,
    mint_delta,
)
from neuromirror.model import (
    AnnexBranchMoved,
    DatasetRef,
    InlineComponent,
    JournalEntry,
    LinksFound,
    SnapshotHeader,
    Subdataset,
    VersionKind,
    VersionMinted,
    current_timestamp,
    line_path,
    load_snapshot_entry,
    metadata_digest,
    path_to_text,
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


class PublishedState(Struct, frozen=True):
    """A state in git.

    Attributes
    ----------
    label
        The label of the version.
    commit, annex_commit
        The commits of the state and of the git-annex branch, in hex.
    state
        The state digest, ``sha256:<hex>``.
    files, bytes
        Number and size of the files.
    is_new
        False if the state was there before.
    """

    label: str
    commit: str
    annex_commit: str
    state: str
    files: int
    bytes: int
    is_new: bool


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
    visit.store.alias(visit.dataset)


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


# --- states with large Zarrs


def publish_state(
    visit: Visit, snapshot: SpooledSnapshot, branch: str, scratch: Path, label: str | None = None
) -> PublishedState:
    """Publish the large Zarrs of a state, each as a dataset, then the state with links to them.

    What is already published is not written again. For the parameters see :func:`publish`.
    """
    rest, zarrs = split_zarrs(snapshot, visit.settings.zarr, scratch)
    links: dict[bytes, Subdataset] = {}
    for number, zarr in enumerate(zarrs):
        with component_visit(visit, zarr.dataset, zarr.within) as component:
            catch_up(component)
            own = scratch / f"component-{number}"
            own.mkdir()
            made = publish(component, zarr.snapshot, MAIN_BRANCH, own)
        dataset, files = zarr.dataset, zarr.snapshot.files
        links[zarr.git_path] = Subdataset(
            dataset.dataset_id, dataset.local_id, made.commit, made.state, files, zarr.bytes
        )
    return publish(visit, insert_subdatasets(rest, links), branch, scratch, label)


def renew_state(visit: Visit, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> None:
    """Record what upstream states now about the files of a version, such as their URLs.

    That includes the files of its large Zarrs. No version is created.
    """
    links = {
        line_path(line): load_snapshot_entry(line).subdataset
        for line in visit.store.record_lines(visit.dataset.dataset_id, row.records)
        if is_subdataset_line(line)
    }
    rest, zarrs = split_zarrs(snapshot, visit.settings.zarr, scratch)
    states: dict[bytes, Subdataset] = {}
    for number, zarr in enumerate(zarrs):
        link = links[zarr.git_path]
        assert link is not None
        states[zarr.git_path] = link
        with component_visit(visit, zarr.dataset, zarr.within) as component:
            catch_up(component)
            own = scratch / f"component-{number}"
            own.mkdir()
            for version in component.versions():
                if version.commit == link.commit:
                    _renew(component, version, zarr.snapshot, own)
    _renew(visit, row, insert_subdatasets(rest, states), scratch)


# --- mint and publish


def publish(
    visit: Visit, snapshot: SpooledSnapshot, branch: str, scratch: Path, label: str | None = None
) -> PublishedState:
    """Mint a state on ``branch`` and publish it, unless it is there already.

    If the process is killed, the repository has the old state or the new one. The commits of a
    component have no parents: a link must follow from the component's state alone, and not from
    its earlier states. ``label`` is upstream's name of the version; without one, the label is the
    time of the state, or derived from its digest if upstream has no times.
    """
    repository, recorder = visit.repository, visit.recorder
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
        for pack in minted.packs:
            repository.add_pack(pack)
        move = RefMove({name: refs.get(name) for name in new_refs}, new_refs)
        recorder.publish(visit.dataset, move, entry)
    return PublishedState(
        label=minted.label if known is None else known.label,
        commit=minted.commit,
        annex_commit=minted.annex_commit,
        state=minted.state,
        files=minted.files,
        bytes=minted.bytes,
        is_new=is_new,
    )


def _renew(visit: Visit, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> None:
    """Record what upstream states now about the files of any version, such as their URLs.

    Nothing is recorded if the snapshot has another tree than the version.
    """
    repository = visit.repository
    difference = difference_since(visit, row, snapshot, scratch)
    if not difference.count:
        return
    annex = repository.refs().get(ANNEX_BRANCH)
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
    for pack in minted.packs:
        repository.add_pack(pack)
    move = RefMove({ANNEX_BRANCH: annex}, {ANNEX_BRANCH: minted.annex_commit})
    visit.recorder.publish(visit.dataset, move, _moved_entry(visit, minted, records))


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
        and store.write_record_changes(dataset_id, name, base.records, difference.pairs())
    ):
        return
    store.write_records(dataset_id, name, snapshot.spool.lines())


def _renew_records(visit: Visit, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> str:
    """Store what upstream states now about the files of a version, such as their URLs.

    Returns the name of the records; empty if nothing changed.
    """
    difference = difference_since(visit, row, snapshot, scratch)
    if not difference.count:
        return ""
    # a killed visit, or a lost journal entry, may have left records that the journal lacks;
    # the records of other versions may be stored as changes to them
    name = next_records(visit.store.newest_records(visit.dataset.dataset_id, row.commit))
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
    write_mint_input(visit.store, visit.dataset.dataset_id, mint_input, previous)


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
        exceptions=[
            {
                "path": path_to_text(one.path),
                "reason": one.reason,
                "detail": one.detail,
                "size": one.size,
            }
            for one in header.exceptions
        ],
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
        inline=[
            {
                "path": path_to_text(one.path),
                "source": one.source_uri,
                "checksum": one.checksum,
                "files": one.files,
                "bytes": one.bytes,
            }
            for one in header.inline
        ],
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
