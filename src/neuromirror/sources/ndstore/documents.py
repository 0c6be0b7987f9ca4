"""The documents, facts and viewer links of an ndstore channel.

Members are left out if they change with other datasets or with upstream's operation: the project's
other channels, the storage of voxels, versions of software, and the progress of propagation, which
shows in the available levels. The project's ``metadata`` is left out too: ndstore requests it from
another server for half a second, and reports none if that does not reply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from msgspec.structs import replace

from neuromirror.model import DatasetFacts, Document
from neuromirror.sources.ndstore.channel_info import NdstoreChannelInfo, Sizes
from neuromirror.sources.s3.sidecars import one_line, without_secrets

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


def documents(found: NdstoreChannelInfo) -> list[Document]:
    """Return ``.ndstore/*.json``: upstream's JSON, sorted and without secrets."""
    records = {"project": found.project, "dataset": found.dataset, "channel": found.channel}
    return [
        _document(name, {key: one for key, one in record.items() if key not in _LEFT_OUT[name]})
        for name, record in records.items()
    ]


def shift_levels(listed: Sequence[Document], shifts: Mapping[str, Sizes]) -> tuple[Document, ...]:
    """Return a volume's Zarr metadata with changed positions of its levels.

    Parameters
    ----------
    listed
        The documents of the volume.
    shifts
        The shift of each level along x, y, z, from
        :func:`~neuromirror.sources.ndstore.channel_info.level_shifts`.
    """
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
    """Return title, attributes and links of a channel; ``api`` is the service's base URL."""
    name = f"{found.token}/{found.name}"
    about = one_line(found.channel.get("description")) or one_line(found.project.get("description"))
    project = one_line(found.project.get("name")) or found.token
    return DatasetFacts(
        title=f"{name}: {about}" if about and about != found.token else name,
        attributes=(("project", project),),
        links=tuple(sorted(_links(found, api).items())),
    )


def _links(found: NdstoreChannelInfo, api: str) -> dict[str, str]:
    """Return viewer and data URLs by kind.

    ndviz is a Neuroglancer of 2018, which still had the data source ``ndstore`` (given a host,
    whose path it knows) and layers by name in its state. Current versions of Neuroglancer do not
    read ndstore.
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


def _document(name: str, value: Mapping[str, Any]) -> Document:
    return Document(f".ndstore/{name}.json".encode(), without_secrets(_dump_json(value)))


def _dump_json(value: Mapping[str, Any]) -> bytes:
    dumped = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    # a lone surrogate becomes a JSON escape
    return dumped.encode("utf-8", "backslashreplace")
