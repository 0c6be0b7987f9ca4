"""References as an Icechunk repository: virtual chunks with the ETags of their objects.

Icechunk has Zarr format 3 only, and names chunks ``c/<index>``; its locations have neither object
versions nor ports. Its requests have ``If-Match`` with the ETag, so that an object that upstream
replaced is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.sources.dandi.buckets import parse_object_url
from neuromirror.stream.trees import content_checksum
from neuromirror.stream.virtual_references import ReferencesRefusedError, ReferenceWalk, is_metadata

if TYPE_CHECKING:
    import icechunk

_USUAL_REGION: Final = "us-east-1"
_FORMAT_3: Final = "zarr.json"
_FORMAT_2: Final = ".zarray"


class _ChunkNames(Struct, frozen=True):
    """The names of the chunks of an array: prefix, separator, and number of dimensions."""

    prefix: str
    separator: str
    dimensions: int

    def index(self, name: str) -> list[int] | None:
        """Return the index of a chunk; None for a file that is not one."""
        if not self.dimensions:
            return [] if name in ("c", "0") else None
        if not name.startswith(self.prefix):
            return None
        parts = name[len(self.prefix) :].split(self.separator)
        if len(parts) != self.dimensions or not all(part.isdecimal() for part in parts):
            return None
        return [int(part) for part in parts]


def write_icechunk(walk: ReferenceWalk, target: Path) -> None:
    """Write the Zarrs of a version as an Icechunk repository with one commit.

    Parameters
    ----------
    walk
        The files of the Zarrs.
    target
        The folder of the repository, which is created.

    Raises
    ------
    ReferencesRefusedError
        A package is missing, there is no Zarr, metadata cannot be converted to Zarr format 3, or a
        chunk has no URL in a bucket.
    StreamError
        Metadata cannot be read or verified.
    """
    try:
        import icechunk
        from zarr.core.buffer import cpu
        from zarr.core.sync import sync
    except ImportError as error:
        raise ReferencesRefusedError(
            f"Icechunk repositories need the package {error.name}: pip install icechunk zarr"
        ) from error
    found = walk.metadata()
    contents = _format_3_metadata(found, walk.where)
    containers: dict[str, icechunk.VirtualChunkContainer] = {}
    specs: dict[str, list[icechunk.VirtualChunkSpec]] = {}
    names = _chunk_names(found)
    for path in walk.files():
        located = None if is_metadata(path) else _locate(path, names)
        if located is None:
            continue
        array, index = located
        file = walk.chunk(path)
        if isinstance(file, bytes):
            contents["/".join(filter(None, (array, "c", *map(str, index))))] = file
        else:
            specs.setdefault(array, []).append(_virtual_chunk(walk, file, index, containers))
    config = icechunk.RepositoryConfig.default()
    for container in containers.values():
        config.set_virtual_chunk_container(container)
    target.mkdir(parents=True, exist_ok=True)
    storage = icechunk.local_filesystem_storage(str(target))
    session = icechunk.Repository.create(storage, config).writable_session("main")
    for path, content in contents.items():
        sync(session.store.set(path, cpu.Buffer.from_bytes(content)))
    for array, chunks in specs.items():
        refused = session.store.set_virtual_refs(f"/{array}", chunks)
        if refused:
            raise ReferencesRefusedError(f"{walk.where}/{array}: no container for {refused[0]}")
    session.commit(f"References to {walk.where}")


def _chunk_names(metadata: Mapping[str, bytes]) -> dict[str, _ChunkNames]:
    """Return the names of the chunks of each array."""
    found: dict[str, _ChunkNames] = {}
    for path, text in metadata.items():
        folder, _, name = path.rpartition("/")
        about = json.loads(text)
        if name == _FORMAT_2:
            separator = about.get("dimension_separator", ".")
            found[folder] = _ChunkNames("", separator, len(about["shape"]))
        elif name == _FORMAT_3 and about.get("node_type") == "array":
            encoding = about["chunk_key_encoding"]
            is_default = encoding["name"] == "default"
            options = encoding.get("configuration", {})
            separator = options.get("separator", "/" if is_default else ".")
            prefix = f"c{separator}" if is_default else ""
            found[folder] = _ChunkNames(prefix, separator, len(about["shape"]))
    return found


def _locate(path: str, names: Mapping[str, _ChunkNames]) -> tuple[str, list[int]] | None:
    """Return the array of a chunk, and the index of the chunk; None for other files."""
    parts = path.split("/")
    for count in range(len(parts) - 1, -1, -1):
        array = "/".join(parts[:count])
        if array in names:
            index = names[array].index("/".join(parts[count:]))
            return None if index is None else (array, index)
    return None


def _format_3_metadata(found: Mapping[str, bytes], where: str) -> dict[str, bytes]:
    """Return ``zarr.json`` of each group and array, converted from format 2 if necessary."""
    made = {path: text for path, text in found.items() if path.rpartition("/")[2] == _FORMAT_3}
    old = {path: text for path, text in found.items() if path not in made}
    if old:
        made |= _converted(old, where)
    if not made:
        raise ReferencesRefusedError(f"{where} has no Zarr")
    return {path: _with_default_names(text) for path, text in sorted(made.items())}


def _converted(old: Mapping[str, bytes], where: str) -> dict[str, bytes]:
    from zarr.core.buffer import Buffer, cpu
    from zarr.metadata.migrate_v3 import migrate_v2_to_v3
    from zarr.storage import MemoryStore

    contents: dict[str, Buffer] = {}
    given = {path: cpu.Buffer.from_bytes(text) for path, text in old.items()}
    try:
        migrate_v2_to_v3(input_store=MemoryStore(dict(given)), output_store=MemoryStore(contents))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ReferencesRefusedError(
            f"{where}: its metadata of Zarr format 2 cannot be converted to format 3 ({error}), "
            "the only one of Icechunk; export with --format kerchunk"
        ) from error
    return {path: content.to_bytes() for path, content in contents.items()}


def _with_default_names(text: bytes) -> bytes:
    """Return metadata with the names of chunks that Icechunk uses, and no copies of others."""
    document: dict[str, Any] = json.loads(text)
    document.pop("consolidated_metadata", None)
    if document.get("node_type") == "array":
        document["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": "/"}}
    return json.dumps(document).encode()


def _virtual_chunk(
    walk: ReferenceWalk,
    file: ListedFile,
    index: list[int],
    containers: dict[str, icechunk.VirtualChunkContainer],
) -> icechunk.VirtualChunkSpec:
    import icechunk

    url = walk.url(file)
    if file.size is None:
        raise ReferencesRefusedError(
            f"{walk.where}: {file.path} has no known size, which Icechunk needs; export with "
            "--format kerchunk"
        )
    try:
        if not url.startswith("http"):
            raise ValueError("it needs credentials")
        address = parse_object_url(url)
        key = address.key.decode("utf-8")
    except ValueError as error:
        raise ReferencesRefusedError(
            f"{walk.where}: {file.path} is not at the URL of a bucket ({error}), which Icechunk "
            "needs; export with --format kerchunk"
        ) from error
    prefix = f"s3://{address.bucket}/"
    if prefix not in containers:
        options = (
            icechunk.s3_store(region=address.region or _USUAL_REGION, anonymous=True)
            if address.endpoint is None
            else icechunk.s3_store(
                region=address.region or _USUAL_REGION,
                endpoint_url=address.endpoint,
                allow_http=address.endpoint.startswith("http:"),
                anonymous=True,
                force_path_style=True,
            )
        )
        containers[prefix] = icechunk.VirtualChunkContainer(prefix, options)
    checksum = content_checksum(file)
    etag = f'"{checksum.value}"' if checksum.algorithm in ("md5", "etag") else None
    walk.counts.checksums += etag is not None
    return icechunk.VirtualChunkSpec(index, prefix + key, 0, file.size, etag_checksum=etag)
