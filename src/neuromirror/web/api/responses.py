"""Responses of the API, made of the shapes in :mod:`neuromirror.index.shapes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from neuromirror.index.shapes import (
    Answer,
    Change,
    Dataset,
    Edge,
    Event,
    FacetValue,
    Failure,
    File,
    FolderFile,
    Hold,
    Link,
    Location,
    Match,
    Mirror,
    Occurrence,
    Span,
    Subdataset,
    Subfolder,
    Tombstone,
    Version,
)


class RootResponse(Answer, frozen=True):
    """The operations of the API as URI templates (RFC 6570), by name."""

    version: int
    title: str
    description: Annotated[str, Meta(description="URL of the OpenAPI document.")]
    addresses: dict[str, str]


class DatasetsResponse(Answer, frozen=True):
    """A page of datasets, sorted by name."""

    datasets: list[Dataset]
    next: str | None


class SearchResponse(Answer, frozen=True):
    """Datasets that match all search terms and the selected facets, in the requested order."""

    found: list[Match]
    facets: Annotated[
        dict[str, list[FacetValue]],
        Meta(description="Values with the number of matches, by facet."),
    ]
    total: int
    exact: Annotated[
        bool, Meta(description="False if `facets` and `total` may be slightly too high.")
    ]
    next: str | None


class DatasetResponse(Dataset, frozen=True):
    """A dataset with its versions, links and superdatasets."""

    all_versions: Annotated[
        list[Version],
        Meta(description="Versions in the order in which they were minted, at most 1,000."),
    ]
    more_versions: Annotated[str | None, Meta(description="URL of the remaining versions.")]
    links: list[Link]
    within: Annotated[
        list[str], Meta(description="Superdatasets: datasets whose newest state contains this one.")
    ]
    page: str


class VersionsResponse(Answer, frozen=True):
    """A page of versions, in the order in which they were minted."""

    versions: list[Version]
    next: str | None


class VersionResponse(Version, frozen=True):
    """A version with its subdatasets and URLs for cloning and downloading."""

    attributes: Annotated[
        dict[str, list[str]], Meta(description="Attributes from the archive: species, modality, …")
    ]
    left_out: Annotated[
        list[dict[str, Any]],
        Meta(description="Listed files that could not be recorded, with the reason."),
    ]
    subdatasets: list[Subdataset]
    clone: Annotated[str, Meta(description="URL for `datalad clone`.")]
    checksums: Annotated[str, Meta(description="URL of a list for `sha256sum -c`.")]
    manifest: Annotated[
        str | None,
        Meta(
            description="URL of the canonical manifest (JSON lines, zstd), whose SHA-256 is "
            "the state."
        ),
    ]
    at: Annotated[
        str | None,
        Meta(
            description="URL below which the files are readable over plain HTTP (the gateway); "
            "null if the operator has disabled it."
        ),
    ]
    page: str


class FilesResponse(Answer, frozen=True):
    """A page of files of a version, sorted by the bytes of their paths."""

    version: Annotated[str, Meta(description="The version's full name.")]
    files: list[File]
    next: str | None


class FolderResponse(Answer, frozen=True):
    """The entries of a folder of a version."""

    version: str
    under: str
    entries: list[FolderFile | Subfolder]
    next: str | None


class PathsResponse(Answer, frozen=True):
    """Files of a version whose paths match all search terms."""

    version: str
    files: list[File]
    next: str | None
    complete: Annotated[
        bool, Meta(description="False if the search stopped early: `next` continues it.")
    ]


class FileResponse(File, frozen=True):
    """A file with its locations, its history and other occurrences of its content."""

    version: str
    locations: list[Location]
    history: list[Span]
    other_occurrences: Annotated[
        list[Occurrence], Meta(description="Other occurrences of the same content, at most 100.")
    ]
    other_occurrences_url: Annotated[
        str | None, Meta(description="URL of all occurrences, null if there are no more.")
    ]
    at: Annotated[
        str | None,
        Meta(description="URL of the content (the gateway); null if the operator has disabled it."),
    ]
    page: str


class CitationResponse(Answer, frozen=True):
    """A citation of a version in one format."""

    version: str
    format: Literal["text", "bibtex", "csl", "cff"]
    citation: str


class AncestryResponse(Answer, frozen=True):
    """The ancestors of a version and the descendants of its dataset."""

    version: str
    ancestors: list[Edge]
    descendants: list[Edge]


class DiffResponse(Answer, frozen=True):
    """A page of the changes between two versions."""

    old: Annotated[str, Meta(description="The version's full name.")]
    new: str
    files: Annotated[
        dict[str, int],
        Meta(
            description="Number of files by kind of change, over all pages, without those in "
            "subdatasets."
        ),
    ]
    bytes: dict[str, int]
    subdatasets: Annotated[
        dict[str, int], Meta(description="Number of subdatasets by kind of change, over all pages.")
    ]
    changes: list[Change]
    next: str | None


class OccurrencesResponse(Answer, frozen=True):
    """A page of occurrences of a content."""

    found: list[Occurrence]
    next: str | None


class EventsResponse(Answer, frozen=True):
    """A page of events, newest first."""

    events: list[Event]
    next: str | None


class MirrorsResponse(Answer, frozen=True):
    """All mirrors by name, and the failing tasks of mirrors and store."""

    mirrors: list[Mirror]
    failures: list[Failure]


class HoldsResponse(Answer, frozen=True):
    """All open holds, oldest first."""

    holds: list[Hold]


class TombstonesResponse(Answer, frozen=True):
    """A page of withdrawn datasets, sorted by name."""

    tombstones: list[Tombstone]
    next: str | None


class ProblemDetails(Answer, frozen=True):
    """An error (RFC 9457); ``detail`` has the cause and advice."""

    type: str
    title: str
    status: int
    detail: str
