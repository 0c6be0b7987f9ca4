"""Synonyms of species and techniques, for searches and facets.

A search for one name also finds the others. The first name of a species or technique is its value
in a facet, whatever name the archive uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

_SPECIES: Final = (
    ("Mus musculus", "mouse", "mice", "house mouse", "murine"),
    ("Homo sapiens", "human", "humans"),
    ("Rattus norvegicus", "rat", "rats", "rattus", "norway rat", "brown rat"),
    ("Macaca mulatta", "rhesus macaque", "rhesus monkey", "rhesus"),
    ("Macaca fascicularis", "cynomolgus", "cynomolgus macaque", "crab-eating macaque"),
    ("Macaca nemestrina", "pigtail macaque", "pig-tailed macaque"),
    ("Callithrix jacchus", "marmoset", "marmosets", "common marmoset"),
    ("Danio rerio", "zebrafish", "zebra fish", "leopard danio"),
    ("Drosophila melanogaster", "drosophila", "fly", "flies", "fruit fly", "fruit flies"),
    ("Caenorhabditis elegans", "c elegans", "worm", "worms", "nematode", "roundworm"),
    ("Mustela putorius furo", "ferret", "ferrets"),
    ("Taeniopygia guttata", "zebra finch", "zebra finches"),
    ("Felis catus", "cat", "cats"),
    ("Sus scrofa", "pig", "pigs"),
    ("Ovis aries", "sheep"),
    ("Gallus gallus", "chicken", "chick"),
    ("Meriones unguiculatus", "gerbil", "gerbils"),
    ("Cavia porcellus", "guinea pig"),
    ("Xenopus laevis", "xenopus", "clawed frog"),
    ("Apis mellifera", "honeybee", "honey bee"),
    ("Platynereis dumerilii", "platynereis"),
)
_TECHNIQUES: Final = (
    ("electrophysiology", "ephys", "electrophysiological", "electrophysiological approach"),
    (
        *("extracellular electrophysiology", "ecephys", "extracellular recording"),
        *("multi electrode extracellular electrophysiology recording technique",),
    ),
    (
        *("intracellular electrophysiology", "icephys", "patch clamp", "whole cell patch clamp"),
        *("patch clamp technique", "voltage clamp", "current clamp", "whole cell recording"),
    ),
    ("calcium imaging", "ophys", "optical physiology", "planar optical physiology", "pophys"),
    (
        *("two-photon microscopy", "two photon", "2 photon", "2p", "twophoton"),
        *("two photon imaging", "two-photon microscopy technique", "multiphoton"),
    ),
    ("electron microscopy", "em", "sem", "tem", "fib sem", "electron microscopy technique"),
    ("light-sheet microscopy", "lightsheet", "light sheet", "spim", "selective plane illumination"),
    ("X-ray tomography", "xray", "x ray", "microct", "x ray microtomography"),
    ("functional MRI", "fmri", "functional magnetic resonance imaging"),
    ("magnetic resonance imaging", "mri"),
    ("electroencephalography", "eeg"),
    ("electrocorticography", "ecog", "intracranial eeg", "ieeg"),
    ("behavior", "behaviour", "behavioral", "behavioural", "behavioral approach"),
    ("fiber photometry", "fib", "fibre photometry", "photometry"),
    ("optogenetics", "optogenetic", "optogenetic approach"),
    ("immunofluorescence", "immunohistochemistry", "immunostaining"),
)
"""Names of one technique, the first of which is shown."""
_FIELDS: Final = (
    ("local field potential", "lfp", "local field potentials"),
    ("primary visual cortex", "visp"),
    ("primary somatosensory cortex", "barrel cortex", "ssp"),
    ("prefrontal cortex", "pfc", "mpfc"),
    ("hippocampus", "hippocampal", "hippocampal formation"),
    ("sharp wave ripple", "swr", "sharp wave ripples"),
    ("connectomics", "connectome"),
    ("neuropixels", "neuropixel", "neuropix", "neuropixels probe"),
    ("spike sorting", "spikesorting"),
    ("colour", "color"),
    ("tumour", "tumor"),
    ("grey matter", "gray matter"),
)
"""Other synonyms."""
_NARROWER: Final = {
    **dict.fromkeys(
        ("macaque", "macaques", "macaca"),
        ("macaque", "macaques", "macaca", "rhesus", "cynomolgus"),
    ),
    **dict.fromkeys(
        ("monkey", "monkeys", "primate", "primates", "non-human primate", "nhp"),
        ("monkey", "primate", "nhp", "macaque", "macaca", "rhesus", "marmoset", "callithrix"),
    ),
    **dict.fromkeys(("electrophysiology", "ephys", "electrophysiological"), ("ecephys", "icephys")),
    **dict.fromkeys(("calcium imaging", "ophys", "optical physiology"), ("gcamp",)),
    **dict.fromkeys(
        ("light sheet", "light-sheet microscopy", "lightsheet", "spim"), ("smartspim", "exaspim")
    ),
    "v1": ("primary visual cortex", "visp"),
    "s1": ("primary somatosensory cortex", "barrel cortex"),
    **dict.fromkeys(("rodent", "rodents"), ("rodent", "mouse", "mus", "rat", "rattus", "gerbil")),
}
"""Names of groups, and the names of their members."""

_SPECIAL: Final = {
    **dict.fromkeys(("smartspim", "exaspim", "mesospim"), "light-sheet microscopy"),
    **dict.fromkeys(("neuropixels", "neuropixel"), "extracellular electrophysiology"),
}
"""Names of specialized techniques, which a search does not replace by the general one."""

_GENERAL: Final = {
    **dict.fromkeys(
        ("extracellular electrophysiology", "intracellular electrophysiology"), "electrophysiology"
    ),
}
"""Techniques, and the more general one under which they are counted too."""

MAX_TOKENS: Final = 4
"""Maximum number of words of a name that a search replaces."""


def tokens_of(name: str) -> tuple[str, ...]:
    """Return the words of a name, in lower case."""
    return tuple(re.findall(r"[^\W_]+", name.casefold()))


@cache
def _by_tokens() -> dict[tuple[str, ...], tuple[str, ...]]:
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for group in (*_SPECIES, *_TECHNIQUES, *_FIELDS):
        for name in group:
            found.setdefault(tokens_of(name), {}).update(dict.fromkeys(group))
    for name, narrower in _NARROWER.items():
        found.setdefault(tokens_of(name), {}).update(dict.fromkeys(narrower))
    return {tokens: tuple(names) for tokens, names in found.items()}


def synonyms_of(tokens: Sequence[str]) -> tuple[str, ...]:
    """Return the other names of a species or technique, which a search also finds; may be empty.

    Parameters
    ----------
    tokens
        The words of the name, in lower case.

    Returns
    -------
    tuple[str, ...]
        The other names: for ``("mouse",)``, among others ``mus musculus``.
    """
    return _by_tokens().get(tuple(tokens), ())


@cache
def _canonical(group: str) -> dict[tuple[str, ...], str]:
    groups = _SPECIES if group == "species" else _TECHNIQUES
    found = {tokens_of(name): names[0] for names in groups for name in names}
    special = {} if group == "species" else _SPECIAL
    return found | {tokens_of(name): general for name, general in special.items()}


def canonical_species(value: str) -> str:
    """Return the name under which a species is counted: ``Mus musculus`` for ``House mouse``.

    Of any other name it returns the part before `` - ``, after which archives write a common name.
    """
    return _find_canonical("species", value) or value.partition(" - ")[0].strip()


def canonical_technique(value: str) -> str:
    """Return the name under which a technique is counted.

    A name without synonyms is returned without a final ``technique``, ``approach`` or ``platform``,
    with spaces instead of hyphens, and in lower case unless it is an abbreviation.
    """
    name = re.sub(r"[\s_-]+(?:technique|approach|platform)\Z", "", value, flags=re.I)
    found = _find_canonical("technique", value) or _find_canonical("technique", name)
    return found or " ".join(map(_lower_unless_abbreviated, re.split(r"[\s_-]+", name.strip())))


def with_general_techniques(values: Iterable[str]) -> list[str]:
    """Return techniques and the more general ones, as :func:`canonical_technique` writes them."""
    return [name for value in values for name in (value, _GENERAL.get(value, value))]


def without_general_techniques(values: Sequence[str]) -> list[str]:
    """Return techniques without those of which a more specific one is given.

    Parameters
    ----------
    values
        The techniques.

    Returns
    -------
    list of str
        The remaining techniques, in the same order.
    """
    general = {_GENERAL[value] for value in values if value in _GENERAL}
    return [value for value in values if value not in general]


def _lower_unless_abbreviated(word: str) -> str:
    return word.lower() if word[1:].islower() else word


def _find_canonical(group: str, value: str) -> str | None:
    known, tokens = _canonical(group), tokens_of(value)
    if tokens in known:
        return known[tokens]
    # a binomial name stands before or behind the common one
    for length in range(min(MAX_TOKENS, len(tokens)), 1, -1):
        for start in range(len(tokens) - length + 1):
            if tokens[start : start + length] in known:
                return known[tokens[start : start + length]]
    return None
