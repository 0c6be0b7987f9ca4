"""Metadata of invented datasets in the formats of DANDI, AIND and BossDB, for benchmarks and tests.

Nothing here is real: people, grants and results are invented. Dataset ``number`` is the same in
every run. The first of each archive are written by hand (:data:`WRITTEN`), so that searches have a
known best result; the others combine species, regions, techniques and topics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_SPECIES = (
    ("Mus musculus - House mouse", "mice", 50),
    ("Homo sapiens - Human", "human participants", 18),
    ("Rattus norvegicus - Norway rat", "rats", 14),
    ("Macaca mulatta - Rhesus monkey", "macaques", 7),
    ("Danio rerio - Leopard danio", "larval zebrafish", 4),
    ("Drosophila melanogaster - Fruit fly", "flies", 4),
    ("Callithrix jacchus - Common marmoset", "marmosets", 2),
    ("Caenorhabditis elegans", "nematodes", 1),
)
"""Name, plural in prose, and share of a hundred."""
REGIONS = (
    *("primary visual cortex", "hippocampus", "dorsal striatum", "medial prefrontal cortex"),
    *("barrel cortex", "olfactory bulb", "cerebellum", "amygdala", "entorhinal cortex"),
    *("superior colliculus", "thalamus", "retina", "auditory cortex", "ventral tegmental area"),
    *("spinal cord", "hypothalamus", "orbitofrontal cortex", "motor cortex", "inferior colliculus"),
)
_EPHYS = ("multi electrode extracellular electrophysiology recording technique", "ecephys")
_TECHNIQUES = (
    (*_EPHYS, "Neuropixels"),
    ("two-photon microscopy technique", "pophys", "two-photon calcium imaging"),
    ("patch clamp technique", "icephys", "whole-cell recording"),
    ("fiber photometry", "fib", "fibre photometry of dopamine release"),
    ("behavioral technique", "behavior", "video of behavior"),
    ("light-sheet microscopy", "SPIM", "light-sheet imaging of cleared tissue"),
    ("functional magnetic resonance imaging", "fMRI", "resting-state imaging"),
    ("electroencephalography", "EEG", "scalp recordings"),
)
"""Measurement technique at DANDI, abbreviation at AIND, and words of prose."""
TOPICS = (
    *("spatial navigation", "reward learning", "decision making", "sensory adaptation", "sleep"),
    *("working memory", "fear conditioning", "social behavior", "motor control", "speech"),
    *(
        "visual attention",
        "anesthesia",
        "epileptic seizures",
        "feeding",
        "olfactory discrimination",
    ),
)
_VARIABLES = ("ElectricalSeries", "LFP", "Units", "TwoPhotonSeries", "BehavioralTimeSeries")
_GIVEN = ("Ada", "Chidi", "Elif", "Ines", "Jun", "Kwame", "Lena", "Mateo", "Noor", "Oskar", "Priya")
FAMILY_NAMES = (
    *("Okafor", "Petrov", "Quispe", "Rossi", "Sato", "Tanaka", "Ulrich", "Vega", "Weiss", "Yu"),
    *("Andersson", "Bianchi", "Castillo", "Dubois", "Eriksen", "Fischer", "Gonzalez", "Haddad"),
    *("Ivanova", "Jansen", "Kowalski", "Lindqvist", "Moreau", "Nakamura", "Olsen", "Pereira"),
)
_INSTITUTIONS = (
    *("University of Northfield", "Institute of Systems Neuroscience", "Lakeside Medical School"),
    *("Harbor Institute of Technology", "National Brain Center", "Riverbend University"),
)
_FUNDERS = (
    *("National Institute of Mental Health", "European Research Council", "Wellcome Trust"),
    *("Simons Foundation", "Deutsche Forschungsgemeinschaft", "Howard Hughes Medical Institute"),
)


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


def _written(
    title: str,
    abstract: str,
    species: str,
    regions: Sequence[str],
    technique: tuple[str, str],
    keywords: Sequence[str],
    people: Sequence[str],
    **more: Any,
) -> Study:
    return Study(
        title,
        abstract,
        species,
        tuple(regions),
        (technique,),
        tuple(keywords),
        tuple(people),
        **more,
    )


WRITTEN: Mapping[str, tuple[Study, ...]] = {
    "dandi": (
        _written(
            "Theta sequences and place cell remapping during goal-directed navigation",
            "Silicon probe recordings from dorsal CA1 while animals learn new goal locations. "
            "Place fields remap within a few laps, and theta sequences extend to the goal.",
            "Rattus norvegicus - Norway rat",
            ["CA1 field of hippocampus"],
            _EPHYS,
            ["place cells", "remapping", "theta oscillations"],
            ["Buonaventura, Lucia", "Okafor, Ada"],
            institutions=("Institute of Memory Research",),
            funders=(("National Institute of Neurological Disorders and Stroke", "R01NS104829"),),
            variables=("ElectricalSeries", "LFP", "Units"),
        ),
        _written(
            "Single-neuron responses to faces in the human medial temporal lobe",
            "Recordings of single units from patients with drug-resistant epilepsy who viewed "
            "images of faces and places in a recognition memory task.",
            "Homo sapiens - Human",
            ["amygdala", "hippocampus"],
            _EPHYS,
            ["recognition memory", "single units", "epilepsy surgery"],
            ["Rutherford-Hale, Margaret", "Weiss, Oskar"],
            institutions=("Saint Brendan Hospital",),
            variables=("Units",),
        ),
        _written(
            "Sharp-wave ripples coordinate reactivation across sleep stages",
            "Chronic recordings over consecutive days. Ripples were detected in the local field "
            "potential of the pyramidal layer and aligned with cortical spindles.",
            "Mus musculus - House mouse",
            ["hippocampus", "retrosplenial cortex"],
            _EPHYS,
            ["sharp-wave ripples", "memory consolidation", "sleep spindles"],
            ["Núñez, José", "Tanaka, Jun"],
            variables=("LFP", "Units"),
        ),
        _written(
            "Vocal learning circuits in juvenile songbirds",
            "Recordings from HVC and area X during tutoring.",
            "Taeniopygia guttata - Zebra finch",
            ["HVC", "area X"],
            _EPHYS,
            ["birdsong", "vocal learning"],
            ["Castillo, Elif"],
        ),
        _written(
            "Patch-seq characterization of cortical interneurons",
            "Whole-cell recordings followed by transcriptomics of the same cells. Somatostatin "
            "interneurons form distinct morpho-electric types.",
            "Mus musculus - House mouse",
            ["primary visual cortex"],
            ("patch clamp technique", "icephys"),
            ["Patch-seq", "interneurons", "somatostatin", "transcriptomics"],
            ["Kowalski, Lena"],
            variables=("CurrentClampSeries", "VoltageClampSeries"),
        ),
        _written(
            "Whole-brain activity of larval zebrafish during prey capture",
            "Light-sheet imaging of nuclear GCaMP in tethered animals that hunt virtual prey.",
            "Danio rerio - Leopard danio",
            ["optic tectum"],
            ("light-sheet microscopy", "SPIM"),
            ["prey capture", "GCaMP"],
            ["Nakamura, Ines"],
        ),
        _written(
            "Grid cells in entorhinal cortex of freely moving rats",
            "Tetrode recordings in open fields of several shapes.",
            "Rattus norvegicus - Norway rat",
            ["entorhinal cortex"],
            _EPHYS,
            ["grid cells", "open field"],
            ["Lindqvist, Noor"],
            funders=(("Kavli Foundation", "KF-2017-11"),),
        ),
        _written(
            "Intracranial recordings of natural speech production",
            "Electrocorticography grids over perisylvian cortex of patients who read aloud.",
            "Homo sapiens - Human",
            ["superior temporal gyrus", "ventral sensorimotor cortex"],
            ("electrocorticography", "ECoG"),
            ["speech production", "brain-computer interface"],
            ["Haddad, Priya"],
            institutions=("Northern Speech Laboratory",),
        ),
        _written(
            "Dopamine release in nucleus accumbens during reversal learning",
            "Fibre photometry with dLight in mice that learn and reverse odour contingencies.",
            "Mus musculus - House mouse",
            ["nucleus accumbens"],
            ("fiber photometry", "fib"),
            ["dopamine", "reversal learning", "dLight"],
            ["Moreau, Chidi"],
        ),
    ),
    "aind": (
        _written(
            "ecephys_650001_2024-03-04_10-00-00",
            "Neuropixels 2.0 recordings during a dynamic foraging task.",
            "Mus musculus",
            ["Secondary motor area"],
            ("Extracellular electrophysiology", "ecephys"),
            ["Dynamic Foraging"],
            ["Karel Svensson"],
            institutions=("Allen Institute for Neural Dynamics",),
            funders=(("National Institute of Mental Health", "U19MH114830"),),
        ),
        _written(
            "SmartSPIM_661234_2024-03-09_12-00-00",
            "Cleared whole brain with retrograde labelling of locus coeruleus.",
            "Mus musculus",
            ["Locus coeruleus"],
            ("Selective plane illumination microscopy", "SPIM"),
            ["Thalamus in the middle"],
            ["Jayaram Chandra"],
            institutions=("Allen Institute for Neural Dynamics",),
        ),
    ),
    "bossdb": (
        _written(
            "kasper2019/column/em: serial-section electron microscopy of a cortical column",
            "Serial-section electron microscopy at 4 nm of layers 2 to 4, aligned.",
            "mouse",
            ["somatosensory cortex"],
            ("Electron microscopy", "EM"),
            ["connectomics", "cortical column"],
            ["Kasper, Theodor"],
            pairs={"grant": "IARPA D16PC00003", "tissue stain": "rOTO"},
        ),
        _written(
            "odonnell2021/larva/em: complete central nervous system of a larva",
            "Transmission electron microscopy of a first instar larva, with segmented neurons.",
            "Drosophila melanogaster",
            ["ventral nerve cord", "mushroom body"],
            ("Transmission electron microscopy", "TEM"),
            ["connectome", "larva"],
            ["O'Donnell, Siobhan"],
        ),
    ),
}
"""Studies written by hand, by archive; the first has the number 1 of its archive."""


def study(archive: str, number: int) -> Study:
    """Return the study of a dataset; ``number`` counts the datasets of the archive from 1."""
    written = WRITTEN[archive]
    return written[number - 1] if number <= len(written) else _combined(archive, number)


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
    technique, modality, prose = _TECHNIQUES[_pick(len(_TECHNIQUES), archive, number, "technique")]
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
        f"{FAMILY_NAMES[_pick(len(FAMILY_NAMES), archive, number, one)]}, "
        f"{_GIVEN[_pick(len(_GIVEN), one, archive, number)]}"
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
        _some(_INSTITUTIONS, 1 + number % 2, archive, number, "institution"),
        tuple(
            (name, f"{_digest(name, number)[:2].upper()}{number:06d}")
            for name in _some(_FUNDERS, 1, archive, number, "funder")
        ),
        _some(_VARIABLES, 2, archive, number, "variable"),
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
                    "affiliation": [{"name": one} for one in of.institutions],
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
        "about": [{"schemaKey": "Anatomy", "name": one} for one in of.regions],
    }
    if label != "draft":
        return {"dandiset.yaml": {**document, "assetsSummary": summary}}
    asset = {
        "path": "sub-1/sub-1.nwb",
        "wasAttributedTo": [{"species": {"name": of.species}}],
        "measurementTechnique": summary["measurementTechnique"],
        "variableMeasured": [{"value": one} for one in of.variables],
    }
    return {"dandiset.yaml": document, ".dandi/assets.jsonl": asset}


def _aind(of: Study, label: str, created: str) -> dict[str, Any]:
    return {
        "data_description.json": {
            "name": of.title,
            "institution": {"name": (of.institutions or _INSTITUTIONS)[0]},
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
                {"procedures": [{"targeted_structure": {"name": one}} for one in of.regions]}
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


def _weighted_species(archive: str, number: int) -> tuple[str, str]:
    if archive == "aind":
        return _SPECIES[0][:2]
    chosen = _pick(100, archive, number, "species")
    for name, plural, share in _SPECIES:
        chosen -= share
        if chosen < 0:
            return name, plural
    return _SPECIES[0][:2]


def _some(names: Sequence[str], count: int, *seed: object) -> tuple[str, ...]:
    """Return distinct names that depend on the seed."""
    return tuple(sorted(names, key=lambda name: _digest(name, *seed))[:count])


def _pick(most: int, *seed: object) -> int:
    return int(_digest(*seed)[:12], 16) % most


def _digest(*seed: object) -> str:
    return hashlib.sha256(repr(seed).encode()).hexdigest()
