"""Responses of the API, made of the shapes in :mod:`neuromirror.index.shapes`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta

from neuromirror.index import VersionRow
from neuromirror.index.shapes import (
    Answer,
    Change,
    Dataset,
    Document,
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
from neuromirror.volume import NotAVolumeError, VolumeDescription
from neuromirror.web.request import CatalogueRequest, PageNotFoundError


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
    documents: Annotated[
        list[Document], Meta(description="The archive's documents, which are plain files in git.")
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


class Frame(Answer, frozen=True):
    """The coordinate frame of a volume at the archive."""

    name: str
    description: str


class Times(Answer, frozen=True):
    """The range of time samples of a volume, with the numbers that the archive uses."""

    first: int
    last: int
    step: Annotated[float | None, Meta(description="Time between two samples, in `unit`.")]
    unit: str | None


class VolumeLevel(Answer, frozen=True):
    """One resolution of a volume; lists are along x, y, z, in voxels of this level."""

    level: Annotated[
        str,
        Meta(
            description="Number of the level at the archive; counted from 0 for a volume in a "
            "bucket."
        ),
    ]
    folder: Annotated[str, Meta(description="Folder of its blocks in the version.")]
    start: Annotated[list[int], Meta(description="First voxel, in the coordinates of the archive.")]
    stop: Annotated[list[int], Meta(description="Exclusive upper bound.")]
    extent: list[int]
    voxel_size: Annotated[list[float], Meta(description="In the volume's `unit`.")]
    block: list[int]
    block_bytes: Annotated[int, Meta(description="Decoded size of a whole block.")]
    blocks: Annotated[
        int,
        Meta(
            description="Number over all time samples; missing blocks of a volume in a bucket "
            "have its fill value."
        ),
    ]
    bytes: Annotated[int, Meta(description="Decoded size of all voxels of all time samples.")]
    encoding: str
    unreadable_reason: Annotated[
        str | None, Meta(description="Why the level cannot be cut out, null if it can.")
    ]


class Volume(Answer, frozen=True):
    """A version that is a volume: a channel of a BOSS or an ndstore, or one in a bucket."""

    version: str
    kind: Annotated[
        Literal["image", "annotation"],
        Meta(description="The voxels of an annotation are ids of objects."),
    ]
    format: str
    data_type: str
    unit: Annotated[str, Meta(description="Unit of voxel sizes.")]
    frame: Frame | None
    times: Times | None
    levels: Annotated[list[VolumeLevel], Meta(description="Levels from the finest on.")]

    @classmethod
    def describe(cls, found: VolumeDescription) -> Volume:
        """Return a volume with its levels from the finest on; triples are x, y, z."""
        volume = found.volume
        times = volume.times
        samples = 1 if times is None else len(times)
        return cls(
            version=found.version,
            kind="annotation" if volume.labels else "image",
            format=found.format,
            data_type=volume.dtype,
            unit=volume.unit,
            frame=Frame(*found.frame) if found.frame[0] else None,
            times=None
            if times is None
            else Times(times[0], times[-1], volume.time_step, volume.time_unit),
            levels=[
                VolumeLevel(
                    level=level.name,
                    folder=stored.folder,
                    start=list(level.start),
                    stop=list(level.stop),
                    extent=list(level.extent),
                    voxel_size=list(level.voxel),
                    block=list(level.chunk),
                    block_bytes=volume.chunk_bytes(level),
                    blocks=samples * math.prod(level.grid),
                    bytes=samples * math.prod(level.extent) * volume.item_size,
                    encoding=stored.encoding,
                    unreadable_reason=stored.unreadable_reason or None,
                )
                for level, stored in zip(volume.levels, found.storage, strict=True)
            ],
        )


async def describe_volume(request: CatalogueRequest, row: VersionRow) -> VolumeDescription:
    """Describe a version as a volume; raises PageNotFoundError if it is none."""
    site = request.site
    try:
        return await site.reader.run_in_thread(lambda: site.cutouts.describe(row))
    except NotAVolumeError as error:
        raise PageNotFoundError(str(error)) from error
