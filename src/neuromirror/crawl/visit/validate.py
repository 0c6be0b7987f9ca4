"""Validate the entries of a listing: complete, consistent, each with a git path of its own.

A listing is used only if it is whole: its numbers of files and bytes match upstream's own summary,
no path is listed twice, and the summary is the same before and after
(docs/explanation/design.md, Crawl).
No request is made here: the entries were read and the components resolved before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from neuromirror.annex import find_pointer_key, key_for, mark_clash
from neuromirror.crawl.visit.listed_entries import ListedEntries
from neuromirror.crawl.visit.snapshot import RecordSpool, ResolvedComponents, SpooledSnapshot
from neuromirror.mint import LineSorter
from neuromirror.model import (
    MAX_INTEGER,
    Document,
    ExcludedEntry,
    SnapshotEntry,
    SnapshotHeader,
    VersionRef,
    dump_snapshot_entry,
    load_snapshot_entry,
    path_to_text,
)
from neuromirror.sources import Listing, UnreliableListingError


def check_summary(entries: ListedEntries, before: VersionRef, after: VersionRef) -> None:
    """Check the totals of a listing against upstream's own summary.

    Parameters
    ----------
    entries
        All entries of the listing.
    before, after
        The version as upstream states it before the listing and after it.

    Raises
    ------
    UnreliableListingError
        If they differ, or if upstream changed during the listing.
    """
    name = f"{before.dataset.name} {before.upstream}"
    if (before.claimed_totals, before.time) != (after.claimed_totals, after.time):
        raise UnreliableListingError(
            f"{name}: upstream changed during the listing ({before.claimed_totals} at "
            f"{before.time}, then {after.claimed_totals} at {after.time}); "
            "nothing was changed, try again"
        )
    if entries.bytes > MAX_INTEGER:
        raise UnreliableListingError(
            f"{name}: the listed files have {entries.bytes} bytes, more than any archive has; "
            "nothing was changed, try again"
        )
    claimed = before.claimed_totals
    if claimed is not None and (claimed.files, claimed.bytes) != (entries.count, entries.bytes):
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
    _check_exceptions(entries.exceptions, listing.version)
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


def _check_exceptions(exceptions: Sequence[ExcludedEntry], version: VersionRef) -> None:
    paths = [one.path for one in exceptions]
    if len(set(paths)) != len(paths):
        raise UnreliableListingError(
            f"{version.dataset.name} {version.upstream}: a path that is not mirrored is listed "
            "twice; nothing was changed, try again"
        )
