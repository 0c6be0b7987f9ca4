"""A pinned state as a store for zarr-python 3; every chunk is verified by its own digest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace
from zarr.abc.store import ByteRequest

from neuromirror.model import DESCRIPTION_PATH, ZARR_METADATA
from neuromirror.net import RequestLimits
from neuromirror.stream.errors import StreamError
from neuromirror.stream.file import NOT_REOPENED
from neuromirror.stream.git_tree import VersionTree
from neuromirror.stream.opening import StrPath, open_tree
from neuromirror.stream.pieces import Verify
from neuromirror.stream.readers import STREAM_LIMITS, Transport
from neuromirror.stream.tree_objects import TreeObjects
from neuromirror.volume.description import DOCUMENTS, DescribedVersion, describe, read_description
from neuromirror.volume.errors import UnreadableVolumeError
from neuromirror.volume.precomputed_files import PrecomputedFiles
from neuromirror.volume.read_only_store import THREADS, Content, ReadOnlyStore, byte_bounds

if TYPE_CHECKING:
    import zarr

_METADATA_NAMES: Final = frozenset(name.decode() for name in ZARR_METADATA)


class VersionStore(ReadOnlyStore):
    """The files below a folder of a version as a read-only Zarr store.

    A folder with a precomputed layer or an N5 volume is presented as an OME-Zarr with one array per
    scale. Zarr
    replaces missing chunks by the fill value. A chunk is missing only if the state has no file for
    it; one that cannot be read, or that the version excludes, raises a StreamError.

    Parameters
    ----------
    address
        A version, as for :func:`neuromirror.open`.
    path
        The folder in the version.
    verify
        ``require``: a chunk without a digest is an error. ``off``: nothing is verified.
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``, else the user's.
    limits
        Timeouts, retries and concurrency limits of the requests.

    Raises
    ------
    StreamError
        There is no version at the address.
    """

    failure = StreamError

    def __init__(
        self,
        address: StrPath | VersionTree,
        path: str = "",
        *,
        verify: Verify = "require",
        store: StrPath | None = None,
        limits: RequestLimits = STREAM_LIMITS,
    ) -> None:
        self._folder = path.strip("/")
        self._arguments = (
            address,
            self._folder,
            verify,
            None if store is None else os.fspath(store),
            limits,
        )
        self._where = ""
        super().__init__()

    def _start(self) -> None:
        address, folder, verify, store, limits = self._arguments
        if self._process and isinstance(address, VersionTree):
            raise StreamError(f"{self!r} was opened in another process; {NOT_REOPENED}")
        tree = open_tree(address, store=store)
        transport = Transport(tree.access, limits=limits, parallel=THREADS)
        objects = TreeObjects(tree, folder, transport, verify)
        try:
            self._layer = _layer_files(tree, folder, objects)
            if self._where not in ("", objects.where):
                raise StreamError(
                    f"{self._where} is {objects.where} in this process, because its address names "
                    "another version now; open it with the label of a version"
                )
        except BaseException:
            objects.close()
            if tree is not address:
                tree.close()
            raise
        self._where = objects.where
        self._tree, self._objects = tree, objects
        super()._start()

    def __repr__(self) -> str:
        mode = ", verify='off'" if self._arguments[2] == "off" else ""
        return f"VersionStore({self._objects.where!r}{mode})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionStore) and other._arguments == self._arguments

    def __hash__(self) -> int:
        return hash(self._objects.where)

    def __reduce__(self) -> tuple[Any, ...]:
        address, folder, verify, store, limits = self._arguments
        return (
            partial(VersionStore, address, folder, verify=verify, store=store, limits=limits),
            (),
        )

    def close(self) -> None:
        """Cancel the requests in progress; nothing can be read afterwards."""
        super().close()
        if self._is_own:
            self._objects.close()
            if self._tree is not self._arguments[0]:
                self._tree.close()

    def _read(self, key: str, byte_range: ByteRequest | None) -> Content | None:
        if self._layer is not None:
            return self._read_layer(self._layer, key, byte_range)
        if byte_range is None:
            return self._objects.read_whole(key)
        opened = self._objects.open_part(key)
        if opened is None:
            return None
        if isinstance(opened, bytes):
            start, stop = byte_bounds(byte_range, len(opened))
            return opened[start:stop]
        return opened.read_ranges([byte_bounds(byte_range, opened.size)])[0]

    def _has(self, key: str) -> bool:
        if self._layer is not None:
            return self._layer.has(key)
        return self._objects.file(key) is not None

    def _entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        if self._layer is not None:
            return self._layer.entries(folder)
        path = "/".join(filter(None, (self._folder, folder)))
        # files of git and of the archive are not part of the Zarr
        return (
            (entry.name, entry.is_folder)
            for entry in self._tree.entries(path) or ()
            if not entry.name.startswith(".") or entry.name in _METADATA_NAMES
        )

    def _read_layer(
        self, layer: PrecomputedFiles, key: str, byte_range: ByteRequest | None
    ) -> Content | None:
        if not layer.has(key):
            return None
        content = layer.document(key)
        if content is None:
            content = layer.block(key)
        start, stop = byte_bounds(byte_range, len(content))
        return memoryview(content)[start:stop]


def open_zarr(
    address: StrPath | VersionTree,
    path: str = "",
    *,
    verify: Verify = "require",
    store: StrPath | None = None,
    limits: RequestLimits = STREAM_LIMITS,
) -> zarr.Group | zarr.Array[Any]:
    """Open a Zarr, or a volume of any format, of a version over the network, verified.

    Parameters
    ----------
    address
        A version, as for :func:`neuromirror.open`.
    path
        The path of the Zarr, group or array in the version; empty if the version is one.
    verify
        ``require``: a chunk without a digest is an error. ``off``: nothing is verified.
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``, else the user's.
    limits
        Timeouts, retries and concurrency limits of the requests.

    Returns
    -------
    zarr.Group or zarr.Array
        The group or array, read-only. Reading raises a subclass of StreamError for a chunk that is
        unavailable or differs from the version; it is never replaced by the fill value.

    Raises
    ------
    StreamError
        There is no version at the address, or its metadata cannot be read.
    """
    import zarr

    opened = VersionStore(address, path, verify=verify, store=store, limits=limits)
    try:
        return zarr.open(opened, mode="r")
    except BaseException:
        opened.close()
        raise


# --- precomputed layers and N5


def _layer_files(tree: VersionTree, folder: str, objects: TreeObjects) -> PrecomputedFiles | None:
    """Return the files of a precomputed layer or an N5 volume; None for any other folder.

    Raises UnreadableVolumeError if no scale can be read.
    """
    if all(objects.git_document(name) is None for name in DOCUMENTS):
        return None
    values = read_description(tree.document(DESCRIPTION_PATH))
    dataset, source, state = (str(values.get(one, "")) for one in ("dataset", "source", "state"))
    name = dataset or tree.name
    local_id = folder or name.partition(":")[2]
    # files outside of git are read, too, and an excluded object is an error when it is read
    version = DescribedVersion(name, objects.where, source, state, local_id)
    found = describe(objects, version, reads_shards=True)
    pairs = zip(found.volume.levels, found.storage, strict=True)
    readable = [(level, one) for level, one in pairs if not one.unreadable_reason]
    if not readable:
        raise UnreadableVolumeError(
            f"{objects.where} cannot be opened: {found.storage[0].unreadable_reason}; "
            f"a reader of {found.format} may read it in a clone"
        )
    volume = replace(found.volume, levels=tuple(level for level, _ in readable))
    return PrecomputedFiles(objects, volume, [one for _, one in readable])
