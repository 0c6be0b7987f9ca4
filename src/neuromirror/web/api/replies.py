"""What each address of the API replies, in the shapes of :mod:`neuromirror.web.shapes`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12

from neuromirror.web.shapes import (
    Change,
    Dataset,
    Edge,
    Event,
    Failure,
    File,
    Found,
    Hold,
    Level,
    Link,
    Match,
    Mirror,
    Part,
    Place,
    Span,
    Tombstone,
    Version,
)

_told = with_config(ConfigDict(use_attribute_docstrings=True))


@_told
class Start(TypedDict):
    """Where everything is: addresses as URI templates (RFC 6570), by name."""

    version: int
    title: str
    description: str
    """The address of this API's OpenAPI description."""
    addresses: dict[str, str]


@_told
class Datasets(TypedDict):
    """Some datasets, by name."""

    datasets: list[Dataset]
    next: str | None


@_told
class Search(TypedDict):
    """Datasets that have all the words, best first."""

    found: list[Match]
    mirrors: dict[str, int]
    """How many were found in each mirror."""
    total: int
    exact: bool
    """False where ``mirrors`` and ``total`` may be a little too high."""
    next: str | None


@_told
class WholeDataset(Dataset):
    """A dataset with its versions and neighbours."""

    all_versions: list[Version]
    """In the order they were minted; no more than 1,000."""
    more_versions: str | None
    """Where the rest of them is."""
    links: list[Link]
    within: list[str]
    """Datasets whose newest state has this one as a part."""
    page: str


@_told
class Versions(TypedDict):
    """Some versions of a dataset, in the order they were minted."""

    versions: list[Version]
    next: str | None


@_told
class WholeVersion(Version):
    """A version, and what can be had of it."""

    attributes: dict[str, list[str]]
    """What upstream tells of it: species, modality, …"""
    left_out: list[dict[str, Any]]
    """What upstream names and could not be recorded, and why."""
    parts: list[Part]
    clone: str
    """For ``datalad clone``."""
    sums: str
    """A list for ``sha256sum -c``."""
    manifest: str | None
    """The canonical manifest (JSON lines, zstd), whose SHA-256 is the state."""
    page: str


@_told
class Files(TypedDict):
    """Some files of a version, by the bytes of their paths."""

    version: str
    """The version's full name."""
    files: list[File]
    next: str | None


@_told
class Levels(TypedDict):
    """What stands in a folder of a version."""

    version: str
    under: str
    level: list[Level]
    next: str | None


@_told
class Paths(TypedDict):
    """Files of a version whose paths have all the words."""

    version: str
    files: list[File]
    next: str | None
    whole: bool
    """False where the search stopped before the end: ``next`` goes on from there."""


@_told
class WholeFile(File):
    """A file with its places, its past, and where else its bytes are."""

    version: str
    places: list[Place]
    history: list[Span]
    others: list[Found]
    """Other places of the same bytes, 100 at most."""
    more_others: str | None
    """Where all of them are."""
    page: str


@_told
class Citation(TypedDict):
    """A citation of a version, as people paste it."""

    version: str
    format: Literal["text", "bibtex", "csl", "cff"]
    citation: str


@_told
class Ancestry(TypedDict):
    """What a version was derived from, and what was derived from its dataset."""

    version: str
    ancestors: list[Edge]
    descendants: list[Edge]


@_told
class Difference(TypedDict):
    """What became of one version in another."""

    old: str
    """The version's full name."""
    new: str
    files: dict[str, int]
    """How many, by kind of change, over all pages; those in sub-datasets are not counted."""
    bytes: dict[str, int]
    parts: dict[str, int]
    """How many sub-datasets, likewise."""
    changes: list[Change]
    next: str | None


@_told
class FoundPlaces(TypedDict):
    """Places of some bytes."""

    found: list[Found]
    next: str | None


@_told
class Events(TypedDict):
    """What happened, the last first."""

    events: list[Event]
    next: str | None


@_told
class Mirrors(TypedDict):
    """All mirrors, by name, and what fails: of a mirror, or of the store."""

    mirrors: list[Mirror]
    failures: list[Failure]


@_told
class Holds(TypedDict):
    """All listings that wait for an operator, the oldest first."""

    holds: list[Hold]


@_told
class Tombstones(TypedDict):
    """Datasets that were taken down, by name."""

    tombstones: list[Tombstone]
    next: str | None


@_told
class Problem(TypedDict):
    """What went wrong (RFC 9457): ``detail`` says it, and what to do."""

    type: str
    title: str
    status: int
    detail: str
