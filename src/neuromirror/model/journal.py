"""Entries of the journal, and the description of a version.

The entries of the store's journal: all data of the index that is not in git.

Entries are appended to the journal before they are applied to the index; replaying the journal
rebuilds the index. Times are UTC, ISO 8601, to the second.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Struct, field

from neuromirror.model.records import DatasetRef
from neuromirror.model.validation import (
    Count,
    DatasetId,
    DatasetName,
    InvalidDocumentError,
    StateDigestText,
    convert,
    dump_json,
    is_git_path,
    parse_json,
)

DESCRIPTION_PATH: Final = ".neuromirror/dataset.json"


class _SubdatasetMember(msgspec.Struct, rename="kebab"):
    """A subdataset."""

    id: DatasetId
    local_id: str
    state: StateDigestText
    files: Count
    bytes: Count


class _InlineMember(msgspec.Struct):
    """An inline component: its files are in the dataset's tree."""

    source: str
    checksum: str
    files: Count
    bytes: Count


class _ManifestOnlyMember(msgspec.Struct, frozen=True):
    """Totals of the files that are in the manifest only."""

    files: Count = 0
    bytes: Count = 0


class _Description(msgspec.Struct, kw_only=True, rename="kebab"):
    """The members that are validated; those with a default are optional."""

    dataset: DatasetName
    source: str
    version: str
    kind: str
    state: StateDigestText
    files: Count
    bytes: Count
    evidence: dict[str, Count]
    exceptions: list[dict[str, Any]]
    title: str
    license: list[str]
    doi: str | None
    documents: list[str]
    escaped: dict[str, str] = {}
    form: Annotated[str, msgspec.Meta(pattern=r"^(?:files|manifest)\Z")] = "files"
    metadata: str = ""
    within: str = ""
    manifest_only: _ManifestOnlyMember = _ManifestOnlyMember()
    parts: dict[str, _SubdatasetMember] = {}
    inline: dict[str, _InlineMember] = {}
    landing_page: str | None = None
    attributes: dict[str, list[str]] = {}
    inputs: list[str] = []


def parse_description(content: bytes, document: str) -> dict[str, Any]:
    """Parse and validate a description.

    The members and their types are those that :func:`neuromirror.mint.documents.describe` writes.

    Parameters
    ----------
    content
        The content of the file.
    document
        The name of the file in error messages.

    Returns
    -------
    dict[str, Any]
        The description, as in ``.neuromirror/dataset.json``.

    Raises
    ------
    InvalidDocumentError
        If the description is invalid.
    """
    found = parse_json(content, document)
    checked = convert(found, _Description, document)
    for member, paths in (("parts", checked.parts), ("documents", checked.documents)):
        for path in paths:
            if not is_git_path(path):
                raise InvalidDocumentError(
                    document, member, "paths that git checks out", repr(path)
                )
    description: dict[str, Any] = found
    return description


CommitText = Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{40})?\Z")]
"""A commit id in hex, or an empty string."""

RecordsText = Annotated[str, msgspec.Meta(pattern=r"^(?:[0-9a-f]{40}(?:\.[1-9][0-9]{0,8})?)?\Z")]
"""The name of records in the store, ``<commit>`` or ``<commit>.<number>``, or an empty string."""


class AboutDataset(Struct, frozen=True):
    """What is about one dataset.

    Attributes
    ----------
    mirror, local_id, source_uri
        The dataset: its mirror, its id in the mirror, and its URI at upstream.
    """

    mirror: str
    local_id: str
    source_uri: str

    @property
    def dataset_ref(self) -> DatasetRef:
        """The dataset."""
        return DatasetRef(self.mirror, self.local_id, self.source_uri)


class MirrorSeen(Struct, frozen=True, tag="mirror"):
    """A mirror's configuration when it was first used, or after a change.

    Attributes
    ----------
    mirror, source, uri
        The name of the mirror, its kind of source and the URI of upstream.
    at
        The time, ISO 8601 in UTC.
    index_entries
        If given, a new limit that also applies to earlier versions: a rebuilt index contains the
        files of each Zarr with at most this many files, and overrides ``VersionMinted.indexed``.
    """

    mirror: str
    source: str
    uri: str
    at: str
    index_entries: int | None = None


class MirrorProbed(Struct, frozen=True, tag="probe"):
    """The capabilities of a mirror's upstream, as its source reports them.

    Attributes
    ----------
    mirror
        The name of the mirror.
    capabilities
        Values by the name of the capability.
    at
        The time, ISO 8601 in UTC.
    """

    mirror: str
    capabilities: dict[str, str]
    at: str


class Version(AboutDataset, frozen=True, kw_only=True):
    """A version of a dataset, as the journal and the index have it.

    Attributes
    ----------
    label
        The label of the version (``0.210831.2033``, ``2022-12-13T101112Z``, ``state-0123abcd``).
    upstream
        Upstream's name of the version (``0.210831.2033``, ``draft``).
    kind
        ``published`` or ``observed``.
    state
        The state digest, ``sha256:<hex>``.
    commit, tree, annex_commit
        The ids of the commit, of its tree and of the commit of the git-annex branch, in hex.
    files, bytes
        Number and size of the files.
    evidence
        Number of files by evidence (:class:`~neuromirror.model.Evidence`).
    title, license, doi
        Title, licenses and DOI of the dataset in this version.
    metadata_only
        Whether no file differs from the previous version.
    metadata
        The metadata digest; empty for a version recorded without one.
    form
        ``files`` or ``manifest``, see :class:`~neuromirror.model.SnapshotHeader`; empty for a
        version recorded without it.
    manifest_only_files, manifest_only_bytes
        Number and size of the files that are in the manifest only, not in git.
    indexed
        Whether its files are in the index, or only in its records.
    """

    label: str
    upstream: str
    kind: str
    state: str
    commit: CommitText
    tree: CommitText
    annex_commit: CommitText
    files: Count
    bytes: Count
    evidence: dict[str, int]
    title: str
    license: list[str]
    doi: str | None
    metadata_only: bool
    metadata: str = ""
    form: str = ""
    manifest_only_files: int = 0
    manifest_only_bytes: int = 0
    indexed: bool = True

    @property
    def dataset_name(self) -> str:
        """``<mirror>:<local id>``."""
        return f"{self.mirror}:{self.local_id}"

    @property
    def name(self) -> str:
        """``<mirror>:<local id>@<label>``."""
        return f"{self.dataset_name}@{self.label}"

    @property
    def swhid(self) -> str:
        """The Software Heritage id of the commit."""
        return f"swh:1:rev:{self.commit}"


class VersionMinted(Version, frozen=True, kw_only=True, tag="version"):
    """A version that was committed to git.

    Attributes
    ----------
    time
        Upstream's time of the version; None if it has none.
    exceptions
        The excluded entries.
    attributes, inputs
        See :class:`~neuromirror.model.DatasetFacts`.
    at
        The time of the commit on this mirror.
    within
        The local id of the superdataset; empty for a dataset of its own.
    inline
        The inline components: path, source, checksum, files and bytes of each.
    in_subdatasets
        Number of files in its subdatasets; None if not counted.
    """

    time: str | None
    exceptions: list[dict[str, Any]]
    at: str
    attributes: dict[str, list[str]] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    within: str = ""
    inline: list[dict[str, Any]] = field(default_factory=list)
    in_subdatasets: int | None = None

    @property
    def records(self) -> str:
        """The name of the records that the version was minted from."""
        return self.commit


class AnnexBranchMoved(AboutDataset, frozen=True, tag="annex"):
    """Upstream states other URLs or claims for a version's files, and no new version.

    Attributes
    ----------
    annex_commit
        The commit of the git-annex branch, in hex.
    at
        The time, ISO 8601 in UTC.
    commit
        The commit of the version, in hex; empty if none of its records changed.
    records
        The name of the version's records in the store from now on; empty if they did not change.
    """

    annex_commit: CommitText
    at: str
    commit: CommitText = ""
    records: RecordsText = ""


class VisitEnded(AboutDataset, frozen=True, tag="visit"):
    """A finished visit of one dataset.

    Attributes
    ----------
    visit
        The id of the visit.
    title
        The title of the dataset.
    started, ended
        Times.
    status
        ``full``, ``partial``, ``held``, ``waiting``, ``unavailable``, ``not_found`` or ``failed``.
    fingerprint
        The source's fingerprint at the visit; empty if it has none. The plan skips a dataset
        whose last visit was full and whose fingerprint is unchanged.
    pending
        Number of files and Zarrs without their best digest yet. They are visited again even if
        the fingerprint is unchanged.
    message
        A message for the operator.
    traffic
        Requests by host, as returned by :func:`~neuromirror.model.dump_traffic`.
    """

    visit: str
    title: str
    started: str
    ended: str
    status: str
    fingerprint: str
    pending: int
    message: str
    traffic: dict[str, dict[str, int | float]] = field(default_factory=dict)


class HoldPlaced(Struct, frozen=True, tag="hold"):
    """A suspicious listing that is held until an operator releases it.

    Attributes
    ----------
    hold
        A short id.
    mirror, local_id, upstream
        The version.
    state
        The digest of the held listing.
    reason
        The reason why the listing is held.
    removed, before
        Number of files that the listing removes, and of files before.
    at
        The time of the hold.
    """

    hold: str
    mirror: str
    local_id: str
    upstream: str
    state: str
    reason: str
    removed: int
    before: int
    at: str


class HoldReleased(Struct, frozen=True, tag="release"):
    """An operator released a held listing.

    Attributes
    ----------
    hold
        The id of the hold.
    by
        The login name of the operator.
    at
        The time, ISO 8601 in UTC.
    """

    hold: str
    by: str
    at: str


class HoldLapsed(Struct, frozen=True, tag="lapse"):
    """A hold that ended without approval, because the listing is no longer suspicious.

    Attributes
    ----------
    hold
        The id of the hold.
    at
        The time, ISO 8601 in UTC.
    """

    hold: str
    at: str


class EventRaised(Struct, frozen=True, tag="event"):
    """An event worth recording.

    Attributes
    ----------
    mirror
        The name of the mirror.
    local_id
        The dataset's id in the mirror; empty for an event of the whole mirror.
    kind
        ``incident``, ``tombstone``, ``returned``, ``digest-upgrade``, ``unavailable``,
        ``takedown``, ``repair`` or ``outage`` (only in the index: a mirror's task failed for a
        while).
    message
        One sentence for the operator.
    at
        The time, ISO 8601 in UTC.
    data
        Details as JSON values, by name.
    """

    mirror: str
    local_id: str
    kind: str
    message: str
    at: str
    data: dict[str, Any] = field(default_factory=dict)


class LinksFound(AboutDataset, frozen=True, tag="links"):
    """The viewer links of a dataset, which replace the earlier ones.

    They belong to no version, because they may change while the data stays the same.

    Attributes
    ----------
    links
        Sorted [kind, URL] pairs.
    at
        The time, ISO 8601 in UTC.
    """

    links: list[list[str]]
    at: str


class LocationsChecked(Struct, frozen=True, tag="locations"):
    """The result of checking whether the locations of a dataset's files are available.

    Attributes
    ----------
    mirror, local_id
        The dataset: its mirror, and its id in the mirror.
    found
        The URLs in the records, by result: ``ok``, ``not-found``, ``refused``, ``unsupported``,
        ``changed``, ``unreachable`` or ``unknown``.
    at
        The time, ISO 8601 in UTC.
    """

    mirror: str
    local_id: str
    found: dict[str, list[str]]
    at: str


class DigestedContent(Struct, frozen=True):
    """A content whose block digests are in the store.

    Attributes
    ----------
    key
        The annex key.
    sha256
        The sha256 of the bytes in hex.
    piece_size
        Size of a piece in bytes.
    root
        The root of the hash tree in hex.
    """

    key: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    piece_size: Annotated[int, msgspec.Meta(ge=1 << 14, le=1 << 26)]
    root: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class ContentsDigested(Struct, frozen=True, tag="digested"):
    """Contents whose bytes were read and hashed, and whose block digests were stored.

    Attributes
    ----------
    contents
        The contents.
    at
        The time, ISO 8601 in UTC.
    """

    contents: list[DigestedContent]
    at: str


class DatasetWithdrawn(AboutDataset, frozen=True, tag="withdrawn"):
    """A dataset that the operator withdrew: hidden from the catalogue, but not deleted.

    A rebuilt index contains only the ids of its versions.

    Attributes
    ----------
    reason
        The reason, shown to everyone who requests the dataset.
    by
        The login name of the operator.
    at
        The time.
    within
        For a component that was withdrawn with the only dataset that has it, the local id of that
        dataset; else empty.
    """

    reason: str
    by: str
    at: str
    within: str = ""


class DatasetReinstated(AboutDataset, frozen=True, tag="reinstated"):
    """A withdrawn dataset that is available again.

    Attributes
    ----------
    by
        The login name of the operator.
    at
        The time, ISO 8601 in UTC.
    """

    by: str
    at: str


class TaskFailed(Struct, frozen=True, tag="failure"):
    """A task that fails until a :class:`TaskRecovered` of the same task and object.

    Failed visits are recorded as :class:`VisitEnded`.

    Attributes
    ----------
    task
        ``list``, ``probe``, ``superdatasets``, ``private``, ``configuration``, the name of a
        housekeeping task (``housekeeping``, ``backup``, …), or a component of the service.
    mirror, local_id
        The object: both are empty for the store, ``local_id`` for a whole mirror.
    message
        The error.
    at
        The time.
    """

    task: str
    mirror: str
    local_id: str
    message: str
    at: str


class TaskRecovered(Struct, frozen=True, tag="recovery"):
    """A task that succeeded after a failure.

    Attributes
    ----------
    task
        The name of the task, as in :class:`TaskFailed`.
    mirror, local_id
        The dataset; empty for the whole store or mirror.
    at
        The time, ISO 8601 in UTC.
    """

    task: str
    mirror: str
    local_id: str
    at: str


JournalEntry = (
    MirrorSeen
    | MirrorProbed
    | VersionMinted
    | AnnexBranchMoved
    | VisitEnded
    | LinksFound
    | HoldPlaced
    | HoldReleased
    | HoldLapsed
    | EventRaised
    | LocationsChecked
    | ContentsDigested
    | DatasetWithdrawn
    | DatasetReinstated
    | TaskFailed
    | TaskRecovered
)

_TYPES: dict[str, type[JournalEntry]] = {
    kind.__struct_config__.tag: kind for kind in get_args(JournalEntry)
}
"""The entries by the tags of their classes, which are written as their type."""


def current_timestamp() -> str:
    """Return the current time as in journal entries: UTC, ISO 8601, whole seconds.

    Returns
    -------
    str
        A text such as ``2024-03-01T10:55:00+00:00``.
    """
    return datetime.now(UTC).isoformat(timespec="seconds")


def dump_entry(entry: JournalEntry) -> bytes:
    """Return the journal line of an entry: ASCII JSON with sorted keys, and a newline.

    Parameters
    ----------
    entry
        The entry.

    Returns
    -------
    bytes
        The line.
    """
    return dump_json(entry) + b"\n"


def load_entry(line: bytes) -> JournalEntry:
    """Parse a journal line.

    Parameters
    ----------
    line
        The line, with or without its newline.

    Returns
    -------
    JournalEntry
        The entry.

    Raises
    ------
    ValueError
        The line is invalid.
    """
    try:
        got = json.loads(line)
        kind = _TYPES[got.pop("type")]
        unknown = got.keys() - set(kind.__struct_fields__)
        if unknown:
            raise ValueError(f"unknown field {min(unknown)!r}")
        return convert(got, kind, "entry")
    except (TypeError, KeyError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"not a journal entry ({error}): {line[:80]!r}") from error
