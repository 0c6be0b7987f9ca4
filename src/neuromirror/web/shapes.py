"""The shapes of what is told: mypy holds the records to them, and the API's description is made
of them (:mod:`neuromirror.web.api.openapi`). Whole replies: :mod:`neuromirror.web.api.responses`.

Times are ISO 8601 with their zone, sizes bytes, digests lower-case hexadecimal.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12

_with_field_docs = with_config(ConfigDict(use_attribute_docstrings=True))


@_with_field_docs
class DatasetJson(TypedDict):
    """A dataset and where it stands; counts, license and DOI are of the version minted last."""

    name: str
    """``<mirror>:<upstream's id>``."""
    mirror: str
    title: str
    license: list[str]
    doi: str | None
    source: str
    """Names the dataset upstream."""
    dataset_id: str
    """DataLad's."""
    versions: int
    version: str | None
    """Label of the version that the name means: the newest published one, else the newest observed.

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
    """How the last visit ended."""
    has_open_holds: bool
    """A listing of it waits for an operator."""
    removed_upstream: bool
    """Upstream no longer has it."""
    is_subdataset: bool
    """It is a part of another dataset."""


@_with_field_docs
class VersionJson(TypedDict):
    """A version: its ids, counts and evidence."""

    name: str
    """``<mirror>:<upstream's id>@<label>``."""
    dataset: str
    version: str
    """The label."""
    kind: Literal["published", "observed"]
    upstream: str
    """Upstream's word for it."""
    time: str | None
    """Upstream's time of it, null where upstream has none."""
    observed_at: str
    """When this mirror recorded it."""
    commit: str
    tree: str
    swhid: str
    state: str
    """``sha256:`` and the digest of its canonical manifest."""
    files: int
    bytes: int
    exceptions: int
    """How many things upstream names could not be recorded; the version's ``left_out`` has them."""
    evidence: dict[str, int]
    """Files by the word for what is known of their bytes: sha256, md5, etag, size, none."""
    title: str
    license: list[str]
    doi: str | None
    metadata_only: bool
    """It differs from the one before in metadata alone."""


@_with_field_docs
class FileJson(TypedDict):
    """A file of a version."""

    path: str
    """In git; upstream's name may be another where git could not have it."""
    size: int | None
    key: str
    """git-annex's."""
    digests: dict[str, str]
    """By algorithm: sha256, md5, etag."""
    evidence: Literal["sha256", "md5", "etag", "size", "none"]
    checked: bool
    """The bytes were hashed here, not only named so upstream."""
    retention: Literal["published", "versioned-bucket", "draft", "mutable-bucket"]
    """How long upstream promises to keep these bytes."""


@_with_field_docs
class FolderFileJson(FileJson):
    """A file that stands in a folder."""

    type: Literal["file"]


@_with_field_docs
class SubfolderJson(TypedDict):
    """A folder with what is below it at any depth; counts are null where they would take long."""

    type: Literal["folder"]
    path: str
    files: int | None
    bytes: int | None


FolderEntryJson = Annotated[FolderFileJson | SubfolderJson, Field(discriminator="type")]


@_with_field_docs
class OccurrenceJson(FileJson):
    """A place of some bytes: a dataset, a path, and an unbroken range of versions."""

    dataset: str
    first: str
    """Label of the first version of the range."""
    last: str
    current: bool
    """The range reaches the newest state."""
    urls: list[str]
    """The best few places upstream."""


@_with_field_docs
class EventJson(TypedDict):
    """What people should know: a tombstone, a return, an incident, a takedown."""

    id: int
    mirror: str
    dataset: str | None
    kind: str
    message: str
    at: str


@_with_field_docs
class MirrorJson(TypedDict):
    """A mirror at a glance; files and bytes are of the latest versions."""

    mirror: str
    source: str
    uri: str
    datasets: int
    mirrored: int
    """Datasets with a version."""
    subdatasets: int
    """Datasets that are parts of another."""
    versions: int
    files: int
    bytes: int
    contents: int
    """Distinct contents that this mirror was the first to bring."""
    last_visit: str | None
    last_full_visit: str | None
    failing: int
    """Datasets whose last visit failed, wholly or in part."""
    settling: int
    """Datasets that change too often at present to be recorded; see the setting ``settle``."""
    unreadable_sidecars: int
    """Datasets with sidecar files that cannot be parsed."""
    removed_upstream: int
    """Datasets that upstream no longer has."""
    open_holds: int
    incidents: int
    capabilities: dict[str, str]
    """What upstream was found to allow."""


@_with_field_docs
class FailureJson(TypedDict):
    """Something that failed and has not succeeded since; the operator sees why.

    Visits of datasets are among them.
    """

    task: str
    mirror: str
    """Empty for the store."""
    dataset: str | None
    since: str


@_with_field_docs
class HoldJson(TypedDict):
    """A listing that waits for an operator, since it would take away too much."""

    hold: str
    dataset: str
    upstream: str
    state: str
    reason: str
    files_removed: int
    files_before: int
    """Files that the dataset had."""
    placed_at: str


@_with_field_docs
class TombstoneJson(TypedDict):
    """A dataset that was taken down by the operator: when, and why."""

    dataset: str
    at: str
    reason: str
    within: str
    """Upstream's id of the dataset that it was a part of, or empty."""


@_with_field_docs
class LocationJson(TypedDict):
    """A place of some bytes upstream, and what its last probe said."""

    url: str
    kind: str
    version_id: str | None
    checked_at: str | None
    result: str | None


@_with_field_docs
class SpanJson(TypedDict):
    """A content that a path had from one version to another, unbroken."""

    first: str
    last: str
    current: bool
    size: int | None
    key: str


@_with_field_docs
class SubdatasetJson(TypedDict):
    """A sub-dataset in a version's tree."""

    path: str
    dataset: str
    version: str | None
    """The label of its version, null where the index does not have it."""
    commit: str
    state: str
    files: int
    bytes: int


@_with_field_docs
class EdgeJson(TypedDict):
    """One end of "was derived from"."""

    name: str
    """The input, as upstream wrote it."""
    dataset: str | None
    """At the other end; null where it is not mirrored."""
    version: str | None
    own_version: str
    """The label at this end."""
    relatives: list[EdgeJson]
    """Those that go on from the other end, as far as they were asked for."""
    is_truncated: bool
    """There are some that are not told here: too deep, or told elsewhere."""


@_with_field_docs
class ChangeJson(TypedDict):
    """What became of a file between two versions."""

    kind: Literal["added", "removed", "changed", "moved", "metadata", "document"]
    path: str
    before: str | None
    """The path that a moved file had."""
    old_digest: str | None
    new_digest: str | None
    old_size: int | None
    new_size: int | None
    files: int | None
    """Of a sub-dataset: how many files are in it."""
    message: str
    """What else is to be said, empty mostly."""


@_with_field_docs
class LinkJson(TypedDict):
    """Where people can look at a dataset."""

    kind: str
    url: str


@_with_field_docs
class MatchedFieldJson(TypedDict):
    """What is said of a dataset and has a word that was searched."""

    name: str
    """name, title, license, doi, or an attribute's name."""
    value: str


@_with_field_docs
class MatchJson(TypedDict):
    """A dataset that has all words of a search."""

    dataset: DatasetJson
    matched: list[MatchedFieldJson]
    version: str | None
    """Label of a version that has the other words in a path, null where there are no others."""
    path: str | None
    """Such a path, null where it could not be told in time."""
