"""Responses of the API, made of the shapes in :mod:`neuromirror.web.shapes`."""

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
    """The operations of the API as URI templates (RFC 6570), by name."""

    version: int
    title: str
    description: str
    """URL of the OpenAPI document."""
    addresses: dict[str, str]


@_with_field_docs
class DatasetsResponse(TypedDict):
    """A page of datasets, sorted by name."""

    datasets: list[DatasetJson]
    next: str | None


@_with_field_docs
class SearchResponse(TypedDict):
    """Datasets that match all search terms, best first."""

    found: list[MatchJson]
    mirrors: dict[str, int]
    """Number of matches by mirror."""
    total: int
    exact: bool
    """False if ``mirrors`` and ``total`` may be slightly too high."""
    next: str | None


@_with_field_docs
class DatasetResponse(DatasetJson):
    """A dataset with its versions, links and superdatasets."""

    all_versions: list[VersionJson]
    """Versions in the order in which they were minted, at most 1,000."""
    more_versions: str | None
    """URL of the remaining versions."""
    links: list[LinkJson]
    within: list[str]
    """Superdatasets: datasets whose newest state contains this one."""
    page: str


@_with_field_docs
class VersionsResponse(TypedDict):
    """A page of versions, in the order in which they were minted."""

    versions: list[VersionJson]
    next: str | None


@_with_field_docs
class VersionResponse(VersionJson):
    """A version with its subdatasets and URLs for cloning and downloading."""

    attributes: dict[str, list[str]]
    """Attributes from the archive: species, modality, …"""
    left_out: list[dict[str, Any]]
    """Listed files that could not be recorded, with the reason."""
    subdatasets: list[SubdatasetJson]
    clone: str
    """URL for ``datalad clone``."""
    checksums: str
    """URL of a list for ``sha256sum -c``."""
    manifest: str | None
    """URL of the canonical manifest (JSON lines, zstd), whose SHA-256 is the state."""
    page: str


@_with_field_docs
class FilesResponse(TypedDict):
    """A page of files of a version, sorted by the bytes of their paths."""

    version: str
    """The version's full name."""
    files: list[FileJson]
    next: str | None


@_with_field_docs
class FolderResponse(TypedDict):
    """The entries of a folder of a version."""

    version: str
    under: str
    entries: list[FolderEntryJson]
    next: str | None


@_with_field_docs
class PathsResponse(TypedDict):
    """Files of a version whose paths match all search terms."""

    version: str
    files: list[FileJson]
    next: str | None
    complete: bool
    """False if the search stopped early: ``next`` continues it."""


@_with_field_docs
class FileResponse(FileJson):
    """A file with its locations, its history and other occurrences of its content."""

    version: str
    locations: list[LocationJson]
    history: list[SpanJson]
    other_occurrences: list[OccurrenceJson]
    """Other occurrences of the same content, at most 100."""
    other_occurrences_url: str | None
    """URL of all occurrences, null if there are no more."""
    page: str


@_with_field_docs
class CitationResponse(TypedDict):
    """A citation of a version in one format."""

    version: str
    format: Literal["text", "bibtex", "csl", "cff"]
    citation: str


@_with_field_docs
class AncestryResponse(TypedDict):
    """The ancestors of a version and the descendants of its dataset."""

    version: str
    ancestors: list[EdgeJson]
    descendants: list[EdgeJson]


@_with_field_docs
class DiffResponse(TypedDict):
    """A page of the changes between two versions."""

    old: str
    """The version's full name."""
    new: str
    files: dict[str, int]
    """Number of files by kind of change, over all pages, without those in subdatasets."""
    bytes: dict[str, int]
    subdatasets: dict[str, int]
    """Number of subdatasets by kind of change, over all pages."""
    changes: list[ChangeJson]
    next: str | None


@_with_field_docs
class OccurrencesResponse(TypedDict):
    """A page of occurrences of a content."""

    found: list[OccurrenceJson]
    next: str | None


@_with_field_docs
class EventsResponse(TypedDict):
    """A page of events, newest first."""

    events: list[EventJson]
    next: str | None


@_with_field_docs
class MirrorsResponse(TypedDict):
    """All mirrors by name, and the failing tasks of mirrors and store."""

    mirrors: list[MirrorJson]
    failures: list[FailureJson]


@_with_field_docs
class HoldsResponse(TypedDict):
    """All open holds, oldest first."""

    holds: list[HoldJson]


@_with_field_docs
class TombstonesResponse(TypedDict):
    """A page of withdrawn datasets, sorted by name."""

    tombstones: list[TombstoneJson]
    next: str | None


@_with_field_docs
class ProblemDetails(TypedDict):
    """An error (RFC 9457); ``detail`` has the cause and advice."""

    type: str
    title: str
    status: int
    detail: str
