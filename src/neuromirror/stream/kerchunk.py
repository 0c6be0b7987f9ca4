"""The Zarrs of a version as a JSON file of kerchunk, with references to the archive's objects.

The content of metadata is included; chunks are references to the pinned objects. A reference names
the version of the object where the archive keeps versions. Programs that read references do not
verify digests.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuromirror.annex import is_all_zeros
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import ZARR_METADATA, ConfigurationError
from neuromirror.model.records import url_version_id
from neuromirror.store import write_atomically
from neuromirror.stream.errors import StreamError
from neuromirror.stream.git_tree import VersionTree
from neuromirror.stream.opening import StrPath, excluded_in, open_tree
from neuromirror.stream.readers import Transport
from neuromirror.stream.tree_objects import TreeObjects

_METADATA_NAMES: Final = frozenset(name.decode() for name in ZARR_METADATA)
_MAX_INLINE: Final = 1 << 16
"""Largest chunk of zeros that is included, because no object of it need exist."""
_BATCH: Final = 10_000


class ReferencesRefusedError(ConfigurationError):
    """A version cannot be written as references."""


class ReferencesResult(Struct):
    """The result of an export of references.

    Attributes
    ----------
    version
        The name of the version, with the folder in it: ``<version>/<folder>``.
    path
        The file that was written.
    references
        Number of chunks that are references.
    included
        Number of metadata files and small chunks whose content is included.
    unversioned
        Number of references to objects without a version id, which upstream can replace.
    """

    version: str
    path: Path
    references: int = 0
    included: int = 0
    unversioned: int = 0


def export_references(
    address: StrPath | VersionTree,
    target: str | os.PathLike[str],
    path: str = "",
    *,
    store: StrPath | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> ReferencesResult:
    """Write references to the chunks of the Zarrs below a folder of a version, for kerchunk.

    Parameters
    ----------
    address
        A version, as for :func:`neuromirror.open`.
    target
        The file to create: JSON in kerchunk's version 1, a reference per line.
    path
        A Zarr or a folder in the version; by default the whole version.
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``, else the user's.
    progress
        Called with the number of references so far.

    Raises
    ------
    ReferencesRefusedError
        The target exists, the version has no Zarr, or a chunk has no URL of an object.
    StreamError
        The version or its metadata cannot be read, or it excludes files of a Zarr.
    """
    if os.path.lexists(target):
        raise ReferencesRefusedError(f"{target} exists; choose another name, or remove it")
    tree, folder = open_tree(address, store=store), path.strip("/")
    try:
        with closing(TreeObjects(tree, folder, Transport(tree.access))) as objects:
            made = ReferencesResult(objects.where, Path(target))
            refs = []
            for name in _zarr_files(tree, folder, ""):
                value = _reference(tree, objects, name, made)
                refs.append(f"{json.dumps(name)}:{json.dumps(value)}")
                if made.references % _BATCH == 0:
                    progress(made.references)
    finally:
        if tree is not address:
            tree.close()
    if not refs:
        raise ReferencesRefusedError(f"{made.version} has no Zarr")
    text = ",\n".join(refs)
    made.path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(made.path, f'{{"version":1,"refs":{{\n{text}\n}}}}\n'.encode())
    return made


def _zarr_files(
    tree: VersionTree, top: str, folder: str, *, in_zarr: bool = False
) -> Iterator[str]:
    """Yield the paths of the files of all Zarrs below a folder, relative to ``top``."""
    entries = tree.entries("/".join(filter(None, (top, folder))))
    if entries is None:
        raise StreamError(f"{tree.name} has no folder {top or '/'}", top)
    visible = [entry for entry in entries if entry.name[0] != "." or entry.name in _METADATA_NAMES]
    files = [entry.name for entry in visible if not entry.is_folder]
    if not in_zarr and not _METADATA_NAMES.isdisjoint(files):
        # without a reference, a chunk is read as the fill value
        if excluded := excluded_in(tree, "/".join(filter(None, (top, folder)))):
            raise excluded
        in_zarr = True
    prefix = f"{folder}/" if folder else ""
    if in_zarr:
        yield from (prefix + name for name in files)
    for entry in visible:
        if entry.is_folder:
            yield from _zarr_files(tree, top, prefix + entry.name, in_zarr=in_zarr)


def _reference(
    tree: VersionTree, objects: TreeObjects, path: str, counts: ReferencesResult
) -> str | list[object]:
    """Return the content or the reference of a file, and count it."""
    file = objects.file(path)
    if file is None:
        raise StreamError(f"{objects.where}/{path} was not found", path)
    if (
        isinstance(file, bytes)
        or path.rpartition("/")[2] in _METADATA_NAMES
        or ((file.size or 0) <= _MAX_INLINE and is_all_zeros(file.key))
    ):
        counts.included += 1
        content = objects.read_whole(path) or b""
        with suppress(UnicodeDecodeError):
            text = content.decode("ascii")
            if not text.startswith("base64:"):
                return text
        return f"base64:{base64.b64encode(content).decode()}"
    url = _object_url(tree, file)
    counts.references += 1
    counts.unversioned += url_version_id(url) is None
    # with a size, a shorter or longer object that replaced it is not read as it is
    return [url] if file.size is None else [url, 0, file.size]


def _object_url(tree: VersionTree, file: ListedFile) -> str:
    for url in file.urls:
        if url.startswith(("https://", "http://", "s3://")) and not tree.access.is_local(url):
            return url
    raise ReferencesRefusedError(
        f"{tree.name}: {file.path} has no URL of an object, so that no reference to it can be "
        "written; open the version with neuromirror.open_zarr"
    )
