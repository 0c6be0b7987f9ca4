"""The Zarrs of a version as references to the archive's objects, for kerchunk and Icechunk.

The content of metadata is included; chunks are references to the pinned objects. Programs that
read references do not verify digests. A kerchunk reference names the version of the object where
the archive keeps versions. An Icechunk reference has the ETag of the object, so that reading an
object with another ETag is an error.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple

from neuromirror.annex import is_all_zeros
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import ZARR_METADATA, ConfigurationError
from neuromirror.model.object_urls import url_version_id
from neuromirror.store import write_atomically
from neuromirror.stream.addresses import StrPath, open_tree
from neuromirror.stream.errors import StreamError
from neuromirror.stream.transport import Transport
from neuromirror.stream.tree_objects import TreeObjects
from neuromirror.stream.trees import VersionTree

REFERENCE_FORMATS: Final = ("kerchunk", "icechunk")
"""The formats of :func:`export_references`."""

_METADATA_NAMES: Final = frozenset(name.decode() for name in ZARR_METADATA)
_MAX_INLINE: Final = 1 << 16
"""Largest chunk of zeros that is included, because no object of it need exist."""

_BATCH: Final = 10_000

Progress = Callable[[int], object]
"""Called with the number of references so far."""


class ReferencesRefusedError(ConfigurationError):
    """A version cannot be written as references."""


class ReferencesResult(Struct, frozen=True):
    """The result of an export of references.

    Attributes
    ----------
    version
        The name of the version, with the folder in it: ``<version>/<folder>``.
    format
        One of :data:`REFERENCE_FORMATS`.
    path
        The file or folder that was written.
    references
        Number of chunks that are references.
    included
        Number of metadata files and small chunks whose content is included.
    unversioned
        Number of references to objects without a version id, which upstream can replace.
    checksums
        Number of references that have the ETag of their object.
    """

    version: str
    format: str
    path: Path
    references: int
    included: int
    unversioned: int
    checksums: int


class ReferenceCounts(Struct):
    """Counts so far; see :class:`ReferencesResult`."""

    references: int = 0
    included: int = 0
    unversioned: int = 0
    checksums: int = 0


def export_references(
    address: StrPath | VersionTree,
    target: str | os.PathLike[str],
    path: str = "",
    *,
    format: str = "kerchunk",
    store: StrPath | None = None,
    progress: Progress = lambda count: None,
) -> ReferencesResult:
    """Write references to the chunks of the Zarrs below a folder of a version.

    Parameters
    ----------
    address
        A version, as for :func:`neuromirror.open`.
    target
        The file (kerchunk) or the folder (icechunk) to create.
    path
        A Zarr or a folder in the version; by default the whole version.
    format
        ``kerchunk`` (a JSON file, version 1) or ``icechunk`` (a repository in a folder).
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``, else the user's.
    progress
        Called with the number of references so far.

    Returns
    -------
    ReferencesResult
        The file or folder, with counts.

    Raises
    ------
    ReferencesRefusedError
        The format is unknown, the target exists, the version has no Zarr, or the format supports
        none of the URLs of a chunk.
    StreamError
        The version or its metadata cannot be read.
    """
    if format not in REFERENCE_FORMATS:
        raise ReferencesRefusedError(
            f"'{format}' is not a format; choose one of {', '.join(REFERENCE_FORMATS)}"
        )
    made = Path(target)
    if os.path.lexists(made) and not (made.is_dir() and not any(made.iterdir())):
        raise ReferencesRefusedError(f"{made} exists; choose another name, or remove it")
    tree = open_tree(address, store=store)
    try:
        folder = path.strip("/")
        objects = TreeObjects(tree, folder, Transport(tree.access))
        try:
            counts = ReferenceCounts()
            walk = ReferenceWalk(tree, folder, objects, counts, progress)
            if format == "kerchunk":
                _write_kerchunk(walk, made)
            else:
                from neuromirror.stream.icechunk_references import write_icechunk

                write_icechunk(walk, made)
        finally:
            objects.close()
        return ReferencesResult(objects.where, format, made, *astuple(counts))
    finally:
        if tree is not address:
            tree.close()


class ReferenceWalk:
    """The files of the Zarrs below a folder, and the objects that hold them.

    Parameters
    ----------
    tree
        The files of the version.
    folder
        The folder; empty for the whole version.
    objects
        Reads files below the folder.
    counts
        Gets the counts of the files that were read or referred to.
    progress
        Called with the number of references so far.
    """

    def __init__(
        self,
        tree: VersionTree,
        folder: str,
        objects: TreeObjects,
        counts: ReferenceCounts,
        progress: Progress,
    ) -> None:
        self.where = objects.where
        self.counts = counts
        self.objects = objects
        self._tree = tree
        self._prefix = f"{folder}/" if folder else ""
        self._progress = progress

    def files(self) -> Iterator[str]:
        """Yield the paths of all files of the Zarrs, relative to the folder."""
        return self._files("", in_zarr=False)

    def metadata(self) -> dict[str, bytes]:
        """Return the metadata of the Zarrs, verified, by path."""
        return {path: self.read(path) for path in self.files() if is_metadata(path)}

    def chunk(self, path: str) -> bytes | ListedFile:
        """Return the file of a chunk, to refer to its object, and count it.

        Returns its content instead if the chunk has to be included: it is small and all zeros, so
        that no object of it need exist, or it is a plain file in git.

        Raises
        ------
        StreamError
            The version has no such file, or excludes it.
        """
        file = self.objects.file(path)
        small = isinstance(file, ListedFile) and (file.size or 0) <= _MAX_INLINE
        if isinstance(file, bytes) or (file and small and is_all_zeros(file.key)):
            self.counts.included += 1
            return self.objects.read_whole(path) or b""
        if file is None:
            raise StreamError(f"{self.where}/{path} was not found", path)
        self.counts.references += 1
        if self.counts.references % _BATCH == 0:
            self._progress(self.counts.references)
        return file

    def read(self, path: str) -> bytes:
        """Return the verified content of metadata, and count it as included."""
        self.counts.included += 1
        return self.objects.read_whole(path) or b""

    def url(self, file: ListedFile) -> str:
        """Return the first URL of the object of a chunk, and count it if it names no version.

        Raises
        ------
        ReferencesRefusedError
            It has no URL of an object (``https``, ``http`` or ``s3``).
        """
        found = [
            one
            for one in file.urls
            if one.startswith(("https://", "http://", "s3://"))
            and not self._tree.access.is_local(one)
        ]
        if not found:
            raise ReferencesRefusedError(
                f"{self._tree.name}: {file.path} has no URL of an object, so that no reference to "
                "it can be written; open the version with neuromirror.open_zarr"
            )
        self.counts.unversioned += url_version_id(found[0]) is None
        return found[0]

    def _files(self, folder: str, *, in_zarr: bool) -> Iterator[str]:
        entries = self._tree.entries((self._prefix + folder).strip("/"))
        if entries is None:
            raise StreamError(f"{self.where} has no folder {folder or '/'}", folder)
        folders: list[str] = []
        files: list[str] = []
        for one in entries:
            (folders if one.is_folder else files).append(one.name)
        is_zarr = in_zarr or not _METADATA_NAMES.isdisjoint(files)
        start = f"{folder}/" if folder else ""
        if is_zarr:
            yield from (
                start + name
                for name in files
                if not name.startswith(".") or name in _METADATA_NAMES
            )
        for name in folders:
            if not name.startswith("."):
                yield from self._files(start + name, in_zarr=is_zarr)


def is_metadata(path: str) -> bool:
    """Return whether a path is that of metadata of a Zarr, such as ``zarr.json``."""
    return path.rpartition("/")[2] in _METADATA_NAMES


# --- kerchunk


def _write_kerchunk(walk: ReferenceWalk, target: Path) -> None:
    """Write a JSON file in kerchunk's version 1, a reference per line."""
    refs: list[str] = []
    for path in walk.files():
        value: object
        if is_metadata(path):
            value = _inline(walk.read(path))
        else:
            file = walk.chunk(path)
            value = _inline(file) if isinstance(file, bytes) else _kerchunk_reference(walk, file)
        refs.append(f"{json.dumps(path)}:{json.dumps(value)}")
    if not refs:
        raise ReferencesRefusedError(f"{walk.where} has no Zarr")
    text = ",\n".join(refs)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, f'{{"version":1,"refs":{{\n{text}\n}}}}\n'.encode())


def _inline(content: bytes) -> str:
    with suppress(UnicodeDecodeError):
        text = content.decode("ascii")
        if not text.startswith("base64:"):
            return text
    return f"base64:{base64.b64encode(content).decode()}"


def _kerchunk_reference(walk: ReferenceWalk, file: ListedFile) -> list[object]:
    # with a size, a shorter or longer object that replaced it is not read as it is
    url = walk.url(file)
    return [url] if file.size is None else [url, 0, file.size]
