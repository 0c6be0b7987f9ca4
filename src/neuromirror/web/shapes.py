"""JSON shapes of the catalogue, checked by mypy and described in OpenAPI.

Whole responses are in :mod:`neuromirror.web.api.responses`. Times are ISO 8601 with a time zone,
sizes are in bytes, digests in lower-case hexadecimal.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12

_with_field_docs = with_config(ConfigDict(use_attribute_docstrings=True))


@_with_field_docs
class DatasetJson(TypedDict):
    """A dataset with the counts and metadata of the version that its name refers to."""

    name: str
    """``<mirror>:<id>``, with the id that the archive assigned."""
    mirror: str
    title: str
    license: list[str]
    doi: str | None
    source: str
    """URI of the dataset at the archive."""
    dataset_id: str
    """The DataLad dataset id, a UUID."""
    versions: int
    version: str | None
    """Label of the version that the name refers to: the newest published, else the newest observed.

    Title, license, doi, time, files and bytes are of this version.
    """
    newest: str | None
    """Label of the version minted last."""
    published: str | None
    """Label of the newest published version."""
    time: str | None
    files: int
    bytes: int
    last_visit: str | None
    status: str | None
    """Outcome of the last visit."""
    has_open_holds: bool
    """Whether a listing of the dataset is held for approval."""
    removed_upstream: bool
    """Whether the archive no longer lists the dataset."""
    is_subdataset: bool
    """Whether it is a subdataset of another dataset."""


@_with_field_docs
class VersionJson(TypedDict):
    """A version: its ids, counts and evidence."""

    name: str
    """``<mirror>:<id>@<label>``."""
    dataset: str
    version: str
    """The label."""
    kind: Literal["published", "observed"]
    upstream: str
    """Identifier of the version at the archive."""
    time: str | None
    """Time of the version at the archive, null if unspecified."""
    observed_at: str
    """When this mirror recorded it."""
    commit: str
    tree: str
    swhid: str
    state: str
    """The state: ``sha256:`` and the digest of the canonical manifest."""
    files: int
    bytes: int
    exceptions: int
    """Number of listed files that could not be recorded; ``left_out`` of the version has them."""
    evidence: dict[str, int]
    """Number of files by evidence: sha256, md5, etag, size, none."""
    title: str
    license: list[str]
    doi: str | None
    metadata_only: bool
    """Whether only metadata changed since the previous version."""


@_with_field_docs
class FileJson(TypedDict):
    """A file of a version."""

    path: str
    """Path in git; it may differ from the archive's name if git does not allow that."""
    size: int | None
    key: str
    """The git-annex key."""
    digests: dict[str, str]
    """By algorithm: sha256, md5, etag."""
    evidence: Literal["sha256", "md5", "etag", "size", "none"]
    checked: bool
    """Whether this mirror hashed the bytes, rather than take the archive's checksum."""
    retention: Literal["published", "versioned-bucket", "draft", "mutable-bucket"]
    """How long the archive promises to keep this content."""


@_with_field_docs
class FolderFileJson(FileJson):
    """A file in a folder."""

    type: Literal["file"]


@_with_field_docs
class SubfolderJson(TypedDict):
    """A subfolder with recursive counts, null if counting would take too long."""

    type: Literal["folder"]
    path: str
    files: int | None
    bytes: int | None


FolderEntryJson = Annotated[FolderFileJson | SubfolderJson, Field(discriminator="type")]


@_with_field_docs
class OccurrenceJson(FileJson):
    """An occurrence of a content: a dataset, a path and a contiguous range of versions."""

    dataset: str
    first: str
    """Label of the first version of the range."""
    last: str
    current: bool
    """Whether the range includes the newest state."""
    urls: list[str]
    """The best few locations upstream."""


@_with_field_docs
class EventJson(TypedDict):
    """A notable event: a tombstone, a return, an incident, a takedown."""

    id: int
    mirror: str
    dataset: str | None
    kind: str
    message: str
    at: str


@_with_field_docs
class MirrorJson(TypedDict):
    """Status of a mirror; files and bytes are those of the latest versions."""

    mirror: str
    source: str
    uri: str
    datasets: int
    mirrored: int
    """Datasets with at least one version."""
    subdatasets: int
    """Subdatasets of other datasets."""
    versions: int
    files: int
    bytes: int
    contents: int
    """Distinct contents that this mirror recorded first."""
    last_visit: str | None
    last_full_visit: str | None
    failing: int
    """Datasets whose last visit failed completely or partially."""
    settling: int
    """Datasets postponed until they settle."""
    unreadable_sidecars: int
    """Datasets with sidecar files that cannot be parsed."""
    removed_upstream: int
    """Datasets that the archive no longer lists."""
    open_holds: int
    incidents: int
    capabilities: dict[str, str]
    """Detected capabilities of the archive."""


@_with_field_docs
class FailureJson(TypedDict):
    """A task that failed and has not succeeded since, such as a visit of a dataset."""

    task: str
    mirror: str
    """Empty for tasks of the whole store."""
    dataset: str | None
    since: str


@_with_field_docs
class HoldJson(TypedDict):
    """A listing held for approval, because it would remove too much."""

    hold: str
    dataset: str
    upstream: str
    state: str
    reason: str
    files_removed: int
    files_before: int
    """Number of files in the last accepted version."""
    placed_at: str


@_with_field_docs
class TombstoneJson(TypedDict):
    """A dataset that the operator withdrew, with time and reason."""

    dataset: str
    at: str
    reason: str
    within: str
    """Id of the dataset of which it was a subdataset, or empty."""


@_with_field_docs
class LocationJson(TypedDict):
    """A location of a content upstream, with its last probe."""

    url: str
    kind: str
    version_id: str | None
    checked_at: str | None
    result: str | None


@_with_field_docs
class SpanJson(TypedDict):
    """The content of a path over a contiguous range of versions."""

    first: str
    last: str
    current: bool
    size: int | None
    key: str


@_with_field_docs
class SubdatasetJson(TypedDict):
    """A subdataset in a version's tree."""

    path: str
    dataset: str
    version: str | None
    """Label of its version, null if it is not in the index."""
    commit: str
    state: str
    files: int
    bytes: int


@_with_field_docs
class EdgeJson(TypedDict):
    """An edge of the provenance graph ("was derived from")."""

    name: str
    """Name of the input, as the archive wrote it."""
    dataset: str | None
    """The dataset at the other end, null if it is not mirrored."""
    version: str | None
    own_version: str
    """Label of the version at this end."""
    relatives: list[EdgeJson]
    """Further edges from the other end, up to the requested depth."""
    is_truncated: bool
    """Whether further edges exist beyond the depth, or elsewhere in this response."""


@_with_field_docs
class ChangeJson(TypedDict):
    """The change of a file between two versions."""

    kind: Literal["added", "removed", "changed", "moved", "metadata", "document"]
    path: str
    before: str | None
    """Previous path of a moved file."""
    old_digest: str | None
    new_digest: str | None
    old_size: int | None
    new_size: int | None
    files: int | None
    """Number of files of a subdataset, null for a file."""
    message: str
    """A remark, usually empty."""


@_with_field_docs
class LinkJson(TypedDict):
    """A page or viewer for a dataset."""

    kind: str
    url: str


@_with_field_docs
class MatchedFieldJson(TypedDict):
    """A metadata field in which a search term was found."""

    name: str
    """name, title, license, doi, or an attribute's name."""
    value: str


@_with_field_docs
class MatchJson(TypedDict):
    """A dataset that matches all search terms."""

    dataset: DatasetJson
    matched: list[MatchedFieldJson]
    version: str | None
    """Label of the version whose paths match the remaining terms, null if none remain."""
    path: str | None
    """Such a path, null if the search for it took too long."""
