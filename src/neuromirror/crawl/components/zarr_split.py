"""Split large Zarr stores off a dataset into subdatasets.

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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from heapq import merge
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuromirror.annex import upstream_path
from neuromirror.config.mirror_settings import ZarrLimits
from neuromirror.crawl.components.subdataset_links import submodule_path
from neuromirror.crawl.visit.snapshot import RecordSpool, SpooledSnapshot
from neuromirror.model import (
    ZARR_MARKERS,
    DatasetFacts,
    DatasetRef,
    Document,
    Evidence,
    ExcludedEntry,
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

# characters that an alias must not contain, or that would make it ambiguous
_UNSAFE = re.compile(r"[^A-Za-z0-9._+,-]|^[.-]|(?<=-)-", re.ASCII)
_LONGEST_ID = 200

_MARKED_NAMES = tuple(name + end for name in ZARR_MARKERS for end in (b"", b"%_"))


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
    def header(self) -> SnapshotHeader:
        """The Zarr's snapshot without its files."""
        return self.snapshot.header

    @property
    def spool(self) -> RecordSpool:
        """The Zarr's files."""
        return self.snapshot.spool

    @property
    def form(self) -> str:
        """``files``, or ``manifest`` if the chunks are not in git."""
        return self.header.form


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
    split = _ZarrSplitter(snapshot, roots, limits, scratch)
    return split.rest, split.zarrs


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
            file.write(
                dump_snapshot_entry(msgspec.structs.replace(entry, subdataset=subdataset)) + b"\n"
            )
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


def _unresolved_link(component: SplitZarr) -> SnapshotEntry:
    """Return a placeholder for a Zarr: a subdataset without a state."""
    dataset = component.header.version.dataset
    return SnapshotEntry(
        component.git_path,
        "",
        FileRecord(upstream_path(component.git_path), None, modified=component.header.newest),
        Subdataset(
            dataset.dataset_id, dataset.local_id, "", "", component.snapshot.files, component.bytes
        ),
    )


class _ZarrSplitter:
    """Splits a spool into ``rest`` and ``zarrs``."""

    def __init__(
        self, snapshot: SpooledSnapshot, roots: Sequence[_Root], limits: ZarrLimits, scratch: Path
    ) -> None:
        self._snapshot = snapshot
        self._documents = list(snapshot.header.documents)
        self._exceptions = list(snapshot.header.exceptions)
        self.zarrs: list[SplitZarr] = []
        rest = RecordSpool(scratch / "rest.jsonl")
        with ExitStack() as stack:
            file = stack.enter_context(rest.path.open("wb", buffering=1 << 18))
            lines = snapshot.spool.lines()
            line = next(lines, None)
            for number, root in enumerate(roots):
                start = root.path + b"/"
                while line is not None and not line_path(line).startswith(start):
                    file.write(line + b"\n")
                    line = next(lines, None)
                zarr = _ZarrExtractor(snapshot, root, scratch / f"zarr-{number}.jsonl")
                with zarr.spool.path.open("wb", buffering=1 << 18) as inner:
                    while line is not None and line_path(line).startswith(start):
                        zarr.take_file(line, inner)
                        line = next(lines, None)
                self._documents = zarr.take_documents(self._documents)
                self._exceptions = zarr.take_exceptions(self._exceptions)
                self.zarrs.append(
                    zarr.result("manifest" if root.objects > limits.manifest else "files")
                )
            while line is not None:
                file.write(line + b"\n")
                line = next(lines, None)
        self.rest = self._write_rest(rest, scratch)

    def _write_rest(self, spool: RecordSpool, scratch: Path) -> SpooledSnapshot:
        snapshot = self._snapshot
        links = [_unresolved_link(component) for component in self.zarrs]
        links.sort(key=lambda one: one.git_path)
        whole = RecordSpool(scratch / "without-zarrs.jsonl")
        with whole.path.open("wb", buffering=1 << 18) as file:
            for line in merge(spool.lines(), map(dump_snapshot_entry, links), key=line_path):
                file.write(line + b"\n")
        spool.path.unlink()
        inner = [component.snapshot for component in self.zarrs]
        return replace(
            snapshot,
            header=replace(
                snapshot.header,
                documents=tuple(self._documents),
                exceptions=tuple(self._exceptions),
            ),
            spool=whole,
            files=snapshot.files - sum(one.files for one in inner),
            pending_files=snapshot.pending_files - sum(one.pending_files for one in inner),
        )


class _ZarrExtractor:
    """Extracts a Zarr from a dataset line by line, and counts its files."""

    def __init__(self, snapshot: SpooledSnapshot, root: _Root, path: Path) -> None:
        self._snapshot = snapshot
        self._root = root
        self._upstream = upstream_path(root.path)
        self._documents: list[Document] = []
        self._exceptions: list[ExcludedEntry] = []
        self._files = 0
        self._bytes = 0
        self._pending = 0
        self._newest: datetime | None = None
        self.spool = RecordSpool(path)

    def take_file(self, line: bytes, file: BinaryIO) -> None:
        """Write a file to ``file`` with its path in the Zarr."""
        entry = load_snapshot_entry(line)
        record = entry.record
        self._files += 1
        self._bytes += record.size or 0
        self._pending += record.evidence is not Evidence.SHA256
        self._note_time(record.modified)
        inner = SnapshotEntry(
            entry.git_path[len(self._root.path) + 1 :],
            entry.key,
            msgspec.structs.replace(record, path=self._relative_path(record.path)),
        )
        file.write(dump_snapshot_entry(inner) + b"\n")

    def take_documents(self, documents: Sequence[Document]) -> list[Document]:
        """Take the documents below the Zarr; return the others."""
        start = self._root.path + b"/"
        for one in documents:
            if one.path.startswith(start):
                self._documents.append(replace(one, path=one.path[len(start) :]))
                self._note_time(one.modified)
        return [one for one in documents if not one.path.startswith(start)]

    def take_exceptions(self, exceptions: Sequence[ExcludedEntry]) -> list[ExcludedEntry]:
        """Take the exceptions below the Zarr; return the others."""
        start = self._upstream + b"/"
        for one in exceptions:
            if one.path.startswith(start):
                self._exceptions.append(replace(one, path=self._relative_path(one.path)))
        return [one for one in exceptions if not one.path.startswith(start)]

    def result(self, form: str) -> SplitZarr:
        """Return the Zarr as a state of its own dataset, once all of its files were taken.

        The state depends only on the Zarr's content, not on the files around it.
        """
        around = self._snapshot.header
        dataset = around.version.dataset
        header = SnapshotHeader(
            version=VersionRef(
                zarr_ref(dataset, self._upstream),
                around.version.upstream,
                VersionKind.OBSERVED,
                self._newest or around.version.time,
            ),
            facts=DatasetFacts(title=self._root.path.decode()),
            documents=tuple(self._documents),
            exceptions=tuple(self._exceptions),
            newest=self._newest,
            web_remotes=around.web_remotes,
            special_remotes=around.special_remotes,
            unversioned=around.unversioned,
            form=form,
        )
        pending = self._pending if self._snapshot.pending_files else 0
        snapshot = replace(
            self._snapshot,
            header=header,
            spool=self.spool,
            files=self._files,
            pending_files=pending,
        )
        link = submodule_path(self._root.path)
        return SplitZarr(link, dataset.local_id, snapshot, self._bytes)

    def _relative_path(self, path: bytes) -> bytes:
        start = self._upstream + b"/"
        if not path.startswith(start):
            raise ValueError(f"{path!r} is not below {self._upstream!r}")
        return path[len(start) :]

    def _note_time(self, modified: datetime | None) -> None:
        if modified is not None and (self._newest is None or modified > self._newest):
            self._newest = modified
