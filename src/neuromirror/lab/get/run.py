"""``get``: the chosen files of a clone, and of its sub-datasets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Final

from neuromirror.annex import parse_key
from neuromirror.lab.get.by_git_annex import Left, get_by_git_annex
from neuromirror.lab.get.checks import check_for, is_secure
from neuromirror.lab.get.clone import Clone, NotAClone
from neuromirror.lab.get.crew import Crew, Sessions
from neuromirror.lab.get.fetching import Fetched, Task, shown
from neuromirror.lab.get.listing import AnnexedFile, Listing, Selection, Subdataset
from neuromirror.lab.get.logs import AnnexBranch, KeyLogs, Objects
from neuromirror.lab.get.objects import ObjectStore
from neuromirror.lab.get.places import Places, Remotes
from neuromirror.lab.get.programs import check_absorbed
from neuromirror.lab.get.records import Intentions, Recorder
from neuromirror.lab.get.subdatasets import install, is_installed
from neuromirror.lab.git import GitFailed
from neuromirror.lab.results import Outcome, Status
from neuromirror.model import Evidence, NeuromirrorError, text
from neuromirror.net import never_asked
from neuromirror.store import refuse_symlinks

JOBS: Final = 32
"""Connections, if nothing else is asked for."""

_FIRST: Final = 256
_BATCH: Final = 2000
"""Files whose places are looked up together; few at first, so that connections soon have work."""

_AHEAD: Final = 1000
_ETAG_BACKEND: Final = "git-annex-backend-XS3ETAG"

Progress = Callable[[int, int], None]
"""Is told how many bytes have come, and how many are known to be wanted."""


def get(
    dataset: Path,
    paths: Sequence[str | Path] | None = None,
    *,
    recursive: bool = False,
    jobs: int = JOBS,
    trust_config: bool = False,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Gets files of the clone that ``dataset`` is in; yields one outcome a file.

    ``paths`` are relative to the top of the clone, or absolute; None is all of it. Sub-datasets
    that are named are got too, all others with ``recursive``; what is not installed, DataLad
    installs. At most ``jobs`` files are fetched at a time. A repository whose own configuration
    or hooks name programs is refused, unless ``trust_config``.

    A file is ``notneeded`` where its content is here, ``ok`` where it was had and is what its key
    says, ``error`` where it was not, with each place's reason, and ``impossible`` where nobody
    knows a place or there is no such file. Breaking off at any time leaves the clone whole, and
    what was had is told to git-annex. Raises NotAClone, RepositoryRefused, ConfigurationError and
    GitFailed.
    """
    meter = _Meter(progress)
    clone = Clone.at(Path(dataset), trust_config=trust_config)
    how = _How(recursive, jobs, trust_config)
    yield from _Run(clone, paths, "", how, meter).outcomes()


class _Meter:
    """Adds up bytes that have come and are wanted, over all sub-datasets."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._come = 0
        self._wanted = 0
        self._arrived: dict[str, int] = {}

    def want(self, size: int | None) -> None:
        self._wanted += size or 0

    def arrived(self, key: str, more: int) -> None:
        self._arrived[key] = self._arrived.get(key, 0) + more
        self._come += more
        self._tell()

    def failed(self, key: str) -> None:
        """Nothing of it is of use, as yet."""
        self._come -= self._arrived.pop(key, 0)

    def give_up(self, key: str, size: int | None) -> None:
        self.failed(key)
        self._wanted -= size or 0
        self._tell()

    def done(self, key: str, size: int | None, seen: int) -> None:
        self._come += seen - self._arrived.pop(key, 0)
        if size is None:
            self._wanted += seen
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._come, max(self._wanted, self._come))


@dataclass(slots=True)
class _Wanted:
    """A content that is wanted: the paths that have it, and what is known of it."""

    paths: list[bytes]
    size: int | None
    logs: KeyLogs = field(default_factory=KeyLogs)
    places: Places = field(default_factory=Places)


@dataclass(frozen=True, slots=True)
class _How:
    """The options of :func:`get`."""

    recursive: bool
    jobs: int
    trust_config: bool


class _Run:
    """One clone's files; ``prefix`` is where it is in the one that was asked for."""

    def __init__(
        self,
        clone: Clone,
        paths: Sequence[str | Path] | None,
        prefix: str,
        how: _How,
        meter: _Meter,
    ) -> None:
        self._clone = clone
        self._selection = Selection(clone.top, paths)
        self._prefix = prefix
        self._how = how
        self._meter = meter
        self._wanted: dict[str, _Wanted] = {}
        self._left: list[Left] = []

    def outcomes(self) -> Iterator[Outcome]:
        """All of them."""
        with ExitStack() as stack:
            objects = stack.enter_context(Objects(self._clone.git_dir))
            listing = Listing(self._clone, self._selection, objects)
            if not self._clone.is_annexed:
                yield from self._without_annex(listing)
            elif self._clone.left is None:
                yield from self._fetch(listing, objects, stack)
            else:
                for file in listing.files():
                    yield from self._look_at(file, listing, [])
        yield from self._by_git_annex()
        for path in listing.strange:
            why = "its key is not one that is understood here; try 'git annex get'"
            yield self._failed("impossible", path, why)
        for path in listing.elsewhere:
            why = "its link leads into another repository, whose content nobody checked"
            yield self._failed("impossible", path, why)
        yield from self._in_subdatasets(listing.subdatasets)
        for path in self._selection.unfound():
            yield self._failed("impossible", path, "git knows no file of this name here")

    def _without_annex(self, listing: Listing) -> Iterator[Outcome]:
        """What is to be said of a repository that git-annex knows nothing of.

        Its sub-datasets can be got. Raises NotAClone where there are none.
        """
        why = "the repository has no git-annex branch, here or at its remotes"
        files = [file.path for file in listing.files()]
        if not listing.subdatasets:
            raise NotAClone(f"{self._clone.top}: {why}, so that nothing of it can be got")
        for path in files:
            yield self._failed("impossible", path, why)

    def _fetch(self, listing: Listing, objects: Objects, stack: ExitStack) -> Iterator[Outcome]:
        """Fetches what is to be fetched here; what is not, is in ``_left`` afterwards."""
        clone = self._clone
        commit = clone.branch()
        if commit is None:
            raise GitFailed(f"{clone.top} has no git-annex branch; run 'git annex init' in it")
        branch = AnnexBranch(objects, commit, clone.annex)
        remotes = Remotes(clone.settings, branch)
        store = stack.enter_context(ObjectStore(clone))
        intentions = stack.enter_context(Intentions(clone))
        recorder = Recorder(clone, commit, intentions)
        recorder.take_over(store, branch)
        sessions = stack.enter_context(Sessions(clone.settings, self._how.jobs))
        crew = Crew(sessions, clone.settings, store, self._how.jobs, intentions.add)
        try:
            yield from self._feed(crew, recorder, listing, branch, remotes)
        finally:
            for fetched in crew.stop():
                self._record(fetched, recorder)
            recorder.tell()

    def _feed(
        self,
        crew: Crew,
        recorder: Recorder,
        listing: Listing,
        branch: AnnexBranch,
        remotes: Remotes,
    ) -> Iterator[Outcome]:
        files = listing.files()
        fetching: set[str] = set()
        batch = _FIRST
        exhausted = False
        while fetching or not exhausted:
            if not exhausted and len(fetching) < _AHEAD:
                some = list(islice(files, batch))
                exhausted = len(some) < batch
                batch = _BATCH
                yield from self._enqueue(some, fetching, crew, listing, branch, remotes)
                continue
            for found in crew.take():
                if isinstance(found, Fetched):
                    fetching.discard(found.task.key)
                    self._record(found, recorder)
                    yield from self._came(found)
                else:
                    self._meter.arrived(*found)
            if recorder.is_due:
                recorder.tell()

    def _enqueue(
        self,
        files: Sequence[AnnexedFile],
        fetching: set[str],
        crew: Crew,
        listing: Listing,
        branch: AnnexBranch,
        remotes: Remotes,
    ) -> Iterator[Outcome]:
        """Looks up where files can be had, and has them fetched."""
        new: list[str] = []
        for file in files:
            yield from self._look_at(file, listing, new)
        for key, logs in branch.logs(new).items():
            wanted = self._wanted[key]
            wanted.logs, wanted.places = logs, remotes.places(logs)
            places = wanted.places
            if (never := next(filter(None, map(never_asked, places.urls)), None)) is not None:
                # nor is git-annex to ask, which knows few of these addresses
                why = f"one of its URLs is that of {never}, which is never asked"
                yield from self._not_had("error", key, why)
            elif not self._is_spoken(key, places):
                self._left.append(Left(wanted.paths[0], key))
            elif places.urls:
                fetching.add(key)
                crew.put(Task(key, wanted.size, places.urls, places.equivalent))
            else:
                why = "no place is known where it could be had" + _elsewhere(places)
                yield from self._not_had("impossible", key, why)

    def _look_at(self, file: AnnexedFile, listing: Listing, new: list[str]) -> Iterator[Outcome]:
        """Takes in a file that is wanted; yields an outcome for one whose content is here.

        Keys of which it has to be looked up where they are go into ``new``.
        """
        key, path = file.key, file.path
        if key in self._wanted:
            self._wanted[key].paths.append(path)
            return
        size = parse_key(key).size
        if self._clone.present(key) is not None:
            yield Outcome("get", "notneeded", self._name(path), key=key, size=size)
            return
        self._wanted[key] = _Wanted([path], size)
        self._meter.want(size)
        if self._clone.left is not None or file.unlocked or key in listing.pointers:
            self._left.append(Left(path, key))
        else:
            new.append(key)

    def _is_spoken(self, key: str, places: Places) -> bool:
        """Whether a key's content is to be fetched here at all, or by git-annex."""
        if self._clone.settings.is_true("annex.securehashesonly") and not is_secure(key):
            return False
        if places.cheaper or (places.others and not places.urls):
            return False
        return check_for(key, places.equivalent) is not None

    def _record(self, found: Fetched, recorder: Recorder) -> None:
        if found.check is not None:
            recorder.add(found.task.key, self._wanted[found.task.key].logs, found.learnt)

    def _came(self, found: Fetched) -> Iterator[Outcome]:
        """What a task gave, as outcomes; or it is left to git-annex."""
        key = found.task.key
        wanted = self._wanted[key]
        if found.check is not None:
            del self._wanted[key]
            self._meter.done(key, wanted.size, found.check.seen)
            for path in wanted.paths:
                yield Outcome(
                    *("get", "ok", self._name(path)),
                    key=key,
                    size=found.check.seen,
                    evidence=found.check.evidence,
                    checked=None if found.check.evidence is Evidence.NONE else "checked",
                    url=None if found.url is None else shown(found.url),
                )
        elif wanted.places.others or (found.refused and self._clone.settings.allowed_addresses):
            # git-annex resolves names before it looks whether their addresses are allowed
            self._meter.failed(key)
            self._left.append(Left(wanted.paths[0], key, found.faults))
        else:
            why = "; ".join(found.faults) + _elsewhere(wanted.places)
            yield from self._not_had("error", key, why, found.host)

    def _by_git_annex(self) -> Iterator[Outcome]:
        """Has git-annex get what was left to it."""
        came = get_by_git_annex(self._clone, self._left, self._how.jobs, self._meter.arrived)
        for left, fault in came:
            if fault is not None:
                yield from self._not_had("error", left.key, "; ".join([*left.faults, fault]))
                continue
            wanted = self._wanted.pop(left.key)
            self._meter.done(left.key, wanted.size, wanted.size or 0)
            evidence = self._checked_by_git_annex(left.key)
            for path in wanted.paths:
                yield Outcome(
                    *("get", "ok", self._name(path), "by git-annex"),
                    key=left.key,
                    size=wanted.size,
                    evidence=evidence,
                    checked=None if evidence is None else "checked",
                )

    def _checked_by_git_annex(self, key: str) -> Evidence | None:
        """What git-annex has checked of a content that it got, as far as that is sure."""
        check = check_for(key)
        if check is None or not check.hashes or not self._clone.settings.verifies:
            return None
        if check.evidence is Evidence.ETAG and shutil.which(_ETAG_BACKEND) is None:
            return None
        return check.evidence

    def _in_subdatasets(self, found: Sequence[Subdataset]) -> Iterator[Outcome]:
        chosen = [sub for sub in found if sub.named or self._how.recursive]
        missing = [sub.path for sub in chosen if not is_installed(self._clone.top, sub.path)]
        if missing and not self._how.trust_config:
            check_absorbed(self._clone.top, self._clone.git_dir)
        failed = install(self._clone.top, missing) if missing else {}
        for sub in chosen:
            if sub.path in failed:
                yield self._failed("impossible", sub.path, failed[sub.path])
                continue
            try:
                refuse_symlinks(self._clone.top, os.fsdecode(sub.path))
                clone = Clone.of_subdataset(
                    self._clone.top / os.fsdecode(sub.path), trust_config=self._how.trust_config
                )
                run = _Run(
                    clone,
                    None if sub.paths is None else [os.fsdecode(path) for path in sub.paths],
                    self._name(sub.path) + "/",
                    self._how,
                    self._meter,
                )
                yield from run.outcomes()
            except (NeuromirrorError, OSError) as error:
                yield self._failed("error", sub.path, str(error))

    def _not_had(
        self, status: Status, key: str, why: str, host: str | None = None
    ) -> Iterator[Outcome]:
        wanted = self._wanted.pop(key)
        self._meter.give_up(key, wanted.size)
        for path in wanted.paths:
            yield replace(self._failed(status, path, why, key, wanted.size), host=host)

    def _failed(
        self, status: Status, path: bytes, why: str, key: str | None = None, size: int | None = None
    ) -> Outcome:
        return Outcome("get", status, self._name(path), why, key=key, size=size)

    def _name(self, path: bytes) -> str:
        return self._prefix + text(path)


def _elsewhere(places: Places) -> str:
    if not places.elsewhere:
        return ""
    return (
        f" (it is also said to be at {', '.join(places.elsewhere)}, no remote here; "
        "'git annex enableremote' sets up one that you trust)"
    )
