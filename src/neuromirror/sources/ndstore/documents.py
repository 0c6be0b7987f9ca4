"""What a channel's dataset keeps of upstream's JSON, its facts, and where people can look at it.

Left out is what other datasets or upstream's own affairs move: the other channels of the project,
where and in what pieces voxels are stored, the software's versions, and how far propagation is (the
levels that there are say it). Left out is the project's ``metadata``, too: ndstore asks another
server for it, for half a second, and says that there is none where that does not answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from neuromirror.model import DatasetFacts, Document
from neuromirror.sources.ndstore.channel_info import NdstoreChannelInfo, Sizes
from neuromirror.sources.s3.sidecars import without_secrets

_LEFT_OUT: Final[Mapping[str, frozenset[str]]] = {
    "project": frozenset(
        {"s3backend", "ndstore_version", "schema_version", "version", "host", "dbname"}
        | {"kvengine", "kvserver", "mdengine"}
    ),
    "dataset": frozenset({"cube_dimension", "supercube_dimension"}),
    "channel": frozenset({"propagate"}),
}
_NDVIZ: Final = "https://viz.neurodata.io/#!"
_GROUP: Final = b"zarr.json"
_LONGEST: Final = 200


def documents(found: NdstoreChannelInfo) -> list[Document]:
    """``.ndstore/*.json``: upstream's JSON, sorted, without secrets; equal state, equal bytes."""
    records = {"project": found.project, "dataset": found.dataset, "channel": found.channel}
    return [
        _document(name, {key: one for key, one in record.items() if key not in _LEFT_OUT[name]})
        for name, record in records.items()
    ]


def shift_levels(listed: Sequence[Document], shifts: Mapping[str, Sizes]) -> tuple[Document, ...]:
    """A Zarr's documents with its levels moved along x, y, z to where ndstore has them."""
    return tuple(
        _shift_group(one, shifts) if one.path == _GROUP and any(map(any, shifts.values())) else one
        for one in listed
    )


def _shift_group(group: Document, shifts: Mapping[str, Sizes]) -> Document:
    content = json.loads(group.content)
    for level in content["attributes"]["ome"]["multiscales"][0]["datasets"]:
        for change in level["coordinateTransformations"]:
            if change["type"] == "translation":
                move = change["translation"]
                for axis, shift in enumerate(shifts[level["path"]], 1):
                    move[-axis] += shift
    return replace(group, content=_dump_json(content))


def facts(found: NdstoreChannelInfo, api: str) -> DatasetFacts:
    """Title, attributes and links of a channel; ``api`` is the service's base address."""
    name = f"{found.token}/{found.name}"
    about = _line(found.channel.get("description")) or _line(found.project.get("description"))
    project = _line(found.project.get("name")) or found.token
    return DatasetFacts(
        title=f"{name}: {about}" if about and about != found.token else name,
        attributes=(("project", project),),
        links=tuple(sorted(_links(found, api).items())),
    )


def _links(found: NdstoreChannelInfo, api: str) -> dict[str, str]:
    """Addresses by kind.

    ndviz was a Neuroglancer of 2018, when that read ndstore (its data source ``ndstore`` asks the
    host alone, and knows the path), and layers stood by name in the state in a URL. Neuroglancer
    itself reads it no more.
    """
    shown = f"{quote(found.token, safe='')}/{quote(found.name, safe='')}"
    scheme, _, rest = api.partition("://")
    source = f"ndstore://{scheme}://{rest.partition('/')[0]}/{shown}"
    layer = {"source": source, "type": "segmentation" if found.is_labels else "image"}
    state = json.dumps({"layers": {found.name: layer}}, separators=(",", ":"))
    return {
        "ndstore": f"{api}/{quote(found.token, safe='')}/info/",
        "ndviz": _NDVIZ + quote(state, safe=":/,"),
    }


def _line(value: Any) -> str:
    """A text as one short line without secrets; empty where there is none."""
    if not isinstance(value, str):
        return ""
    kept = without_secrets(" ".join(value.split()).encode("utf-8", "backslashreplace")).decode()
    return kept if len(kept) <= _LONGEST else f"{kept[: _LONGEST - 1]}…"


def _document(name: str, value: Mapping[str, Any]) -> Document:
    return Document(f".ndstore/{name}.json".encode(), without_secrets(_dump_json(value)))


def _dump_json(value: Mapping[str, Any]) -> bytes:
    dumped = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    # half of a surrogate pair becomes the escape that JSON has for it
    return dumped.encode("utf-8", "backslashreplace")
