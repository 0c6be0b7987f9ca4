"""Validate: check the entries of a listing, and write them sorted by path as a snapshot.

A listing is used only if it is whole: its numbers of files and bytes match upstream's own summary,
no path is listed twice, and the summary is the same before and after
(docs/explanation/design.md, Crawl).
No request is made here: the entries were read and the components resolved before.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.annex import find_pointer_key, fits_path_limits, git_path, key_for, mark_clash
from neuromirror.crawl.plan import Visit
from neuromirror.index import VersionRow
from neuromirror.mint import LineSorter
from neuromirror.model import (
    MAX_INTEGER,
    DatasetRef,
    Digest,
    Document,
    Evidence,
    ExcludedEntry,
    FileRecord,
    Location,
    SnapshotEntry,
    SnapshotHeader,
    StateDigest,
    VersionRef,
    dump_snapshot_entry,
    line_path,
    load_snapshot_entries,
    load_snapshot_entry,
    path_to_text,
    subdataset_line,
)
from neuromirror.model.snapshot_entries import entry_line
from neuromirror.model.validation import analysed_type
from neuromirror.net import ListingTooLongError, redact
from neuromirror.sources import (
    ComponentEntry,
    Listing,
    UnexpectedReplyError,
    UnreliableListingError,
    UpstreamChangingError,
)
from neuromirror.store import Store
from neuromirror.store.memos import StoredMemo

if TYPE_CHECKING:
    from neuromirror.crawl.components import Resolver

_OPAQUE_DIGESTS: Final = {
    "sha256": re.compile(r"[0-9a-f]{64}").fullmatch,
    "md5": re.compile(r"[0-9a-f]{32}").fullmatch,
    "etag": re.compile(r".+", re.DOTALL).fullmatch,
    "crc64nvme": re.compile(r"[0-9a-f]{16}").fullmatch,
    **dict.fromkeys(("crc32c", "crc32"), re.compile(r"[0-9a-f]{8}").fullmatch),
}
"""The allowed values by algorithm; without a part size, an ETag is an opaque identifier."""
_MULTIPART_DIGESTS: Final = {
    **_OPAQUE_DIGESTS,
    "etag": re.compile(r"[0-9a-f]{32}-[0-9]+").fullmatch,
}
"""The allowed values in a record with a part size."""
_RULES: Final = (
    "a sha256 has 64 lower-case hexadecimal digits, an md5 32, an etag with a part size is "
    "<32 lower-case hexadecimal digits>-<parts>, another etag any text, a crc64nvme 16, a "
    "crc32c or crc32 8 lower-case hexadecimal digits"
)
_WEB: Final = ("https://", "http://")
_URL_STARTS: Final = {
    "s3": _WEB,
    "s3-private": ("s3://",),
    "api": _WEB,
    "api-private": _WEB,
    "boss": ("boss://",),
    "ndstore": ("ndstore://",),
}
_SHOWN: Final = 300


def check_record(record: FileRecord, version: VersionRef) -> None:
    """Check the digests and locations of a record.

    Parameters
    ----------
    record
        The record, as its source returned it.
    version
        The version of the listing, for the message.

    Raises
    ------
    UnexpectedReplyError
        If a value breaks a rule of :class:`Digest` or :class:`Location`.
    """
    # once per listed file: only lookups and C calls
    allowed = _OPAQUE_DIGESTS if record.part_size is None else _MULTIPART_DIGESTS
    try:
        for digest in record.digests:
            if allowed[digest.algorithm](digest.value) is None:
                break
        else:
            for location in record.locations:
                if not location.url.startswith(_URL_STARTS[location.kind]):
                    break
            else:
                return
    except (AttributeError, KeyError, TypeError):
        pass  # an unknown name, or a value of another type
    raise UnexpectedReplyError(
        f"{version.dataset.name} {version.upstream}: {path_to_text(record.path)!r}: "
        f"{redact(_describe_fault(record))}"
    )


def _describe_fault(record: FileRecord) -> str:
    """Return the first value that breaks a rule, and the rule."""
    allowed = _OPAQUE_DIGESTS if record.part_size is None else _MULTIPART_DIGESTS
    for digest in record.digests:
        is_text = isinstance(digest, Digest) and isinstance(digest.value, str)
        match = allowed.get(digest.algorithm) if is_text else None
        if match is None or not match(digest.value):
            return f"{_show(digest)} is no valid digest: {_RULES}"
    for location in record.locations:
        is_text = isinstance(location, Location) and isinstance(location.url, str)
        starts = _URL_STARTS.get(location.kind) if is_text else None
        if starts is None or not location.url.startswith(starts):
            kinds = "; ".join(f"{kind}: {' or '.join(one)}" for kind, one in _URL_STARTS.items())
            return f"{_show(location)} is no valid location, by kind and start of its URL: {kinds}"
    return "the digests or locations are malformed"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class RecordSpool(Struct, frozen=True):
    """The records of a snapshot on disk, one per line, sorted by git path."""

    path: Path

    def lines(self) -> Iterator[bytes]:
        """Yield the lines.

        Yields
        ------
        bytes
            A record line, without newline.
        """
        with self.path.open("rb", buffering=1 << 18) as file:
            for line in file:
                yield line[:-1]

    def files(self) -> Iterator[SnapshotEntry]:
        """Yield the entries.

        Yields
        ------
        SnapshotEntry
            An entry, in the order of the lines.
        """
        return load_snapshot_entries(self.lines())


class InlineComponentState(msgspec.Struct, frozen=True, gc=False):
    """A component, such as a Zarr, whose entries are files of the dataset below ``path``.

    Attributes
    ----------
    path
        The path upstream.
    local_id, source_uri
        The component's own dataset.
    upstream
        Upstream's name of the state.
    files, exceptions, size
        Number of files, of exceptions and of bytes in the dataset.
    newest
        The time of the newest file.
    """

    path: bytes
    local_id: str
    upstream: str
    files: int
    exceptions: int
    newest: datetime | None
    source_uri: str
    size: int


StateCommits = tuple[str, str]
"""The commits of a state and of the git-annex branch, in hex."""


def save_inline_components(
    visit: Visit, upstream: str, commits: StateCommits, inline: Sequence[InlineComponentState]
) -> None:
    """Remember the components that are stored as files in a state's own commit.

    The memo is valid only for the state's commits, on its branch and on the git-annex branch.
    """
    memo = StoredMemo(*commits, msgspec.json.encode(inline)) if inline else None
    visit.store.memos.write(visit.dataset.dataset_id, f"inline {upstream}", memo)


def saved_inline_components(
    store: Store, dataset: DatasetRef, row: VersionRow
) -> dict[bytes, InlineComponentState]:
    """Return the inline components of a version by path; none without a valid memo."""
    memo = store.memos.read(dataset.dataset_id, f"inline {row.upstream}")
    if memo is None or memo.commit != row.commit:
        return {}
    try:
        found = msgspec.json.decode(memo.content, type=analysed_type(list[InlineComponentState]))
    except msgspec.DecodeError:
        return {}  # written by another version of neuromirror
    return {one.path: one for one in found}


class ResolvedComponents(Struct):
    """The components of a listing (Zarrs or volume scales), and how each is stored.

    Attributes
    ----------
    subdatasets
        Components that are datasets of their own, by upstream path.
    unmirrored
        Paths of those among them whose state the store lacks.
    inline
        Components whose entries are files of the dataset.
    problems
        One line per component that is not mirrored as it is upstream.
    incidents
        One line per component whose files upstream no longer match its checksum, which is still
        the same as at the last visit; the mirrored state is kept.
    is_final
        Whether the next visit can skip an unchanged listing.
    pending_ids
        Local ids of the components that are still being written upstream.
    """

    subdatasets: dict[bytes, ComponentEntry] = field(default_factory=dict)
    unmirrored: set[bytes] = field(default_factory=set)
    inline: list[InlineComponentState] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    is_final: bool = True
    pending_ids: set[str] = field(default_factory=set)

    @property
    def paths(self) -> frozenset[bytes]:
        """The upstream paths of all components."""
        return frozenset(self.subdatasets) | {one.path for one in self.inline}


ResolvedEntry = SnapshotEntry | FileRecord | bytes | ExcludedEntry
"""A link to a component, a file of an inline component, or an exception.

A file is a record, or a record line with its git path.
"""


def folder_in(path: bytes, folders: Container[bytes]) -> bytes | None:
    """Return the outermost folder above a path that is in ``folders``."""
    end = path.find(b"/")
    while end >= 0:
        if path[:end] in folders:
            return path[:end]
        end = path.find(b"/", end + 1)
    return None


def is_split_component(dataset: DatasetRef, local_id: str) -> bool:
    """Return whether the setting ``components.zarr_split`` made a component a dataset of its own.

    Its files count as the files of ``dataset``; a component that upstream lists as one asset counts
    as one file.
    """
    return not dataset.local_id or local_id.startswith(f"{dataset.local_id}/")


class SpooledSnapshot(Struct, frozen=True):
    """A validated listing on disk.

    Attributes
    ----------
    header
        The snapshot without its files.
    spool
        The files and the links to components.
    files
        The number of files, without links to components.
    pending_files
        Files without sha256, and components without checksum, that upstream will complete.
    components
        The components.
    has_no_upstream_time
        Whether upstream has no time, so that the version has that of its newest file.
    is_single_array
        Whether the whole dataset is one Zarr array or volume.
    """

    header: SnapshotHeader
    spool: RecordSpool
    files: int
    pending_files: int
    components: ResolvedComponents = field(default_factory=ResolvedComponents)
    has_no_upstream_time: bool = False
    is_single_array: bool = False

    def state_digest(self) -> str:
        """Return the state digest, with upstream's checksums for components.

        It is the same before and after the components are mirrored.

        Returns
        -------
        str
            ``sha256:<hex>``.
        """
        digest = StateDigest()
        for entry in self.spool.files():
            component = (
                None
                if entry.subdataset is None
                else self.components.subdatasets.get(entry.record.path)
            )
            if component is None:
                digest.add(entry_line(entry))
            else:
                checksum = component.version.upstream
                digest.add(subdataset_line(entry.git_path, component.dataset.dataset_id, checksum))
        return digest.value()

    @property
    def is_empty(self) -> bool:
        """Whether upstream lists nothing at all."""
        return not (self.files or self.components.subdatasets or self.header.exceptions)


_MAX_EXCEPTIONS: Final = 1_000_000
"""Limit of the exceptions of one listing, which are kept in memory and in ``dataset.json``."""
_MAX_COMPONENTS: Final = 200_000
"""Limit of the components of one listing, which are kept in memory."""


class ListedEntries(Struct):
    """The entries of a listing: files in a sorter, the others in memory.

    A component counts as one entry of the listing, whatever is in it.

    Attributes
    ----------
    count
        The number of entries, as upstream counts them.
    bytes
        The total size of the entries in bytes.
    files
        The number of files in the snapshot, without links to components.
    pending
        Files without sha256, and components without checksum.
    newest
        The time of the newest file or inline component.
    components
        The components, in the order of the listing.
    exceptions
        The entries that cannot be mirrored.
    """

    version: VersionRef
    sorter: LineSorter
    count: int = 0
    bytes: int = 0
    files: int = 0
    pending: int = 0
    newest: datetime | None = None
    components: list[ComponentEntry] = field(default_factory=list)
    exceptions: list[ExcludedEntry] = field(default_factory=list)

    def add(self, entry: FileRecord | ExcludedEntry | ComponentEntry) -> None:
        """Add an entry of the listing.

        Raises
        ------
        ListingTooLongError
            Beyond the limits.
        UnexpectedReplyError
            If a digest or location of a file breaks the rules of its type.
        """
        self.count += 1
        self.bytes += entry.size or 0
        if isinstance(entry, ComponentEntry):
            self.components.append(entry)
            self._check_count("components", self.components, _MAX_COMPONENTS)
            self.pending += entry.version.claimed_totals is None
            return
        if isinstance(entry, FileRecord):
            check_record(entry, self.version)
        git_entry = _assign_git_path(entry)
        if isinstance(git_entry, ExcludedEntry):
            self._exclude(git_entry)
            return
        self._sort(git_entry)
        self.files += 1
        self.pending += git_entry.record.evidence is not Evidence.SHA256
        self.note_time(git_entry.record.modified)

    def add_resolved(self, entry: ResolvedEntry) -> None:
        """Add an entry of a resolved component, which upstream's summary does not count."""
        if isinstance(entry, bytes):
            self.sorter.add(line_path(entry) + b"\0" + entry)
            self.files += 1
            return
        git_entry = _assign_git_path(entry) if isinstance(entry, FileRecord) else entry
        if isinstance(git_entry, ExcludedEntry):
            self._exclude(git_entry)
            return
        self._sort(git_entry)
        self.files += git_entry.subdataset is None
        self.note_time(git_entry.record.modified)

    def note_time(self, modified: datetime | None) -> None:
        """Update ``newest``."""
        if modified is not None and (self.newest is None or modified > self.newest):
            self.newest = modified

    def _sort(self, entry: SnapshotEntry) -> None:
        self.sorter.add(entry.git_path + b"\0" + dump_snapshot_entry(entry))

    def _exclude(self, entry: ExcludedEntry) -> None:
        self.exceptions.append(entry)
        self._check_count("entries that cannot be mirrored", self.exceptions, _MAX_EXCEPTIONS)

    def _check_count(self, label: str, items: Sequence[object], limit: int) -> None:
        if len(items) > limit:
            raise ListingTooLongError(
                f"{self.version.dataset.name} {self.version.upstream}: the listing has more than "
                f"{limit} {label}; nothing was changed",
                url=self.version.dataset.source_uri,
            )


def _assign_git_path(entry: FileRecord | ExcludedEntry) -> SnapshotEntry | ExcludedEntry:
    if isinstance(entry, ExcludedEntry):
        return entry
    path = git_path(entry.path)
    if not fits_path_limits(path):
        # the detail is committed (dataset.json): another text changes commit ids
        return ExcludedEntry(
            entry.path,
            "path-too-long",
            f"the path would take {len(path)} bytes in git, more than file systems hold",
            entry.size or 0,
        )
    return SnapshotEntry(path, key_for(entry, path), entry)


def check_summary(
    entries: ListedEntries, before: VersionRef, after: VersionRef, *, lacks_sizes: bool = False
) -> None:
    """Check the totals of a listing against upstream's own summary.

    Parameters
    ----------
    entries
        All entries of the listing.
    before, after
        The version as upstream states it before the listing and after it.
    lacks_sizes
        Whether the summary counts bytes that no entry states (:attr:`Listing.lacks_sizes`).

    Raises
    ------
    UnreliableListingError
        If they differ, or if upstream changed during the listing.
    """
    name = f"{before.dataset.name} {before.upstream}"
    if (before.claimed_totals, before.time) != (after.claimed_totals, after.time):
        raise UpstreamChangingError(
            f"{name}: upstream changed during the listing ({before.claimed_totals} at "
            f"{before.time}, then {after.claimed_totals} at {after.time})"
        )
    if entries.bytes > MAX_INTEGER:
        raise UnreliableListingError(
            f"{name}: the listed files have {entries.bytes} bytes, more than any archive has; "
            "nothing was changed, try again"
        )
    claimed = before.claimed_totals
    if claimed is not None and (
        claimed.files != entries.count
        or claimed.bytes < entries.bytes
        or (claimed.bytes > entries.bytes and not lacks_sizes)
    ):
        raise UnreliableListingError(
            f"{name}: the listing has {entries.count} files with {entries.bytes} bytes, but "
            f"upstream states {claimed.files} files with {claimed.bytes} bytes; nothing was "
            "changed, try again"
        )


def validate_listing(
    listing: Listing, entries: ListedEntries, resolved: ResolvedComponents, scratch: Path
) -> SpooledSnapshot:
    """Return the snapshot of a listing that was read to its end.

    The version's time is upstream's own, else that of the newest file or document; None if
    upstream has no times.

    Parameters
    ----------
    listing
        The listing, for its facts and documents.
    entries
        All entries, including those of the components.
    resolved
        The components.
    scratch
        A folder for the files of the snapshot.

    Raises
    ------
    UnreliableListingError
        If a path is listed twice.
    """
    spool = RecordSpool(scratch / "records.jsonl")
    reserved = _DocumentPaths(listing.documents)
    clashes, escape = _write(entries.sorter, spool.path, listing.version, reserved)
    if clashes or escape:
        _resolve_clashes(spool, clashes, reserved, scratch)
    if len({exception.path for exception in entries.exceptions}) != len(entries.exceptions):
        raise UnreliableListingError(
            f"{listing.version.dataset.name} {listing.version.upstream}: a path that is not "
            "mirrored is listed twice; nothing was changed, try again"
        )
    for document in listing.documents:
        entries.note_time(document.modified)
    header = SnapshotHeader(
        version=replace(listing.version, time=listing.version.time or entries.newest),
        facts=listing.facts,
        documents=tuple(map(_plain_document, sorted(listing.documents, key=lambda one: one.path))),
        exceptions=tuple(sorted(entries.exceptions, key=lambda one: (one.path, one.reason))),
        newest=entries.newest,
        web_remotes=listing.web_remotes,
        special_remotes=listing.special_remotes,
        unversioned=listing.unversioned,
    )
    return SpooledSnapshot(
        header,
        spool,
        entries.files,
        entries.pending if listing.late_sha256 else 0,
        resolved,
        has_no_upstream_time=listing.version.time is None,
        is_single_array=listing.manifest_only,
    )


def _plain_document(document: Document) -> Document:
    """Return a document that git-annex does not take for the pointer of another file.

    Sources write JSON or YAML, which may start with an empty line.
    """
    if find_pointer_key(document.content) is None:
        return document
    return replace(document, content=b"\n" + document.content)


class _DocumentPaths:
    """The git paths of upstream's documents."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._paths = {document.path for document in documents}
        self._roots = {path.partition(b"/")[0] for path in self._paths}
        self.folders: set[bytes] = set()
        for path in self._paths:
            folder = path.rpartition(b"/")[0]
            while folder:
                self.folders.add(folder)
                folder = folder.rpartition(b"/")[0]

    def document_above(self, path: bytes) -> bytes | None:
        """Return the document at a path or at a folder above it; None without one."""
        if path.partition(b"/")[0] not in self._roots:
            return None
        while path:
            if path in self._paths:
                return path
            path = path.rpartition(b"/")[0]
        return None

    def escape(self, path: bytes) -> bytes:
        """Return a path with the first letter of a clashing document's name percent-encoded."""
        document = self.document_above(path)
        if document is None:
            return path
        folder, slash, name = document.rpartition(b"/")
        first = name.decode()[0].encode()
        letter = b"".join(b"%%%02X" % byte for byte in first)
        return folder + slash + letter + name[len(first) :] + path[len(document) :]


def _write(
    sorter: LineSorter, target: Path, version: VersionRef, reserved: _DocumentPaths
) -> tuple[set[bytes], bool]:
    """Write the sorted lines.

    Returns
    -------
    tuple
        The paths that are both a file and a folder, and whether a file clashes with a document.

    Raises
    ------
    UnreliableListingError
        If a path is listed twice.
    """
    clashes: set[bytes] = set()
    escape = False
    last = b""
    prefixes: list[bytes] = []
    with target.open("wb", buffering=1 << 18) as file:
        for sorted_line in sorter:
            path, _, line = sorted_line.partition(b"\0")
            if path == last:
                raise UnreliableListingError(
                    f"{version.dataset.name} {version.upstream}: {path_to_text(path)!r} is listed "
                    f"twice; "
                    "nothing was changed, try again"
                )
            while prefixes and not path.startswith(prefixes[-1]):
                prefixes.pop()
            clashes.update(one for one in prefixes if path[len(one) : len(one) + 1] == b"/")
            prefixes.append(path)
            if path in reserved.folders:
                clashes.add(path)
            elif not escape:
                escape = reserved.document_above(path) is not None
            last = path
            file.write(line + b"\n")
    return clashes, escape


def _resolve_clashes(
    spool: RecordSpool, clashes: set[bytes], reserved: _DocumentPaths, scratch: Path
) -> None:
    """Rename the files that clash with a document, or with a folder of the same name."""
    with LineSorter(scratch) as sorter:
        for line in spool.lines():
            entry = load_snapshot_entry(line)
            path = reserved.escape(entry.git_path)
            if entry.git_path in clashes:
                path = mark_clash(path)
            if path == entry.git_path:
                sorter.add(path + b"\0" + line)
            else:
                key = "" if entry.subdataset is not None else key_for(entry.record, path)
                entry = SnapshotEntry(path, key, entry.record, entry.subdataset)
                sorter.add(path + b"\0" + dump_snapshot_entry(entry))
        with spool.path.open("wb", buffering=1 << 18) as file:
            for sorted_line in sorter:
                file.write(sorted_line.partition(b"\0")[2] + b"\n")


def read_listing(
    listing: Listing, scratch: Path, resolver: Resolver | None = None
) -> SpooledSnapshot:
    """Read a listing to its end into ``scratch``, and return the validated snapshot.

    Components may be prefetched before the summary confirms the listing, and are used only then.

    Parameters
    ----------
    listing
        The listing.
    scratch
        A folder for the files of the snapshot.
    resolver
        Resolves the components of the listing; None if it has none.

    Returns
    -------
    SpooledSnapshot
        The snapshot; its files are in ``scratch``.

    Raises
    ------
    UnreliableListingError
        If the listing is not whole, or a record is malformed.
    ListingTooLongError
        If it has too many components or exceptions.
    NeuromirrorError
        Whatever the source raises.
    """
    with LineSorter(scratch) as sorter:
        entries = ListedEntries(listing.version, sorter)
        for entry in listing.entries():
            entries.add(entry)
            if isinstance(entry, ComponentEntry) and resolver is not None:
                resolver.prefetch(entry, scratch)
        # a source may complete its version while the entries are read
        confirmed = listing.confirm_version()
        check_summary(entries, listing.version, confirmed, lacks_sizes=listing.lacks_sizes)
        resolved = _resolve_components(entries, resolver, scratch)
        return validate_listing(listing, entries, resolved, scratch)


def _resolve_components(
    entries: ListedEntries, resolver: Resolver | None, scratch: Path
) -> ResolvedComponents:
    """Add the entries of the components; return the resolved components."""
    if not entries.components:
        return ResolvedComponents()
    if resolver is None:
        raise TypeError(f"{entries.version.dataset.name}: components without a resolver")
    for entry in resolver.resolve(entries.components, scratch):
        entries.add_resolved(entry)
    for inline in resolver.resolved.inline:
        entries.note_time(inline.newest)
    return resolver.resolved
