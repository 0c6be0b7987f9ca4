"""The options of a mirror, and the volumes in a bucket: how they are found, their facts and links.

Formats: Neuroglancer's page "Precomputed: volume" for ``info``; CloudVolume for ``provenance``;
OME-Zarr 0.4 and 0.5; the specification of N5, in which a volume is an array, or a group with the
arrays ``s0``, ``s1`` and so on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args
from urllib.parse import quote

from msgspec import Struct
from pydantic import Field

from neuromirror.model import DatasetFacts, Document
from neuromirror.net import (
    AccessDeniedError,
    ContextThreadPool,
    InvalidJsonError,
    NotFoundError,
    ObjectRow,
    ResponseTooLargeError,
    S3Bucket,
)
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.options import may_match_below
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.discovery import PrefixScope, Segments, UnassignedObjects
from neuromirror.sources.s3.options import BucketOptions, Profile
from neuromirror.sources.s3.sidecars import MAX_DOCUMENT_BYTES, one_line

Format = Literal["precomputed", "ome-zarr", "n5"]
"""The formats of volumes; the first one that a folder has applies."""


class PrecomputedOptions(BucketOptions):
    """The ``[options]`` of a mirror of volumes in a bucket.

    Attributes
    ----------
    depth
        Maximum number of levels between ``prefix`` and a layer; 0 if ``prefix`` is the only layer.
    include
        Shell patterns of the prefixes to mirror; by default all.
    formats
        The formats of the volumes to mirror; by default all.
    encodings
        Whether a sample of each folder of a precomputed layer is requested to determine encodings
        (``probe``), or every object (``each``).
    """

    depth: int = Field(default=4, ge=0, le=8)
    include: tuple[str, ...] = ()
    formats: tuple[Format, ...] = get_args(Format)
    encodings: Literal["probe", "each"] = "probe"


INFO: Final = b"info"
ZARR_FILES: Final = (b"zarr.json", b".zattrs")
"""The files that describe an OME-Zarr: of Zarr format 3, and of format 2."""
_ARRAY: Final = b".zarray"
_ATTRIBUTES: Final = b"attributes.json"
_VOLUME: Final = "neuroglancer_multiscale_volume"
_NEUROGLANCER: Final = "https://neuroglancer-demo.appspot.com/#!"
_S3_URL: Final = re.compile(r"(?:precomputed://)?s3://(?P<bucket>[^/]+)/(?P<path>[^?#]+)")


def read_object(bucket: S3Bucket, key: bytes) -> Mapping[str, Any] | None:
    """Read a JSON object of a bucket; None if there is no such file.

    Raises
    ------
    UnexpectedReplyError
        If it is no JSON object.
    NetError
        If it cannot be read.
    """
    try:
        content = bucket.read(key, limit=MAX_DOCUMENT_BYTES)
    except NotFoundError as error:
        if error.fields.get("Code") == "NoSuchBucket":
            raise
        return None
    found = _parse_object(content)
    if found is None:
        raise UnexpectedReplyError(f"{bucket.object_url(key)} is no JSON object")
    return found


def is_volume(info: Mapping[str, Any]) -> bool:
    """Return whether an ``info`` is that of a volume, and not of meshes or annotations."""
    if "@type" in info:
        return bool(info["@type"] == _VOLUME)
    return isinstance(info.get("scales"), list) and isinstance(info.get("data_type"), str)


def _ome(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata of an OME-Zarr in a ``.zattrs`` or ``zarr.json``; empty without any."""
    attributes = document.get("attributes")
    found = attributes.get("ome") if isinstance(attributes, dict) else document
    return found if isinstance(found, dict) and "multiscales" in found else {}


def layer_profile(
    address: Callable[[str], str], local_id_at: Callable[[str, str], str | None]
) -> Profile:
    """Return the rules by which the documents of a volume become facts.

    Parameters
    ----------
    address
        Returns the HTTP URL of the layer with a local id.
    local_id_at
        Returns the local id of the layer at a path of a bucket; None if it is not in this mirror.
    """

    def facts(
        local_id: str, documents: Sequence[Document], _refused: Sequence[bytes]
    ) -> DatasetFacts:
        held = {document.path: _parse_object(document.content) or {} for document in documents}
        provenance = held.get(b"provenance", {})
        about = one_line(provenance.get("description"))
        parts = local_id.split("/")
        return DatasetFacts(
            title=f"{local_id}: {about}" if about else local_id,
            attributes=(("project", parts[0]),) if len(parts) > 1 else (),
            inputs=tuple(sorted(set(_inputs(provenance.get("sources"), local_id_at)) - {local_id})),
            links=tuple(sorted(_links(parts[-1], held, address(local_id)).items())),
        )

    return Profile(facts=facts)


def _links(name: str, held: Mapping[bytes, Mapping[str, Any]], address: str) -> dict[str, str]:
    """Return viewer and data URLs by kind, in Neuroglancer's formats."""
    groups = [_ome(held.get(file, {})) for file in ZARR_FILES]
    if INFO in held or not held:
        scheme, labels = "precomputed", held.get(INFO, {}).get("type") == "segmentation"
    elif any(groups):
        scheme, labels = "zarr", any("image-label" in group for group in groups)
    else:
        scheme, labels = "n5", False
    source = f"{scheme}://{address}"
    kind = "segmentation" if labels else "image"
    state = {"layers": [{"name": name, "source": source, "type": kind}]}
    shown = quote(json.dumps(state, separators=(",", ":")), safe=":/,")
    return {"neuroglancer": _NEUROGLANCER + shown, scheme: source}


def _inputs(sources: Any, local_id_at: Callable[[str, str], str | None]) -> Iterator[str]:
    """Yield the local ids of a layer's sources that are mirrored."""
    for source in sources if isinstance(sources, list) else []:
        url_match = _S3_URL.fullmatch(source) if isinstance(source, str) else None
        found = (
            local_id_at(url_match["bucket"], url_match["path"].strip("/")) if url_match else None
        )
        if found is not None:
            yield found


def _parse_object(content: bytes) -> Mapping[str, Any] | None:
    try:
        made = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return made if isinstance(made, dict) else None


# --- search of a bucket for volumes: folders are descended until one is a volume


_CHUNK: Final = re.compile(rb"-?\d+--?\d+_-?\d+--?\d+_-?\d+--?\d+(?:\.\w+)?|[0-9a-f]+\.shard")
_MOST: Final = 5000
"""Maximum names in a folder; a folder with more has no layers."""
_SHOWN: Final = 5


class LayerScope(PrefixScope):
    """The part of a bucket that is searched for layers, from the mirror's options."""

    def __init__(self, options: PrecomputedOptions) -> None:
        super().__init__(options)
        self.depth = options.depth
        self._include = options.include
        self.formats = options.formats

    def is_selected(self, segments: Segments) -> bool:
        """Return whether a volume with this prefix is mirrored."""
        if self.is_excluded(segments):
            return False
        return not self._include or self.matches(segments, self._include)

    def may_contain_layers(self, segments: Segments) -> bool:
        """Return whether a layer here or below may be selected, by the patterns' literal start."""
        if self.is_selected(segments):
            return True
        prefix = local_ids.display_key(local_ids.prefix_of(segments))
        return not self.is_excluded(segments) and may_match_below(self._include, prefix)

    def is_layer_position(self, segments: Segments) -> bool:
        """Return whether a layer may have exactly this prefix."""
        level = self.level(segments)
        # with a depth above 0, the top is searched and is no layer itself
        return self.is_below(segments) and min(self.depth, 1) <= level <= self.depth


class Folder(Struct, frozen=True):
    """A folder of a bucket: a volume of a format, or why it is none, or what is in it."""

    format: Format | None = None
    why: str = ""
    objects: Sequence[ObjectRow] = ()
    folders: Sequence[Segments] = ()


class LayerSearch:
    """One search of a bucket for volumes; it also counts the folders without volumes.

    ``scope`` is the part that is searched; ``connections`` the number of parallel requests.
    """

    def __init__(self, bucket: S3Bucket, scope: LayerScope, connections: int) -> None:
        self._bucket = bucket
        self._scope = scope
        self._connections = connections
        self._unassigned = UnassignedObjects()
        self._skipped: list[str] = []

    def layers(self) -> Iterator[Segments]:
        """Yield the selected volumes, level by level."""
        scope = self._scope
        if scope.depth == 0:
            top = self._check_folder(scope.top)
            if top.format in scope.formats:
                yield scope.top
            else:
                self._skip(scope.top, top.why or "no volume")
            return
        pool = ContextThreadPool(self._connections, thread_name_prefix="layer")
        try:
            yield from self._within(scope.top, self._list(scope.top), pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def summaries(self) -> dict[str, str]:
        """Describe the objects and folders outside of all volumes, by kind."""
        made = {}
        if (above := self._unassigned.summary()) is not None:
            made["above"] = above
        if self._skipped:
            count = len(self._skipped)
            what = "1 folder" if count == 1 else f"{count} folders"
            more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
            shown = ", ".join(self._skipped[:_SHOWN])
            made["no-layer"] = f"{what} without a layer that can be mirrored: {shown}{more}"
        return made

    def folder(self, folder: Segments) -> Folder:
        """Return what a folder is; raise UnexpectedReplyError for metadata that are malformed."""
        prefix = local_ids.prefix_of(folder)
        info = read_object(self._bucket, prefix + INFO)
        if info is not None:
            why = f"its info is of {info.get('@type', 'something else')!r}"
            return Folder("precomputed") if is_volume(info) else Folder(why=why)
        listed = self._list(folder)
        names = {row.key[len(prefix) :] for row in listed.objects}
        for name in ZARR_FILES:
            document = (read_object(self._bucket, prefix + name) if name in names else None) or {}
            if _ome(document):
                return Folder("ome-zarr")
            if document.get("node_type") == "array":
                names.add(_ARRAY)
        if _ARRAY in names:
            return Folder(why="an array outside of an OME-Zarr")
        first = (*folder, b"s0")
        arrays = [folder] if _ATTRIBUTES in names else []
        for array in [*arrays, first] if first in listed.folders else arrays:
            key = local_ids.prefix_of(array) + _ATTRIBUTES
            if "dimensions" in (read_object(self._bucket, key) or {}):
                return Folder("n5")
        return listed

    def _within(
        self, around: Segments, listed: Folder, pool: ContextThreadPool
    ) -> Iterator[Segments]:
        for row in listed.objects:
            self._unassigned.add(row)
        if listed.why:
            self._skip(around, listed.why)
        folders = [one for one in listed.folders if self._scope.may_contain_layers(one)]
        for segments, folder in zip(folders, pool.map(self._check_folder, folders), strict=True):
            is_listed = folder.objects or folder.folders
            if folder.format is not None:
                if folder.format in self._scope.formats and self._scope.is_selected(segments):
                    yield segments
            elif is_listed and self._scope.level(segments) < self._scope.depth:
                yield from self._within(segments, folder, pool)
            else:
                self._skip(segments, folder.why or "no volume")

    def _list(self, around: Segments) -> Folder:
        """Return the objects and folders in a folder, up to the first that no volume is beside."""
        objects: list[ObjectRow] = []
        folders: list[Segments] = []
        why = ""
        for count, entry in enumerate(self._bucket.list_level(local_ids.prefix_of(around))):
            if count == _MOST:
                why = f"more than {_MOST} names"
                break
            if not isinstance(entry, ObjectRow):
                folders.append(local_ids.split_prefix(entry))
            elif _CHUNK.fullmatch(entry.key.rpartition(b"/")[2]):
                why = "chunks without an info"
                break
            else:
                objects.append(entry)
        return Folder(why=why, objects=objects, folders=folders)

    def _check_folder(self, folder: Segments) -> Folder:
        try:
            return self.folder(folder)
        except AccessDeniedError:
            return Folder(why="its metadata may not be read")
        except (UnexpectedReplyError, InvalidJsonError, ResponseTooLargeError) as error:
            return Folder(why=f"its metadata cannot be read: {error}")

    def _skip(self, folder: Segments, why: str) -> None:
        self._skipped.append(f"{local_ids.display_key(b'/'.join(folder)) or '(the top)'} ({why})")
