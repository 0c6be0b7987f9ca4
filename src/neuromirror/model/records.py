"""Records of files: digests, evidence, URLs and retention.

Immutable records that are passed from a source to the index. No I/O.

All are msgspec Structs. Their classes are created in a hundredth, their instances in a tenth of
the time of frozen dataclasses. Types with one instance per file cannot form reference cycles, so
they are not tracked by the garbage collector (``gc=False``).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from urllib.parse import unquote

from msgspec import Struct, field
from msgspec.structs import force_setattr

_VERSION = "versionId="
_ASSET_DOWNLOAD = re.compile(r"https?://[^?#]+/assets/[^/?#]+/download/?")


def plain_url(url: str) -> str:
    """Return a URL without its ``versionId`` parameter: the current object.

    Parameters
    ----------
    url
        The URL of an object.

    Returns
    -------
    str
        The URL without the parameter.
    """
    if _VERSION not in url:
        return url
    # not urlsplit, which takes longer than all else in recording a file
    address, _, query = url.partition("?")
    if "&" not in query and query.startswith(_VERSION):
        return address
    kept = [pair for pair in query.split("&") if not pair.startswith(_VERSION)]
    return f"{address}?{'&'.join(kept)}" if kept else address


def url_version_id(url: str) -> str | None:
    """Return the decoded ``versionId`` of a URL, or None."""
    if _VERSION not in url:
        return None
    for pair in url.partition("#")[0].partition("?")[2].split("&"):
        if pair.startswith(_VERSION):
            return unquote(pair[len(_VERSION) :]) or None
    return None


def is_asset_download(url: str) -> bool:
    """Return whether a URL is the download of an asset in the API of a DANDI archive.

    The response names the file, so that browsers save it under its name.

    Parameters
    ----------
    url
        The URL of a file.

    Returns
    -------
    bool
        Whether it is such a URL.
    """
    return bool(_ASSET_DOWNLOAD.fullmatch(url))


def url_rank(url: str) -> tuple[bool, bool]:
    """Return a sort key for the URLs of a file: object versions first, API URLs last.

    Parameters
    ----------
    url
        A URL of a file.

    Returns
    -------
    tuple of (bool, bool)
        The sort key.
    """
    return _VERSION not in url, url.endswith("/")


DANDI_PART_SIZE: Final = 64 << 20
_MOST_PARTS: Final = 10_000
_LARGEST_OBJECT: Final = 5 << 40


def dandi_part_size(size: int) -> int:
    """Return the part size of the dandi-etag of a file of ``size`` bytes.

    It is 64 MiB, or for larger files the size that results in 10,000 parts. See PartGenerator in
    dandischema/digests/dandietag.py, where the single part of a small file has the size of the
    file; the etag is the same.

    Parameters
    ----------
    size
        Size of the file in bytes.

    Returns
    -------
    int
        The part size in bytes.

    Raises
    ------
    ValueError
        If the size exceeds the limits of S3.
    """
    if not 0 <= size <= _LARGEST_OBJECT:
        raise ValueError(f"invalid size of an S3 object: {size} bytes")
    if -(-size // DANDI_PART_SIZE) >= _MOST_PARTS:
        return -(-size // _MOST_PARTS)
    return DANDI_PART_SIZE


USUAL_PART_SIZES: Final = tuple(mib << 20 for mib in (8, 64, 50, 5, 16, 15, 10, 32))
"""The part sizes of common programs, in bytes, the most usual first.

8 MiB: AWS CLI, boto3 (s3transfer), AWS CRT, mountpoint-s3, aws-sdk-net since 2025; for objects of
more than 10,000 parts s3transfer doubles it (16, 32, 64 MiB). 64 MiB: dandi-cli, Hadoop's s3a. 50
MiB: s5cmd, Python's s3fs; with 8 MiB, the sizes of AIND. 5 MiB: S3's minimum, of rclone and the
SDKs for Go, JavaScript and Java. 16 MiB: MinIO, web console. 15 MiB: s3cmd. 10 MiB: s3fs-fuse.

The order and the sizes determine keys (docs/reference/s3.md), so that a change changes commit ids.
"""


def usual_part_sizes(size: int, parts: int) -> list[int]:
    """Return the usual part sizes that an object can have, the most usual first.

    Parameters
    ----------
    size
        Size of the object in bytes.
    parts
        Number of its parts, of which only the last one may be smaller. A single part has the size
        of the object.

    Returns
    -------
    list[int]
        The part sizes in bytes.
    """
    if parts == 1:
        return [size]
    return [one for one in USUAL_PART_SIZES if (parts - 1) * one < size <= parts * one]


VOLUME_SCHEMES: Final = ("boss", "ndstore")
"""The schemes of source URIs and block URLs of services that return cutouts."""


BUCKET_VOLUMES: Final = ("precomputed", "zarr", "n5")
"""Kinds of links of volumes in buckets, which are Neuroglancer's schemes of their formats."""


def is_volume(source: str, links: Iterable[tuple[str, str]]) -> bool:
    """Return whether a dataset is a volume: a channel of a cutout service, or one in a bucket.

    Parameters
    ----------
    source
        The source URI.
    links
        Kind and URL of its links.
    """
    return source.partition("://")[0] in VOLUME_SCHEMES or any(
        kind in BUCKET_VOLUMES for kind, _ in links
    )


def has_downloads(source: str) -> bool:
    """Return whether the files of a dataset have URLs: the blocks of a volume service have none.

    Parameters
    ----------
    source
        The URI of the dataset at upstream.
    """
    return source.partition("://")[0] not in VOLUME_SCHEMES


_TIME_LABEL = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z\Z", re.ASCII)
_FIRST_REAL_SECOND = 86_400
"""Commits have upstream's time, or, without one, a second on the first day of 1970 (mint.work)."""


class Evidence(StrEnum):
    """What supports a file's identity, strongest first."""

    SHA256 = "sha256"
    MD5 = "md5"
    ETAG = "etag"
    SIZE = "size"
    NONE = "none"


class Retention(StrEnum):
    """How long upstream promises to keep the bytes of a file.

    ``PUBLISHED``: as long as the archive exists. ``VERSIONED_BUCKET``: old object versions stay
    readable. ``MUTABLE_BUCKET``, also for a web server: bytes are lost when they are replaced or
    deleted. ``DRAFT``: upstream may delete replaced bytes, and never has others at the same URL.
    ``ARCHIVED``: kept, but not readable until the owner of the bucket restores them.
    """

    PUBLISHED = "published"
    """In a published version: kept as long as the archive exists."""
    VERSIONED_BUCKET = "versioned-bucket"
    """In a versioned bucket: old object versions stay readable."""
    MUTABLE_BUCKET = "mutable-bucket"
    """In an unversioned bucket or on a web server: replaced or deleted bytes are lost at once."""
    DRAFT = "draft"
    """In a draft: upstream may delete replaced bytes."""
    ARCHIVED = "archived"
    """In an archive storage class: not readable before a restore. Only as a durability."""


class VersionKind(StrEnum):
    """The kind of a version: ``published`` by upstream, or only ``observed`` by the mirror."""

    PUBLISHED = "published"
    """Published by upstream under its own label; should never change."""
    OBSERVED = "observed"
    """An observed state of something mutable (a draft, a bucket prefix)."""


class Digest(Struct, frozen=True, array_like=True, gc=False):
    """A digest of a file.

    Attributes
    ----------
    algorithm
        ``sha256``, ``md5`` or ``etag`` (S3's multipart ETag); or ``crc64nvme``, ``crc32c`` or
        ``crc32``, which detect damage, and do not prove identity: no key depends on them.
    value
        Lower-case hex; for ``etag`` ``<md5 of the concatenated part md5s>-<parts>``. The part
        size is the ``part_size`` of the record. Without a part size, an ``etag`` may be any other
        text.
    claimed_by
        The source of the claim.
    checked
        Whether the bytes were hashed here.
    """

    algorithm: str
    value: str
    claimed_by: str
    checked: bool = False


class Location(Struct, frozen=True, array_like=True, gc=False):
    """A URL of the bytes of a file.

    Attributes
    ----------
    url
        The absolute URL, without credentials.
    kind
        ``s3`` (an object; a specific version if ``version_id`` is given, which is then also in
        the URL), ``s3-private`` (the same at ``s3://bucket/key``, which a special remote downloads
        with credentials), ``api`` (a download URL of an archive or web server),
        ``api-private`` (one that needs a token, which the special remote has), ``boss`` or
        ``ndstore`` (a block of a volume, from which the special remote creates the bytes of the
        file). Other bytes at the same ``api`` URL are an incident, unless the retention is
        ``MUTABLE_BUCKET``.
    version_id
        The version id of an S3 object.
    """

    url: str
    kind: str
    version_id: str | None = None


class FileRecord(Struct, frozen=True, gc=False):
    """A file of a version, as its source describes it.

    Attributes
    ----------
    path
        Upstream's name, as bytes.
    size
        The size in bytes; None if unknown.
    digests
        The known digests.
    locations
        URLs of the bytes, the most specific first.
    part_size
        The part size of the multipart ETag, in bytes.
    modified
        Upstream's time of the last modification (UTC).
    upstream_id
        The id of an immutable upstream object (a blob, an object version). The same id with
        other bytes is an incident.
    retention
        How long upstream promises to keep these bytes.
    archived
        The archive storage class, such as ``DEEP_ARCHIVE``, of an object that cannot be read before
        it is restored; None for others. It changes without the content, and identifies nothing: no
        commit depends on it.
    """

    path: bytes
    size: int | None
    digests: tuple[Digest, ...] = ()
    locations: tuple[Location, ...] = ()
    part_size: int | None = None
    modified: datetime | None = None
    upstream_id: str | None = None
    retention: Retention = Retention.DRAFT
    archived: str | None = None

    @property
    def durability(self) -> Retention:
        """The retention, or ``ARCHIVED``."""
        return self.retention if self.archived is None else Retention.ARCHIVED

    def digest(self, algorithm: str) -> Digest | None:
        """Return the digest with this algorithm.

        Parameters
        ----------
        algorithm
            The name of the algorithm, such as ``sha256``.

        Returns
        -------
        Digest or None
            None if the record has no such digest.
        """
        for digest in self.digests:
            if digest.algorithm == algorithm:
                return digest
        return None

    @property
    def evidence(self) -> Evidence:
        """The strongest evidence of the file's identity."""
        found = strongest_digest(self)
        if found is not None:
            return _EVIDENCE[found.algorithm]
        return Evidence.NONE if self.size is None else Evidence.SIZE


_EVIDENCE = {"sha256": Evidence.SHA256, "md5": Evidence.MD5, "etag": Evidence.ETAG}


def strongest_digest(record: FileRecord) -> Digest | None:
    """Return the digest on which a file's evidence is based; None for ``size`` and ``none``."""
    md5 = etag = None
    for digest in record.digests:
        algorithm = digest.algorithm
        if algorithm == "sha256":
            return digest
        if algorithm == "md5":
            md5 = md5 or digest
        elif algorithm == "etag":
            etag = etag or digest
    if md5 is not None:
        return md5
    if etag is not None and record.part_size is not None and record.size is not None:
        return etag
    return None


class ExcludedEntry(Struct, frozen=True):
    """An entry of a listing that is not committed (I5: listed = committed + excluded).

    Attributes
    ----------
    path
        Upstream's name.
    reason
        A fixed identifier (``zarr``, ``path-too-long``, …).
    detail
        An explanation. It is committed in ``dataset.json``: its wording is part of the format.
    size
        The size in bytes, which counts towards upstream's total.
    """

    path: bytes
    reason: str
    detail: str
    size: int = 0


def alias_of(name: str) -> str:
    """Return a dataset's name (``dandi:000027``) in the form for file names and RIA aliases.

    Parameters
    ----------
    name
        ``<mirror>:<local id>``.

    Returns
    -------
    str
        ``<mirror>--<local id>``.
    """
    return name.replace(":", "--").replace("/", "--")


def name_from_alias(alias: str) -> str:
    """Return the name of the dataset with an alias: ``dandi:000027`` for ``dandi--000027``.

    Parameters
    ----------
    alias
        The alias of a dataset, or of a mirror's superdataset.

    Returns
    -------
    str
        The name of the dataset, or of the mirror.
    """
    return alias.replace("--", ":", 1).replace("--", "/")


class DatasetRef(Struct, frozen=True):
    """Identifies a dataset of a mirror.

    Attributes
    ----------
    mirror
        The name of the mirror.
    local_id
        Upstream's id (``000027``).
    source_uri
        The upstream URI, independent of the mirror's name. The DataLad dataset id is derived
        from it.
    """

    mirror: str
    local_id: str
    source_uri: str

    @property
    def name(self) -> str:
        """The name, ``<mirror>:<local id>``."""
        return f"{self.mirror}:{self.local_id}"

    @property
    def alias(self) -> str:
        """The name for file names and RIA aliases, with ``--`` in place of ``:`` and ``/``."""
        return alias_of(self.name)

    @property
    def dataset_id(self) -> str:
        """The DataLad dataset id: ``uuid5(NAMESPACE_URL, source_uri)``."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self.source_uri))


class FileTotals(Struct, frozen=True):
    """The number of files and bytes of a version.

    Attributes
    ----------
    files
        The number of files.
    bytes
        The sum of their sizes.
    """

    files: int
    bytes: int


class VersionRef(Struct, frozen=True):
    """Identifies an upstream version of a dataset.

    Attributes
    ----------
    dataset
        The dataset.
    upstream
        Upstream's name of the version (``0.210831.2033``, ``draft``).
    kind
        Published or observed.
    time
        Upstream's time (of creation if published, of the last modification for a draft); None
        if it has none.
    claimed_totals
        The totals that upstream states.
    """

    dataset: DatasetRef
    upstream: str
    kind: VersionKind
    time: datetime | None
    claimed_totals: FileTotals | None = None


_TITLE: Final = 10_000
_TEXT: Final = 4_000
_VALUES: Final = 5_000
_LICENSES: Final = 100


def _shorten(text: str, most: int = _TEXT) -> str:
    """Truncate a text to ``most`` characters, including an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _shorten_pairs(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((_shorten(name), _shorten(value)) for name, value in pairs[:_VALUES])


class DatasetHint(Struct, frozen=True):
    """A dataset in a source's list of datasets.

    Attributes
    ----------
    dataset
        The dataset.
    fingerprint
        An opaque value that changes whenever the dataset may have changed; the plan skips a
        dataset whose fingerprint equals that of its last visit. None if upstream has no such
        information, so that only a visit can detect changes.
    title
        The title.
    unavailable
        Why the dataset cannot be mirrored now (``embargoed``), else None.
    """

    dataset: DatasetRef
    fingerprint: str | None
    title: str = ""
    unavailable: str | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "title", _shorten(self.title, _TITLE))


class Document(Struct, frozen=True):
    """A small metadata document of upstream, committed as a plain git file.

    Documents are part of the metadata digest, not of the state digest. A version in which only
    documents changed is marked metadata-only.

    Attributes
    ----------
    path
        The path (UTF-8, may contain folders), which must be a valid git path without escaping.
    content
        The content, which must depend on the upstream state only.
    modified
        Upstream's time of the document, if it has its own.
    """

    path: bytes
    content: bytes
    modified: datetime | None = None


FOLDER_MARKER = "folder-marker"
"""The reason of an excluded entry: an empty object that represents a folder."""

INFERRED = "inferred-from-name"
"""The attribute that lists the attributes whose values are inferred from the dataset's name."""

UNREADABLE = "unreadable-sidecar"
"""The attribute that lists the sidecars that could not be read in a version.

For these, the dataset keeps the values of the last version in which they could be read.
"""

CLEANED = "cleaned"
"""The attribute that lists the sidecars that differ from upstream's.

They lack secrets, and what an indexer updates (``last_modified``).
"""

CHECKED_BY_VISIT = "checked"
"""The attribute that lists what a visit compared. It is not committed, since it is not state."""


class DatasetFacts(Struct, frozen=True):
    """Upstream's metadata of a version, which depends on its state only.

    Values are limited: 10,000 characters for a title, 4,000 for any other text, 100 licenses, and
    5,000 values of each other field. Longer texts are truncated; longer URLs and DOIs are dropped.

    Attributes
    ----------
    title, license, doi, landing_page
        Bibliographic metadata.
    attributes
        Sorted (name, value) pairs for searching; names may be repeated: ``subject``, ``species``,
        ``modality``, ``platform``, ``project``, ``investigator``, ``funder``, ``institution``,
        ``data-level``, ``created``, ``acquired``, ``acquisition-type``, ``process``,
        ``schema-version``, :data:`INFERRED`, :data:`UNREADABLE`, :data:`CLEANED`.
    inputs
        Sorted upstream names of the datasets from which this one was derived.
    links
        Sorted (kind, URL) pairs of viewers (``neuroglancer``, ``ndviz``). Only the last ones are
        stored, in the index and not in git, because they may change.
    """

    title: str = ""
    license: tuple[str, ...] = ()
    doi: str | None = None
    landing_page: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    inputs: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        shortened: dict[str, object] = {
            "title": _shorten(self.title, _TITLE),
            "license": tuple(map(_shorten, self.license[:_LICENSES])),
            "attributes": _shorten_pairs(self.attributes),
            "inputs": tuple(map(_shorten, self.inputs[:_VALUES])),
            "links": tuple(link for link in self.links[:_VALUES] if len(link[1]) <= _TEXT),
        }
        for name in ("doi", "landing_page"):
            if len(getattr(self, name) or "") > _TEXT:
                shortened[name] = None
        for name, value in shortened.items():
            force_setattr(self, name, value)


class WebRemote(Struct, frozen=True):
    """An additional, untrusted web remote of git-annex, for less specific URLs.

    Attributes
    ----------
    name
        The name of the remote.
    urlinclude, urlexclude
        git-annex's globs of its URLs.
    cost
        Higher than that of the default web remote (200), so that git-annex tries it after the
        default remote failed or returned wrong bytes.
    """

    name: str
    urlinclude: str
    cost: int = 300
    urlexclude: str | None = None


class SpecialRemote(Struct, frozen=True):
    """An external special remote of git-annex that claims URLs of its own scheme.

    Attributes
    ----------
    name
        The name of the remote.
    externaltype
        The suffix of its program, ``git-annex-remote-<externaltype>``, which git-annex runs in
        every clone where it is installed.
    uuid
        The UUID, the same for every dataset.
    """

    name: str
    externaltype: str
    uuid: str


_Path = bytes
"""The type of a path in a class with a field ``bytes``, which hides the type there."""


class InlineComponent(Struct, frozen=True):
    """A component (a small Zarr) whose files are in a folder of the dataset.

    Attributes
    ----------
    path
        Upstream's path.
    source_uri
        The upstream URI of the component.
    checksum
        Upstream's checksum of its state.
    files, bytes
        Totals of its files in the dataset.
    """

    path: _Path
    source_uri: str
    checksum: str
    files: int
    bytes: int


class SnapshotHeader(Struct, frozen=True):
    """A snapshot without its files.

    Attributes
    ----------
    version
        The version.
    facts, documents
        Descriptive metadata and metadata documents of the version.
    exceptions
        The excluded entries, sorted by path.
    newest
        The time of the newest object; None if it is empty or upstream has no times.
    web_remotes, special_remotes
        The additional remotes.
    form
        ``files``; or ``manifest`` for datasets too large for git, whose tree contains only Zarr
        metadata and documents, while all other files are in the canonical manifest only
        (:func:`~neuromirror.model.is_in_git`).
    unversioned
        Whether the bucket keeps no old object versions, so that bytes may be replaced at any URL
        without a version.
    inline
        The inline components, sorted by path, each path once.
    """

    version: VersionRef
    facts: DatasetFacts = field(default_factory=DatasetFacts)
    documents: tuple[Document, ...] = ()
    exceptions: tuple[ExcludedEntry, ...] = ()
    newest: datetime | None = None
    web_remotes: tuple[WebRemote, ...] = ()
    special_remotes: tuple[SpecialRemote, ...] = ()
    form: str = "files"
    unversioned: bool = False
    inline: tuple[InlineComponent, ...] = ()


def epoch(moment: datetime) -> int:
    """Return the seconds since 1970 of a time with a time zone, rounded down.

    Parameters
    ----------
    moment
        The time.

    Returns
    -------
    int
        Whole seconds.

    Raises
    ------
    ValueError
        The time has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"time without a time zone: {moment!r}")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def time_label(moment: datetime) -> str:
    """Return the label of a state without an upstream label, such as ``2022-12-13T101112Z``.

    Parameters
    ----------
    moment
        The time.

    Returns
    -------
    str
        The label, in UTC with whole seconds.

    Raises
    ------
    ValueError
        If the time has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"time without a time zone: {moment!r}")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def parse_time_label(label: str) -> datetime | None:
    """Return the time of a label such as ``2022-12-13T101112Z``; None for any other text.

    Parameters
    ----------
    label
        The label.

    Returns
    -------
    datetime | None
        The time in UTC.
    """
    if not _TIME_LABEL.match(label):
        return None
    try:
        return datetime.strptime(label, "%Y-%m-%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def state_label(state: str) -> str:
    """Return the label of a state without upstream label and time, ``state-<8 hex digits>``.

    Parameters
    ----------
    state
        The state digest, ``sha256:<hex>``.

    Returns
    -------
    str
        The label.
    """
    return f"state-{state.removeprefix('sha256:')[:8]}"


def time_of_commit(seconds: int) -> datetime | None:
    """Return the time that upstream has for a version, from the date of its commit.

    Parameters
    ----------
    seconds
        The date of the commit, in seconds since 1970.

    Returns
    -------
    datetime | None
        The time in UTC. None for a date on the first day of 1970: upstream has no time for the
        version, and the date only numbers the commits of the branch.
    """
    return None if seconds < _FIRST_REAL_SECOND else datetime.fromtimestamp(seconds, UTC)
