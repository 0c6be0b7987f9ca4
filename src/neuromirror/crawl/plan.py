"""Plan a run: requests, options, the datasets to visit, and their results."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import PurePath
from traceback import walk_tb
from types import FrameType
from typing import Any, Final, Protocol, runtime_checkable

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.config.mirror_files import (
    Mirror,
    MirrorFile,
    find_mirror,
    include_named,
    is_builtin,
)
from neuromirror.crawl.recorder import Recorder
from neuromirror.git import ObjectMissingError
from neuromirror.index import (
    CrawlIndex,
    IndexBusyError,
    IndexDamagedError,
    IndexMissingError,
    IndexUnusableError,
    LastVisit,
    Tombstone,
    UnknownDatasetError,
    UnknownMirrorError,
    VersionRow,
)
from neuromirror.model import (
    ConfigurationError,
    DatasetHint,
    DatasetRef,
    NeuromirrorError,
    Traffic,
    VersionKind,
)
from neuromirror.model.programs import missing_program_message
from neuromirror.net import (
    CredentialsError,
    HttpError,
    ListingTooLongError,
    NetError,
    TrafficCounter,
    UnreachableError,
    count_traffic,
    redact,
)
from neuromirror.sources import DatasetNotFoundError, Estimate, Source
from neuromirror.store import Repository, Store

RELEASED = "released"
"""Reason for a visit: a hold on the dataset was released since its last visit."""
OPENED = "opened upstream"
"""Reason for a visit: the dataset has to be moved from the private store."""


class DatasetTask(Struct, frozen=True):
    """A dataset and what the run does with it.

    Attributes
    ----------
    hint
        The dataset's entry in the overview, which is the archive's list of its datasets.
    action
        ``visit``, ``skip``, ``held``, ``unavailable`` or ``refused``.
    reason
        The reason for the action, as text for people.
    last_visit
        How the last visit ended; None before the first visit.
    pending_only
        Whether the visit is due only because items were pending upstream at the last visit.
    """

    hint: DatasetHint
    action: str
    reason: str
    last_visit: LastVisit | None = None
    pending_only: bool = False


def _plan_dataset(
    hint: DatasetHint, last: LastVisit | None, *, is_held: bool, deep: bool, history: bool
) -> tuple[str, str]:
    """Decide whether a run visits a dataset; return the action and its reason."""
    if hint.unavailable is not None:
        return "unavailable", hint.unavailable
    if last is None:
        return "visit", "new"
    if deep or history:
        return "visit", "deep visit" if deep else "looking for earlier states"
    if last.status == "waiting":
        return "visit", "still changing at the last visit"
    if hint.fingerprint is None:
        return "visit", "only a visit can detect changes"
    if last.fingerprint != hint.fingerprint:
        return "visit", "changed upstream"
    if last.status == "held":
        if is_held:
            return "held", "held for approval; see 'neuromirror holds'"
        return "visit", RELEASED
    if last.status != "full":
        return "visit", f"last visit: {last.status}"
    return "skip", "unchanged"


def takedown_message(tombstone: Tombstone) -> str:
    """Return the message for a dataset that the operator took down."""
    return f"taken down on {tombstone.at[:10]}: {tombstone.reason}"


def pending_files_text(count: int) -> str:
    """Return ``1 file without checksum yet`` or ``<count> files without checksum yet``."""
    return f"{'1 file' if count == 1 else f'{count} files'} without checksum yet"


_REQUESTS_PER_DATASET: Final = 10
"""Limit of requests for an overview, per permitted dataset; the sources need one to three."""


class SyncRequest(Struct, frozen=True):
    """A request to sync a mirror or one of its datasets.

    Attributes
    ----------
    mirror
        The mirror.
    local_id
        The local id of the dataset; None for all datasets.
    hint
        The dataset's entry of an overview that was read before, if there is one.
    """

    mirror: Mirror
    local_id: str | None
    hint: DatasetHint | None = None

    @property
    def name(self) -> str:
        """The name of the mirror or of the dataset."""
        name = self.mirror.name
        return name if self.local_id is None else f"{name}:{self.local_id}"


def parse_sync_requests(names: Sequence[str], mirrors: dict[str, Mirror]) -> list[SyncRequest]:
    """Parse names such as ``dandi`` and ``dandi:000027``; no names request all mirrors.

    Parameters
    ----------
    names
        The names; empty for all mirrors.
    mirrors
        The configured mirrors, by name.

    Returns
    -------
    list[SyncRequest]
        One request per mirror or dataset, without duplicates.

    Raises
    ------
    ConfigurationError
        For an unknown mirror, invalid options of a requested mirror, or a malformed name; before
        any request is made and before anything is written.
    """
    requests: dict[tuple[str, str | None], SyncRequest] = {}
    mirrors = include_named(mirrors, names)
    for mirror in () if names else mirrors.values():
        requests[mirror.name, None] = SyncRequest(mirror, None)
    for name in names:
        mirror_name, colon, local_id = name.partition(":")
        mirror = find_mirror(mirrors, mirror_name)
        if colon and not local_id:
            raise ConfigurationError(f"'{name}' has no dataset id; write {mirror_name}:ID")
        if "@" in local_id:
            raise ConfigurationError(
                f"'{name}' is a version; sync takes datasets: {name.partition('@')[0]}"
            )
        request = SyncRequest(mirror, local_id or None)
        requests[mirror_name, request.local_id] = request
    for request in requests.values():
        source = request.mirror.open()
        if request.local_id is not None:
            _dataset(source, request.local_id)
    return list(requests.values())


def _dataset(source: Source, local_id: str) -> DatasetRef:
    try:
        return source.dataset(local_id)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _read_overview(source: Source, mirror: Mirror) -> dict[str, DatasetHint]:
    """Return all datasets that the archive lists, by local id.

    Raises
    ------
    ListingTooLongError
        If there are more than the mirror file permits.
    """
    limit = mirror.settings.listing.max_datasets
    hints: dict[str, DatasetHint] = {}
    with count_traffic(_OverviewLimit(mirror, source.uri)):
        for hint in source.datasets():
            hints[hint.dataset.local_id] = hint
            if len(hints) > limit:
                raise ListingTooLongError(
                    f"{mirror.name}: the archive lists more than {limit} datasets; none was "
                    "visited. If the number is correct, raise max_datasets in [listing] of "
                    f"{mirror.path}",
                    url=source.uri,
                )
    return hints


class _OverviewLimit(TrafficCounter):
    """Counts the requests for an archive's overview and stops one that takes too many."""

    def __init__(self, mirror: Mirror, uri: str) -> None:
        super().__init__()
        self._mirror = mirror
        self._uri = uri
        self._requests = 0
        self._since = time.monotonic()

    def add(self, host: str, more: Traffic) -> None:
        """Add to the counts; raise ListingTooLongError beyond the mirror's limits."""
        super().add(host, more)
        self._requests += more.requests
        limits = self._mirror.settings.listing
        requests = _REQUESTS_PER_DATASET * limits.max_datasets
        if self._requests > requests:
            reason, option = f"takes more than {requests} requests", "max_datasets"
        elif time.monotonic() - self._since > 3600 * limits.max_hours:
            reason, option = f"takes more than {limits.max_hours:g} hours", "max_hours"
        else:
            return
        raise ListingTooLongError(
            f"{self._mirror.name}: the archive's overview {reason}; no dataset was visited. If the "
            f"archive is that large, raise {option} in [listing] of {self._mirror.path}",
            url=self._uri,
        )


@runtime_checkable
class PartiallyListedSource(Protocol):
    """A source whose archive has datasets that its list of datasets does not show."""

    def is_listed(self, dataset: DatasetRef) -> bool:
        """Return whether the list of all datasets includes this one."""
        ...


def plan(
    request: SyncRequest,
    source: Source,
    index: CrawlIndex | None,
    in_private_store: Container[DatasetRef] = (),
    *,
    deep: bool = False,
    history: bool = False,
) -> tuple[list[DatasetTask], list[str]]:
    """Return the tasks of a request, and the local ids that the archive no longer lists.

    ``index`` is None for a store without one. If the run is ``deep``, or looks for the ``history``,
    all datasets are visited even if the overview reports no change, as is each dataset
    ``in_private_store``, because it has to be moved.

    Raises
    ------
    ConfigurationError
        If the store has the mirror's name for another archive, or the requested dataset is a
        component of another dataset.
    NeuromirrorError
        Whatever the source raises.
    """
    known: dict[str, LastVisit] = {}
    held: frozenset[str] = frozenset()
    released: frozenset[str] = frozenset()
    takedowns: dict[str, str] = {}
    if index is not None:
        _check_archive(index, request.mirror, source)
        known = index.crawl.last_visits(request.mirror.name)
        held = frozenset(hold.dataset for hold in index.crawl.open_holds())
        released = index.crawl.released_datasets()
        takedowns = takedown_messages(index, request.mirror.name)
    if request.local_id is None:
        hints = _read_overview(source, request.mirror)
    else:
        dataset = _dataset(source, request.local_id)
        if request.local_id in takedowns:
            hint = DatasetHint(dataset, None)
            return [DatasetTask(hint, "skip", takedowns[request.local_id])], []
        if index is not None:
            _check_standalone(index, dataset)
        try:
            hints = {request.local_id: request.hint or source.hint(dataset)}
        except DatasetNotFoundError:
            if request.local_id in known:
                return [], [request.local_id]
            raise
    if index is not None:
        _check_other_mirrors(index, request.mirror, hints.values())
    tasks: list[DatasetTask] = []
    for local_id, hint in hints.items():
        last, name, pending_only = known.get(local_id), hint.dataset.name, False
        action, reason = _plan_dataset(hint, last, is_held=name in held, deep=deep, history=history)
        if local_id in takedowns:
            action, reason = "skip", takedowns[local_id]
        elif hint.unavailable is None and hint.dataset in in_private_store:
            action, reason = "visit", OPENED
        elif hint.unavailable is None and last is not None and name in released:
            action, reason = "visit", RELEASED
        elif action == "skip" and last is not None and last.pending:
            action, reason, pending_only = "visit", pending_files_text(last.pending), True
        tasks.append(DatasetTask(hint, action, reason, last, pending_only))
    tasks = _refuse_shared_ids(index, request.mirror.name, tasks)
    if request.local_id is not None or index is None:
        return tasks, []
    vanished_ids = sorted(
        local_id
        for local_id, last in known.items()
        if last.status != "not_found" and local_id not in hints and local_id not in takedowns
    )
    if isinstance(source, PartiallyListedSource):
        vanished = [resolve_vanished(source, local_id, index) for local_id in vanished_ids]
        vanished_ids = [
            dataset.local_id
            for dataset, refusal in vanished
            if refusal or source.is_listed(dataset)
        ]
    return tasks, vanished_ids


def _check_archive(index: CrawlIndex, mirror: Mirror, source: Source) -> None:
    """Raise ConfigurationError if the mirror's name belongs to another archive in this store.

    Local ids do not identify the archive, so the datasets of both would be mixed.
    """
    for status in index.crawl.mirrors():
        if status.mirror == mirror.name and status.uri not in ("", source.uri):
            raise ConfigurationError(
                f"{mirror.path}: the archive is {source.uri}, but in this store the mirror "
                f"'{mirror.name}' has the archive {status.uri}; rename the file, or use another "
                "--store"
            )


def _check_other_mirrors(index: CrawlIndex, mirror: Mirror, hints: Iterable[DatasetHint]) -> None:
    """Raise ConfigurationError if another mirror has one of the datasets.

    Both would write to the same repository.
    """
    others = index.datasets.names_in_other_mirrors(mirror.name)
    for hint in hints if others else ():
        other = others.get(hint.dataset.source_uri)
        if other is not None:
            raise ConfigurationError(
                f"{mirror.path}: {hint.dataset.name} is already mirrored in this store as "
                f"{other}; remove one of the two configuration files, or use another --store "
                "for it"
            )


def _refuse_shared_ids(
    index: CrawlIndex | None, mirror: str, tasks: list[DatasetTask]
) -> list[DatasetTask]:
    """Refuse datasets whose dataset id belongs to another local id, also a withdrawn one.

    Both would write to the same repository.
    """
    ids = [task.hint.dataset.dataset_id for task in tasks]
    owners = {} if index is None else index.datasets.local_ids_with_versions(mirror, ids)
    checked = []
    for task, dataset_id in zip(tasks, ids, strict=True):
        dataset = task.hint.dataset
        owner = dataset.local_id
        if task.action == "visit":
            owner = owners.setdefault(dataset_id, dataset.local_id)
        if owner != dataset.local_id:
            reason = (
                f"its source URI {dataset.source_uri} is that of {mirror}:{owner}, so that "
                "both would have one repository; the source must return another source_uri "
                f"for each dataset. 'neuromirror takedown {dataset.name} --reason TEXT' "
                "hides this one"
            )
            checked.append(replace(task, action="refused", reason=reason))
        else:
            checked.append(task)
    return checked


def _check_standalone(index: CrawlIndex, dataset: DatasetRef) -> None:
    try:
        within = index.datasets.get(dataset.name).within
        holders = index.datasets.superdatasets(dataset.name)
    except (UnknownDatasetError, UnknownMirrorError):
        return
    if within:
        around = " and ".join(holders) or "another dataset"
        raise ConfigurationError(
            f"{dataset.name} is a component of {around}; sync that dataset instead"
        )


def resolve_vanished(source: Source, local_id: str, index: CrawlIndex) -> tuple[DatasetRef, str]:
    """Return an unlisted dataset of the index, and why the source refuses its local id.

    The reason is empty if the source accepts the local id.
    """
    try:
        return source.dataset(local_id), ""
    except ValueError as error:
        row = index.datasets.get(f"{source.mirror}:{local_id}")
        dataset = row.dataset_ref
        return dataset, (
            f"the source refuses the id: {error}. The mirrored copy is kept; correct the source, "
            f"or withdraw the dataset with 'neuromirror takedown {row.name} --reason TEXT'"
        )


def takedown_messages(index: CrawlIndex, mirror: str) -> dict[str, str]:
    """Return the messages for the mirror's datasets that were taken down, by local id."""
    return {
        tombstone.dataset.partition(":")[2]: takedown_message(tombstone)
        for tombstone in index.datasets.tombstones(mirror)
    }


class PluginSource(Struct, frozen=True):
    """A source that is not one of neuromirror's own.

    Attributes
    ----------
    name
        The source's name, as in the mirror file.
    module
        The module of its class.
    """

    name: str
    module: str


def find_plugin(name: str, source: Source) -> PluginSource | None:
    """Return the plugin to which a source belongs; None for one of neuromirror's own.

    Parameters
    ----------
    name
        The source's name, as in the mirror file.
    source
        The source.
    """
    module = type(source).__module__
    return None if _package(module) == "neuromirror" else PluginSource(name, module)


def describe_unexpected(error: BaseException, plugin: PluginSource | None = None) -> str:
    """Return an unexpected error as one line for a message, without secrets.

    Parameters
    ----------
    error
        The error. Its innermost frame is named by file and line, without folders.
    plugin
        The plugin that was in use, which is then named as the origin of the error.
    """
    text = f"unexpected {type(error).__name__}: {error}"
    positions = [*walk_tb(error.__traceback__)]
    in_plugin = [
        (frame, line)
        for frame, line in positions
        if plugin is not None
        and _package(str(frame.f_globals.get("__name__"))) == _package(plugin.module)
    ]
    if positions:
        text += f" in {_position(*positions[-1])}"
    if in_plugin and in_plugin[-1] != positions[-1]:
        text += f", called from {_position(*in_plugin[-1])}"
    if plugin is None:
        return redact(f"{text}; please report this")
    source = f"the source {plugin.name!r} of {plugin.module}"
    if not in_plugin:
        return redact(f"{text}; check the values that {source} returned")
    return redact(f"{text}; the error is in {source}")


def _position(frame: FrameType, line: int) -> str:
    return f"{PurePath(frame.f_code.co_filename).name}, line {line}"


def _package(module: str) -> str:
    return module.partition(".")[0]


class VisitOutcome(Struct):
    """The versions that a visit published, and the problems it found.

    Attributes
    ----------
    new_labels
        Labels of the new versions.
    hold_messages
        Messages about listings that are held for approval.
    incidents
        Messages about incidents that make the run fail: new incidents, and older ones that persist
        and need a decision by an operator.
    known_incidents
        Messages about incidents with published versions that an earlier visit already recorded.
        They are reported again, but do not make the run fail.
    problems
        Messages about components and files that could not be mirrored as they are upstream.
    waiting_reason
        The reason why a new dataset, or a new state, was not mirrored yet, or an empty text.
    pending_files
        Number of files without sha256, and of components without checksum, for which upstream
        will compute one.
    unfinished_components
        Local ids of the components that are still being written upstream, in any version.
    refused_count, archived_count
        Number of objects that upstream refuses to serve, or must restore first.
    exception_count
        Number of entries that are listed upstream but not mirrored.
    earlier_state_count
        Number of earlier states that upstream listed.
    new_component_states
        Number of new states of components.
    comparison_scope
        The part of the dataset that was compared; empty if all of it was.
    """

    new_labels: list[str] = field(default_factory=list)
    hold_messages: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    known_incidents: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    waiting_reason: str = ""
    pending_files: int = 0
    unfinished_components: frozenset[str] = frozenset()
    refused_count: int = 0
    archived_count: int = 0
    exception_count: int = 0
    earlier_state_count: int = 0
    new_component_states: int = 0
    comparison_scope: str = ""


class Visit(Struct, frozen=True):
    """A visit of one dataset or component, which each of its steps takes as the first argument.

    The caller holds the dataset's lock.

    Attributes
    ----------
    source, store, recorder
        The mirror's source, and the store with its recorder.
    settings
        The mirror file.
    dataset
        The dataset.
    deep
        Do not trust upstream's own version names and checksums.
    history
        First publish the earlier states that upstream can still list.
    within
        For a component, the local id of the dataset that contains it; empty for any other dataset.
    outcome
        What the visit did, for its result; the versions in it stay after a failure.
    component_visits
        Components that were visited, by local id and upstream's name of the state: several versions
        of a dataset may have the same state of a component.
    """

    source: Source
    store: Store
    recorder: Recorder
    settings: MirrorFile
    dataset: DatasetRef
    deep: bool = False
    history: bool = False
    within: str = ""
    outcome: VisitOutcome = field(default_factory=VisitOutcome)
    component_visits: dict[tuple[str, str], Any] = field(default_factory=dict)

    @property
    def repository(self) -> Repository:
        """The dataset's repository, which may not exist yet."""
        return self.store.repositories.of(self.dataset)

    def versions(self) -> list[VersionRow]:
        """Return the dataset's versions in the order of minting."""
        return self.recorder.ask(lambda index: dataset_versions(index, self.dataset.name))

    def last_observed(self) -> VersionRow | None:
        """Return the version at ``main``; None if nothing was observed yet."""
        name, kind = self.dataset.name, VersionKind.OBSERVED.value
        return self.recorder.ask(lambda index: index.versions.last(name, kind))

    def published_version(self, upstream: str) -> VersionRow | None:
        """Return the minted version that upstream published under a name; None without one."""
        name = self.dataset.name
        return self.recorder.ask(lambda index: index.versions.published(name, upstream))


def dataset_versions(index: CrawlIndex, name: str) -> list[VersionRow]:
    """Return the versions of a dataset in the order of minting; empty for an unknown dataset.

    With an unknown name the index would search for similar names.
    """
    return [] if index.versions.last(name) is None else list(index.versions.of(name))


_MAX_PROBLEMS = 5
"""Problems that a message names one by one."""
_S3_CODE = re.compile(r"[A-Za-z]{1,50}")
_HEAD_LENGTH, _TAIL_LENGTH = 5000, 1000
"""Maximum length of a failure's message, which may quote any amount of upstream text."""


class Result(Struct, frozen=True):
    """The result for one dataset or mirror, in DataLad's terms.

    Attributes
    ----------
    dataset
        The name of the dataset or mirror.
    status
        ``ok``, ``notneeded``, ``impossible`` or ``error``.
    message
        Text for people.
    visit
        ``full``, ``partial``, ``held``, ``waiting``, ``not_found``, ``failed`` or ``unavailable``;
        empty if there was no visit.
    versions
        Labels of the new versions.
    traffic
        The visit's requests and bytes, by host.
    estimate
        In a dry run, the size of a first visit.
    refused_count
        Number of files that upstream lists and refuses to return.
    cause
        The cause of a failure, without names of files, keys or URLs; empty if unknown.
    local_fault
        Whether this machine caused the failure, e.g. its full disk, and not archive or dataset.
    """

    dataset: str
    status: str
    message: str
    visit: str = ""
    versions: tuple[str, ...] = ()
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    estimate: Estimate | None = None
    refused_count: int = 0
    cause: str = ""
    local_fault: bool = False

    @property
    def exit_code(self) -> int:
        """The exit code for this result: 0, 1, or 3 for a held listing."""
        if self.visit == "held":
            return 3
        return 0 if self.status in ("ok", "notneeded") else 1


def result_from_outcome(dataset: DatasetRef, outcome: VisitOutcome) -> Result:
    """Return the result to report for a visit that finished, from its outcome."""
    versions = tuple(outcome.new_labels)
    new = f"new: {', '.join(versions)}"
    problems = outcome.problems[:_MAX_PROBLEMS]
    if len(outcome.problems) > _MAX_PROBLEMS:
        problems.append(f"and {len(outcome.problems) - _MAX_PROBLEMS} more problems")
    messages = "; ".join([*outcome.incidents, *outcome.hold_messages, *problems])
    status, visit = "ok" if versions or outcome.new_component_states else "notneeded", "full"
    if outcome.incidents or (problems and not outcome.hold_messages):
        status, visit, message = "error", "partial", messages
    elif outcome.hold_messages:
        status, visit, message = "impossible", "held", messages
    elif outcome.waiting_reason:
        status, visit = "ok" if versions else "notneeded", "waiting"
        message = (f"{new}; " if versions else "") + outcome.waiting_reason + _notes(outcome)
    else:
        message = (new if versions else "nothing new") + _notes(outcome)
    refused = outcome.refused_count
    return Result(dataset.name, status, message, visit, versions, refused_count=refused)


def _notes(outcome: VisitOutcome) -> str:
    """Return what else there is to say about a state that was accepted."""
    notes, states = "", outcome.new_component_states
    if outcome.exception_count:
        notes += f"; {outcome.exception_count} listed upstream but not mirrored"
    if states:
        notes += f"; {'1 new state' if states == 1 else f'{states} new states'} of its Zarrs"
    writing = len(outcome.unfinished_components)
    if outcome.pending_files > writing:  # an unfinished Zarr has no checksum either
        notes += f"; {pending_files_text(outcome.pending_files - writing)}"
    if writing:
        zarrs = "1 Zarr is" if writing == 1 else f"{writing} Zarrs are"
        notes += f"; {zarrs} still being written upstream"
    notes += refused_note(outcome.refused_count)
    if outcome.archived_count:
        notes += f"; {outcome.archived_count} in an archive storage class, not readable now"
    if outcome.comparison_scope:
        notes += f"; compared: {outcome.comparison_scope}"
    return notes + "".join(f"; known incident: {incident}" for incident in outcome.known_incidents)


def refused_note(count: int) -> str:
    """Return the end of a message: how many objects the bucket lists and refuses; '' for none."""
    if not count:
        return ""
    objects = "1 object" if count == 1 else f"{count} objects"
    return f"; {objects} refused by the bucket and recorded from its listing only"


def public_cause(error: BaseException) -> str:
    """Return the part of an error that may be reported for the private store.

    It has the type of the error, the HTTP status, S3's error code and the name of the credentials,
    but no name, key or URL of the archive.
    """
    if isinstance(error, CredentialsError):
        return str(error)
    facts = [type(error).__name__]
    if isinstance(error, NetError) and error.status is not None:
        facts.append(f"HTTP {error.status}")
    if isinstance(error, HttpError):
        code = error.fields.get("Code", "")
        facts += [code] if _S3_CODE.fullmatch(code) else []
        facts += [error.identity] if error.identity else []
        facts[-1] += f": {error.remedy}" if error.remedy else ""
    return ", ".join(facts)


_LOCAL_ERRORS = frozenset(
    {*(errno.ENOSPC, errno.EDQUOT, errno.EROFS), *(errno.EMFILE, errno.ENFILE, errno.ENOMEM)}
)


def is_local_fault(error: BaseException) -> bool:
    """Whether this machine caused an error: its disk, its limits or its index."""
    if isinstance(error, OSError):
        return error.errno in _LOCAL_ERRORS
    return isinstance(
        error, IndexBusyError | IndexDamagedError | IndexMissingError | IndexUnusableError
    )


def failed_result(dataset: str, error: Exception, message: str, visit: str = "failed") -> Result:
    """Return the result of something that failed with an error."""
    return Result(dataset, "error", message, visit, local_fault=is_local_fault(error))


def describe_error(error: Exception, store: Store, plugin: PluginSource | None = None) -> str:
    """Return an error as one line for a message; a long one is cut in the middle.

    ``store`` is the store that the message names if its disk is full or a file is not named;
    ``plugin`` is the plugin that the message names if the error is unexpected.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = (
            f"the disk of the store {store.root} is full; free some space and run the sync again "
            "(published versions are intact)"
        )
    elif isinstance(error, OSError):
        reason = f"{error.strerror}: {error.filename or store.root}"
        text = missing_program_message(error) or reason
    elif isinstance(error, ObjectMissingError):
        text = f"{error}, and repair the store with 'neuromirror repair'"
    else:
        is_known = isinstance(error, NeuromirrorError)
        text = str(error) if is_known else describe_unexpected(error, plugin)
    if len(text) <= _HEAD_LENGTH + _TAIL_LENGTH:
        return text
    return f"{text[:_HEAD_LENGTH]} … {text[-_TAIL_LENGTH:]}"


def unplanned_result(request: SyncRequest, error: Exception, message: str) -> Result:
    """Return the failure of a request whose overview could not be read or lacks the dataset.

    ``message`` is the text of ``error``; advice for the user is added to it.
    """
    mirror, visit = request.mirror, "failed"
    if isinstance(error, DatasetNotFoundError):
        visit = "not_found"
        message = (
            f"{message.rstrip('.')}{' ' if message.endswith('?') else '; '}check its id "
            f"('neuromirror sync {mirror.name} --dry-run' lists all)"
        )
    elif isinstance(error, UnreachableError):
        address = "" if is_builtin(mirror.path) else f" and the address in {mirror.path}"
        message = (
            f"{message.removesuffix('; try again')}; check the network{address}, then run the "
            "command again"
        )
    return failed_result(request.name, error, message, visit)
