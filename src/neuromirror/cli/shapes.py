"""JSON records of ``--json`` whose fields differ from those of the API.

A record with exactly the fields of its row (events, holds, failures) needs no shape. Imported by
the commands that use it, because the index takes long to import.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from neuromirror.index.rows import CopyRow, FailureRow, VisitRow
from neuromirror.index.shapes import (
    Answer,
    Change,
    Document,
    File,
    Link,
    Occurrence,
    Subdataset,
    VersionFields,
)


class ListedDataset(Answer, frozen=True):
    """A dataset; one without a version has null for its counts."""

    name: str = field(name="dataset")
    title: str
    dataset_id: str
    is_subdataset: bool
    is_removed_upstream: bool = field(name="removed")
    version: str | None
    files: int | None
    bytes: int | None


class VersionName(Answer, frozen=True):
    """The name and kind of a version."""

    dataset_name: str = field(name="dataset")
    label: str = field(name="version")
    name: str
    kind: str


class ListedVersion(VersionFields, frozen=True):
    """A version; ``metadata`` is the metadata digest."""

    metadata: str
    indexed: bool


class ListedSubdataset(Subdataset, frozen=True):
    """A subdataset in a version's tree."""

    dataset_id: str


class Ancestor(Answer, frozen=True):
    """An input of a version, and its own inputs."""

    name: str
    dataset: str | None
    label: str | None = field(name="version")
    own_label: str = field(name="ancestor_version")
    relatives: list[Ancestor] = field(name="derived_from")
    is_truncated: bool


class Derivative(Answer, frozen=True):
    """A version that was derived from another one, and its own derivatives."""

    name: str
    dataset: str | None
    label: str | None = field(name="version")
    own_label: str = field(name="ancestor_version")
    relatives: list[Derivative] = field(name="derivatives")
    is_truncated: bool


class ShownVersion(ListedVersion, frozen=True):
    """All details of a version and of its dataset."""

    title: str
    license: list[str]
    source: str
    dataset_id: str
    swhid: str
    annex_commit: str
    removed: bool
    checked: dict[str, int]
    retention: dict[str, int]
    copies: list[CopyRow]
    location_health: dict[str, int]
    superdatasets: list[str]
    attributes: dict[str, list[str]]
    links: list[Link]
    derived_from: list[Ancestor]
    derivatives: list[Derivative]
    form: str | None
    manifest_only: dict[str, int]
    documents: list[Document]
    subdatasets: list[ListedSubdataset]
    inline: list[dict[str, Any]]
    exceptions: list[dict[str, Any]]
    last_visit: VisitRow | None
    failures: list[FailureRow]
    clone: str


class ListedFile(File, frozen=True):
    """A file of a version with its strongest digest."""

    evidence_digest: str | None = field(name="digest")
    urls: list[str]


class FoundOccurrence(Occurrence, frozen=True, tag_field="type", tag="file"):
    """An occurrence of some content, with its strongest digest."""

    evidence_digest: str | None = field(name="digest")


class ListedChange(Change, frozen=True, tag_field="type", tag="change"):
    """A change between two versions."""

    is_subdataset: bool
