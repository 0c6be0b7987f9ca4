"""RAMON objects: metadata of annotated objects (``ndramon/annotation.py``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from neuromirror_demo.ndstore.cutouts import NdstoreError

if TYPE_CHECKING:
    from neuromirror_demo.ndstore.records import NdstoreChannel, Project

GENERIC, SYNAPSE, SEED, SEGMENT, NEURON, ORGANELLE = range(1, 7)
_TOP_KEYS: Final = 10


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object of a type; ``fields`` are those of its type, and additional ones set by users."""

    number: int
    kind: int
    author: str
    confidence: float = 1.0
    status: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the JSON of the object."""
        return {
            **self.fields,
            "ann_type": self.kind,
            "ann_status": self.status,
            "ann_confidence": self.confidence,
            "ann_author": self.author,
            "ann_id": self.number,
        }


def ramon_json(project: Project, channel: NdstoreChannel, arguments: str) -> str:
    """Return the JSON of a path below ``ramon/TOKEN/CHANNEL/``; raise :class:`NdstoreError`.

    ``ID/``, ``ID/boundingbox/[RES/]``, ``query/KEY/VALUE/`` and ``topkeys/[COUNT/]``.
    """
    segments = [segment for segment in arguments.split("/") if segment]
    match segments:
        case ["query", key, value]:
            return json.dumps(_matching_objects(channel, key, value))
        case ["topkeys", *rest]:
            return json.dumps(_top_keys(channel, int(rest[0]) if rest else _TOP_KEYS))
        case [number, *rest] if number.isdecimal():
            return json.dumps(_object_json(project, channel, int(number), rest))
    first = segments[0] if segments else ""
    message = f"invalid literal for int() with base 10: {first!r}"
    raise NdstoreError(f"JSON Get ID {first}. Error {message}.")


def _object_json(
    project: Project, channel: NdstoreChannel, number: int, options: list[str]
) -> dict[int, dict[str, Any]]:
    found = channel.annotations.get(number)
    if found is None:
        none = repr(f"No annotation found at identifier = {number}")
        raise NdstoreError(f"JSON Get ID {number}. Error {none}.")
    document = found.document()
    if options[:1] == ["boundingbox"]:
        level = int(options[1]) if len(options) > 1 else channel.resolution
        document |= _bounds(project, channel, number, level)
    return {number: document}


def _bounds(project: Project, channel: NdstoreChannel, number: int, level: int) -> dict[str, Any]:
    """Return corner and size of the box of the object's voxels, in the coordinates of the level."""
    import numpy as np

    if level not in channel.tables:
        return {"bbcorner": None, "bbdim": None}
    coordinates = np.argwhere(channel.tables[level][0] == number)
    if not len(coordinates):
        return {"bbcorner": None, "bbdim": None}
    low, high = coordinates.min(axis=0)[::-1], coordinates.max(axis=0)[::-1] + 1
    start = np.array(project.space.offset_at(level))
    return {"bbcorner": (low + start).tolist(), "bbdim": (high - low).tolist()}


def _matching_objects(channel: NdstoreChannel, key: str, value: str) -> list[int]:
    return sorted(
        one.number
        for one in channel.annotations.values()
        if str(one.document().get(key, "")) == value
    )


def _top_keys(channel: NdstoreChannel, count: int) -> list[str]:
    times: dict[str, int] = {}
    for one in channel.annotations.values():
        for key in one.document():
            times[key] = times.get(key, 0) + 1
    return sorted(times, key=lambda key: (-times[key], key))[:count]
