"""The options of a mirror, the ``info`` and ``provenance`` of a layer, its facts and viewer links.

The ``info`` and ``provenance`` of a layer, its facts and viewer links.

Formats: Neuroglancer's page "Precomputed: volume" for ``info``; CloudVolume for ``provenance``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

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


class PrecomputedOptions(BucketOptions):
    """The ``[options]`` of a mirror of precomputed layers.

    Attributes
    ----------
    depth
        Maximum number of levels between ``prefix`` and a layer; 0 if ``prefix`` is the only layer.
    include
        Shell patterns of the prefixes to mirror; by default all.
    encodings
        Whether a sample of each folder is requested to determine encodings (``probe``), or every
        object (``each``).
    """

    depth: int = Field(default=4, ge=0, le=8)
    include: tuple[str, ...] = ()
    encodings: Literal["probe", "each"] = "probe"


INFO: Final = b"info"
_PROVENANCE: Final = b"provenance"
_VOLUME: Final = "neuroglancer_multiscale_volume"
_DOCUMENT: Final = re.compile(rb"(?:.*/)?(?:info|provenance)|[^/]+\.json", re.DOTALL)
_NEUROGLANCER: Final = "https://neuroglancer-demo.appspot.com/#!"
_S3_URL: Final = re.compile(r"(?:precomputed://)?s3://(?P<bucket>[^/]+)/(?P<path>[^?#]+)")


def read_info(bucket: S3Bucket, prefix: bytes) -> Mapping[str, Any] | None:
    """Read the ``info`` file of a folder of a bucket; None if the folder has none.

    Raises
    ------
    UnexpectedReplyError
        If it is no JSON object.
    NetError
        If it cannot be read.
    """
    try:
        content = bucket.read(prefix + INFO, limit=MAX_DOCUMENT_BYTES)
    except NotFoundError as error:
        if error.fields.get("Code") == "NoSuchBucket":
            raise
        return None
    info = _parse_object(content)
    if info is None:
        raise UnexpectedReplyError(f"{bucket.object_url(prefix + INFO)} is no JSON object")
    return info


def is_volume(info: Mapping[str, Any]) -> bool:
    """Return whether an ``info`` is that of a volume, and not of meshes or annotations."""
    if "@type" in info:
        return bool(info["@type"] == _VOLUME)
    return isinstance(info.get("scales"), list) and isinstance(info.get("data_type"), str)


def layer_profile(
    address: Callable[[str], str], local_id_at: Callable[[str, str], str | None]
) -> Profile:
    """Return the rules by which the files of precomputed layers become documents and facts.

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
        held = {one.path: one.content for one in documents}
        info = _parse_object(held.get(INFO, b"")) or {}
        provenance = _parse_object(held.get(_PROVENANCE, b"")) or {}
        about = one_line(provenance.get("description"))
        parts = local_id.split("/")
        return DatasetFacts(
            title=f"{local_id}: {about}" if about else local_id,
            attributes=(("project", parts[0]),) if len(parts) > 1 else (),
            inputs=tuple(sorted(set(_inputs(provenance.get("sources"), local_id_at)) - {local_id})),
            links=tuple(sorted(_links(parts[-1], info, address(local_id)).items())),
        )

    return Profile(
        is_document=lambda path: _DOCUMENT.fullmatch(path) is not None,
        facts=facts,
    )


def _links(name: str, info: Mapping[str, Any], address: str) -> dict[str, str]:
    """Return viewer and data URLs by kind, in Neuroglancer's formats."""
    source = f"precomputed://{address}"
    kind = "segmentation" if info.get("type") == "segmentation" else "image"
    state = {"layers": [{"name": name, "source": source, "type": kind}]}
    shown = quote(json.dumps(state, separators=(",", ":")), safe=":/,")
    return {"neuroglancer": _NEUROGLANCER + shown, "precomputed": source}


def _inputs(sources: Any, local_id_at: Callable[[str, str], str | None]) -> Iterator[str]:
    """Yield the local ids of a layer's sources that are mirrored."""
    for one in sources if isinstance(sources, list) else []:
        url_match = _S3_URL.fullmatch(one) if isinstance(one, str) else None
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


# --- search of a bucket for layers: folders are descended until one has an ``info``


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

    def is_selected(self, segments: Segments) -> bool:
        """Return whether a layer with this prefix is mirrored."""
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


class LayerSearch:
    """One search of a bucket for layers; it also counts the folders without layers.

    ``scope`` is the part that is searched; ``connections`` the number of parallel requests.
    """

    def __init__(self, bucket: S3Bucket, scope: LayerScope, connections: int) -> None:
        self._bucket = bucket
        self._scope = scope
        self._connections = connections
        self._unassigned = UnassignedObjects()
        self._skipped: list[str] = []

    def layers(self) -> Iterator[Segments]:
        """Yield the selected layers, level by level."""
        scope = self._scope
        if scope.depth == 0:
            if (trouble := self._check_folder(scope.top)) == "":
                yield scope.top
            else:
                self._skip(scope.top, trouble or "no info")
            return
        pool = ContextThreadPool(self._connections, thread_name_prefix="layer")
        try:
            yield from self._below(scope.top, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def summaries(self) -> dict[str, str]:
        """Describe the objects and folders outside of all layers, by kind."""
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

    def _below(self, around: Segments, pool: ContextThreadPool) -> Iterator[Segments]:
        folders = list(self._folders(around))
        deeper = self._scope.level(around) + 1 < self._scope.depth
        for folder, trouble in zip(folders, pool.map(self._check_folder, folders), strict=True):
            if trouble == "":
                if self._scope.is_selected(folder):
                    yield folder
            elif trouble is not None:
                self._skip(folder, trouble)
            elif deeper:
                yield from self._below(folder, pool)
            else:
                self._skip(folder, "no info")

    def _folders(self, around: Segments) -> Iterator[Segments]:
        """Yield the folders of a folder that may contain selected layers."""
        for count, entry in enumerate(self._bucket.list_level(local_ids.prefix_of(around))):
            if count == _MOST:
                self._skip(around, f"more than {_MOST} names")
                return
            if isinstance(entry, ObjectRow):
                if _CHUNK.fullmatch(entry.key.rpartition(b"/")[2]):
                    self._skip(around, "chunks without an info")
                    return
                self._unassigned.add(entry)
            else:
                segments = local_ids.split_prefix(entry)
                if self._scope.may_contain_layers(segments):
                    yield segments

    def _check_folder(self, folder: Segments) -> str | None:
        """Return "" for a layer, else a reason, or None if the folder may contain layers."""
        try:
            info = read_info(self._bucket, local_ids.prefix_of(folder))
        except UnexpectedReplyError:
            return "its info is not JSON"
        except AccessDeniedError:
            return "its info may not be read"
        except (InvalidJsonError, ResponseTooLargeError) as error:
            return f"its info cannot be read: {error}"
        if info is None:
            return None
        return "" if is_volume(info) else f"its info is of {info.get('@type', 'something else')!r}"

    def _skip(self, folder: Segments, why: str) -> None:
        self._skipped.append(f"{local_ids.display_key(b'/'.join(folder)) or '(the top)'} ({why})")
