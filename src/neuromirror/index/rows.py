"""What the index gives back: frozen rows. Times are ISO 8601, as the journal has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from neuromirror.model import Digest, Evidence, Retention, Traffic

RETENTION = (
    Retention.MUTABLE_BUCKET,
    Retention.DRAFT,
    Retention.VERSIONED_BUCKET,
    Retention.PUBLISHED,
)
"""Weakest promise first; the index stores the place in this tuple."""


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A dataset and where it stands.

    ``source_uri`` and ``dataset_id`` are empty while only a hold or an event has named it.
    ``version`` is the label of the version that its name means: the newest published one, else the
    newest observed (None where there is none). ``title``, ``license``, ``doi``, ``time``, ``files``
    and ``bytes`` are of this version, zeros where there is none; ``time`` is None where upstream
    has no time of it. ``newest`` is the label of the version minted last, and ``published`` that of
    the newest published one. ``last_visit`` is when the last visit ended and ``status`` how.
    ``within`` is the local id of the dataset of which this one is a part, empty for one that stands
    alone.
    """

    id: int
    mirror: str
    local_id: str
    source_uri: str
    dataset_id: str
    title: str
    license: tuple[str, ...]
    doi: str | None
    versions: int
    version: str | None
    newest: str | None
    published: str | None
    time: str | None
    files: int
    bytes: int
    last_visit: str | None
    status: str | None
    last_full_visit: str | None
    open_holds: int
    within: str

    @property
    def name(self) -> str:
        """``<mirror>:<local id>``."""
        return f"{self.mirror}:{self.local_id}"

    @property
    def is_removed_upstream(self) -> bool:
        """Whether upstream no longer has it; what is mirrored is kept."""
        return self.status == "not_found"


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version; ``seq`` is its ordinal in the dataset, ``exceptions`` how many are named.

    ``metadata`` is the metadata digest, empty for a version that was recorded without one.
    ``form`` is files | manifest, empty for a version that was recorded without it;
    ``manifest_only_files``
    and ``manifest_only_bytes`` count what has no place in git. ``indexed`` says whether its files
    are in the
    index, or only in the store's records. ``minted`` is when this store recorded the version.
    ``upstream_time`` is None where upstream has none.
    """

    id: int
    dataset: int
    mirror: str
    local_id: str
    source_uri: str
    seq: int
    label: str
    upstream: str
    kind: str
    state: str
    commit: str
    tree: str
    annex_commit: str
    upstream_time: str | None
    files: int
    bytes: int
    exceptions: int
    evidence: dict[str, int]
    title: str
    license: tuple[str, ...]
    doi: str | None
    metadata_only: bool
    recorded_at: str
    metadata: str
    form: str
    manifest_only_files: int
    manifest_only_bytes: int
    indexed: bool

    @property
    def dataset_name(self) -> str:
        """``<mirror>:<local id>``."""
        return f"{self.mirror}:{self.local_id}"

    @property
    def name(self) -> str:
        """``<mirror>:<local id>@<label>``."""
        return f"{self.dataset_name}@{self.label}"

    @property
    def time(self) -> str:
        """Upstream's time of the version; where it has none, when this store recorded it."""
        return self.upstream_time or self.recorded_at


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of a version.

    ``path`` is the one in git, ``source_path`` upstream's; ``size`` in bytes. ``digests`` are
    what is known of the content *today*, which may be more than when the version was made.
    ``retention`` is the strongest promise that the dataset's own upstream has made for the file
    since, whatever holds the same bytes elsewhere. ``since`` is the
    ordinal of the version that brought this content to this path. ``content`` is for
    :meth:`Index.locations`.
    """

    path: str
    source_path: bytes
    size: int | None
    key: str
    digests: tuple[Digest, ...]
    part_size: int | None
    evidence: Evidence
    checked: bool
    retention: Retention
    since: int
    content: int


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A place where a content was or is: one dataset, path and unbroken range of versions.

    ``first`` and ``last`` are the labels of the first and last version of the range; ``current``
    says that it reaches the newest state. ``urls``: the best few places of the bytes. ``position``
    is for :meth:`Index.find`.
    """

    dataset: str
    path: str
    first: str
    last: str
    current: bool
    size: int | None
    key: str
    digests: tuple[Digest, ...]
    evidence: Evidence
    checked: bool
    retention: Retention
    urls: tuple[str, ...]
    position: tuple[int, int, str, int]


@dataclass(frozen=True, slots=True)
class CopyRow:
    """Another dataset that holds bytes of a version, and promises more for them.

    ``retention`` is its strongest promise, ``files`` counts those of the version.
    """

    dataset: str
    retention: Retention
    files: int


@dataclass(frozen=True, slots=True)
class EvidenceCounts:
    """What stands behind the files of a version, as counts of them.

    ``checked`` has those whose bytes were hashed here, by the words of Evidence; ``kept`` all of
    them by how long upstream keeps them, by the words of Retention. Both are empty where the
    files are not in the index.
    """

    checked: dict[str, int]
    retention: dict[str, int]


@dataclass(frozen=True, slots=True)
class ProbeSummary:
    """What vouches for a version's files today, as counts of them.

    ``hashed`` are those of which a checksum was computed here, ``fine`` those of which a place said
    that it has them, ``asked`` those of which any place was asked. ``since`` is the time since
    when all of ``fine`` are known to be there: that of the one asked longest ago.
    """

    files: int
    hashed: int
    available: int
    probed: int
    since: str | None


@dataclass(frozen=True, slots=True)
class FailingHost:
    """How many places at a host said something else than ok, and when the last of them did."""

    mirror: str
    host: str
    result: str
    locations: int
    last: str | None


@dataclass(frozen=True, slots=True)
class UnindexedFiles:
    """The Zarrs of a mirror that have a version whose files are not in the index.

    ``files`` counts those of the largest such version of each, ``largest`` those of the largest of
    all: a setting ``index_entries`` of so many brings everything in.
    """

    mirror: str
    zarrs: int
    files: int
    largest: int


@dataclass(frozen=True, slots=True)
class LocationRow:
    """A place of a content; ``checked_at`` and ``result`` of the last check that was reported."""

    url: str
    kind: str
    version_id: str | None
    checked_at: str | None
    result: str | None


@dataclass(frozen=True, slots=True)
class DueLocation:
    """A place that is to be asked for what it has: the bytes of ``key``.

    ``digests`` are what is known of them. ``dataset`` is the one that last brought a file from
    here, ``path`` a file of any dataset with these bytes, in git. ``alone`` says that no other
    place is known that has them.
    """

    url: str
    key: str
    digests: tuple[Digest, ...]
    dataset: str
    path: str
    checked_at: str | None
    result: str | None
    is_only_location: bool


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What is said of a dataset that was taken down: when, and why.

    ``within`` is the local id of the dataset that it was a part of.
    """

    dataset: str
    at: str
    reason: str
    within: str = ""


@dataclass(frozen=True, slots=True)
class SubdatasetRow:
    """A sub-dataset that stands in a version's tree.

    ``path`` is the one in git, ``source_path`` upstream's. ``dataset`` is its name and ``label``
    that of the version at ``commit``, None while the index does not have it; ``files`` and
    ``bytes`` count what is in it. ``since`` is the ordinal of the version that brought this state
    of it.
    """

    path: str
    source_path: bytes
    dataset: str
    dataset_id: str
    label: str | None
    commit: str
    state: str
    files: int
    bytes: int
    since: int


class EtagRow(msgspec.Struct, frozen=True, gc=False):
    """What all datasets know of a content that upstream names by its ETag.

    ``part_size`` in bytes, of a multipart ETag.
    """

    size: int | None
    part_size: int | None
    sha256: Digest | None


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """One end of "was derived from".

    ``name`` is the input's as upstream wrote it. ``dataset`` is the dataset at the other end,
    None for an input that is not in the index, and ``label`` its version; ``of`` is the version
    at this end: ``dataset`` was made of it, or it of ``dataset``.
    """

    name: str
    dataset: str | None
    label: str | None
    own_label: str


@dataclass(frozen=True, slots=True)
class RelatedVersion:
    """An edge and, as far as they were asked for, those that go on from its other end.

    ``more`` says that there are some which are not told here: too deep, or told elsewhere.
    """

    edge: EdgeRow
    relatives: tuple[RelatedVersion, ...]
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class LastVisit:
    """How the last visit of a dataset ended: what the plan needs to skip it."""

    fingerprint: str
    status: str
    pending: int
    ended: str


@dataclass(frozen=True, slots=True)
class VisitRow:
    """A visit that is over; ``traffic`` is what it asked of each host, empty where not counted."""

    dataset: str
    visit: str
    started: str
    ended: str
    status: str
    fingerprint: str
    pending: int
    message: str
    traffic: dict[str, Traffic]


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A held listing; ``outcome`` is None while it is open, then released | lapsed."""

    hold: str
    dataset: str
    upstream: str
    state: str
    reason: str
    files_removed: int
    files_before: int
    placed_at: str
    outcome: str | None
    ended: str | None
    released_by: str | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event; ``dataset`` is its name, None for one that concerns the whole mirror."""

    id: int
    mirror: str
    dataset: str | None
    kind: str
    message: str
    at: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FailureRow:
    """Something that failed and has not succeeded since.

    ``task`` is ``visit``, ``audit`` (locations that no longer have what was mirrored), or as in
    :class:`~neuromirror.model.TaskFailed`. ``mirror`` is empty for the store as a whole, and
    ``dataset`` None for a whole mirror. ``since`` is when it failed first, ``at`` when its message
    was last news.
    """

    task: str
    mirror: str
    dataset: str | None
    message: str
    since: str
    at: str


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """A mirror at a glance.

    ``datasets`` counts all that are known, ``mirrored`` those with a version, ``parts`` those
    that are parts of another. ``files`` and ``bytes`` are of the latest versions; ``contents``
    counts distinct contents that this mirror was the first to bring, so that mirrors add up.
    ``failing`` counts datasets whose last visit ended failed or partial, ``waiting`` those that
    were left to settle, ``unreadable_sidecars`` those in whose newest version a sidecar could not
    be read, ``gone`` those that upstream no longer has. ``capabilities`` are what upstream was
    found to allow, words by name.
    """

    mirror: str
    source: str
    uri: str
    datasets: int
    mirrored: int
    versions: int
    files: int
    bytes: int
    contents: int
    last_visit: str | None
    last_full_visit: str | None
    failing: int
    open_holds: int
    incidents: int
    subdatasets: int
    settling: int
    unreadable_sidecars: int
    removed_upstream: int
    capabilities: dict[str, str]
