"""Links to components in a dataset's state, in the new state and in the previous one."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from datetime import datetime

import msgspec
from msgspec import Struct

from neuromirror.annex import git_path, mark_clash
from neuromirror.crawl.index_rebuild import restore_records
from neuromirror.crawl.visit.publisher import dataset_versions
from neuromirror.crawl.visit.snapshot import InlineComponentState
from neuromirror.index import CrawlIndex, VersionRow
from neuromirror.model import (
    DatasetRef,
    FileRecord,
    SnapshotEntry,
    Subdataset,
    VersionRef,
    line_path,
)
from neuromirror.model.struct_types import analysed_type
from neuromirror.sources import ComponentEntry
from neuromirror.store import Store
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
