"""Components that are subdatasets: links to them, Zarrs that are split off, publication.

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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from heapq import merge
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuromirror.annex import git_path, mark_clash, upstream_path
from neuromirror.config.mirror_files import ZarrLimits
from neuromirror.crawl.guards import ComponentRoots, CountedItems, StateChanges, StateDifference
from neuromirror.crawl.listing import InlineComponentState, RecordSpool, SpooledSnapshot
from neuromirror.crawl.publisher import Publisher, dataset_versions
from neuromirror.crawl.recorder import Recorder, list_known, restore_records
from neuromirror.index import CrawlIndex, VersionRow
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
    diff_lines,
    dump_snapshot_entry,
    line_path,
    load_snapshot_entry,
)
from neuromirror.model.validation import analysed_type
from neuromirror.sources import ComponentEntry
from neuromirror.store import MAIN_BRANCH, Store
from neuromirror.store.memos import MemoFolder, StoredMemo

# fields that only some record lines have
_PATH_MEMBER = b',"path'
_SUBDATASET_MEMBER = b',"subdataset":['


class SubdatasetLink(Struct, frozen=True):
    """A state of a component's own dataset, and its upstream time."""

    state: Subdataset
    time: datetime | None

    def as_file(self, component: ComponentEntry) -> SnapshotEntry:
        """Return the link as an entry at the component's path."""
        return SnapshotEntry(
            submodule_path(git_path(component.path)),
            "",
            FileRecord(component.path, None, modified=self.time),
            self.state,
        )


def unresolved_link(component: ComponentEntry) -> SnapshotEntry:
    """Return a placeholder for a link to a component whose state the store does not have yet.

    It must be replaced before the state is published: minting refuses it.
    """
    dataset, claimed = component.dataset, component.version.claimed_totals
    files, size = (0, component.size) if claimed is None else (claimed.files, claimed.bytes)
    return SubdatasetLink(
        Subdataset(dataset.dataset_id, dataset.local_id, "", "", files, size), None
    ).as_file(component)


def submodule_path(path: bytes) -> bytes:
    """Return the git path of a submodule: git rejects one that looks like an option."""
    return b"%2D" + path[1:] if path.startswith(b"-") else path


def names_exact_state(version: VersionRef) -> bool:
    """Return whether upstream's name of a component is a checksum, and not just ``current``."""
    return version.claimed_totals is not None


def find_minted_version(index: CrawlIndex, version: VersionRef) -> VersionRow | None:
    """Return the mirrored version of a component that has the same upstream name; None without one.

    A name that identifies no exact state gives None too (:func:`names_exact_state`).
    """
    if not names_exact_state(version):
        return None
    rows = dataset_versions(index, version.dataset.name)
    return next((one for one in rows if one.upstream == version.upstream), None)


def find_last_finalized(index: CrawlIndex, version: VersionRef) -> VersionRow | None:
    """Return the newest mirrored version of a component whose state upstream named exactly.

    ``version`` is the component's present one, whose name identifies no state; None without one.
    """
    rows = dataset_versions(index, version.dataset.name)
    named = (one for one in reversed(rows) if one.upstream != version.upstream)
    return next((one for one in named if not is_earlier_state(one.upstream)), None)


def is_earlier_state(upstream: str) -> bool:
    """Return whether upstream's name of a version, ``at <time>``, is an earlier state's."""
    return upstream.startswith("at ")


def link_to_version(index: CrawlIndex, row: VersionRow) -> SubdatasetLink:
    """Return a link (id, commit, state digest) to a mirrored version of a component."""
    inner = list(index.subdatasets(row))
    state = Subdataset(
        DatasetRef(row.mirror, row.local_id, row.source_uri).dataset_id,
        row.local_id,
        row.commit,
        row.state,
        row.files + sum(one.files for one in inner),
        row.bytes + sum(one.bytes for one in inner),
    )
    time = row.upstream_time
    return SubdatasetLink(state, None if time is None else datetime.fromisoformat(time))


def is_split_component(dataset: DatasetRef, local_id: str) -> bool:
    """Return whether the setting ``components.zarr_split`` made a component a dataset of its own.

    Its files count as the dataset's own; a component that upstream lists as one asset counts as one
    file.

    Parameters
    ----------
    dataset
        The dataset that links to the component.
    local_id
        The local id of the component.
    """
    return not dataset.local_id or local_id.startswith(f"{dataset.local_id}/")


class PreviousState:
    """The previous state of a dataset, as far as a new listing can reuse it.

    ``row`` is its version; for a new dataset it is None, and all methods return nothing.
    """

    def __init__(self, store: Store, dataset: DatasetRef, row: VersionRow | None) -> None:
        self._store = store
        self._dataset = dataset
        self.row = row

    def inline_components(self) -> dict[bytes, InlineComponentState]:
        """Return the inline components that :func:`save_inline_components` saved, by path."""
        if self.row is None:
            return {}
        memos = MemoFolder(self._store.root)
        memo = memos.read(self._dataset.dataset_id, _memo_name(self.row.upstream))
        if memo is None or memo.commit != self.row.commit:
            return {}
        try:
            found = msgspec.json.decode(
                memo.content, type=analysed_type(list[InlineComponentState])
            )
        except msgspec.DecodeError:
            return {}  # written by another version of neuromirror
        return {one.path: one for one in found}

    def lines(self, paths: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the record lines at or below upstream paths, each with that path.

        They are sorted by git path, so the lines below one path are contiguous, except for escaped
        paths.
        """
        if self.row is None:
            return
        row, dataset_id = self.row, self._dataset.dataset_id
        restore_records(self._store, self._dataset, row)
        upstream_paths: dict[bytes, bytes] = {}
        for path in paths:
            path_in_git = git_path(path)
            for one in (path_in_git, mark_clash(path_in_git), submodule_path(path_in_git)):
                upstream_paths[one] = path
        last = b"/"
        for line in self._store.record_lines(dataset_id, row.records):
            path = line_path(line)
            if not path.startswith(last):
                found = _root_of(path, upstream_paths)
                if found is None:
                    continue
                last = found + b"/"
            yield upstream_paths[last[:-1]], line


def _root_of(path: bytes, roots: Container[bytes]) -> bytes | None:
    """Return the first folder above a path, or the path itself, that is in ``roots``."""
    end = path.find(b"/")
    while end >= 0:
        if path[:end] in roots:
            return path[:end]
        end = path.find(b"/", end + 1)
    return path if path in roots else None


def save_inline_components(
    store: Store, dataset: DatasetRef, upstream: str, commits: tuple[str, str], inline: object
) -> None:
    """Remember the components that are stored as files in a state's own commit.

    Parameters
    ----------
    store
        The store, whose folder of memos gets a small file with the components.
    dataset
        The dataset that contains the components.
    upstream
        The archive's name for the state.
    commits
        The state's commits on its branch and on the git-annex branch, in hex. The memo is valid
        only for these.
    inline
        The components; nothing is kept if it is empty.
    """
    memo = StoredMemo(*commits, msgspec.json.encode(inline)) if inline else None
    MemoFolder(store.root).write(dataset.dataset_id, _memo_name(upstream), memo)


def _memo_name(upstream: str) -> str:
    return f"inline {upstream}"


def has_other_upstream_path(line: bytes) -> bool:
    """Return whether a record line states an upstream path besides its git path.

    If it does not, the two paths are equal.
    """
    return _PATH_MEMBER in line


def is_subdataset_line(line: bytes) -> bool:
    """Return whether a record line is a link to a subdataset."""
    return _SUBDATASET_MEMBER in line


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


class ComponentPublisher:
    """Publishes the states of a dataset whose large Zarrs become datasets of their own.

    It first publishes each of these Zarrs, and compares states with the files in them. The caller
    holds the dataset's lock.

    Parameters
    ----------
    store, recorder
        The store and its recorder.
    publisher
        Publishes the dataset itself.
    limits
        The ``[zarr]`` table of the mirror file.
    """

    def __init__(
        self, store: Store, recorder: Recorder, publisher: Publisher, limits: ZarrLimits
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._publisher = publisher
        self._limits = limits

    def publish(self, snapshot: SpooledSnapshot, scratch: Path) -> SpooledSnapshot:
        """Publish the large Zarrs of a state; return the state with subdatasets in their place.

        A state that is already published is not written again.
        """

        def publish(component: SplitZarr, publisher: Publisher, own: Path) -> Subdataset:
            published = publisher.publish(component.snapshot, MAIN_BRANCH, own)
            return Subdataset(
                publisher.dataset.dataset_id,
                publisher.dataset.local_id,
                published.commit,
                published.state,
                component.snapshot.files,
                component.bytes,
            )

        return self._link_zarrs(snapshot, scratch, publish)

    def renew(self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> None:
        """Record what upstream states now about the files of a version, such as their URLs.

        That includes the files of its large Zarrs. No version is created.
        """
        dataset_id = self._publisher.dataset.dataset_id
        links = {
            line_path(line): load_snapshot_entry(line).subdataset
            for line in self._store.record_lines(dataset_id, row.records)
            if is_subdataset_line(line)
        }

        def renew(component: SplitZarr, publisher: Publisher, own: Path) -> Subdataset:
            link = links[component.git_path]
            assert link is not None
            for version in publisher.versions():
                if version.commit == link.commit:
                    publisher.renew(version, component.snapshot, own)
            return link

        self._publisher.renew(row, self._link_zarrs(snapshot, scratch, renew), scratch)

    def _link_zarrs(
        self,
        snapshot: SpooledSnapshot,
        scratch: Path,
        process: Callable[[SplitZarr, Publisher, Path], Subdataset],
    ) -> SpooledSnapshot:
        """Return a state with the result of ``process`` in the place of each large Zarr."""
        rest, components = split_zarrs(snapshot, self._limits, scratch)
        links: dict[bytes, Subdataset] = {}
        for number, component in enumerate(components):
            dataset = component.header.version.dataset
            own = scratch / f"component-{number}"
            own.mkdir()
            with self._store.lock(dataset.dataset_id, dataset.name):
                publisher = Publisher(
                    self._store,
                    self._recorder,
                    dataset,
                    within=component.within,
                    index_entries=self._limits.index_entries,
                )
                publisher.catch_up()
                links[component.git_path] = process(component, publisher, own)
                publisher.repository.update_server_info()
        return insert_subdatasets(rest, links)

    def difference(
        self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path
    ) -> tuple[StateDifference, StateChanges]:
        """Return the difference between a minted version and a listing, file by file.

        Splitting a Zarr off the dataset's files, or not, makes no difference; a component that
        upstream itself names counts as one file.
        """
        found = self._publisher.difference(row, snapshot, scratch)
        inline = PreviousState(self._store, self._publisher.dataset, row).inline_components()
        split = [
            old
            for old, _ in found.changes()
            if old is not None
            and old.subdataset is not None
            and self._is_split_component(old.subdataset)
        ]
        if split:
            lines = self._store.record_lines(self._publisher.dataset.dataset_id, row.records)
            whole = CountedItems(self._flatten_lines(lines, split))
            found = StateDifference(
                scratch / f"whole-since-{row.commit}", diff_lines(whole, snapshot.spool.lines())
            )
            before = whole.count
        else:
            links = list_known(self._recorder, lambda index: index.subdatasets(row))
            before = row.files + len(links)
        found.roots = ComponentRoots(inline.keys(), snapshot.components.paths)
        before -= sum(one.files - 1 for one in inline.values())
        return found, found.count_changes(before)

    def has_same_files(self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> bool:
        """Return whether a minted version has exactly the files of a listing."""
        return self.difference(row, snapshot, scratch)[1].has_same_files

    def _is_split_component(self, component: Subdataset) -> bool:
        return is_split_component(self._publisher.dataset, component.local_id)

    def _flatten_lines(
        self, lines: Iterable[bytes], components: list[SnapshotEntry]
    ) -> Iterator[bytes]:
        """Yield a dataset's record lines, with those of its components in place of the links."""
        component_paths = {component.git_path for component in components}
        files = (line for line in lines if line_path(line) not in component_paths)
        yield from merge(files, *map(self._component_lines, components), key=line_path)

    def _component_lines(self, entry: SnapshotEntry) -> Iterator[bytes]:
        component = entry.subdataset
        assert component is not None
        self._restore_records(component)
        root, upstream = entry.git_path, entry.record.path
        if upstream.startswith(b"-"):
            root = b"-" + root.removeprefix(b"%2D")  # only the link has the escape
        records = self._store.newest_records(component.dataset_id, component.commit)
        for line in self._store.record_lines(component.dataset_id, records):
            inner = load_snapshot_entry(line)
            yield dump_snapshot_entry(
                SnapshotEntry(
                    root + b"/" + inner.git_path,
                    inner.key,
                    msgspec.structs.replace(inner.record, path=upstream + b"/" + inner.record.path),
                    inner.subdataset,
                )
            )

    def _restore_records(self, component: Subdataset) -> None:
        if self._store.has_records(component.dataset_id, component.commit):
            return
        name = f"{self._publisher.dataset.mirror}:{component.local_id}"
        for row in list_known(self._recorder, lambda index: index.versions(name)):
            if row.commit == component.commit:
                dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
                restore_records(self._store, dataset, row)
