"""Rows that queries return, frozen. Times are ISO 8601, as in the journal."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from neuromirror.model import AboutDataset, Digest, Evidence, Retention, Traffic, Version

PathBytes = bytes
"""The type ``bytes``, for classes with a field of that name."""

RETENTION = (
    Retention.ARCHIVED,
    Retention.MUTABLE_BUCKET,
    Retention.DRAFT,
    Retention.VERSIONED_BUCKET,
    Retention.PUBLISHED,
)
"""All values, weakest first; the index stores the position in this tuple."""


class DatasetRow(AboutDataset, frozen=True):
    """A dataset and its status.

    Attributes
    ----------
    source_uri, dataset_id : str
        Empty if the dataset is known only from a hold or an event.
    title, license, doi, time, files, bytes
        Metadata, time and counts of the current version; without one, empty texts and zero counts.
        ``time`` may be None: upstream may not state a time.
    versions : int
        The number of versions.
    version : str or None
        The label of the current version: the newest published, else the newest observed.
    newest, published : str or None
        The labels of the version recorded last, and of the newest published one.
    last_visit, status : str or None
        The time at which the last visit ended, and its result.
    within : str
        The local id of the superdataset; empty without one.
    id : int
        The row id, valid until the index is rebuilt.
    last_full_visit : str or None
        The time at which the last full visit ended.
    open_holds : int
        The number of listings that wait for approval.
    """

    id: int
    dataset_id: str
    title: str
    license: list[str]
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
        """Whether upstream removed the dataset; the mirror keeps it."""
        return self.status == "not_found"

    @property
    def has_open_holds(self) -> bool:
        """Whether a listing of the dataset is held for approval."""
        return bool(self.open_holds)

    @property
    def is_subdataset(self) -> bool:
        """Whether the dataset is a subdataset of another one."""
        return bool(self.within)


class VersionRow(Version, frozen=True, kw_only=True):
    """A version in the index.

    Attributes
    ----------
    id, dataset : int
        The row ids of the version and of its dataset, valid until the index is rebuilt.
    seq : int
        The version's ordinal in the dataset.
    upstream_time : str or None
        Upstream's time of the version, if it has one.
    exceptions : int
        The number of listed files that could not be recorded.
    recorded_at : str
        The time at which this store recorded the version.
    records : str
        The name of its records in the store: the commit, or ``<commit>.<number>`` if upstream
        stated other URLs or claims later.
    """

    id: int
    dataset: int
    seq: int
    upstream_time: str | None
    exceptions: int
    recorded_at: str
    records: str

    @property
    def time(self) -> str:
        """Upstream's time of the version, else the time at which it was recorded."""
        return self.upstream_time or self.recorded_at


class _Content:
    """A content with digests, as the rows of files have it."""

    __slots__ = ()
    digests: tuple[Digest, ...]
    evidence: Evidence

    @property
    def digest_values(self) -> dict[str, str]:
        """The digests by algorithm."""
        return {digest.algorithm: digest.value for digest in self.digests}

    @property
    def evidence_digest(self) -> str | None:
        """``<algorithm>:<value>`` of the strongest digest, None without one."""
        for digest in self.digests:
            if digest.algorithm == self.evidence.value:
                return f"{digest.algorithm}:{digest.value}"
        return None


class FileRow(_Content, Struct, frozen=True):
    """A file of a version.

    Attributes
    ----------
    path, source_path
        The path in git, and upstream's.
    size : int or None
        Size in bytes.
    digests : tuple of Digest
        The digests known today, which may be more than when the version was recorded.
    retention : Retention
        The strongest retention that the dataset's own upstream has stated for the file, regardless
        of copies elsewhere.
    since : int
        The ordinal of the version that added this content at this path.
    content : int
        The id of the content, the argument of ``index.locations.of``.
    key : str
        The annex key.
    part_size : int or None
        The size in bytes of the parts of a multipart ETag.
    evidence, checked
        The strongest evidence for the content, and whether the bytes were hashed here.
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


class FoundFile(_Content, Struct, frozen=True):
    """A dataset, path and range of versions with a content.

    Attributes
    ----------
    first, last : str
        The labels of the first and last version of the range.
    current : bool
        Whether the range includes the newest version.
    urls : tuple of str
        The best few URLs of the content.
    position : tuple
        The ``after`` argument of ``index.files.find`` for the page that follows this item.
    dataset, path : str
        The name of the dataset, and the path in git.
    size : int or None
        Size in bytes.
    key, digests
        The annex key, and the known digests.
    evidence, checked
        The strongest evidence for the content, and whether the bytes were hashed here.
    retention : Retention
        How long upstream promises to keep the bytes.
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


class CopyRow(Struct, frozen=True):
    """Another dataset that has files of a version with stronger retention.

    Attributes
    ----------
    dataset
        The name of the other dataset.
    retention
        The strongest retention of that dataset's files.
    files
        The number of files of the version that it has.
    """

    dataset: str
    retention: Retention
    files: int


class EvidenceCounts(Struct, frozen=True):
    """Counts of the files of a version; empty if they are not in the index.

    Attributes
    ----------
    checked
        The files whose bytes were hashed here, by evidence.
    retention
        All files, by retention.
    """

    checked: dict[str, int]
    retention: dict[str, int]


class ProbeSummary(Struct, frozen=True):
    """Counts of the files of a version by checksums and probe results, as known today.

    Attributes
    ----------
    hashed : int
        The number of files with a checksum computed here.
    available : int
        The number of files with a location whose last probe succeeded.
    probed : int
        The number of files with a location that was probed.
    since : str or None
        The oldest time at which one of the available files was last probed.
    files : int
        The number of files.
    """

    files: int
    hashed: int
    available: int
    probed: int
    since: str | None


class FailingHost(Struct, frozen=True):
    """A host with failing locations.

    Attributes
    ----------
    mirror, host
        The mirror that has the locations, and their host.
    result
        The result of the probes that failed.
    locations
        The number of locations.
    last
        The time of the last failure.
    """

    mirror: str
    host: str
    result: str
    locations: int
    last: str | None


class UnindexedFiles(Struct, frozen=True):
    """The Zarrs of a mirror with a version whose files are not in the index.

    Attributes
    ----------
    mirror
        The name of the mirror.
    zarrs
        The number of Zarrs.
    files
        The sum of the files of the largest such version of each Zarr.
    largest
        The number of files of the largest version of all: with ``index_entries`` of this value,
        everything is indexed.
    """

    mirror: str
    zarrs: int
    files: int
    largest: int


class LocationRow(Struct, frozen=True):
    """A location of a content.

    Attributes
    ----------
    url, kind
        The URL and its kind.
    version_id
        The id of an object's version.
    checked_at, result
        Time and result of its last probe; None if it was never probed.
    """

    url: str
    kind: str
    version_id: str | None
    checked_at: str | None
    result: str | None


class DueLocation(Struct, frozen=True):
    """A location that is due for a probe.

    Attributes
    ----------
    key, digests
        The expected content.
    dataset : str
        The dataset that last added a file from this location.
    path : str
        The path in git of a file of any dataset with this content.
    is_only_location : bool
        Whether no other location of the content is known.
    url : str
        The location.
    checked_at, result : str or None
        Time and result of the last probe; None if it was never probed.
    """

    url: str
    key: str
    digests: tuple[Digest, ...]
    dataset: str
    path: str
    checked_at: str | None
    result: str | None
    is_only_location: bool


class Tombstone(Struct, frozen=True):
    """Time and reason of the withdrawal of a dataset.

    Attributes
    ----------
    dataset
        The name of the dataset.
    at, reason
        Time and reason.
    within
        The local id of the superdataset with which it was withdrawn.
    """

    dataset: str
    at: str
    reason: str
    within: str = ""


class SubdatasetRow(Struct, frozen=True):
    """A subdataset in a version's tree.

    Attributes
    ----------
    path, source_path
        The path in git, and upstream's.
    dataset, label
        The subdataset's name, and the label of its version at ``commit``; without a label (None) if
        the index lacks that version.
    files, bytes : int
        Number and size of the subdataset's files.
    since : int
        The ordinal of the version that added this state of it.
    dataset_id : str
        The DataLad id of the subdataset.
    commit, state : str
        The subdataset's commit in hex, and its state digest.
    """

    path: str
    source_path: PathBytes
    dataset: str
    dataset_id: str
    label: str | None
    commit: str
    state: str
    files: int
    bytes: int
    since: int


class EtagRow(msgspec.Struct, frozen=True, gc=False):
    """The content of an ETag, as known from all datasets.

    Attributes
    ----------
    size
        Size in bytes; None if unknown.
    part_size
        Part size in bytes, for a multipart ETag.
    sha256
        The digest; None if unknown.
    """

    size: int | None
    part_size: int | None
    sha256: Digest | None


class EdgeRow(Struct, frozen=True):
    """An edge of the ancestry, seen from one end.

    Attributes
    ----------
    name : str
        The input, as upstream names it.
    dataset, label : str or None
        The dataset and version at the other end, None for an input that is not in the index.
    own_label : str
        The version at this end, from which the other was derived or which was derived from it.
    """

    name: str
    dataset: str | None
    label: str | None
    own_label: str


class RelatedVersion(EdgeRow, frozen=True):
    """An edge and, up to the requested depth, the edges at its other end.

    Attributes
    ----------
    relatives
        The edges at its other end.
    is_truncated
        Whether further edges are omitted: too deep, or listed elsewhere.
    """

    relatives: tuple[RelatedVersion, ...]
    is_truncated: bool


class LastVisit(Struct, frozen=True):
    """The result of the last visit of a dataset, by which the next may be skipped.

    Attributes
    ----------
    fingerprint
        Upstream's fingerprint of the dataset.
    status
        The result.
    pending
        The number of items that were pending upstream.
    ended
        The time of the end.
    """

    fingerprint: str
    status: str
    pending: int
    ended: str


class VisitRow(Struct, frozen=True):
    """A finished visit.

    Attributes
    ----------
    dataset, visit
        The name of the dataset, and the id of the visit.
    started, ended
        Times of start and end.
    status, fingerprint, pending
        The result, upstream's fingerprint, and the number of items that were pending upstream.
    message
        The error or a note; may be empty.
    traffic
        Requests by host; empty if not counted.
    """

    dataset: str
    visit: str
    started: str
    ended: str
    status: str
    fingerprint: str
    pending: int
    message: str
    traffic: dict[str, Traffic]


class HoldRow(Struct, frozen=True):
    """A held listing.

    Attributes
    ----------
    hold, dataset
        The id of the hold, and the name of the dataset.
    upstream, state
        Upstream's name of the version, and the state digest of the listing.
    reason
        The reason why the listing is held.
    files_removed, files_before
        Number of files that the listing removes, and of files before.
    placed_at, ended
        Time of the hold, and of its end; ``ended`` is None while it is open.
    outcome
        ``released`` or ``lapsed``; None while it is open.
    released_by
        The login name of the operator who released it.
    """

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


class EventRow(Struct, frozen=True):
    """An event.

    Attributes
    ----------
    id
        The row id, valid until the index is rebuilt.
    mirror
        The mirror.
    dataset
        The dataset's name; None for an event of the whole mirror.
    kind, message, at, data
        As in :class:`~neuromirror.model.EventRaised`.
    """

    id: int
    mirror: str
    dataset: str | None
    kind: str
    message: str
    at: str
    data: dict[str, Any]


class FailureRow(Struct, frozen=True):
    """A failure without a later success.

    Attributes
    ----------
    task : str
        ``visit``, ``locations`` (locations that lost contents), or as in
        :class:`~neuromirror.model.TaskFailed`.
    mirror : str
        Empty for the whole store.
    dataset : str or None
        None for a whole mirror.
    since, at : str
        Times of the first failure, and of the last change of the message.
    message : str
        The error.
    """

    task: str
    mirror: str
    dataset: str | None
    message: str
    since: str
    at: str


class MirrorStatus(Struct, frozen=True):
    """The status of a mirror.

    Attributes
    ----------
    datasets, mirrored, subdatasets : int
        All known datasets, those with a version, and the subdatasets among them.
    files, bytes : int
        Number and size of the files of the current versions.
    contents : int
        Distinct contents that this mirror recorded first, so that sums over mirrors are correct.
    failing, settling, unreadable_sidecars, removed_upstream : int
        Numbers of datasets: whose last visit failed or was partial; that were still changing and
        were postponed; with an unreadable sidecar in the newest version; that upstream removed.
    capabilities : dict
        The detected capabilities of upstream, values by name.
    mirror, source, uri : str
        The name of the mirror, its kind of source and the URI of upstream.
    versions : int
        The number of versions.
    last_visit, last_full_visit : str or None
        The times at which the last visit and the last full visit ended.
    open_holds, incidents : int
        The number of listings that wait for approval, and of incidents.
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
