"""What the store's journal holds: one entry for everything the index must know beside git.

Entries are appended to the store's journal before they are applied to the index; replaying the
journal rebuilds the index row by row. Times are UTC, ISO 8601, with seconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from neuromirror.model.validation import Count, convert

CommitText = Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{40})?\Z")]
"""A commit (hex), or an empty text for none."""


@dataclass(frozen=True, slots=True)
class MirrorSeen:
    """A mirror's configuration as first used, or as changed: its source and upstream's URI.

    ``index_entries``, where given, is a new setting for all versions that were recorded before: an
    index that is made anew has the files of each Zarr of at most so many, and of no other, whatever
    ``VersionMinted.indexed`` says.
    """

    mirror: str
    source: str
    uri: str
    at: str
    index_entries: int | None = None


@dataclass(frozen=True, slots=True)
class MirrorProbed:
    """What a mirror's upstream was found to allow: words by name, as its source gives them."""

    mirror: str
    capabilities: dict[str, str]
    at: str


@dataclass(frozen=True, slots=True)
class VersionMinted:
    """A state that is now in git.

    ``label`` names it (``0.210831.2033``, ``2022-12-13T101112Z``, ``state-0123abcd``); ``upstream``
    is upstream's own word (``draft``); ``kind`` is published | observed. ``state`` is
    ``sha256:<hex>``; ``commit``, ``tree`` and ``annex_commit`` are git object ids; the version's
    records are in the store under ``commit``. ``time`` is upstream's, None where it has none.
    ``evidence`` counts files by word (see model.records.Evidence). ``metadata_only`` says that no
    file differs from the version before. ``metadata`` is the metadata digest
    (model.metadata_digest), ``attributes`` values by name and ``inputs`` upstream's names of the
    datasets it was derived from (model.DatasetFacts); ``within`` is the local id of the dataset of
    which this one is a part, empty for one that stands alone. ``form`` is model.SnapshotHeader's,
    empty where an earlier release did not record it; ``manifest_only_files`` and
    ``manifest_only_bytes`` count what
    has no place in git. ``inline`` are the parts that stand as folders of files: path, source,
    checksum, files and bytes of each. ``indexed`` says whether its files are in the index, or only
    in its records; ``in_subdatasets`` counts the files of its sub-datasets, None where an earlier
    release
    did not.
    """

    mirror: str
    local_id: str
    source_uri: str
    label: str
    upstream: str
    kind: str
    state: str
    commit: CommitText
    tree: CommitText
    annex_commit: CommitText
    time: str | None
    files: Count
    bytes: Count
    exceptions: list[dict[str, Any]]
    evidence: dict[str, int]
    title: str
    license: list[str]
    doi: str | None
    metadata_only: bool
    at: str
    metadata: str = ""
    attributes: dict[str, list[str]] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    within: str = ""
    form: str = ""
    only_files: int = 0
    only_bytes: int = 0
    inline: list[dict[str, Any]] = field(default_factory=list)
    indexed: bool = True
    in_parts: int | None = None


@dataclass(frozen=True, slots=True)
class AnnexBranchMoved:
    """The git-annex branch of a dataset moved without a new version, to ``annex_commit``."""

    mirror: str
    local_id: str
    source_uri: str
    annex_commit: CommitText
    at: str


@dataclass(frozen=True, slots=True)
class VisitEnded:
    """A visit of one dataset that is over.

    ``status`` is full | partial | held | waiting | unavailable | not_found | failed;
    ``fingerprint`` is the source's hint as of the visit, empty where it gives none (the plan skips
    a dataset whose last visit was full and whose hint is the same); ``pending`` counts files and
    Zarrs that still lack their best digest (upstream is asked about these all the same).
    ``traffic`` is what was asked of each host, as model.dump_traffic has it; empty where an earlier
    release did not count.
    """

    visit: str
    mirror: str
    local_id: str
    source_uri: str
    title: str
    started: str
    ended: str
    status: str
    fingerprint: str
    pending: int
    message: str
    traffic: dict[str, dict[str, int | float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HoldPlaced:
    """A listing kept back until an operator releases it.

    ``hold`` is a short id; ``state`` the digest of the listing that was held; ``removed`` and
    ``before`` count files.
    """

    hold: str
    mirror: str
    local_id: str
    upstream: str
    state: str
    reason: str
    removed: int
    before: int
    at: str


@dataclass(frozen=True, slots=True)
class HoldReleased:
    """An operator let a held listing through; ``by`` is who (a login name)."""

    hold: str
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class HoldLapsed:
    """A hold that no longer matters: upstream is back within the guards."""

    hold: str
    at: str


@dataclass(frozen=True, slots=True)
class EventRaised:
    """Something an operator or a reader should know.

    ``kind`` is incident | tombstone | returned | digest-upgrade | unavailable | takedown | repair.
    """

    mirror: str
    local_id: str
    kind: str
    message: str
    at: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LinksFound:
    """Where people can look at a dataset: ``links`` are [kind, address] pairs, sorted.

    They take the place of those before; they belong to no version, since they may move while the
    data stays.
    """

    mirror: str
    local_id: str
    source_uri: str
    links: list[list[str]]
    at: str


@dataclass(frozen=True, slots=True)
class LocationsChecked:
    """The results of checking URLs of a dataset.

    ``found`` are URLs, as in the records, by result: ok, not-found, refused, unsupported, changed,
    unreachable or unknown.
    """

    mirror: str
    local_id: str
    found: dict[str, list[str]]
    at: str


@dataclass(frozen=True, slots=True)
class DatasetWithdrawn:
    """A dataset that the operator has taken down: nothing of it is shown, and none of it is lost.

    ``reason`` is told to everybody who asks for it. ``within`` is the local id of the dataset that
    was taken down, of a part that only that one has; empty for the dataset itself. An index that is
    made anew has nothing of it but the ids of its versions.
    """

    mirror: str
    local_id: str
    source_uri: str
    reason: str
    by: str
    at: str
    within: str = ""


@dataclass(frozen=True, slots=True)
class DatasetReinstated:
    """A dataset that was taken down and is shown again, as if it never had been."""

    mirror: str
    local_id: str
    source_uri: str
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """A task that failed, and fails until a :class:`TaskRecovered` of the same task and object.

    ``task`` is list | probe | superdatasets | private | configuration, the name of a housekeeping
    task (``housekeeping``, ``backup``, ...), or a part of the service. ``mirror`` and ``local_id``
    name the object; both are empty for the store, ``local_id`` for a whole mirror. A failed visit
    is a :class:`VisitEnded`.
    """

    task: str
    mirror: str
    local_id: str
    message: str
    at: str


@dataclass(frozen=True, slots=True)
class TaskRecovered:
    """A task that had failed, and succeeded."""

    task: str
    mirror: str
    local_id: str
    at: str


JournalEntry = (
    MirrorSeen
    | MirrorProbed
    | VersionMinted
    | AnnexBranchMoved
    | VisitEnded
    | LinksFound
    | HoldPlaced
    | HoldReleased
    | HoldLapsed
    | EventRaised
    | LocationsChecked
    | DatasetWithdrawn
    | DatasetReinstated
    | TaskFailed
    | TaskRecovered
)

_TYPES: dict[str, type[JournalEntry]] = {
    "mirror": MirrorSeen,
    "probe": MirrorProbed,
    "version": VersionMinted,
    "annex": AnnexBranchMoved,
    "visit": VisitEnded,
    "links": LinksFound,
    "hold": HoldPlaced,
    "release": HoldReleased,
    "lapse": HoldLapsed,
    "event": EventRaised,
    "places": LocationsChecked,
    "withheld": DatasetWithdrawn,
    "reinstated": DatasetReinstated,
    "failure": TaskFailed,
    "recovery": TaskRecovered,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


def current_timestamp() -> str:
    """Return the current time as in journal entries: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def dump_entry(entry: JournalEntry) -> bytes:
    """One line of the journal, newline included: ASCII JSON with sorted keys."""
    line = {"type": _NAMES[type(entry)], **asdict(entry)}
    return json.dumps(line, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def load_entry(line: bytes) -> JournalEntry:
    """The entry of a line; raises ValueError for a line that is not one."""
    try:
        got = json.loads(line)
        kind = _TYPES[got.pop("type")]
        unknown = got.keys() - kind.__dataclass_fields__.keys()
        if unknown:
            raise ValueError(f"it has no field {min(unknown)!r}")
        return convert(got, kind, "entry")
    except (TypeError, KeyError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"not a journal entry ({error}): {line[:80]!r}") from error
