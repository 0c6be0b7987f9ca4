"""Synonyms of species and techniques, for searches and facets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final

_TABLE: Final = """
species   | Mus musculus, mouse, mice, house mouse, murine
species   | Homo sapiens, human, humans
species   | Rattus norvegicus, rat, rats, rattus, norway rat, brown rat
species   | Macaca mulatta, rhesus macaque, rhesus monkey, rhesus
species   | Macaca fascicularis, cynomolgus, cynomolgus macaque, crab-eating macaque
species   | Macaca nemestrina, pigtail macaque, pig-tailed macaque
species   | Callithrix jacchus, marmoset, marmosets, common marmoset
species   | Danio rerio, zebrafish, zebra fish, leopard danio
species   | Drosophila melanogaster, drosophila, fly, flies, fruit fly, fruit flies
species   | Caenorhabditis elegans, c elegans, worm, worms, nematode, roundworm
species   | Mustela putorius furo, ferret, ferrets
species   | Taeniopygia guttata, zebra finch, zebra finches
species   | Felis catus, cat, cats
species   | Sus scrofa, pig, pigs
species   | Ovis aries, sheep
species   | Gallus gallus, chicken, chick
species   | Meriones unguiculatus, gerbil, gerbils
species   | Cavia porcellus, guinea pig
species   | Xenopus laevis, xenopus, clawed frog
species   | Apis mellifera, honeybee, honey bee
species   | Platynereis dumerilii, platynereis
technique | electrophysiology, ephys, electrophysiological, \
            electrophysiological approach > ecephys, icephys
technique | extracellular electrophysiology, ecephys, extracellular recording, \
            multi electrode extracellular electrophysiology recording technique
technique | intracellular electrophysiology, icephys, patch clamp, whole cell patch clamp, \
            patch clamp technique, voltage clamp, current clamp, whole cell recording
technique | calcium imaging, ophys, optical physiology, planar optical physiology, \
            pophys > gcamp
technique | two-photon microscopy, two photon, 2 photon, 2p, twophoton, two photon imaging, \
            two-photon microscopy technique, multiphoton
technique | electron microscopy, em, sem, tem, fib sem, electron microscopy technique
technique | light-sheet microscopy, lightsheet, light sheet, spim, \
            selective plane illumination > smartspim, exaspim
technique | X-ray tomography, xray, x ray, microct, x ray microtomography
technique | functional MRI, fmri, functional magnetic resonance imaging
technique | magnetic resonance imaging, mri
technique | electroencephalography, eeg
technique | electrocorticography, ecog, intracranial eeg, ieeg
technique | behavior, behaviour, behavioral, behavioural, behavioral approach
technique | fiber photometry, fib, fibre photometry, photometry
technique | optogenetics, optogenetic, optogenetic approach
technique | immunofluorescence, immunohistochemistry, immunostaining
-         | local field potential, lfp, local field potentials
-         | primary visual cortex, visp
-         | primary somatosensory cortex, barrel cortex, ssp
-         | prefrontal cortex, pfc, mpfc
-         | hippocampus, hippocampal, hippocampal formation
-         | sharp wave ripple, swr, sharp wave ripples
-         | connectomics, connectome
-         | neuropixels, neuropixel, neuropix, neuropixels probe
-         | spike sorting, spikesorting
-         | colour, color
-         | tumour, tumor
-         | grey matter, gray matter
-         | macaque, macaques, macaca > rhesus, cynomolgus
-         | monkey, monkeys, primate, primates, non-human primate, nhp > macaque, macaca, \
            rhesus, marmoset, callithrix
-         | rodent, rodents > mouse, mus, rat, rattus, gerbil
-         | v1 > primary visual cortex, visp
-         | s1 > primary somatosensory cortex, barrel cortex
"""
"""One line per thing: its facet, its names, and after ``>`` names of its members or parts.

A search for one of the names also finds the others, and the members; the first name of a species or
technique is its value in the facet.
"""

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


def _lines() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield facet, names and names of members of each line of the table."""
    for line in _TABLE.strip().splitlines():
        facet, _, rest = line.partition("|")
        names, _, members = rest.partition(">")
        yield facet.strip(), _names(names), _names(members)


def _names(text: str) -> list[str]:
    return [name for one in text.split(",") if (name := one.strip())]


@cache
def _by_tokens() -> dict[tuple[str, ...], tuple[str, ...]]:
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for _, names, members in _lines():
        for name in names:
            others = found.setdefault(tokens_of(name), {})
            others.update(dict.fromkeys((*names, *members)))
    return {tokens: tuple(names) for tokens, names in found.items()}


def synonyms_of(tokens: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a search for a name, given by its words in lower case, also finds.

    For ``("mouse",)`` they contain ``Mus musculus``.
    """
    return _by_tokens().get(tuple(tokens), ())


@cache
def _canonical(facet: str) -> dict[tuple[str, ...], str]:
    found = {
        tokens_of(name): names[0] for kind, names, _ in _lines() if kind == facet for name in names
    }
    special = _SPECIAL if facet == "technique" else {}
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
    """Return techniques without those of which a more specific one is given."""
    general = {_GENERAL[value] for value in values if value in _GENERAL}
    return [value for value in values if value not in general]


def _lower_unless_abbreviated(word: str) -> str:
    return word.lower() if word[1:].islower() else word


def _find_canonical(facet: str, value: str) -> str | None:
    known, tokens = _canonical(facet), tokens_of(value)
    if tokens in known:
        return known[tokens]
    # a binomial name stands before or behind the common one
    for length in range(min(MAX_TOKENS, len(tokens)), 1, -1):
        for start in range(len(tokens) - length + 1):
            if tokens[start : start + length] in known:
                return known[tokens[start : start + length]]
    return None
