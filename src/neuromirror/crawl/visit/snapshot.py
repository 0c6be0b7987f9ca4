"""Snapshots on disk, and the interface of the resolver for their components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct, field

from neuromirror.model import (
    ExcludedEntry,
    FileRecord,
    SnapshotEntry,
    SnapshotHeader,
    StateDigest,
    load_snapshot_entries,
    subdataset_line,
)
from neuromirror.model.manifest import entry_line
from neuromirror.sources import ComponentEntry


class RecordSpool:
    """The records of a snapshot on disk, one per line, sorted by git path."""

    def __init__(self, path: Path) -> None:
        self.path = path

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


class ResolvedComponents(Struct, frozen=True):
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

    subdatasets: Mapping[bytes, ComponentEntry] = field(default_factory=dict)
    unmirrored: frozenset[bytes] = frozenset()
    inline: tuple[InlineComponentState, ...] = ()
    problems: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()
    is_final: bool = True
    pending_ids: frozenset[str] = frozenset()

    @property
    def paths(self) -> frozenset[bytes]:
        """The upstream paths of all components."""
        return frozenset(self.subdatasets) | {one.path for one in self.inline}


ResolvedEntry = SnapshotEntry | FileRecord | bytes | ExcludedEntry
"""A link to a component, a file of an inline component, or an exception.

A file is a record, or a record line with its git path.
"""


class ComponentResolver(Protocol):
    """Decides how each component of a listing is stored: inline, as a subdataset or not at all."""

    def prefetch(self, component: ComponentEntry, scratch: Path) -> None:
        """Start to read a component, if necessary, before the whole listing is read."""
        ...

    def close(self) -> None:
        """Cancel pending reads; return once no thread writes any more."""
        ...

    def resolve(
        self, components: Sequence[ComponentEntry], scratch: Path
    ) -> Iterator[ResolvedEntry]:
        """Yield the entries that represent the components in the dataset."""
        ...

    @property
    def result(self) -> ResolvedComponents:
        """The resolved components; complete after :meth:`resolve`."""
        ...


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
    components: ResolvedComponents = ResolvedComponents()
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
