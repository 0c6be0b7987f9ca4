"""One visit of one dataset: what is new upstream becomes commits, refs, journal and index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from neuromirror.crawl.compare import Changes, Difference
from neuromirror.crawl.knowledge import Knowledge
from neuromirror.crawl.mirrors import Guards
from neuromirror.crawl.prove import Proven, prove
from neuromirror.crawl.rebuild import restore_records
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.times import now
from neuromirror.index import Index, UnknownDataset, VersionRow
from neuromirror.mint import Base, ManifestDamaged, Minted, Parents, mint, mint_delta
from neuromirror.model import (
    DatasetHint,
    DatasetRef,
    EventRaised,
    HoldLapsed,
    HoldPlaced,
    StateDigest,
    VersionKind,
    VersionMinted,
    VersionRef,
    manifest_digest,
    manifest_line,
    text,
    time_label,
)
from neuromirror.sources import ListingNotProven, Source
from neuromirror.store import ANNEX, MAIN, PUBLISHED, TAGS, Repository, Store, versions_in_git

_ATTEMPTS = 3
_DELTA_LIMIT = 50_000
"""Changed files above which a state is minted whole: a delta holds its changes in memory."""
_DELTA_SHARE = 8
_WORTH_A_DELTA = 1 << 20
"""Records are kept as a delta where at most one file in eight changed, of a megabyte or more."""
_T = TypeVar("_T")


@dataclass(slots=True)
class Outcome:
    """What a visit did: labels it minted, problems it met, files still without sha256.

    ``known`` are incidents with published versions that were raised by an earlier visit: nothing
    is left to do about them here, so they are told, but fail no further run.
    """

    minted: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    upgraded: int = 0
    pending: int = 0
    left_out: int = 0


class Visit:
    """Visits one dataset; the caller holds the dataset's lock."""

    def __init__(
        self, source: Source, store: Store, recorder: Recorder, guards: Guards, hint: DatasetHint
    ) -> None:
        self._source = source
        self._store = store
        self._recorder = recorder
        self._guards = guards
        self._hint = hint
        self._dataset = hint.dataset
        self._repository: Repository = store.repository(hint.dataset)
        self._differs: tuple[tuple[str, Path] | None, Difference | None] = (None, None)
        self.outcome = Outcome()

    def run(self, *, deep: bool) -> Outcome:
        """Brings the dataset up to date, published versions first, then the draft.

        Raises what stopped it; what was minted before that stays, and is in ``outcome``.
        """
        versions = self._source.versions(self._dataset)
        self._repository.create()
        self._repository.clean()
        self._catch_up()
        published = [one for one in versions if one.kind is VersionKind.PUBLISHED]
        self._check_vanished(published)
        for version in published:
            row = self._published(version.upstream)
            if row is None:
                if not self._mint_published(version):
                    break
            else:
                self._check_published(version, row, deep=deep)
        for version in versions:
            if version.kind is VersionKind.OBSERVED:
                self._with_listing(version, self._take_observed)
        self._repository.refresh()
        return self.outcome

    # --- what the store has

    def _catch_up(self) -> None:
        """Records versions that are in git but not in the journal: a visit died in between."""
        refs = self._repository.refs()
        if not refs:
            return
        known = {row.commit for row in self._rows()}
        missing = list(versions_in_git(self._repository, known, now()))
        if missing:
            self._recorder.record(*missing)
        self._repository.refresh()
        self._store.alias(self._dataset)

    def _ask(self, question: Callable[[Index], Iterable[_T]]) -> list[_T]:
        """The answers about this dataset; none where the index does not know it yet."""
        try:
            return self._recorder.ask(lambda index: list(question(index)))
        except UnknownDataset:
            return []

    def _rows(self) -> list[VersionRow]:
        return self._ask(lambda index: index.versions(self._dataset.name))

    def _published(self, upstream: str) -> VersionRow | None:
        name = self._dataset.name
        return self._recorder.ask(lambda index: index.records_known(name, upstream))

    # --- published versions

    def _check_vanished(self, published: list[VersionRef]) -> None:
        listed = {version.upstream for version in published}
        for row in self._rows():
            if row.kind == VersionKind.PUBLISHED.value and row.upstream not in listed:
                self._incident(
                    row.upstream, f"published version {row.upstream} is no longer listed upstream"
                )

    def _mint_published(self, version: VersionRef) -> bool:
        """Mints a published version; False when it is held, so that none may follow it."""
        done = False

        def take(proven: Proven, scratch: Path) -> None:
            nonlocal done
            if not proven.files and not proven.header.exceptions:
                state = _state(proven)
                if not self._released(version.upstream, state):
                    self._hold(version.upstream, state, "an empty published version", 0, 0)
                    return
            self._publish(proven, PUBLISHED, scratch, version.upstream)
            done = True

        self._with_listing(version, take)
        return done

    def _check_published(self, version: VersionRef, row: VersionRow, *, deep: bool) -> None:
        claimed = version.claimed
        exceptions = self._recorder.ask(lambda index: index.exceptions(row))
        files = row.files + len(exceptions)
        size = row.bytes + sum(one["size"] for one in exceptions)
        if claimed is not None and (claimed.files, claimed.bytes) != (files, size):
            self._incident(
                version.upstream,
                f"published version {version.upstream} now has {claimed.files} files with "
                f"{claimed.bytes} bytes, it had {files} with {size}",
            )
        elif deep:
            self._with_listing(
                version, lambda proven, scratch: self._compare_published(proven, row, scratch)
            )

    def _compare_published(self, proven: Proven, row: VersionRow, scratch: Path) -> None:
        changes = self._difference(row, proven, scratch).weigh(row.files)
        if not changes.same_files:
            self._incident(
                row.upstream,
                f"published version {row.upstream} now lists other files: {changes.added} added, "
                f"{changes.removed} removed, {changes.changed} with other bytes",
            )
        elif changes.upgraded:
            self._event(
                "digest-upgrade",
                f"{changes.upgraded} files of published version {row.upstream} have better digests",
                {"version": row.upstream, "files": changes.upgraded},
            )

    # --- observed states

    def _take_observed(self, proven: Proven, scratch: Path) -> None:
        version = proven.header.version
        last = self._last_observed()
        if last is not None:
            changes = self._difference(last, proven, scratch).weigh(last.files)
            if changes.conflicts:
                paths = ", ".join(repr(text(path)) for path in changes.conflicts[:3])
                message = (
                    f"{len(changes.conflicts)} files have other bytes under the same upstream id "
                    f"({paths}); the old state is kept"
                )
                self._event("incident", message, {"version": version.upstream})
                # the draft stays behind upstream, so every run says so
                self.outcome.incidents.append(message)
                return
            if self._guarded(version.upstream, changes, proven):
                return
            self.outcome.upgraded += changes.upgraded
        self._lapse(version.upstream)
        self.outcome.pending = proven.pending
        self._publish(proven, MAIN, scratch, None)

    def _last_observed(self) -> VersionRow | None:
        kind = VersionKind.OBSERVED.value
        return self._recorder.ask(lambda index: index.last_version(self._dataset.name, kind))

    def _guarded(self, upstream: str, changes: Changes, proven: Proven) -> bool:
        if not changes.before:
            return False
        share = 100 * changes.removed / changes.before
        emptied = not changes.after
        if not emptied and not (
            share > self._guards.max_removed_percent
            and changes.removed > self._guards.max_removed_files
        ):
            return False
        state = _state(proven)
        if self._released(upstream, state):
            return False
        reason = (
            "the listing is empty"
            if emptied
            else f"{changes.removed} of {changes.before} files are gone ({share:.0f} %)"
        )
        self._hold(upstream, state, reason, changes.removed, changes.before)
        return True

    # --- holds, incidents, events

    def _released(self, upstream: str, state: str) -> bool:
        name = self._dataset.name
        return (upstream, state) in self._recorder.ask(lambda index: index.released_states(name))

    def _hold(self, upstream: str, state: str, reason: str, removed: int, before: int) -> None:
        name = self._dataset.name
        hold = hashlib.sha256(f"{name} {upstream} {state}".encode()).hexdigest()[:8]
        open_now = {one.hold for one in self._ask(lambda index: index.open_holds(name))}
        if hold not in open_now:
            self._lapse(upstream)
            self._recorder.record(
                HoldPlaced(
                    hold=hold,
                    mirror=self._dataset.mirror,
                    local_id=self._dataset.local_id,
                    upstream=upstream,
                    state=state,
                    reason=reason,
                    removed=removed,
                    before=before,
                    at=now(),
                )
            )
        self.outcome.held.append(
            f"{upstream} is held: {reason}; look upstream, then 'neuromirror release {hold}' to "
            "let it through"
        )

    def _lapse(self, upstream: str) -> None:
        name = self._dataset.name
        for one in self._ask(lambda index: index.open_holds(name)):
            if one.upstream == upstream:
                self._recorder.record(HoldLapsed(one.hold, now()))

    def _incident(self, upstream: str, message: str) -> None:
        """Raises an incident with a published version: once, then it is known."""
        new = self._event("incident", message, {"version": upstream})
        (self.outcome.incidents if new else self.outcome.known).append(message)

    def _event(self, kind: str, message: str, data: dict[str, object]) -> bool:
        """Raises an event, unless there is one that says the same; gives whether it is new."""
        name, dataset = self._dataset.name, self._dataset
        if any(one.message == message for one in self._ask(lambda index: index.events(name, kind))):
            return False
        self._recorder.record(
            EventRaised(dataset.mirror, dataset.local_id, kind, message, now(), dict(data))
        )
        return True

    # --- listing, minting, publishing

    def _with_listing(self, version: VersionRef, take: Callable[[Proven, Path], None]) -> None:
        """Gives ``take`` a proven listing; reads again when upstream moved meanwhile."""
        for attempt in range(_ATTEMPTS):
            with self._store.scratch() as scratch:
                try:
                    with self._recorder.reader() as index:
                        listing = self._source.listing(version, Knowledge(index, scratch))
                        proven = prove(listing, scratch)
                except ListingNotProven:
                    if attempt == _ATTEMPTS - 1:
                        raise
                    continue
                take(_timed(proven), scratch)
                return

    def _difference(self, row: VersionRow, proven: Proven, scratch: Path) -> Difference:
        """What differs from a version that was minted; looked for once in each listing."""
        known, found = self._differs
        if found is None or known != (row.commit, scratch):
            restore_records(self._store, self._dataset, row.commit, row.annex_commit, row.kind)
            before = self._store.record_lines(self._dataset.dataset_id, row.commit)
            found = Difference(scratch / f"since-{row.commit}", before, proven.spool.lines())
            self._differs = ((row.commit, scratch), found)
        return found

    def _publish(self, proven: Proven, branch: str, scratch: Path, label: str | None) -> None:
        refs = self._repository.refs()
        rows = self._rows()
        parents = Parents(branch=refs.get(branch), annex=refs.get(ANNEX))
        chosen: list[str] = []

        def name(state: str) -> str:
            chosen.append(label or _free_label(proven, state, refs))
            return chosen[-1]

        base = self._base(rows, refs)
        since = None if base is None else self._difference(base, proven, scratch)
        repository = self._repository.path
        minted = None
        if base is not None and since is not None and since.count <= _DELTA_LIMIT:
            start = Base(base.commit, self._store.manifest_path(base.state))
            # a manifest that does not give its own state is of no use: mint the whole
            with suppress(ManifestDamaged):
                minted = mint_delta(
                    proven.header, since.changes, start, repository, parents, name, scratch
                )
        if minted is None:
            minted = mint(proven.snapshot, repository, parents, name, scratch)
        if (minted.commit, minted.annex_commit) == (parents.branch, parents.annex):
            return
        new_version = minted.commit != parents.branch
        dataset = self._dataset
        if new_version:
            self._store.keep_manifest(minted.state, minted.manifest)
            self._keep_records(minted, proven, base, since)
        for pack in minted.packs:
            self._repository.place(pack)
        new = {branch: minted.commit, ANNEX: minted.annex_commit}
        if new_version:
            new[TAGS + chosen[-1]] = minted.commit
        self._repository.publish({one: refs.get(one) for one in new}, new)
        self._store.alias(dataset)
        if new_version:
            before = {row.commit: row.state for row in rows}
            same = parents.branch is not None and before.get(parents.branch) == minted.state
            self._recorder.record(_entry(dataset, proven, minted, chosen[-1], metadata_only=same))
            self.outcome.minted.append(chosen[-1])
            self.outcome.left_out = len(proven.header.exceptions)

    def _keep_records(
        self, minted: Minted, proven: Proven, base: VersionRow | None, since: Difference | None
    ) -> None:
        name = self._dataset.dataset_id
        if (
            base is not None
            and since is not None
            and since.count <= minted.files // _DELTA_SHARE
            and proven.spool.path.stat().st_size > _WORTH_A_DELTA
            and self._store.keep_changes(name, minted.commit, base.commit, since.pairs())
        ):
            return
        self._store.keep_records(name, minted.commit, proven.spool.lines())

    def _base(self, rows: list[VersionRow], refs: dict[str, str]) -> VersionRow | None:
        """The state minted last, whose keys the git-annex branch holds, if all of it is here."""
        if ANNEX not in refs or not rows:
            return None
        return rows[-1] if self._store.manifest_path(rows[-1].state).exists() else None


def _timed(proven: Proven) -> Proven:
    """Where upstream has no time, the time of observation stands in (whole seconds)."""
    if proven.header.version.time is not None:
        return proven
    version = replace(proven.header.version, time=datetime.now(UTC).replace(microsecond=0))
    return replace(proven, header=replace(proven.header, version=version))


def _state(proven: Proven) -> str:
    digest = StateDigest()
    for placed in proven.spool.placed():
        record = placed.record
        digest.add(manifest_line(placed.git_path, manifest_digest(record), record.size))
    return digest.value()


def _free_label(proven: Proven, state: str, refs: dict[str, str]) -> str:
    """The UTC time of the newest object; where that repeats, with the state's first eight."""
    moment = proven.header.newest or proven.header.version.time
    assert moment is not None
    label = time_label(moment)
    if TAGS + label not in refs:
        return label
    label = f"{label}-{state.removeprefix('sha256:')[:8]}"
    again, number = label, 2
    while TAGS + again in refs:
        again, number = f"{label}-{number}", number + 1
    return again


def _entry(
    dataset: DatasetRef, proven: Proven, minted: Minted, label: str, *, metadata_only: bool
) -> VersionMinted:
    header = proven.header
    assert header.version.time is not None
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
        time=header.version.time.astimezone(UTC).isoformat(timespec="seconds"),
        files=minted.files,
        bytes=minted.bytes,
        exceptions=[
            {"path": text(one.path), "reason": one.reason, "detail": one.detail, "size": one.size}
            for one in header.exceptions
        ],
        evidence=dict(sorted(minted.evidence.items())),
        title=header.facts.title,
        license=list(header.facts.license),
        doi=header.facts.doi,
        metadata_only=metadata_only,
        at=now(),
    )
