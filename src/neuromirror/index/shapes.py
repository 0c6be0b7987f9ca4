"""JSON shapes of what the index has, for ``--json``, the HTTP API and its OpenAPI document.

A shape is made of an index row by the names of its attributes (:meth:`Answer.of`). A field whose
JSON name differs from the row's attribute has that name in ``field(name=…)``. Times are ISO 8601
with a time zone, sizes are in bytes, digests in lower-case hexadecimal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta, field

from neuromirror.model.validation import analysed_type

if TYPE_CHECKING:
    from neuromirror.index.files import FolderEntryRow


class Answer(msgspec.Struct, frozen=True):
    """A JSON object that is made of an index row."""

    @classmethod
    def of(cls, row: object = None, **more: Any) -> Self:
        """Return the answer about a row.

        Parameters
        ----------
        row
            The row, or None if ``more`` has all fields.
        more
            Fields that are not attributes of the row, by the names of the attributes here. Rows
            inside them become the shapes of their fields.

        Raises
        ------
        msgspec.ValidationError
            If a value does not have the type of its field.
        """
        values = {
            encoded: more[name] if name in more else getattr(row, name)
            for name, encoded in zip(
                cls.__struct_fields__, cls.__struct_encode_fields__, strict=True
            )
        }
        return msgspec.convert(values, analysed_type(cls), from_attributes=True)

    def plain(self) -> dict[str, Any]:
        """Return the JSON object as a dictionary."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class Dataset(Answer, frozen=True):
    """A dataset with the counts and metadata of the version that its name refers to."""

    name: Annotated[str, Meta(description="`<mirror>:<id>`, with the id of the archive.")]
    mirror: str
    title: str
    license: list[str]
    doi: str | None
    source_uri: Annotated[str, Meta(description="URI of the dataset at the archive.")] = field(
        name="source"
    )
    dataset_id: Annotated[str, Meta(description="The DataLad dataset id, a UUID.")]
    versions: int
    version: Annotated[
        str | None,
        Meta(
            description="Label of the version that the name refers to: the newest published, else "
            "the newest observed. Title, license, doi, time, files and bytes are of this version."
        ),
    ]
    newest: Annotated[str | None, Meta(description="Label of the version minted last.")]
    published: Annotated[str | None, Meta(description="Label of the newest published version.")]
    time: str | None
    files: int
    bytes: int
    last_visit: str | None
    status: Annotated[str | None, Meta(description="Outcome of the last visit.")]
    has_open_holds: Annotated[
        bool, Meta(description="Whether a listing of the dataset is held for approval.")
    ]
    is_removed_upstream: Annotated[
        bool, Meta(description="Whether the archive no longer lists the dataset.")
    ] = field(name="removed_upstream")
    is_subdataset: Annotated[
        bool, Meta(description="Whether it is a subdataset of another dataset.")
    ]


class VersionFields(Answer, frozen=True):
    """A version of a dataset, in lists: its names, ids, counts and evidence."""

    name: Annotated[str, Meta(description="`<mirror>:<id>@<label>`.")]
    dataset_name: str = field(name="dataset")
    label: Annotated[str, Meta(description="The label.")] = field(name="version")
    kind: Literal["published", "observed"]
    upstream: Annotated[str, Meta(description="Identifier of the version at the archive.")]
    upstream_time: Annotated[
        str | None, Meta(description="Time of the version at the archive, null if unspecified.")
    ] = field(name="time")
    recorded_at: Annotated[str, Meta(description="When this mirror recorded it.")] = field(
        name="observed_at"
    )
    commit: str
    tree: str
    state: Annotated[
        str, Meta(description="The state: `sha256:` and the digest of the canonical manifest.")
    ]
    files: int
    bytes: int
    evidence: Annotated[
        dict[str, int],
        Meta(description="Number of files by evidence: sha256, md5, etag, size, none."),
    ]
    doi: str | None
    metadata_only: Annotated[
        bool, Meta(description="Whether only metadata changed since the previous version.")
    ]


class Version(VersionFields, frozen=True):
    """A version of a dataset with its title, license, SWHID and number of exceptions."""

    swhid: str
    exceptions: Annotated[
        int,
        Meta(
            description="Number of listed files that could not be recorded; `left_out` of the "
            "version has them."
        ),
    ]
    title: str
    license: list[str]


class File(Answer, frozen=True):
    """A file of a version."""

    path: Annotated[
        str,
        Meta(
            description="Path in git; it may differ from the archive's name if git does not allow "
            "that."
        ),
    ]
    size: int | None
    key: Annotated[str, Meta(description="The git-annex key.")]
    digest_values: Annotated[
        dict[str, str], Meta(description="By algorithm: sha256, md5, etag; of one file also CRCs.")
    ] = field(name="digests")
    evidence: Literal["sha256", "md5", "etag", "size", "none"]
    checked: Annotated[
        bool,
        Meta(
            description="Whether this mirror hashed the bytes, rather than take the archive's "
            "checksum."
        ),
    ]
    retention: Annotated[
        Literal["published", "versioned-bucket", "draft", "mutable-bucket", "archived"],
        Meta(description="How long the archive promises to keep this content."),
    ]


class Document(Answer, frozen=True):
    """A document of the archive, such as a JSON sidecar: a plain file in git."""

    path: str
    size: int
    cleaned: Annotated[
        bool,
        Meta(
            description="Whether the archive's document differs: it is stored without secrets and "
            "without `last_modified`."
        ),
    ]


class FolderFile(File, frozen=True, tag_field="type", tag="file"):
    """A file in a folder."""


class Subfolder(Answer, frozen=True, tag_field="type", tag="folder"):
    """A subfolder with recursive counts, null if counting would take too long."""

    path: str
    files: int | None
    bytes: int | None


def folder_entry(row: FolderEntryRow) -> FolderFile | Subfolder:
    """Convert a row of a folder's listing to its JSON shape: a file or a subfolder."""
    return Subfolder.of(row) if row.file is None else FolderFile.of(row.file)


class Occurrence(File, frozen=True):
    """An occurrence of a content: a dataset, a path and a contiguous range of versions."""

    dataset: str
    first: Annotated[str, Meta(description="Label of the first version of the range.")]
    last: str
    current: Annotated[bool, Meta(description="Whether the range includes the newest state.")]
    urls: Annotated[list[str], Meta(description="The best few locations upstream.")]


class Event(Answer, frozen=True):
    """A notable event: a tombstone, a return, an incident, a takedown."""

    id: int
    mirror: str
    dataset: str | None
    kind: str
    message: str
    at: str


class Mirror(Answer, frozen=True):
    """Status of a mirror; files and bytes are those of the latest versions."""

    mirror: str
    source: str
    uri: str
    datasets: int
    mirrored: Annotated[int, Meta(description="Datasets with at least one version.")]
    subdatasets: Annotated[int, Meta(description="Subdatasets of other datasets.")]
    versions: int
    files: int
    bytes: int
    contents: Annotated[int, Meta(description="Distinct contents that this mirror recorded first.")]
    last_visit: str | None
    last_full_visit: str | None
    failing: Annotated[
        int, Meta(description="Datasets whose last visit failed completely or partially.")
    ]
    settling: Annotated[int, Meta(description="Datasets postponed until they settle.")]
    unreadable_sidecars: Annotated[
        int, Meta(description="Datasets with sidecar files that cannot be parsed.")
    ]
    removed_upstream: Annotated[int, Meta(description="Datasets that the archive no longer lists.")]
    open_holds: int
    incidents: int
    capabilities: Annotated[
        dict[str, str], Meta(description="Detected capabilities of the archive.")
    ]


class Failure(Answer, frozen=True):
    """A task that failed and has not succeeded since, such as a visit of a dataset.

    It omits the row's message, which may contain private URLs or paths.
    """

    task: str
    mirror: Annotated[str, Meta(description="Empty for tasks of the whole store.")]
    dataset: str | None
    since: str


class Hold(Answer, frozen=True):
    """A listing held for approval, because it would remove too much."""

    hold: str
    dataset: str
    upstream: str
    state: str
    reason: str
    files_removed: int
    files_before: Annotated[int, Meta(description="Number of files in the last accepted version.")]
    placed_at: str


class Tombstone(Answer, frozen=True):
    """A dataset that the operator withdrew, with time and reason."""

    dataset: str
    at: str
    reason: str
    within: Annotated[
        str, Meta(description="Id of the dataset of which it was a subdataset, or empty.")
    ]


class Location(Answer, frozen=True):
    """A location of a content upstream, with its last probe."""

    url: str
    kind: str
    version_id: str | None
    checked_at: str | None
    result: str | None


class Span(Answer, frozen=True):
    """The content of a path over a contiguous range of versions."""

    first: str
    last: str
    current: bool
    size: int | None
    key: str


class Subdataset(Answer, frozen=True):
    """A subdataset in a version's tree."""

    path: str
    dataset: str
    label: Annotated[
        str | None, Meta(description="Label of its version, null if it is not in the index.")
    ] = field(name="version")
    commit: str
    state: str
    files: int
    bytes: int


class Edge(Answer, frozen=True):
    """An edge of the provenance graph ("was derived from")."""

    name: Annotated[str, Meta(description="Name of the input, as the archive wrote it.")]
    dataset: Annotated[
        str | None, Meta(description="The dataset at the other end, null if it is not mirrored.")
    ]
    label: str | None = field(name="version")
    own_label: Annotated[str, Meta(description="Label of the version at this end.")] = field(
        name="own_version"
    )
    relatives: Annotated[
        list[Edge], Meta(description="Further edges from the other end, up to the requested depth.")
    ]
    is_truncated: Annotated[
        bool,
        Meta(
            description="Whether further edges exist beyond the depth, or elsewhere in this "
            "response."
        ),
    ]


class Change(Answer, frozen=True):
    """The change of a file between two versions."""

    kind: Literal["added", "removed", "changed", "moved", "metadata", "document"]
    path: str
    before: Annotated[str | None, Meta(description="Previous path of a moved file.")]
    old_digest: str | None
    new_digest: str | None
    old_size: int | None
    new_size: int | None
    files: Annotated[
        int | None, Meta(description="Number of files of a subdataset, null for a file.")
    ]
    message: Annotated[str, Meta(description="A remark, usually empty.")]


class Link(Answer, frozen=True):
    """A page or viewer for a dataset."""

    kind: str
    url: str


class MatchedField(Answer, frozen=True):
    """A text of the metadata that contains a search term."""

    field: Annotated[
        str,
        Meta(
            description="name, title, keywords, species, anatomy, techniques, variables, people, "
            "institutions, funders, description, readme, license, doi, other, or the name of an "
            "attribute."
        ),
    ]
    value: Annotated[str, Meta(description="The text; for a long text, the part around a match.")]
    spans: Annotated[
        list[tuple[int, int]], Meta(description="Start and end of each match, in characters.")
    ]


class FacetValue(Answer, frozen=True):
    """A value of a facet."""

    value: str
    count: Annotated[
        int, Meta(description="Number of results, under the selected values of the other facets.")
    ]
    is_selected: Annotated[bool, Meta(description="Whether the search requires it.")] = field(
        name="selected"
    )


class Match(Answer, frozen=True):
    """A dataset that matches all search terms."""

    dataset: Dataset
    matched: list[MatchedField]
    version: Annotated[
        str | None,
        Meta(
            description="Label of the version whose paths match the remaining terms, null if none "
            "remain."
        ),
    ]
    path: Annotated[
        str | None, Meta(description="Such a path, null if the search for it took too long.")
    ]
    values: Annotated[dict[str, list[str]], Meta(description="The values of the dataset by facet.")]
