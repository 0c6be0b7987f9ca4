"""Read citation metadata from the documents of a volume: BOSS, ndstore, precomputed.

None of these formats has fields for authors or dates. BOSS stores keys and values of users, of
which some are recognised by name; the account that created a channel is not cited as an author.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from neuromirror.lab.cite.person_names import make_organisation, make_person
from neuromirror.lab.cite.upstream_documents import Documents, mapping
from neuromirror.lab.cite.works import Agent, Funder, UpstreamMetadata
from neuromirror.model.plain_text import plain_text

BOSS: Final = ".boss/channel.json"
NDSTORE: Final = ".ndstore/channel.json"
PRECOMPUTED: Final = "provenance"
_INFO: Final = "info"
_LABELS: Final = ("annotation", "segmentation")
"""Types of volumes whose voxels are ids of objects."""

_AUTHORS: Final = ("authors", "author", "creators", "creator")
_INVESTIGATORS: Final = ("investigators", "investigator", "pi")
_FUNDERS: Final = ("funding", "funder")
_CITATION_KEYS: Final = ("citation", "cite")
_NAME_SEPARATOR: Final = re.compile(r"[;\n]\s*(?:(?:and|&)\s+)?|(?<!\s)\s+(?:and|&)\s+")


def read_boss(documents: Documents) -> UpstreamMetadata:
    """Return the metadata of a BOSS channel, its experiment and its collection."""
    pairs = _by_key(documents.parsed(".boss/metadata.json"))
    funders = (make_organisation(pairs.get(key)) for key in _FUNDERS)
    citation_requests = (
        plain_text(pairs[key]) for key in sorted(pairs) if any(one in key for one in _CITATION_KEYS)
    )
    return UpstreamMetadata(
        authors=_people(pairs, _AUTHORS) or _people(pairs, _INVESTIGATORS),
        description=_description(documents, ".boss", "channel", "experiment", "collection"),
        funders=tuple(Funder(one) for one in funders if one is not None),
        citation_requests=tuple(dict.fromkeys(one for one in citation_requests if one)),
        variables=_voxels(documents.parsed(BOSS), "type", "datatype"),
    )


def read_ndstore(documents: Documents) -> UpstreamMetadata:
    """Return the metadata of an ndstore channel and its project."""
    return UpstreamMetadata(
        description=_description(documents, ".ndstore", "channel", "project"),
        variables=_voxels(documents.parsed(NDSTORE), "channel_type", "datatype"),
    )


def read_precomputed(documents: Documents) -> UpstreamMetadata:
    """Return the metadata in the ``provenance`` of a layer."""
    return UpstreamMetadata(
        description=plain_text(documents.parsed(PRECOMPUTED).get("description")),
        variables=_voxels(documents.parsed(_INFO), "type", "data_type"),
    )


def _voxels(about: Mapping[str, Any], kind: str, data_type: str) -> tuple[str, ...]:
    """Return what the voxels of a volume mean, with their data type."""
    name = plain_text(about.get(kind))
    if not name:
        return ()
    meaning = "object ids" if name in _LABELS else "image intensity"
    unit = plain_text(about.get(data_type))
    return (f"{meaning} ({unit} voxels)" if unit else meaning,)


def _by_key(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by lower-case key; those of the channel take precedence."""
    found: dict[str, Any] = {}
    for scope in ("collection", "experiment", "channel"):
        for key, value in mapping(metadata.get(scope)).items():
            found[key.strip().casefold()] = value
    return found


def _people(pairs: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Agent, ...]:
    for key in keys:
        value = pairs.get(key)
        names = _NAME_SEPARATOR.split(value) if isinstance(value, str) else []
        if found := [one for one in map(make_person, names) if one is not None]:
            return tuple(dict.fromkeys(found))
    return ()


def _description(documents: Documents, folder: str, *scopes: str) -> str:
    """Return the descriptions in the documents of a channel and of what it is in, as sentences."""
    parsed = (documents.parsed(f"{folder}/{scope}.json") for scope in scopes)
    about = dict.fromkeys(plain_text(one.get("description")) for one in parsed)
    return " ".join(_sentence(one) for one in about if one)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
