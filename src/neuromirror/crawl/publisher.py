"""Publish a snapshot: commits, refs, records and a journal entry, in a crash-safe order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.crawl.guards import StateDifference
from neuromirror.crawl.listing import SpooledSnapshot
from neuromirror.crawl.recorder import Recorder, RefMove, restore_records
from neuromirror.git import ObjectReader, try_git
from neuromirror.index import CrawlIndex, VersionRow, is_indexed
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
    DESCRIPTION_PATH,
    AnnexBranchMoved,
    DatasetRef,
    ExcludedEntry,
    InlineComponent,
    JournalEntry,
    LinksFound,
    SnapshotHeader,
    VersionKind,
    VersionMinted,
    current_timestamp,
    diff_lines,
    metadata_digest,
    parse_description,
    path_to_text,
    state_label,
    text_to_path,
    time_label,
)
from neuromirror.store import (
    ANNEX_BRANCH,
    CUSTODY_BRANCH,
    DRAFT_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    Repository,
    Store,
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


def version_entry(
    dataset: DatasetRef,
    header: SnapshotHeader,
    minted: MintResult,
    label: str,
    *,
    within: str,
    metadata_only: bool,
) -> VersionMinted:
    """Return the journal entry of a new version.

    Parameters
    ----------
    dataset
        The dataset.
    header
        The version's snapshot, with its inline components.
    minted
        The version's commits and counts.
    label
        The version's label.
    within
        The local id of the dataset that contains it, if it is a component.
    metadata_only
        Whether only documents differ from the previous version.
    """
    facts = header.facts
    time = header.version.time
    attributes: dict[str, list[str]] = {}
    for name, value in sorted(facts.attributes):
        attributes.setdefault(name, []).append(value)
    return VersionMinted(
        mirror=dataset.mirror,
        local_id=dataset.local_id,
        source_uri=dataset.source_uri,
        label=label,
        upstream=header.version.upstream,
        kind=header.version.kind.value,
        state=minted.state,
        commit=minted.commit,
        tree=minted.tree,
        annex_commit=minted.annex_commit,
        time=None if time is None else time.astimezone(UTC).isoformat(timespec="seconds"),
        files=minted.files,
        bytes=minted.bytes,
        exceptions=[_exception_fields(one) for one in header.exceptions],
        evidence=dict(sorted(minted.evidence.items())),
        title=facts.title,
        license=list(facts.license),
        doi=facts.doi,
        metadata_only=metadata_only,
        at=current_timestamp(),
        metadata=minted.metadata,
        attributes=attributes,
        inputs=sorted(facts.inputs),
        within=within,
        form=header.form,
        manifest_only_files=minted.manifest_only.files,
        manifest_only_bytes=minted.manifest_only.bytes,
        inline=[_inline_fields(one) for one in header.inline],
        in_subdatasets=minted.in_subdatasets.files,
    )


def _exception_fields(one: ExcludedEntry) -> dict[str, Any]:
    return {
        "path": path_to_text(one.path),
        "reason": one.reason,
        "detail": one.detail,
        "size": one.size,
    }


def _inline_fields(one: InlineComponent) -> dict[str, Any]:
    return {
        "path": path_to_text(one.path),
        "source": one.source_uri,
        "checksum": one.checksum,
        "files": one.files,
        "bytes": one.bytes,
    }


def component_label(snapshot: SpooledSnapshot, state: str, _refs: dict[str, str]) -> str:
    """Return the label of a component's state, ``<time>-<digits>``.

    ``<time>`` is the UTC time of its newest object, ``<digits>`` are the first eight of the state
    digest. Without a time the label is ``state-<digits>``; with documents, eight digits of the
    metadata digest follow. Unlike :func:`free_label` it does not depend on the labels in use, so
    ``_refs`` is ignored.
    """
    digits = state.removeprefix("sha256:")[:8]
    moment, documents = _upstream_time(snapshot), snapshot.header.documents
    if moment is not None:
        return f"{time_label(moment)}-{digits}"
    # without a time, only this distinguishes states that differ just in their documents
    metadata = f"-{metadata_digest(documents).removeprefix('sha256:')[:8]}" if documents else ""
    return f"{state_label(state)}{metadata}"


def _upstream_time(snapshot: SpooledSnapshot) -> datetime | None:
    """Return upstream's time of a state; None if it has none."""
    return snapshot.header.newest or snapshot.header.version.time


def free_label(snapshot: SpooledSnapshot, state: str, refs: dict[str, str]) -> str:
    """Return an unused label for a state: the UTC time of its newest object, or ``state-<digits>``.

    ``<digits>`` are the first eight of the state digest, for a state without a time. They are also
    appended to a time that is in use: ``<time>-<digits>``. If the result is in use, too, it gets
    the first free number from 2: ``<time>-<digits>-2``.

    Parameters
    ----------
    snapshot
        The state, with the times of its objects.
    state
        The state digest, ``sha256:<hex>``.
    refs
        The refs of the repository: object id by name. Labels are in use if they are tags there.

    Returns
    -------
    str
        The label.
    """
    moment = _upstream_time(snapshot)
    label = state_label(state)
    if moment is not None:
        label = time_label(moment)
        if TAG_PREFIX + label in refs:
            label = f"{label}-{state.removeprefix('sha256:')[:8]}"
    if TAG_PREFIX + label not in refs:
        return label
    candidate, number = label, 2
    while TAG_PREFIX + candidate in refs:
        candidate, number = f"{label}-{number}", number + 1
    return candidate


ViewerLinks = tuple[tuple[str, str], ...]


def record_viewer_links(recorder: Recorder, dataset: DatasetRef, links: ViewerLinks) -> None:
    """Record a dataset's links if they changed."""
    found = sorted(links)
    if recorder.ask(lambda index: index.links(dataset.name)) != found:
        entry = LinksFound(
            mirror=dataset.mirror,
            local_id=dataset.local_id,
            source_uri=dataset.source_uri,
            links=[list(one) for one in found],
            at=current_timestamp(),
        )
        recorder.record(entry)


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


def dataset_versions(index: CrawlIndex, name: str) -> list[VersionRow]:
    """Return the versions of a dataset in the order of minting; empty for an unknown dataset.

    With an unknown name the index would search for similar names.
    """
    return [] if index.last_version(name) is None else list(index.versions(name))


class Publisher:
    """Writes validated states of one dataset to the store: commits, refs, records, journal entry.

    The caller holds the dataset's lock.

    Parameters
    ----------
    store, recorder
        The store, and its recorder for refs, journal and index.
    dataset
        The dataset.
    within
        For a component, the local id of the dataset that contains it; empty for any other dataset.
    index_entries
        The files of a component are indexed if there are at most this many.
    """

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        dataset: DatasetRef,
        *,
        within: str = "",
        index_entries: int = 0,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self.dataset = dataset
        self._within = within
        self._index_entries = index_entries
        self.repository: Repository = store.repository(dataset)
        self._cached_difference: tuple[tuple[str, Path] | None, StateDifference | None] = (
            None,
            None,
        )

    # --- the published versions

    def versions(self) -> list[VersionRow]:
        """Return all versions, in the order of minting.

        Returns
        -------
        list of VersionRow
            The versions.
        """
        return self._recorder.ask(lambda index: dataset_versions(index, self.dataset.name))

    def last_observed(self) -> VersionRow | None:
        """Return the version at ``main``.

        Returns
        -------
        VersionRow or None
            The version; None if nothing was observed yet.
        """
        kind = VersionKind.OBSERVED.value
        return self._recorder.ask(lambda index: index.last_version(self.dataset.name, kind))

    def catch_up(self) -> None:
        """Record versions that are in git but not in the journal, after an interrupted visit.

        Raises
        ------
        RepositoryIncompleteError
            If the repository lacks something that the journal lists; nothing is recorded then.
        ForeignCommitsError
            If refs are not where neuromirror put them; nothing is recorded then.
        """
        versions = self.versions()
        if versions:
            check_packs(self.repository, self.dataset.name)
        self.repository.remove_stale_files()
        refs = self.repository.refs()
        if not refs and not versions:
            return
        known = {row.commit for row in versions}
        self._check_refs(refs, versions)
        if not {refs.get(MAIN_BRANCH), refs.get(PUBLISHED_BRANCH)} <= known | {None}:
            missing = list(read_versions_from_git(self.repository, known, current_timestamp()))
            if missing:
                missing = [replace(one, within=self._within) for one in missing]
                for one in missing:
                    restore_records(self._store, self.dataset, one)
                self._recorder.record(*map(self._apply_index_limit, missing))
        self.repository.update_server_info()
        self._store.alias(self.dataset)

    def _check_refs(self, refs: dict[str, str], versions: list[VersionRow]) -> None:
        """Raise an error unless all refs are where neuromirror put them, with their commits."""
        journal = JournalRefs(versions, is_subdataset=bool(self._within))
        copies = refs.get(CUSTODY_BRANCH)
        if not journal.matches(refs) or not (
            copies is None or is_own_commit(self.repository.path, copies)
        ):
            history = read_history(self.repository)
            for ref in find_foreign_refs(self.repository, journal, history):
                raise ref.error(self.dataset.name, self.repository.path)
        check_commits(self.repository, self.dataset.name, refs)

    def difference(
        self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path
    ) -> StateDifference:
        """Return the difference between a minted version and a snapshot; computed once per listing.

        Parameters
        ----------
        row
            The minted version.
        snapshot
            The snapshot.
        scratch
            A folder for temporary files.

        Returns
        -------
        StateDifference
            The files before and after.
        """
        known, found = self._cached_difference
        if found is None or known != (row.records, snapshot.spool.path):
            restore_records(self._store, self.dataset, row)
            before = self._store.record_lines(self.dataset.dataset_id, row.records)
            target = scratch / f"since-{row.records}"
            found = StateDifference(target, diff_lines(before, snapshot.spool.lines()))
            self._cached_difference = ((row.records, snapshot.spool.path), found)
        return found

    def lost_documents(
        self, row: VersionRow, snapshot: SpooledSnapshot, difference: StateDifference
    ) -> list[bytes]:
        """Return the documents of a version that are neither documents nor files now.

        Parameters
        ----------
        row
            The minted version.
        snapshot
            The snapshot that follows it.
        difference
            The difference between them.

        Returns
        -------
        list of bytes
            The sorted paths of the documents.
        """
        if row.metadata == metadata_digest(snapshot.header.documents):
            return []
        with ObjectReader(self.repository.path) as reader:
            description = parse_description(
                reader.read(f"{row.commit}:{DESCRIPTION_PATH}"), f"{row.name}: {DESCRIPTION_PATH}"
            )
        lost = {text_to_path(name) for name in description["documents"]}
        lost -= {one.path for one in snapshot.header.documents}
        lost -= {one.path for one in snapshot.header.exceptions}
        if lost:
            lost -= {new.record.path for _, new in difference.changes() if new is not None}
        return sorted(lost)

    # --- a new version

    def publish(
        self, snapshot: SpooledSnapshot, branch: str, scratch: Path, label: str | None = None
    ) -> PublishedState:
        """Mint a state on ``branch`` and publish it, unless it is there already.

        If the process is killed, the repository has the old state or the new one. The commits of a
        component have no parents: a link must follow from the component's state alone, and not from
        its earlier states.

        Parameters
        ----------
        snapshot
            The state.
        branch
            The branch to which it is added.
        scratch
            A folder for temporary files.
        label
            Upstream's name of the version; without one, the label is the time of the state, or
            derived from its digest if upstream has no times.

        Returns
        -------
        PublishedState
            The version, and whether it is new.
        """
        self.repository.create()
        refs = self.repository.refs()
        versions = self.versions()
        last = refs.get(branch)
        parents = ParentCommits(branch=None if self._within else last, annex=refs.get(ANNEX_BRANCH))
        labels: list[str] = []

        def choose_label(state: str) -> str:
            free = component_label if self._within else free_label
            labels.append(label or free(snapshot, state, refs))
            return labels[-1]

        base = self._base(versions, refs)
        difference = None if base is None else self.difference(base, snapshot, scratch)
        minted = self._mint(snapshot, parents, choose_label, scratch, base, difference)
        states = {row.commit: row for row in versions}
        known = states.get(minted.commit)
        is_new = minted.commit != last and known is None
        renewed = ""
        if is_new:
            self._store.add_manifest(minted.state, minted.manifest)
            self._store_records(minted.commit, minted.files, snapshot, base, difference)
        elif known is not None:
            renewed = self._renew_records(known, snapshot, scratch)
        entry: JournalEntry
        if is_new or renewed or minted.annex_commit != parents.annex:
            new_refs = {ANNEX_BRANCH: minted.annex_commit}
            if is_new:
                new_refs |= {branch: minted.commit, TAG_PREFIX + labels[-1]: minted.commit}
                if branch == MAIN_BRANCH and snapshot.header.version.upstream == _UPSTREAM_DRAFT:
                    new_refs[DRAFT_BRANCH] = minted.commit
                previous = None if last is None else states.get(last)
                entry = self._version_entry(snapshot, minted, labels[-1], previous)
            else:
                entry = self._moved_entry(minted, renewed)
            if is_new or minted.annex_commit != parents.annex:
                records = minted.commit if known is None else renewed or known.records
                name = minted.commit if is_new else minted.annex_commit
                self._store_input(name, snapshot, parents, labels[-1], records, minted)
            for pack in minted.packs:
                self.repository.add_pack(pack)
            move = RefMove({one: refs.get(one) for one in new_refs}, new_refs)
            self._recorder.publish(self.dataset, move, entry)
        return PublishedState(
            label=labels[-1] if known is None else known.label,
            commit=minted.commit,
            annex_commit=minted.annex_commit,
            state=minted.state,
            files=minted.files,
            bytes=minted.bytes,
            is_new=is_new,
        )

    def renew(self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> None:
        """Record what upstream states now about the files of any version, such as their URLs.

        Nothing is recorded if the snapshot has another tree than the version.

        Parameters
        ----------
        row
            The version.
        snapshot
            The same state, as upstream lists it now.
        scratch
            A folder for temporary files.
        """
        difference = self.difference(row, snapshot, scratch)
        if not difference.count:
            return
        refs = self.repository.refs()
        is_observed = row.kind == VersionKind.OBSERVED.value
        branch = row.commit if is_observed else self._parent(row.commit)
        parents = ParentCommits(branch, refs.get(ANNEX_BRANCH))
        minted = self._mint(snapshot, parents, lambda _: row.label, scratch, row, difference)
        if minted.commit != row.commit:
            minted.discard()
            return
        records = self._renew_records(row, snapshot, scratch)
        if minted.annex_commit != parents.annex:
            name = minted.annex_commit
            self._store_input(name, snapshot, parents, row.label, records or row.records, minted)
        for pack in minted.packs:
            self.repository.add_pack(pack)
        move = RefMove({ANNEX_BRANCH: parents.annex}, {ANNEX_BRANCH: minted.annex_commit})
        self._recorder.publish(self.dataset, move, self._moved_entry(minted, records))

    def _store_input(
        self,
        name: str,
        snapshot: SpooledSnapshot,
        parents: ParentCommits,
        label: str,
        records: str,
        minted: MintResult,
    ) -> None:
        """Store what repair needs, beside the records, to mint the same commits again."""
        mint_input = MintInput(
            *(name, self._header(snapshot), label, self._within, records, parents),
            *(minted.commit, minted.annex_commit),
        )
        last = self._recorder.ask(lambda index: index.last_version(self.dataset.name))
        previous = None if last is None else last.commit
        write_mint_input(self._store, self.dataset.dataset_id, mint_input, previous)

    def _parent(self, commit: str) -> str | None:
        done = try_git(self.repository.path, "rev-parse", "--verify", "--quiet", f"{commit}^")
        return done.stdout.strip() or None

    def _moved_entry(self, minted: MintResult, records: str) -> AnnexBranchMoved:
        dataset = self.dataset
        moved = (dataset.mirror, dataset.local_id, dataset.source_uri, minted.annex_commit)
        return AnnexBranchMoved(
            *moved, current_timestamp(), minted.commit if records else "", records
        )

    def _version_entry(
        self,
        snapshot: SpooledSnapshot,
        minted: MintResult,
        label: str,
        previous: VersionRow | None,
    ) -> VersionMinted:
        # an overwritten object without a digest changes its key, but not the state digest
        metadata_only = previous is not None and (
            previous.state == minted.state and previous.metadata != minted.metadata
        )
        entry = version_entry(
            self.dataset,
            self._header(snapshot),
            minted,
            label,
            within=self._within,
            metadata_only=metadata_only,
        )
        return self._apply_index_limit(entry)

    def _mint(
        self,
        snapshot: SpooledSnapshot,
        parents: ParentCommits,
        choose_label: Callable[[str], str],
        scratch: Path,
        base: VersionRow | None,
        difference: StateDifference | None,
    ) -> MintResult:
        repository = self.repository.path
        if base is not None and difference is not None and difference.count <= _DELTA_LIMIT:
            start = DeltaBase(base.commit, self._store.manifest_path(base.state))
            # for example, the manifest does not match its state digest: mint in full
            with suppress(UnsuitableBaseError):
                return mint_delta(
                    self._header(snapshot),
                    difference.changes,
                    start,
                    repository,
                    parents,
                    choose_label,
                    scratch,
                    self._within,
                )
        mint_input = Snapshot.from_records(
            self._header(snapshot), snapshot.spool.path, self._within
        )
        return mint(mint_input, repository, parents, choose_label, scratch)

    def _base(self, versions: list[VersionRow], refs: dict[str, str]) -> VersionRow | None:
        """Return the last minted version, whose keys git-annex has, if its files exist."""
        if ANNEX_BRANCH not in refs or not versions:
            return None
        return versions[-1] if self._store.manifest_path(versions[-1].state).exists() else None

    def _renew_records(self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> str:
        """Store what upstream states now about the files of a version, such as their URLs.

        Returns the name of the records; empty if nothing changed.
        """
        difference = self.difference(row, snapshot, scratch)
        if not difference.count:
            return ""
        # a killed visit, or a lost journal entry, may have left records that the journal lacks;
        # the records of other versions may be stored as changes to them
        name = next_records(self._store.newest_records(self.dataset.dataset_id, row.commit))
        self._store_records(name, row.files, snapshot, row, difference)
        return name

    def _store_records(
        self,
        name: str,
        files: int,
        snapshot: SpooledSnapshot,
        base: VersionRow | None,
        difference: StateDifference | None,
    ) -> None:
        dataset_id = self.dataset.dataset_id
        if (
            base is not None
            and difference is not None
            and difference.count <= files // _DELTA_SHARE
            and snapshot.spool.path.stat().st_size > _MIN_DELTA_BYTES
            and self._store.write_record_changes(dataset_id, name, base.records, difference.pairs())
        ):
            return
        self._store.write_records(dataset_id, name, snapshot.spool.lines())

    def _apply_index_limit(self, entry: VersionMinted) -> VersionMinted:
        """Return the entry with ``indexed`` as the mirror file's limit requires."""
        return replace(entry, indexed=is_indexed(entry, self._index_entries))

    def _header(self, snapshot: SpooledSnapshot) -> SnapshotHeader:
        """Return the header of a state with its inline components."""
        if self._within:
            return snapshot.header  # its inline components belong to the dataset around it
        inline = [
            InlineComponent(one.path, one.source_uri, one.upstream, one.files, one.size)
            for one in snapshot.components.inline
        ]
        return replace(snapshot.header, inline=tuple(sorted(inline, key=lambda one: one.path)))
