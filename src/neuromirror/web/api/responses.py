"""What each address of the API replies, in the shapes of :mod:`neuromirror.web.shapes`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12

from neuromirror.web.shapes import (
    ChangeJson,
    DatasetJson,
    EdgeJson,
    EventJson,
    FailureJson,
    FileJson,
    FolderEntryJson,
    HoldJson,
    LinkJson,
    LocationJson,
    MatchJson,
    MirrorJson,
    OccurrenceJson,
    SpanJson,
    SubdatasetJson,
    TombstoneJson,
    VersionJson,
)

_with_field_docs = with_config(ConfigDict(use_attribute_docstrings=True))


@_with_field_docs
class RootResponse(TypedDict):
    """Where everything is: addresses as URI templates (RFC 6570), by name."""

    version: int
    title: str
    description: str
    """The address of this API's OpenAPI description."""
    addresses: dict[str, str]


@_with_field_docs
class DatasetsResponse(TypedDict):
    """Some datasets, by name."""

    datasets: list[DatasetJson]
    next: str | None


@_with_field_docs
class SearchResponse(TypedDict):
    """Datasets that have all the words, best first."""

    found: list[MatchJson]
    mirrors: dict[str, int]
    """How many were found in each mirror."""
    total: int
    exact: bool
    """False where ``mirrors`` and ``total`` may be a little too high."""
    next: str | None


@_with_field_docs
class DatasetResponse(DatasetJson):
    """A dataset with its versions and neighbours."""

    all_versions: list[VersionJson]
    """In the order they were minted; no more than 1,000."""
    more_versions: str | None
    """Where the rest of them is."""
    links: list[LinkJson]
    within: list[str]
    """Datasets whose newest state has this one as a part."""
    page: str


@_with_field_docs
class VersionsResponse(TypedDict):
    """Some versions of a dataset, in the order they were minted."""

    versions: list[VersionJson]
    next: str | None


@_with_field_docs
class VersionResponse(VersionJson):
    """A version, and what can be had of it."""

    attributes: dict[str, list[str]]
    """What upstream tells of it: species, modality, …"""
    left_out: list[dict[str, Any]]
    """What upstream names and could not be recorded, and why."""
    subdatasets: list[SubdatasetJson]
    clone: str
    """For ``datalad clone``."""
    checksums: str
    """A list for ``sha256sum -c``."""
    manifest: str | None
    """The canonical manifest (JSON lines, zstd), whose SHA-256 is the state."""
    page: str


@_with_field_docs
class FilesResponse(TypedDict):
    """Some files of a version, by the bytes of their paths."""

    version: str
    """The version's full name."""
    files: list[FileJson]
    next: str | None


@_with_field_docs
class FolderResponse(TypedDict):
    """What stands in a folder of a version."""

    version: str
    under: str
    entries: list[FolderEntryJson]
    next: str | None


@_with_field_docs
class PathsResponse(TypedDict):
    """Files of a version whose paths have all the words."""

    version: str
    files: list[FileJson]
    next: str | None
    complete: bool
    """False where the search stopped before the end: ``next`` goes on from there."""


@_with_field_docs
class FileResponse(FileJson):
    """A file with its places, its past, and where else its bytes are."""

    version: str
    locations: list[LocationJson]
    history: list[SpanJson]
    other_occurrences: list[OccurrenceJson]
    """Other places of the same bytes, 100 at most."""
    other_occurrences_url: str | None
    """Where all of them are."""
    page: str


@_with_field_docs
class CitationResponse(TypedDict):
    """A citation of a version, as people paste it."""

    version: str
    format: Literal["text", "bibtex", "csl", "cff"]
    citation: str


@_with_field_docs
class AncestryResponse(TypedDict):
    """What a version was derived from, and what was derived from its dataset."""

    version: str
    ancestors: list[EdgeJson]
    descendants: list[EdgeJson]


@_with_field_docs
class DiffResponse(TypedDict):
    """What became of one version in another."""

    old: str
    """The version's full name."""
    new: str
    files: dict[str, int]
    """How many, by kind of change, over all pages; those in sub-datasets are not counted."""
    bytes: dict[str, int]
    subdatasets: dict[str, int]
    """How many sub-datasets, likewise."""
    changes: list[ChangeJson]
    next: str | None


@_with_field_docs
class OccurrencesResponse(TypedDict):
    """Places of some bytes."""

    found: list[OccurrenceJson]
    next: str | None


@_with_field_docs
class EventsResponse(TypedDict):
    """What happened, the last first."""

    events: list[EventJson]
    next: str | None


@_with_field_docs
class MirrorsResponse(TypedDict):
    """All mirrors, by name, and what fails: of a mirror, or of the store."""

    mirrors: list[MirrorJson]
    failures: list[FailureJson]


@_with_field_docs
class HoldsResponse(TypedDict):
    """All listings that wait for an operator, the oldest first."""

    holds: list[HoldJson]


@_with_field_docs
class TombstonesResponse(TypedDict):
    """Datasets that were taken down, by name."""

    tombstones: list[TombstoneJson]
    next: str | None


@_with_field_docs
class ProblemDetails(TypedDict):
    """What went wrong (RFC 9457): ``detail`` says it, and what to do."""

    type: str
    title: str
    status: int
    detail: str
