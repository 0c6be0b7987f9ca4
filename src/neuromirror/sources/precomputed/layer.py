"""The ``info`` and ``provenance`` of a layer, its facts and viewer links.

Formats: Neuroglancer's page "Precomputed: volume" for ``info``; CloudVolume for ``provenance``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from neuromirror.model import DatasetFacts, Document
from neuromirror.net import NotFoundError, S3Bucket
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.s3.profile import Profile
from neuromirror.sources.s3.sidecars import MAX_DOCUMENT_BYTES, one_line

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
