"""Frozen records that flow from a source to the index. No I/O.

What there is one of for each file is a msgspec Struct, made and read ten times as fast as a frozen
dataclass; everything else is a dataclass. They can form no cycles, so the garbage collector need
not look at them (``gc=False``).
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

_TIME_LABEL = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z\Z", re.ASCII)
_FIRST_REAL_SECOND = 86_400
"""Commits are dated by upstream's times, or with seconds of the first day of 1970 (mint.work)."""


class Evidence(StrEnum):
    """What is proved about a file's bytes, strongest first; the words shown everywhere."""

    SHA256 = "sha256"
    MD5 = "md5"
    ETAG = "etag"
    SIZE = "size"
    NONE = "none"


class Retention(StrEnum):
    """How long upstream keeps this very version of the bytes."""

    PUBLISHED = "published"
    """Part of a published version: kept as long as the archive."""
    VERSIONED_BUCKET = "versioned-bucket"
    """Old object versions stay readable."""
    MUTABLE_BUCKET = "mutable-bucket"
    """Overwritten or deleted bytes are gone at once."""
    DRAFT = "draft"
    """In a draft: replaced bytes may be expired by upstream."""


class VersionKind(StrEnum):
    """How a version came to be."""

    PUBLISHED = "published"
    """Upstream published it under a label of its own; it should never change."""
    OBSERVED = "observed"
    """The state of something that changes (a draft, a bucket prefix), as once seen."""


class Digest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One checksum of a file, who claims it, and whether the bytes were hashed here.

    ``algorithm`` is ``sha256``, ``md5`` (both lower-case hex) or ``etag`` (S3's multipart ETag,
    ``<md5 of the joined part md5s>-<parts>``; the part size is the record's ``part_size``).
    """

    algorithm: str
    value: str
    claimed_by: str
    checked: bool = False


class Location(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A place where the bytes can be had; ``url`` holds no credentials.

    ``kind`` is ``s3`` (an object, exact when ``version_id`` is known and in the URL), ``api``
    (an archive's own download address), ``boss`` or ``ndstore`` (a block of a volume, which a
    special remote cuts out and makes into the file's bytes).
    """

    url: str
    kind: str
    version_id: str | None = None


class FileRecord(msgspec.Struct, frozen=True, gc=False):
    """One file of a version, as its source states it.

    ``path`` is upstream's name, byte for byte; ``size`` in bytes, None where upstream does not
    say; ``locations`` in order of preference, the most exact first; ``part_size`` in bytes, of
    the multipart ETag; ``modified`` is upstream's time of this object (UTC); ``upstream_id``
    names the immutable thing upstream (a blob, an object version): the same id with other bytes
    is an incident.
    """

    path: bytes
    size: int | None
    digests: tuple[Digest, ...] = ()
    locations: tuple[Location, ...] = ()
    part_size: int | None = None
    modified: datetime | None = None
    upstream_id: str | None = None
    retention: Retention = Retention.DRAFT

    def digest(self, algorithm: str) -> Digest | None:
        """The claim of this algorithm, or None."""
        for digest in self.digests:
            if digest.algorithm == algorithm:
                return digest
        return None

    @property
    def evidence(self) -> Evidence:
        """The strongest thing that is known about the bytes."""
        found = strongest_digest(self)
        if found is not None:
            return _EVIDENCE[found.algorithm]
        return Evidence.NONE if self.size is None else Evidence.SIZE


_EVIDENCE = {"sha256": Evidence.SHA256, "md5": Evidence.MD5, "etag": Evidence.ETAG}


def strongest_digest(record: FileRecord) -> Digest | None:
    """Return the digest that is the evidence of a file; None for evidence ``size`` or ``none``."""
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


@dataclass(frozen=True, slots=True)
class ExcludedEntry:
    """Something upstream lists that is not committed, and why (I5: listed = committed + these).

    ``reason`` is a short fixed word (``zarr``, ``path-too-long``, …), ``detail`` a sentence.
    ``size`` in bytes counts towards upstream's own total.
    """

    path: bytes
    reason: str
    detail: str
    size: int = 0


def alias_of(name: str) -> str:
    """A dataset's name (``dandi:000027``) as file names and RIA aliases have it."""
    return name.replace(":", "--").replace("/", "--")


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A dataset: one thing upstream, under a mirror's name for it.

    ``local_id`` is upstream's id (``000027``); ``source_uri`` names the thing whatever the mirror
    is called, and is what the DataLad dataset id is made of.
    """

    mirror: str
    local_id: str
    source_uri: str

    @property
    def name(self) -> str:
        """``<mirror>:<local id>``, as a person writes it."""
        return f"{self.mirror}:{self.local_id}"

    @property
    def alias(self) -> str:
        """The name in file names and RIA aliases: ``:`` and ``/`` become ``--``."""
        return alias_of(self.name)

    @property
    def dataset_id(self) -> str:
        """The DataLad dataset id: ``uuid5(NAMESPACE_URL, source_uri)``."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self.source_uri))


@dataclass(frozen=True, slots=True)
class FileTotals:
    """How many files and bytes a version holds."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A version as upstream names it: ``upstream`` is ``0.210831.2033``, or ``draft``.

    ``time`` is upstream's time of the version (published: its creation; draft: its last
    modification), None where upstream has none; ``claimed`` is upstream's own summary.
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
    """Return a text of at most ``most`` characters, the last of them an ellipsis if it was cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _shorten_pairs(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((_shorten(name), _shorten(value)) for name, value in pairs[:_VALUES])


@dataclass(frozen=True, slots=True)
class DatasetHint:
    """A dataset in a source's overview, with a fingerprint that moves when it may have changed.

    ``fingerprint`` is opaque: equal to the last visit's means that the plan may skip the dataset.
    None: upstream gives no such hint, and only a visit can tell. ``unavailable`` is a reason why
    the dataset cannot be mirrored now (``embargoed``), else None.
    """

    dataset: DatasetRef
    fingerprint: str | None
    title: str = ""
    unavailable: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", _shorten(self.title, _TITLE))


@dataclass(frozen=True, slots=True)
class Document:
    """A small metadata document of upstream, committed as a plain git file.

    ``path`` (UTF-8, may have folders) must be one that git paths map to themselves. ``content``
    must not hold anything volatile: equal upstream state, equal bytes. ``modified`` is upstream's
    time of the document, where it has one of its own. Documents are not in the state digest but
    in the metadata digest: a change in them alone is a version marked metadata-only.
    """

    path: bytes
    content: bytes
    modified: datetime | None = None


FOLDER_MARKER = "folder-marker"
"""The reason of a named exception: an empty object that stands for a folder."""

INFERRED = "inferred-from-name"
"""The attribute that lists the attributes whose values come from the dataset's name alone."""

UNREADABLE = "unreadable-sidecar"
"""The attribute that lists sidecars which could not be read in a version.

What they said in the last version in which they could be read still holds for the dataset.
"""

CHECKED_BY_VISIT = "checked"
"""The attribute that says what a visit compared: of the visit, not of the state, so not in git."""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What upstream says about a version as a whole; all of it stable for a given state.

    ``attributes`` are (name, value) pairs, sorted, to search by; a name may come more than once:
    ``subject``, ``species``, ``modality``, ``platform``, ``project``, ``investigator``,
    ``funder``, ``institution``, ``data-level``, ``created``, ``acquired``, ``acquisition-type``,
    ``process``, ``schema-version``, :data:`INFERRED`, :data:`UNREADABLE`. ``inputs`` are
    upstream's names of the datasets that this one was derived from, sorted. ``links`` are (kind,
    address) pairs, sorted, of viewers and other places where people can look at it
    (``neuroglancer``, ``ndviz``); the index keeps the last ones, and git none, so they may move.

    Whatever upstream says, a title has at most 10,000 characters and any other text 4,000; there
    are at most 100 licenses, and 5,000 of the others. What is longer is cut; an address or a DOI
    that is too long is left out.
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
            "links": tuple(one for one in self.links[:_VALUES] if len(one[1]) <= _TEXT),
        }
        for name in ("doi", "landing_page"):
            if len(getattr(self, name) or "") > _TEXT:
                shortened[name] = None
        for name, value in shortened.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class WebRemote:
    """A second web remote of git-annex, for places of another kind than the exact ones.

    ``urlinclude`` and ``urlexclude`` are git-annex's globs of the URLs it serves, and not; ``cost``
    ranks it after the plain web remote (200): git-annex tries it when the first gave nothing, or
    wrong bytes. It is untrusted: that it has a content is never reason enough to drop a copy.
    """

    name: str
    urlinclude: str
    cost: int = 300
    urlexclude: str | None = None


@dataclass(frozen=True, slots=True)
class SpecialRemote:
    """An external special remote of git-annex that claims URLs of a scheme of its own.

    ``externaltype`` names its program (``git-annex-remote-<externaltype>``), which git-annex
    starts by itself in every clone that has it installed; ``uuid`` is the same wherever the
    remote is used, since what it can get does not depend on the dataset.
    """

    name: str
    externaltype: str
    uuid: str


@dataclass(frozen=True, slots=True)
class InlineComponent:
    """A part of upstream (a small Zarr) whose files are the dataset's own, in a folder of it.

    ``path`` is upstream's; ``source_uri`` names the part, and ``checksum`` is upstream's of the
    state it is in. ``files`` and ``bytes`` count what the dataset holds of it.
    """

    path: bytes
    source_uri: str
    checksum: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """All of a snapshot but its files.

    ``exceptions`` are sorted by path. ``newest`` is the time of the newest object in the state,
    None where it holds none or upstream has no times. ``form`` is ``files``, or ``manifest`` for
    what is too large for git: then only a Zarr's metadata files have a place in the git tree (and
    all documents), and the rest is in the canonical manifest alone (model.placed.in_git).
    ``inline`` are the parts that stand as folders of files, sorted by path, each path once.
    ``unversioned`` says that the bucket keeps no old object versions, so that bytes at any URL
    without a version may be replaced.
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
    """Whole seconds since 1970, rounded down; the moment must carry a zone."""
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {moment!r}")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def time_label(moment: datetime) -> str:
    """The label of a state that upstream gives none: ``2022-12-13T101112Z``.

    The moment must carry a zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {moment!r}")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def parse_time_label(label: str) -> datetime | None:
    """Return the moment of a label such as ``2022-12-13T101112Z``; None for any other text."""
    if not _TIME_LABEL.match(label):
        return None
    try:
        return datetime.strptime(label, "%Y-%m-%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def state_label(state: str) -> str:
    """Return the label of a state without any upstream time: ``state-<8 hex digits>``.

    ``state`` is its digest, ``sha256:<hex>``.
    """
    return f"state-{state.removeprefix('sha256:')[:8]}"


def time_of_commit(seconds: int) -> datetime | None:
    """Return upstream's time that a commit of the mirror is dated with.

    None for a date that only counts the commits of a chain, since upstream has no time.
    """
    return None if seconds < _FIRST_REAL_SECOND else datetime.fromtimestamp(seconds, UTC)
