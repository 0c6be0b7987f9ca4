"""What the documents of a volume say for a citation: of BOSS, ndstore, a precomputed layer.

None of them has a place for authors or dates. BOSS lets people write keys and values of their own,
among which some are found here by their names; the account that made a channel is no author.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from neuromirror.lab.cite.names import organisation, person
from neuromirror.lab.cite.plain import plain
from neuromirror.lab.cite.told import Documents, mapping
from neuromirror.lab.cite.works import Agent, Funder, Told

BOSS: Final = ".boss/channel.json"
NDSTORE: Final = ".ndstore/channel.json"
PRECOMPUTED: Final = "provenance"

_AUTHORS: Final = ("authors", "author", "creators", "creator")
_INVESTIGATORS: Final = ("investigators", "investigator", "pi")
_FUNDERS: Final = ("funding", "funder")
_CITED: Final = ("citation", "cite")
_BETWEEN: Final = re.compile(r"[;\n]\s*(?:(?:and|&)\s+)?|(?<!\s)\s+(?:and|&)\s+")


def read_boss(documents: Documents) -> Told:
    """What a channel of a BOSS and what is around it say."""
    pairs = _by_key(documents.parsed(".boss/metadata.json"))
    scopes = ("channel", "experiment", "collection")
    about = [plain(documents.parsed(f".boss/{scope}.json").get("description")) for scope in scopes]
    funders = (organisation(pairs.get(key)) for key in _FUNDERS)
    asked = (plain(pairs[key]) for key in sorted(pairs) if any(one in key for one in _CITED))
    return Told(
        authors=_people(pairs, _AUTHORS) or _people(pairs, _INVESTIGATORS),
        description=" ".join(_sentence(one) for one in dict.fromkeys(about) if one),
        funders=tuple(Funder(one) for one in funders if one is not None),
        asked=tuple(dict.fromkeys(one for one in asked if one)),
    )


def read_ndstore(documents: Documents) -> Told:
    """What a channel of an ndstore and its project say."""
    about = [
        plain(documents.parsed(f".ndstore/{scope}.json").get("description"))
        for scope in ("channel", "project")
    ]
    return Told(description=" ".join(_sentence(one) for one in dict.fromkeys(about) if one))


def read_precomputed(documents: Documents) -> Told:
    """What a layer's ``provenance`` says."""
    return Told(description=plain(documents.parsed(PRECOMPUTED).get("description")))


def _by_key(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The values by lower-case key; the channel's stand before those around it."""
    found: dict[str, Any] = {}
    for scope in ("collection", "experiment", "channel"):
        for key, value in mapping(metadata.get(scope)).items():
            found[key.strip().casefold()] = value
    return found


def _people(pairs: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Agent, ...]:
    for key in keys:
        value = pairs.get(key)
        names = _BETWEEN.split(value) if isinstance(value, str) else []
        if found := [one for one in map(person, names) if one is not None]:
            return tuple(dict.fromkeys(found))
    return ()


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
