"""The values of a dataset in the facets of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from neuromirror.index.synonyms import (
    canonical_species,
    canonical_technique,
    with_general_techniques,
)
from neuromirror.model import ArchiveMetadata
from neuromirror.model.archive_metadata import spdx_id, without_spdx_prefix

FACETS: Final = (
    *("archive", "species", "subject", "brain_region", "technique", "data_type", "level"),
    *("license", "size", "year", "status", "volume"),
)
"""The names of the facets, in the order of pages."""

SIZES: Final = (
    ("up to 1 GB", 10**9),
    ("1 to 100 GB", 10**11),
    ("100 GB to 1 TB", 10**12),
    ("over 1 TB", None),
)
"""The values of the facet ``size``, with the largest number of bytes of each."""
_MAX_VALUES: Final = 20
"""Maximum number of values of a dataset in one facet."""


def facet_values(
    *,
    mirror: str,
    version: Mapping[str, Any],
    attributes: Sequence[tuple[str, str]],
    metadata: ArchiveMetadata,
    data_types: Iterable[str],
    volume: bool,
) -> dict[str, list[str]]:
    """Return the values of a dataset by facet, each once.

    Parameters
    ----------
    mirror
        The name of the mirror.
    version
        The values ``kind``, ``upstream``, ``time``, ``bytes`` and ``license`` of the current
        version; empty if the dataset has none.
    attributes
        Names and values of the version's attributes.
    metadata
        The texts of the archive's documents.
    data_types
        Kinds of files, from :func:`~neuromirror.index.data_types.data_types`.
    volume
        Whether the dataset is a volume.

    Returns
    -------
    dict[str, list[str]]
        The values by the name of the facet, in the order of :data:`FACETS`.
    """
    named: dict[str, list[str]] = {}
    for name, value in attributes:
        named.setdefault(name.casefold(), []).append(value)
    values = metadata.values
    found: dict[str, Iterable[str]] = {
        "archive": [mirror],
        "species": map(canonical_species, [*values.get("species", ()), *named.get("species", ())]),
        "subject": named.get("subject", ()),
        "brain_region": values.get("anatomy", ()),
        "technique": with_general_techniques(
            map(canonical_technique, [*values.get("techniques", ()), *named.get("modality", ())])
        ),
        "data_type": data_types,
        "level": named.get("data-level", ()),
        "volume": ["yes"] if volume else [],
    }
    if version:
        found["license"] = [
            spdx_id(one) or without_spdx_prefix(one) for one in version.get("license", ())
        ]
        found["size"] = [_size_class(version["bytes"])]
        found["year"] = [version["time"][:4]] if version["time"] else []
        found["status"] = [_status(version)]
    return {name: _distinct(found[name])[:_MAX_VALUES] for name in FACETS if name in found}


def canonical_value(facet: str, value: str) -> str:
    """Return the canonical form of a facet value: ``Mus musculus`` for the species ``mouse``.

    Parameters
    ----------
    facet
        The name of the facet, one of :data:`FACETS`.
    value
        The value, under any of its names.

    Returns
    -------
    str
        The name under which datasets are counted; ``value`` itself in facets without synonyms.
    """
    if facet == "species":
        return canonical_species(value)
    if facet == "technique":
        return canonical_technique(value)
    if facet == "license":
        return spdx_id(value) or without_spdx_prefix(value)
    return value


def _distinct(values: Iterable[str]) -> list[str]:
    """Return the values without empty ones, and without duplicates that differ only in case."""
    known: dict[str, str] = {}
    for value in values:
        if value:
            known.setdefault(value.casefold(), value)
    return list(known.values())


def _size_class(size: int) -> str:
    return next(name for name, most in SIZES if most is None or size <= most)


def _status(version: Mapping[str, Any]) -> str:
    """Return ``published``, ``draft``, or ``observed`` where the archive has no versions."""
    if version["kind"] == "published":
        return "published"
    return "draft" if version["upstream"] == "draft" else "observed"
