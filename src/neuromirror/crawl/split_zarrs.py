"""Split large Zarrs off a snapshot: each becomes a dataset, to which the snapshot links.

A Zarr is a folder that directly contains a marker object (model.ZARR_MARKERS), whatever its name;
a Zarr inside another one belongs to the outer one. Depending on the number of its objects it stays
inline, becomes a subdataset, or one of form ``manifest``, whose chunks are in the canonical
manifest and not in git. A dataset that is itself a Zarr, or that its source calls one array, stays
whole, in the form for its size.

The spool is sorted by git path, so a folder's files are contiguous: one pass finds the large
Zarrs, a second one extracts them. Both keep only the open folders in memory.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from heapq import merge
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.annex import upstream_path
from neuromirror.config.mirror_files import ZarrLimits
from neuromirror.crawl.validate import RecordSpool, SpooledSnapshot
from neuromirror.model import (
    ZARR_MARKERS,
    DatasetFacts,
    DatasetRef,
    Document,
    Evidence,
    FileRecord,
    SnapshotEntry,
    SnapshotHeader,
    Subdataset,
    VersionKind,
    VersionRef,
    dump_snapshot_entry,
    line_path,
    load_snapshot_entry,
)

_SUBDATASET_MEMBER = b',"subdataset":['  # only the record lines of links have it
# characters that an alias must not contain, or that would make it ambiguous
_UNSAFE = re.compile(r"[^A-Za-z0-9._+,-]|^[.-]|(?<=-)-", re.ASCII)
_LONGEST_ID = 200

_MARKED_NAMES = tuple(name + end for name in ZARR_MARKERS for end in (b"", b"%_"))


def submodule_path(path: bytes) -> bytes:
    """Return the git path of a submodule: git rejects one that looks like an option."""
    return b"%2D" + path[1:] if path.startswith(b"-") else path


def is_subdataset_line(line: bytes) -> bool:
    """Return whether a record line is a link to a subdataset."""
    return _SUBDATASET_MEMBER in line


class SplitZarr(Struct, frozen=True):
    """A Zarr that becomes a dataset of its own.

    Attributes
    ----------
    git_path
        The Zarr's path in the dataset around it.
    within
        The local id of that dataset.
    snapshot
        The Zarr's files, with paths relative to the Zarr.
    bytes
        The total size of these files in bytes.
    """

    git_path: bytes
    within: str
    snapshot: SpooledSnapshot
    bytes: int

    @property
    def dataset(self) -> DatasetRef:
        """The Zarr's own dataset."""
        return self.snapshot.header.version.dataset


def split_zarrs(
    snapshot: SpooledSnapshot, limits: ZarrLimits, scratch: Path
) -> tuple[SpooledSnapshot, list[SplitZarr]]:
    """Move the Zarrs with too many files out of a snapshot; return the rest and these Zarrs.

    In the rest, a subdataset without a state represents each Zarr until :func:`insert_subdatasets`
    sets its state. Documents and exceptions below a Zarr move with it.

    Parameters
    ----------
    snapshot
        The snapshot.
    limits
        The ``[zarr]`` table of the mirror file.
    scratch
        A folder for the files of the new snapshots.
    """
    documents = snapshot.header.documents
    if snapshot.files + len(documents) <= min(limits.inline, limits.manifest):
        return snapshot, []
    if snapshot.is_single_array:
        # its documents are in git in either form
        if snapshot.files + len(documents) <= limits.manifest:
            return snapshot, []
        return replace(snapshot, header=replace(snapshot.header, form="manifest")), []
    roots = _large_zarrs(snapshot.spool, documents, min(limits.inline, limits.manifest))
    if roots and not roots[0].path:
        if roots[0].objects <= limits.manifest:
            return snapshot, []
        return replace(snapshot, header=replace(snapshot.header, form="manifest")), []
    roots = [one for one in roots if one.objects > limits.inline]
    if not roots:
        return snapshot, []
    return _split(snapshot, {one.path: one.objects for one in roots}, limits.manifest, scratch)


def zarr_ref(around: DatasetRef, path: bytes) -> DatasetRef:
    """Return the reference to the dataset that a Zarr becomes when it is split off.

    Its local id is the one of the enclosing dataset and the path, with unsafe bytes escaped as
    ``=XX``; if that is too long, a UUID replaces the path.

    Parameters
    ----------
    around
        The enclosing dataset.
    path
        The Zarr's upstream path in it.
    """
    slash = "" if around.source_uri.endswith("/") else "/"
    uri = f"{around.source_uri}{slash}{quote(path, safe='/-._~+,=@')}/"
    start = f"{around.local_id}/" if around.local_id else ""
    named = DatasetRef(around.mirror, start + "/".join(map(_local_name, path.split(b"/"))), uri)
    if len(named.local_id) <= _LONGEST_ID:
        return named
    return DatasetRef(around.mirror, start + named.dataset_id, uri)


def _local_name(component: bytes) -> str:
    if not component:
        return "=_"
    return _UNSAFE.sub(lambda found: f"={ord(found.group()):02X}", component.decode("latin-1"))


def insert_subdatasets(
    snapshot: SpooledSnapshot, subdatasets: Mapping[bytes, Subdataset]
) -> SpooledSnapshot:
    """Return the snapshot with the states of its subdatasets, by git path.

    Raises
    ------
    ValueError
        For a path from which :func:`split_zarrs` split no Zarr. A Zarr without a given state keeps
        none, and minting refuses it.
    """
    if not subdatasets:
        return snapshot
    left = dict(subdatasets)
    target = RecordSpool(snapshot.spool.path.with_suffix(".linked"))
    with target.path.open("wb", buffering=1 << 18) as file:
        for line in snapshot.spool.lines():
            subdataset = left.pop(line_path(line), None)
            if subdataset is None:
                file.write(line + b"\n")
                continue
            entry = load_snapshot_entry(line)
            if entry.subdataset is None:
                raise ValueError(f"{entry.git_path!r} is a file, not a subdataset")
            file.write(dump_snapshot_entry(replace(entry, subdataset=subdataset)) + b"\n")
    if left:
        raise ValueError(f"no Zarr was split off at {min(left)!r}")
    return replace(snapshot, spool=target)


class _Root(Struct, frozen=True):
    """The git path of a Zarr, and the number of objects in it."""

    path: bytes
    objects: int


class _Folder:
    """An open folder during the pass over the sorted paths."""

    __slots__ = ("before", "has_marker", "path")

    def __init__(self, path: bytes, before: int, has_marker: bool) -> None:
        self.path = path
        self.before = before
        self.has_marker = has_marker


def _large_zarrs(spool: RecordSpool, documents: Sequence[Document], limit: int) -> list[_Root]:
    """Return the outermost Zarrs with more objects than ``limit``, in the order of their files."""
    marked = {
        folder
        for folder, _, name in (one.path.rpartition(b"/") for one in documents)
        if name in ZARR_MARKERS
    }
    found: list[_Root] = []
    count = 0
    folders = [_Folder(b"", 0, b"" in marked)]

    def close() -> None:
        folder = folders.pop()
        if not folder.has_marker:
            return
        start = folder.path + b"/" if folder.path else b""
        objects = count - folder.before
        objects += sum(one.path.startswith(start) for one in documents)
        if objects > limit:
            # the Zarrs below it are part of it
            while found and found[-1].path.startswith(start):
                found.pop()
            found.append(_Root(folder.path, objects))

    for line in spool.lines():
        path = line_path(line)
        end = path.rfind(b"/")
        folder = path[:end] if end > 0 else b""
        if folder != folders[-1].path:
            while folders[-1].path and not path.startswith(folders[-1].path + b"/"):
                close()
            at = len(folders[-1].path)
            while at < len(folder):
                at = folder.find(b"/", at + 1)
                at = len(folder) if at < 0 else at
                folders.append(_Folder(folder[:at], count, folder[:at] in marked))
        count += 1
        if path.endswith(_MARKED_NAMES) and not folders[-1].has_marker:
            record = load_snapshot_entry(line).record
            folders[-1].has_marker = record.path.rpartition(b"/")[2] in ZARR_MARKERS
    while folders:
        close()
    return found


def _split(
    snapshot: SpooledSnapshot, roots: Mapping[bytes, int], most_in_git: int, scratch: Path
) -> tuple[SpooledSnapshot, list[SplitZarr]]:
    """Split a snapshot at the Zarrs in ``roots``, which have so many objects."""
    header, zarrs = snapshot.header, list[SplitZarr]()
    spool = RecordSpool(scratch / "rest.jsonl")
    with spool.path.open("wb", buffering=1 << 18) as file:
        by_root = groupby(snapshot.spool.lines(), lambda line: folder_in(line_path(line), roots))
        for root, lines in by_root:
            if root is None:
                file.writelines(line + b"\n" for line in lines)
            else:
                form = "manifest" if roots[root] > most_in_git else "files"
                path = scratch / f"zarr-{len(zarrs)}.jsonl"
                zarrs.append(_extract_zarr(snapshot, root, form, lines, path))
    links = sorted(map(_unresolved_link, zarrs), key=lambda link: link.git_path)
    whole = RecordSpool(scratch / "without-zarrs.jsonl")
    with whole.path.open("wb", buffering=1 << 18) as file:
        for line in merge(spool.lines(), map(dump_snapshot_entry, links), key=line_path):
            file.write(line + b"\n")
    spool.path.unlink()
    upstream_roots = {upstream_path(root) for root in roots}
    documents = [one for one in header.documents if folder_in(one.path, roots) is None]
    exceptions = [one for one in header.exceptions if folder_in(one.path, upstream_roots) is None]
    inner = [zarr.snapshot for zarr in zarrs]
    rest = replace(
        snapshot,
        header=replace(header, documents=tuple(documents), exceptions=tuple(exceptions)),
        spool=whole,
        files=snapshot.files - sum(one.files for one in inner),
        pending_files=snapshot.pending_files - sum(one.pending_files for one in inner),
    )
    return rest, zarrs


def folder_in(path: bytes, folders: Container[bytes]) -> bytes | None:
    """Return the outermost folder above a path that is in ``folders``."""
    end = path.find(b"/")
    while end >= 0:
        if path[:end] in folders:
            return path[:end]
        end = path.find(b"/", end + 1)
    return None


def _extract_zarr(
    snapshot: SpooledSnapshot, root: bytes, form: str, lines: Iterable[bytes], path: Path
) -> SplitZarr:
    """Write the files of a Zarr, with their paths in it; return it as a state of its own dataset.

    The state depends only on the Zarr's content, not on the files around it.
    """
    around, upstream = snapshot.header, upstream_path(root)
    start, upstream_start = root + b"/", upstream + b"/"
    documents = [
        replace(one, path=one.path[len(start) :])
        for one in around.documents
        if one.path.startswith(start)
    ]
    exceptions = [
        replace(one, path=one.path[len(upstream_start) :])
        for one in around.exceptions
        if one.path.startswith(upstream_start)
    ]
    files = size = pending = 0
    newest: datetime | None = max(filter(None, (one.modified for one in documents)), default=None)
    with path.open("wb", buffering=1 << 18) as file:
        for line in lines:
            entry = load_snapshot_entry(line)
            record = entry.record
            if not record.path.startswith(upstream_start):
                raise ValueError(f"{record.path!r} is not below {upstream!r}")
            files += 1
            size += record.size or 0
            pending += record.evidence is not Evidence.SHA256
            if record.modified is not None and (newest is None or record.modified > newest):
                newest = record.modified
            record = replace(record, path=record.path[len(upstream_start) :])
            inner = SnapshotEntry(entry.git_path[len(start) :], entry.key, record)
            file.write(dump_snapshot_entry(inner) + b"\n")
    dataset, time = around.version.dataset, newest or around.version.time
    own, observed = zarr_ref(dataset, upstream), VersionKind.OBSERVED
    header = SnapshotHeader(
        version=VersionRef(own, around.version.upstream, observed, time),
        facts=DatasetFacts(title=root.decode()),
        documents=tuple(documents),
        exceptions=tuple(exceptions),
        newest=newest,
        web_remotes=around.web_remotes,
        special_remotes=around.special_remotes,
        unversioned=around.unversioned,
        form=form,
    )
    state = replace(
        snapshot,
        header=header,
        spool=RecordSpool(path),
        files=files,
        pending_files=pending if snapshot.pending_files else 0,
    )
    return SplitZarr(submodule_path(root), dataset.local_id, state, size)


def _unresolved_link(zarr: SplitZarr) -> SnapshotEntry:
    """Return a placeholder for a Zarr: a subdataset without a state."""
    path, dataset, snapshot = zarr.git_path, zarr.dataset, zarr.snapshot
    return SnapshotEntry(
        path,
        "",
        FileRecord(upstream_path(path), None, modified=snapshot.header.newest),
        Subdataset(dataset.dataset_id, dataset.local_id, "", "", snapshot.files, zarr.bytes),
    )
