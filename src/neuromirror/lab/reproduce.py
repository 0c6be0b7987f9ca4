"""A version minted again from upstream, beside what the store has: equal, or what is not (I4).

What is promised depends on the kind of version:

- *published* versions never change upstream, so commit, tree and state digest must come out again.
  A commit's parent is the version before, so all published versions up to it are minted again.
- *observed* states (a draft, a bucket's prefix) follow one another as they were seen, and upstream
  cannot tell what was seen. Tree and state digest must come out again, as long as upstream still
  has the state: as its present one, or among the earlier ones that it can list.

Of a dataset's sub-datasets the states are minted again too. Each is an observed state, so the
commit on which it stands is taken from the store; its own commit is promised for that parent.
What a version's git-annex branch says is not promised: it tells in which order states were seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from neuromirror.crawl import Mirror, recording
from neuromirror.crawl.private import private_view
from neuromirror.index import Index, PartRow, VersionRow
from neuromirror.lab.again import Again, Narrowed, stored_lines
from neuromirror.lab.differences import NAMED, Differences, Ids, Side, differences
from neuromirror.mint import ObjectReader
from neuromirror.model import (
    ConfigurationError,
    DatasetHint,
    DatasetRef,
    VersionKind,
    VersionRef,
)
from neuromirror.sources import DatasetNotFound, Source
from neuromirror.store import TAGS, Repository, Store
from neuromirror.store.private import is_private

_PUBLISHED = ("commit", "tree", "state")
_OBSERVED = ("tree", "state")
_TRIALS = 8
"""Earlier states of upstream that are tried in the place of an observed one."""

Progress = Callable[[str], None]
"""Is told in words what is being minted."""


@dataclass(frozen=True, slots=True)
class PartReproduction:
    """A sub-dataset of a version that does not come out again.

    ``path`` is its place, ``dataset`` its name; ``stored`` and ``minted`` are None where there is
    none on that side.
    """

    path: str
    dataset: str
    stored: Ids | None
    minted: Ids | None
    differences: Differences | None


@dataclass(frozen=True, slots=True)
class Reproduction:
    """How a version fared that was minted again.

    ``status`` is ``ok`` (all that is promised is equal), ``error`` (something is not) or
    ``impossible`` (upstream no longer has the state); ``message`` says it in words. ``promised``
    names the ids that must be equal; ``stored`` and ``minted`` are those of the version itself,
    ``minted`` None where nothing could be minted. ``chain`` are the labels that were minted, oldest
    first; ``first`` is the first of them that differs, of which ``differences`` and ``parts`` (the
    first twenty that differ) tell; ``parts_compared`` counts sub-datasets.
    """

    dataset: str
    label: str
    kind: str
    status: str
    message: str
    promised: tuple[str, ...]
    stored: Ids
    minted: Ids | None = None
    chain: tuple[str, ...] = ()
    first: str | None = None
    differences: Differences | None = None
    parts: tuple[PartReproduction, ...] = ()
    parts_compared: int = 0

    @property
    def name(self) -> str:
        """``<mirror>:<local id>@<label>``."""
        return f"{self.dataset}@{self.label}"

    @property
    def exit_code(self) -> int:
        """0 where all that is promised is equal, else 1."""
        return 0 if self.status == "ok" else 1


def reproduce(
    row: VersionRow,
    store: Store,
    index: Index,
    mirror: Mirror,
    scratch: Path,
    progress: Progress = lambda told: None,
) -> Reproduction:
    """Mints a version again from upstream and compares it with what the store has.

    ``row`` is the version, as :meth:`Index.resolve` gives it; ``mirror`` the declared mirror of
    its name. ``scratch`` is an empty or missing folder for stores that are filled on the way and
    stay there; the caller removes it. Nothing is written to ``store`` or ``index``.

    Raises what the source raises where upstream cannot be read (NetError, ListingNotProven),
    StoreDamaged or ObjectMissing where the store cannot, and ConfigurationError where the mirror
    is of another archive than the version.
    """
    return _Reproducing(row, store, index, mirror, scratch, progress).run()


@dataclass(slots=True)
class _Compared:
    """A version beside the same minted again."""

    stored: Ids
    minted: Ids
    differences: Differences
    parts: list[PartReproduction] = field(default_factory=list)
    parts_compared: int = 0

    def equal(self, promised: Sequence[str]) -> bool:
        return all(getattr(self.stored, word) == getattr(self.minted, word) for word in promised)

    def told(self) -> str:
        """What differs, in words."""
        told = "; ".join(self.differences.sentences())
        for part in self.parts:
            inner = part.differences.sentences() if part.differences is not None else []
            if inner:
                return f"{told}; in {part.path}: {'; '.join(inner)}"
        return told


class _Reproducing:
    def __init__(
        self,
        row: VersionRow,
        store: Store,
        index: Index,
        mirror: Mirror,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self._row = row
        self._store = store
        self._index = index
        self._mirror = mirror
        self._scratch = scratch
        self._progress = progress
        self._dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        self._within = index.dataset(row.dataset_name).within

    def run(self) -> Reproduction:
        row = self._row
        stored = self._stored_ids(row)
        whole = Reproduction(
            dataset=row.dataset_name,
            label=row.label,
            kind=row.kind,
            status="impossible",
            message="",
            promised=_PUBLISHED if self._is_published() else _OBSERVED,
            stored=stored,
        )
        if self._within:
            around = " and ".join(self._index.holders(row.dataset_name)) or "other datasets"
            return replace(
                whole,
                message=f"it is a part of {around} and minted with it: reproduce a version of that",
            )
        source = self._mirror.open()
        self._check_archive(source)
        if is_private(self._store.root):
            source = private_view(source) or source
        try:
            hint = source.hint(self._dataset)
            versions = [] if hint.unavailable else source.versions(self._dataset)
        except DatasetNotFound as error:
            return replace(whole, message=f"the dataset is gone upstream: {error}")
        if hint.unavailable:
            return replace(whole, message=f"upstream does not show it now: {hint.unavailable}")
        if self._is_published():
            return self._published(whole, source, hint, versions)
        return self._observed(whole, source, hint, versions)

    def _is_published(self) -> bool:
        return self._row.kind == VersionKind.PUBLISHED.value

    def _check_archive(self, source: Source) -> None:
        try:
            named = source.dataset(self._row.local_id).source_uri
        except ValueError:
            named = None
        if named != self._row.source_uri:
            raise ConfigurationError(
                f"{self._mirror.path} names the archive {source.uri}, but {self._row.dataset_name} "
                f"in this store is {self._row.source_uri}; name the right --mirrors or --store"
            )

    # --- published versions

    def _published(
        self, whole: Reproduction, source: Source, hint: DatasetHint, versions: list[VersionRef]
    ) -> Reproduction:
        row = self._row
        listed = [one for one in versions if one.kind is VersionKind.PUBLISHED]
        names = [one.upstream for one in listed]
        if row.upstream not in names:
            return replace(whole, message=f"upstream no longer lists version {row.upstream}")
        chain = listed[: names.index(row.upstream) + 1]
        kept = [
            one
            for one in self._index.versions(row.dataset_name)
            if one.kind == row.kind and one.seq <= row.seq
        ]
        rows = {one.upstream: one for one in kept}
        first: tuple[str, str | _Compared] | None = None
        with self._again("published", hint) as again:
            for number, version in enumerate(chain):
                self._progress(
                    f"{row.dataset_name}@{version.upstream} ({number + 1} of {len(chain)})"
                )
                first = first or _other_history(number, chain, kept)
                known = rows.get(version.upstream)
                minted = again.mint(Narrowed(source, chain[: number + 1]), version)
                if known is not None:
                    last = self._compare(known, minted, again, _PUBLISHED)
                    if first is None and not last.equal(_PUBLISHED):
                        first = (known.label, last)
        whole = replace(
            whole,
            minted=last.minted,
            chain=tuple(one.upstream for one in chain),
            parts_compared=last.parts_compared,
        )
        if first is None:
            minted_too = f"; {len(chain)} versions were minted" if len(chain) > 1 else ""
            return replace(
                whole, status="ok", message=f"the same commit, tree and state digest{minted_too}"
            )
        label, found = first
        what = found if isinstance(found, str) else found.told()
        message = f"it differs: {what}"
        if label != row.label:
            same = last.equal(_OBSERVED)
            own = "its own tree and state digest are the same" if same else f"itself: {last.told()}"
            message = f"the history before it differs, first in {label}: {what}; {own}"
        whole = replace(whole, status="error", message=message, first=label)
        if isinstance(found, str):
            return whole
        return replace(whole, differences=found.differences, parts=tuple(found.parts))

    # --- observed states

    def _observed(
        self, whole: Reproduction, source: Source, hint: DatasetHint, versions: list[VersionRef]
    ) -> Reproduction:
        row = self._row
        observed = [one for one in versions if one.kind is VersionKind.OBSERVED]
        present = next((one for one in observed if one.upstream == row.upstream), None)
        found: tuple[_Compared, VersionRow] | None = None
        if present is not None:
            found = self._state(present, None, source, hint, "present")
            if found[0].equal(_OBSERVED):
                return _same(whole, found[0], "upstream's present state")
        earlier = self._earlier(source)
        for number, version in enumerate(earlier):
            compared, _ = self._state(
                replace(version, upstream=row.upstream), version, source, hint, f"earlier-{number}"
            )
            if compared.equal(_OBSERVED):
                return _same(whole, compared, f"upstream's earlier state {version.upstream!r}")
        tried = "upstream lists no earlier state that could be it"
        if earlier:
            tried = f"none of {len(earlier)} earlier states that upstream lists is it"
        if found is None or present is None:
            now = ", ".join(one.upstream for one in observed) or "nothing"
            message = f"upstream has moved on (to {now}), and {tried}"
            return replace(whole, message=message)
        compared, minted = found
        whole = replace(
            whole,
            minted=compared.minted,
            first=row.label,
            differences=compared.differences,
            parts=tuple(compared.parts),
            parts_compared=compared.parts_compared,
        )
        moved = _moved_on(row, minted, present, compared.differences) or self._followed_by(minted)
        if moved:
            message = f"upstream has moved on ({moved}), and {tried}; since then: {compared.told()}"
            return replace(whole, message=message)
        return replace(whole, status="error", message=f"it differs: {compared.told()}")

    def _followed_by(self, minted: VersionRow) -> str:
        """The younger version in the store that upstream's present state is; empty for none."""
        row = self._row
        for one in self._index.versions(row.dataset_name):
            same = (one.kind, one.tree, one.state) == (row.kind, minted.tree, minted.state)
            if same and one.seq > row.seq:
                return f"to {one.label}"
        return ""

    def _state(
        self,
        version: VersionRef,
        asked: VersionRef | None,
        source: Source,
        hint: DatasetHint,
        folder: str,
    ) -> tuple[_Compared, VersionRow]:
        """An observed state minted again beside the version, and its row."""
        name = (asked or version).upstream
        self._progress(f"{self._row.dataset_name}, state {name}")
        narrowed = Narrowed(source, [version], {version.upstream: asked} if asked else None)
        with self._again(folder, hint) as again:
            minted = again.mint(narrowed, version)
            return self._compare(self._row, minted, again, _OBSERVED), minted

    def _earlier(self, source: Source) -> list[VersionRef]:
        """Earlier states of upstream that may be the version, the likeliest first."""
        row = self._row
        states = source.history(self._dataset, None)
        named = [one for one in states if one.upstream == row.upstream]
        if named:
            return named
        # no file in it is younger than its time, and it was there when it was seen
        oldest, newest = (datetime.fromisoformat(one) for one in (row.time, row.minted))
        fitting = [
            one
            for one in states
            if one.time is not None and oldest <= one.time.replace(microsecond=0) <= newest
        ]
        return fitting[: -_TRIALS - 1 : -1]

    # --- both

    @contextmanager
    def _again(self, folder: str, hint: DatasetHint) -> Iterator[Again]:
        scratch = Store.open(self._scratch / folder, create=True)
        with recording(scratch, scratch.index_path) as recorder:
            yield Again(self._mirror, hint, scratch, recorder)

    def _stored_ids(self, row: VersionRow) -> Ids:
        """What git has under the version's name: the index is only a cache of it."""
        dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        repository = self._store.repository(dataset)
        commit = repository.refs().get(TAGS + row.label, row.commit)
        return _ids(repository, commit, row.state)

    def _compare(
        self, row: VersionRow, minted: VersionRow, again: Again, promised: Sequence[str]
    ) -> _Compared:
        stored = self._stored_ids(row)
        compared = _Compared(stored, Ids(minted.commit, minted.tree, minted.state), Differences())
        self._compare_parts(compared, row, minted, again)
        if not compared.equal(promised):
            compared.differences = self._differences(row, stored.commit, minted, again)
        return compared

    def _differences(
        self, row: VersionRow, commit: str, minted: VersionRow, again: Again
    ) -> Differences:
        dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        with again.store.scratch() as folder:
            return differences(
                Side(self._store.repository(dataset).path, commit, stored_lines(self._store, row)),
                Side(
                    again.store.repository(dataset).path,
                    minted.commit,
                    stored_lines(again.store, minted),
                ),
                folder,
            )

    def _compare_parts(
        self, compared: _Compared, row: VersionRow, minted: VersionRow, again: Again
    ) -> None:
        olds = {one.path: one for one in self._index.parts(row)}
        news = {one.path: one for one in again.parts(minted)}
        compared.parts_compared = len(olds.keys() | news.keys())
        for path in sorted(olds.keys() | news.keys()):
            old, new = olds.get(path), news.get(path)
            if (old and old.commit) == (new and new.commit):
                continue
            compared.parts.append(self._compare_part(path, old, new, again))
            if len(compared.parts) == NAMED:
                return

    def _compare_part(
        self, path: str, old: PartRow | None, new: PartRow | None, again: Again
    ) -> PartReproduction:
        before = None if old is None else self._index.resolve(old.dataset, old.commit)
        after = None if new is None else again.resolve(new.dataset, new.commit)
        found = None
        if before is not None and after is not None and before.source_uri == after.source_uri:
            found = self._differences(before, before.commit, after, again)
        one = old or new
        assert one is not None
        return PartReproduction(
            path,
            one.dataset,
            None if before is None else Ids(before.commit, before.tree, before.state),
            None if after is None else Ids(after.commit, after.tree, after.state),
            found,
        )


def _ids(repository: Repository, commit: str, state: str) -> Ids:
    with ObjectReader(repository.path) as reader:
        return Ids(commit, reader.commit_tree(commit).hex(), state)


def _other_history(
    number: int, chain: Sequence[VersionRef], kept: Sequence[VersionRow]
) -> tuple[str, str] | None:
    """Whether upstream and store differ in which version stands at a place in the chain.

    Gives the label and what is the matter with it.
    """
    listed = chain[number].upstream
    here = kept[number] if number < len(kept) else None
    if here is not None and here.upstream == listed:
        return None
    if here is not None and here.upstream not in {one.upstream for one in chain}:
        return here.label, "upstream no longer lists it"
    return listed, "upstream lists it at this place, and the store does not"


def _same(whole: Reproduction, compared: _Compared, what: str) -> Reproduction:
    return replace(
        whole,
        status="ok",
        message=f"the same tree and state digest as {what}; of an observed state no more is "
        "promised",
        minted=compared.minted,
        parts_compared=compared.parts_compared,
    )


def _moved_on(row: VersionRow, minted: VersionRow, present: VersionRef, found: Differences) -> str:
    """How one can tell that upstream has another state now; empty where nothing says so."""
    if minted.upstream_time is None and row.upstream_time is None:
        return f"to {minted.label}; it gives no times" if minted.state != row.state else ""
    if minted.time != row.time:
        return f"its state is of {minted.time}, this version of {row.time}"
    if found.added or found.other_bytes or found.documents or found.links:
        return ""
    # what follows comes without a new time
    if found.removed:
        return "" if present.time is not None else "files were deleted"
    if found.parts:
        return "sub-datasets have changed"
    return "it tells other checksums of the files" if found.other_checksums else ""
