"""Metadata of invented datasets in the formats of DANDI, AIND and BossDB, for benchmarks and tests.

Nothing here is real: people, grants and results are invented. Dataset ``number`` is the same in
every run. The first of each archive are written by hand, so that searches have a known best result;
the others combine species, regions, techniques and topics, all of ``studies.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

_WORDS: dict[str, Any] = json.loads(Path(__file__).with_name("studies.json").read_text("utf-8"))
REGIONS: Sequence[str] = _WORDS["regions"]
TOPICS: Sequence[str] = _WORDS["topics"]
FAMILY_NAMES: Sequence[str] = _WORDS["families"]


@dataclass(frozen=True, slots=True)
class Study:
    """The content of the metadata of a dataset."""

    title: str
    abstract: str
    species: str
    regions: tuple[str, ...]
    techniques: tuple[tuple[str, str], ...]
    keywords: tuple[str, ...]
    people: tuple[str, ...]
    institutions: tuple[str, ...] = ()
    funders: tuple[tuple[str, str], ...] = ()
    variables: tuple[str, ...] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)


def study(archive: str, number: int) -> Study:
    """Return the study of a dataset; ``number`` counts the datasets of the archive from 1."""
    written = _WORDS["written"][archive]
    if number <= len(written):
        return msgspec.convert(written[number - 1], Study)
    return _combined(archive, number)


def documents(archive: str, of: Study, label: str, created: str) -> dict[str, bytes]:
    """Return the documents of an archive about a study, by path.

    Parameters
    ----------
    archive
        ``dandi``, ``aind`` or ``bossdb``.
    of
        The study.
    label
        The version upstream; of ``draft``, a dandiset has no summary of its assets.
    created
        The time of creation, ISO 8601.
    """
    write = {"dandi": _dandi, "aind": _aind, "bossdb": _boss}[archive]
    return {
        path: json.dumps(value, sort_keys=True).encode()
        for path, value in write(of, label, created).items()
    }


def _combined(archive: str, number: int) -> Study:
    species, plural = _weighted_species(archive, number)
    regions = _some(REGIONS, 1 + number % 2, archive, number, "region")
    technique, modality, prose = _choice("techniques", archive, number, "technique")
    topics = _some(TOPICS, 2, archive, number, "topic")
    title = f"{topics[0].capitalize()} and {topics[1]} in the {regions[0]} of {plural}"
    if archive == "aind":
        title = f"{modality}_{600000 + number}_2024-03-{number % 28 + 1:02d}_10-00-00"
    abstract = (
        f"We recorded from the {' and '.join(regions)} of {plural} during {topics[0]}, by {prose}. "
        f"{1 + number % 40} subjects performed {1 + number % 9} sessions each, with and without "
        f"{topics[1]}. Data are raw and processed, with trials, stimuli and timestamps."
    )
    people = tuple(
        f"{_choice('families', archive, number, one)}, {_choice('given', one, archive, number)}"
        for one in range(2 + _pick(9, archive, number, "people"))
    )
    return Study(
        title,
        abstract,
        species,
        regions,
        ((technique, modality),),
        (*topics, *regions),
        people,
        _some(_WORDS["institutions"], 1 + number % 2, archive, number, "institution"),
        tuple(
            (name, f"{_digest(name, number)[:2].upper()}{number:06d}")
            for name in _some(_WORDS["funders"], 1, archive, number, "funder")
        ),
        _some(_WORDS["variables"], 2, archive, number, "variable"),
    )


def _dandi(of: Study, label: str, created: str) -> dict[str, Any]:
    summary = {
        "species": [{"name": of.species, "schemaKey": "SpeciesType"}],
        "measurementTechnique": [{"name": name} for name, _ in of.techniques],
        "variableMeasured": list(of.variables),
    }
    document: dict[str, Any] = {
        "name": of.title,
        "version": label,
        "description": of.abstract,
        "keywords": list(of.keywords),
        "dateCreated": created,
        "contributor": [
            *(
                {
                    "schemaKey": "Person",
                    "name": name,
                    "roleName": ["dcite:Author"],
                    "includeInCitation": True,
                    "affiliation": [{"name": institution} for institution in of.institutions],
                }
                for name in of.people
            ),
            *(
                {
                    "schemaKey": "Organization",
                    "name": name,
                    "awardNumber": award,
                    "roleName": ["dcite:Funder"],
                }
                for name, award in of.funders
            ),
        ],
        "about": [{"schemaKey": "Anatomy", "name": region} for region in of.regions],
    }
    if label != "draft":
        return {"dandiset.yaml": {**document, "assetsSummary": summary}}
    asset = {
        "path": "sub-1/sub-1.nwb",
        "wasAttributedTo": [{"species": {"name": of.species}}],
        "measurementTechnique": summary["measurementTechnique"],
        "variableMeasured": [{"value": variable} for variable in of.variables],
    }
    return {"dandiset.yaml": document, ".dandi/assets.jsonl": asset}


def _aind(of: Study, label: str, created: str) -> dict[str, Any]:
    return {
        "data_description.json": {
            "name": of.title,
            "institution": {"name": (of.institutions or _WORDS["institutions"])[0]},
            "funding_source": [
                {"funder": {"name": name}, "grant_number": award} for name, award in of.funders
            ],
            "investigators": [{"name": name} for name in of.people],
            "modality": [
                {"name": name, "abbreviation": abbreviation} for name, abbreviation in of.techniques
            ],
            "project_name": of.keywords[0],
            "data_summary": of.abstract,
            "creation_time": created,
            "license": "CC-BY-4.0",
        },
        "subject.json": {"species": {"name": of.species.partition(" - ")[0]}},
        "procedures.json": {
            "subject_procedures": [
                {"procedures": [{"targeted_structure": {"name": region}} for region in of.regions]}
            ]
        },
    }


def _boss(of: Study, label: str, created: str) -> dict[str, Any]:
    return {
        ".boss/channel.json": {"description": of.abstract},
        ".boss/metadata.json": {
            "channel": {
                "modality": of.techniques[0][1],
                "technique": of.techniques[0][0],
                "species": of.species.partition(" - ")[0],
                "brain region": "; ".join(of.regions),
                **of.pairs,
            },
            "collection": {
                "authors": "; ".join(of.people),
                "keywords": "; ".join(of.keywords),
                "funder": "; ".join(name for name, _ in of.funders),
            },
        },
    }


def _weighted_species(archive: str, number: int) -> Sequence[str]:
    """Return the name of a species and its plural in prose, by the shares of a hundred."""
    weighted = [word[:2] for word in _WORDS["species"] for _ in range(word[2])]
    chosen: Sequence[str] = weighted[_pick(100, archive, number, "species")]
    return weighted[0] if archive == "aind" else chosen


def _choice(words: str, *seed: object) -> Any:
    return _WORDS[words][_pick(len(_WORDS[words]), *seed)]


def _some(names: Sequence[str], count: int, *seed: object) -> tuple[str, ...]:
    """Return distinct names that depend on the seed."""
    return tuple(sorted(names, key=lambda name: _digest(name, *seed))[:count])


def _pick(most: int, *seed: object) -> int:
    return int(_digest(*seed)[:12], 16) % most


def _digest(*seed: object) -> str:
    return hashlib.sha256(repr(seed).encode()).hexdigest()
