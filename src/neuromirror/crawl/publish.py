"""A proven state becomes commits, refs, records and a journal entry, in the order that is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from neuromirror.crawl.compare import Difference
from neuromirror.crawl.prove import Proven
from neuromirror.crawl.rebuild import restore_records
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.times import now
from neuromirror.index import Index, UnknownDataset, UnknownMirror, VersionRow, is_indexed
from neuromirror.mint import (
    Base,
    BaseUnfit,
    Minted,
    ObjectReader,
    Parents,
    Snapshot,
    mint,
    mint_delta,
)
from neuromirror.model import (
    DESCRIPTION,
    AnnexMoved,
    DatasetRef,
    InlineFolder,
    SnapshotHeader,
    VersionKind,
    VersionMinted,
    diff_lines,
    metadata_digest,
    parse_description,
    raw,
    state_label,
    text,
    time_label,
)
from neuromirror.store import (
    ANNEX,
    DRAFT,
    MAIN,
    PUBLISHED,
    TAGS,
    Repository,
    Store,
    versions_in_git,
)
from neuromirror.store.foreign import ForeignCommits, JournalRefs, foreign_refs, read_history

_DELTA_LIMIT = 50_000
"""Changed files above which a state is minted whole: a delta holds its changes in memory."""
_DELTA_SHARE = 8
_WORTH_A_DELTA = 1 << 20
"""Records are kept as a delta where at most one file in eight changed, of a megabyte or more."""
_UPSTREAM_DRAFT = "draft"
"""What upstream calls its draft."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Published:
    """A state that is in git: its label, ids in hex, digest (``sha256:<hex>``) and counts.

    ``new`` says that it was not there before.
    """

    label: str
    commit: str
    annex_commit: str
    state: str
    files: int
    bytes: int
    new: bool


def versions_of(index: Index, name: str) -> list[VersionRow]:
    """The versions of a dataset in the order they were minted; none of one that is not known.

    An unknown name would make the index look for all that are like it.
    """
    return [] if index.last_version(name) is None else list(index.versions(name))


class Publisher:
    """Publishes states of one dataset; the caller holds the dataset's lock.

    ``within`` is the local id of the dataset of which this one is a part, empty for one that
    stands alone; the files of a part are in the index if they are at most ``index_entries``.
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
        self._differs: tuple[tuple[str, Path] | None, Difference | None] = (None, None)

    # --- what the store has

    def ask(self, question: Callable[[Index], Iterable[_T]]) -> list[_T]:
        """The index's answers about this dataset; none where it does not know it yet."""
        try:
            return self._recorder.ask(lambda index: list(question(index)))
        except (UnknownDataset, UnknownMirror):
            return []

    def rows(self) -> list[VersionRow]:
        """All versions, in the order they were minted."""
        return self._recorder.ask(lambda index: versions_of(index, self.dataset.name))

    def last_observed(self) -> VersionRow | None:
        """The state of ``main``."""
        kind = VersionKind.OBSERVED.value
        return self._recorder.ask(lambda index: index.last_version(self.dataset.name, kind))

    def catch_up(self) -> None:
        """Record versions that are in git but not in the journal: a visit died in between.

        Raises ForeignCommits where refs are not where neuromirror put them: nothing of that may
        be recorded, and nothing minted on top of it.
        """
        self.repository.clean()
        refs = self.repository.refs()
        if not refs:
            return
        rows = self.rows()
        known = {row.commit for row in rows}
        self._check_refs(refs, rows)
        if not {refs.get(MAIN), refs.get(PUBLISHED)} <= known | {None}:
            missing = list(versions_in_git(self.repository, known, now()))
            if missing:
                missing = [replace(one, within=self._within) for one in missing]
                for one in missing:
                    restore_records(
                        self._store, self.dataset, one.commit, one.annex_commit, one.kind
                    )
                self._recorder.record(*map(self._as_set, missing))
        self.repository.refresh()
        self._store.alias(self.dataset)

    def _check_refs(self, refs: dict[str, str], rows: list[VersionRow]) -> None:
        """Raise ForeignCommits unless all refs are where neuromirror put them."""
        journal = JournalRefs(rows, is_part=bool(self._within))
        if journal.agrees(refs):
            return
        history = read_history(self.repository.path)
        found = foreign_refs(self.repository, journal, history)
        if found:
            raise ForeignCommits(
                f"{self.dataset.name}: {found[0]} in {self.repository.path}, where neuromirror "
                f"did not put it ({len(found)} such refs): another program wrote to the mirror. "
                f"Nothing of it was recorded; run 'neuromirror repair {self.dataset.name}', which "
                "keeps it and puts the refs back"
            )

    def difference(self, row: VersionRow, proven: Proven, scratch: Path) -> Difference:
        """What differs from a version that was minted; looked for once in each listing."""
        known, found = self._differs
        if found is None or known != (row.commit, proven.spool.path):
            restore_records(self._store, self.dataset, row.commit, row.annex_commit, row.kind)
            before = self._store.record_lines(self.dataset.dataset_id, row.commit)
            target = scratch / f"since-{row.commit}"
            found = Difference(target, diff_lines(before, proven.spool.lines()))
            self._differs = ((row.commit, proven.spool.path), found)
        return found

    def documents_lost(
        self, row: VersionRow, proven: Proven, difference: Difference
    ) -> list[bytes]:
        """The documents of a version that are neither documents nor files any more."""
        if row.metadata == metadata_digest(proven.header.documents):
            return []
        with ObjectReader(self.repository.path) as reader:
            described = parse_description(
                reader.read(f"{row.commit}:{DESCRIPTION}"), f"{row.name}: {DESCRIPTION}"
            )
        lost = {raw(name) for name in described["documents"]}
        lost -= {one.path for one in proven.header.documents}
        lost -= {one.path for one in proven.header.exceptions}
        if lost:
            lost -= {new.record.path for _, new in difference.changes() if new is not None}
        return sorted(lost)

    # --- what is new

    def publish(
        self, proven: Proven, branch: str, scratch: Path, label: str | None = None
    ) -> Published:
        """Mints a state on ``branch`` and publishes it, unless it is there already.

        ``label`` is upstream's own; without one the state is named by its time, and where upstream
        has none by its digest. Killed anywhere, the repository shows the old state or the new one.

        A part's commits have no parents: the one that a dataset links must follow from the state
        alone, and not from what was seen of the part before.
        """
        self.repository.create()
        refs = self.repository.refs()
        rows = self.rows()
        last = refs.get(branch)
        parents = Parents(branch=None if self._within else last, annex=refs.get(ANNEX))
        chosen: list[str] = []

        def name(state: str) -> str:
            free = _state_label if self._within else _free_label
            chosen.append(label or free(proven, state, refs))
            return chosen[-1]

        base = self._base(rows, refs)
        since = None if base is None else self.difference(base, proven, scratch)
        minted = self._mint(proven, parents, name, scratch, base, since)
        states = {row.commit: row for row in rows}
        new = minted.commit != last and minted.commit not in states
        if new or minted.annex_commit != parents.annex:
            if new:
                self._store.keep_manifest(minted.state, minted.manifest)
                self._keep_records(minted, proven, base, since)
            for pack in minted.packs:
                self.repository.place(pack)
            moved = {ANNEX: minted.annex_commit}
            if new:
                moved |= {branch: minted.commit, TAGS + chosen[-1]: minted.commit}
                if branch == MAIN and proven.header.version.upstream == _UPSTREAM_DRAFT:
                    moved[DRAFT] = minted.commit
            self._recorder.confirm()
            self.repository.publish({one: refs.get(one) for one in moved}, moved)
            self._store.alias(self.dataset)
        if new:
            before = None if last is None else states.get(last)
            # an object without a digest that was written again moves its key, and no digest
            same = before is not None and (
                before.state == minted.state and before.metadata != minted.metadata
            )
            self._recorder.record(self._entry(proven, minted, chosen[-1], metadata_only=same))
        elif minted.annex_commit != parents.annex:
            dataset = self.dataset
            moved_to = minted.annex_commit
            self._recorder.record(
                AnnexMoved(dataset.mirror, dataset.local_id, dataset.source_uri, moved_to, now())
            )
        known = states.get(minted.commit)
        return Published(
            label=chosen[-1] if known is None else known.label,
            commit=minted.commit,
            annex_commit=minted.annex_commit,
            state=minted.state,
            files=minted.files,
            bytes=minted.bytes,
            new=new,
        )

    def _mint(
        self,
        proven: Proven,
        parents: Parents,
        name: Callable[[str], str],
        scratch: Path,
        base: VersionRow | None,
        since: Difference | None,
    ) -> Minted:
        repository = self.repository.path
        if base is not None and since is not None and since.count <= _DELTA_LIMIT:
            start = Base(base.commit, self._store.manifest_path(base.state))
            # as where a manifest does not give its own state: then the whole is minted
            with suppress(BaseUnfit):
                return mint_delta(
                    self._header(proven),
                    since.changes,
                    start,
                    repository,
                    parents,
                    name,
                    scratch,
                    self._within,
                )
        snapshot = Snapshot.of_records(self._header(proven), proven.spool.path, self._within)
        return mint(snapshot, repository, parents, name, scratch)

    def _base(self, rows: list[VersionRow], refs: dict[str, str]) -> VersionRow | None:
        """The state minted last, whose keys the git-annex branch holds, if all of it is here."""
        if ANNEX not in refs or not rows:
            return None
        return rows[-1] if self._store.manifest_path(rows[-1].state).exists() else None

    def _keep_records(
        self, minted: Minted, proven: Proven, base: VersionRow | None, since: Difference | None
    ) -> None:
        name = self.dataset.dataset_id
        if (
            base is not None
            and since is not None
            and since.count <= minted.files // _DELTA_SHARE
            and proven.spool.path.stat().st_size > _WORTH_A_DELTA
            and self._store.keep_changes(name, minted.commit, base.commit, since.pairs())
        ):
            return
        self._store.keep_records(name, minted.commit, proven.spool.lines())

    def _entry(
        self, proven: Proven, minted: Minted, label: str, *, metadata_only: bool
    ) -> VersionMinted:
        header, dataset = self._header(proven), self.dataset
        facts = header.facts
        time = header.version.time
        attributes: dict[str, list[str]] = {}
        for word, value in sorted(facts.attributes):
            attributes.setdefault(word, []).append(value)
        entry = VersionMinted(
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
            exceptions=[
                {
                    "path": text(one.path),
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
            at=now(),
            metadata=minted.metadata,
            attributes=attributes,
            inputs=sorted(facts.inputs),
            within=self._within,
            form=header.form,
            only_files=minted.manifest_only.files,
            only_bytes=minted.manifest_only.bytes,
            inline=[
                {
                    "path": text(one.path),
                    "source": one.source_uri,
                    "checksum": one.checksum,
                    "files": one.files,
                    "bytes": one.bytes,
                }
                for one in header.inline
            ],
            in_parts=minted.in_parts.files,
        )
        return self._as_set(entry)

    def _as_set(self, entry: VersionMinted) -> VersionMinted:
        """The entry of a version, its files in the index or not as the mirror's file says."""
        return replace(entry, indexed=is_indexed(entry, self._index_entries))

    def _header(self, proven: Proven) -> SnapshotHeader:
        """The header of a state that tells of its inline parts, too."""
        if self._within:
            return proven.header  # those that are proven with it are of the dataset around it
        inline = [
            InlineFolder(one.path, one.source_uri, one.upstream, one.files, one.size)
            for one in proven.parts.inline
        ]
        return replace(proven.header, inline=tuple(sorted(inline, key=lambda one: one.path)))


def _state_label(proven: Proven, state: str, _refs: dict[str, str]) -> str:
    """Return the label of a part's state, whatever other labels there are.

    It is the UTC time of the newest object and the state's first eight digits.
    """
    digits = state.removeprefix("sha256:")[:8]
    moment, documents = _moment(proven), proven.header.documents
    if moment is not None:
        return f"{time_label(moment)}-{digits}"
    # without a time, only this distinguishes states that differ in their documents alone
    metadata = f"-{metadata_digest(documents).removeprefix('sha256:')[:8]}" if documents else ""
    return f"{state_label(state)}{metadata}"


def _moment(proven: Proven) -> datetime | None:
    """Return upstream's time of a state; None where it has none."""
    return proven.header.newest or proven.header.version.time


def _free_label(proven: Proven, state: str, refs: dict[str, str]) -> str:
    """Return the UTC time of the newest object, where that repeats with the state's first eight.

    Of a state without upstream times it is ``state-`` and those eight digits.
    """
    moment = _moment(proven)
    label = state_label(state)
    if moment is not None:
        label = time_label(moment)
        if TAGS + label in refs:
            label = f"{label}-{state.removeprefix('sha256:')[:8]}"
    if TAGS + label not in refs:
        return label
    again, number = label, 2
    while TAGS + again in refs:
        again, number = f"{label}-{number}", number + 1
    return again
