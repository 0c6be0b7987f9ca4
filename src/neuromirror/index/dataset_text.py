"""Write the tables for dataset searches: attributes, full text, facets, sort keys, words of paths.

All of it depends on the current version of a dataset: its row, its attributes, and the documents of
the archive in its commit. An entry of the journal marks the dataset as stale; after the last entry,
:func:`refresh_text` writes each stale dataset once.

Terms of paths, which find datasets by the names of their files.

The paths that a version added are split into blocks of some hundred, and the full-text table holds
the distinct terms of each block, nothing else: a search returns the few blocks that contain all
terms, and the rows of ``files`` between a block's first and last path are then compared. This costs
about ten bytes per file. Terms are separated by ``/ _ - .`` and other punctuation and are compared
without case; a short number is a term together with the word before it (``sub-01``). Single letters
and short numbers alone are omitted, because almost every path has them.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final
from unicodedata import ucd_3_2_0

from msgspec import Struct

from neuromirror.index.reader import CURRENT
from neuromirror.model import ArchiveMetadata, read_archive_metadata
from neuromirror.model.archive_metadata import spdx_id, without_spdx_prefix
from neuromirror.model.records import is_volume

if TYPE_CHECKING:
    from neuromirror.store.repository import Repositories

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
    )
}
"""Techniques, and the more general one under which they are counted too."""

MAX_TOKENS: Final = 4
"""Maximum number of words of a name that a search replaces."""


def tokens_of(name: str) -> tuple[str, ...]:
    """Return the words of a name, in lower case."""
    return tuple(re.findall(r"[^\W_]+", name.casefold()))


def _table_lines() -> Iterator[tuple[str, list[str], list[str]]]:
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
    for _, names, members in _table_lines():
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
        tokens_of(name): names[0]
        for kind, names, _ in _table_lines()
        if kind == facet
        for name in names
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


_BY_SUFFIX: Final[Mapping[str, str]] = {
    **{"nwb": "NWB", "nii": "NIfTI", "zarr": "Zarr", "n5": "N5", "mefd": "MEF3"},
    **{"ome.zarr": "OME-Zarr", "ome.tif": "OME-TIFF", "ome.tiff": "OME-TIFF"},
    **dict.fromkeys(("tif", "tiff", "btf"), "TIFF"),
    **dict.fromkeys(("h5", "hdf5", "hdf"), "HDF5"),
    **dict.fromkeys(("mp4", "avi", "mkv", "mov", "wmv"), "video"),
    **dict.fromkeys(("png", "jpg", "jpeg", "jp2", "bmp", "gif"), "image"),
    **dict.fromkeys(("csv", "tsv", "parquet", "feather", "xlsx"), "table"),
    **dict.fromkeys(("npy", "npz"), "NumPy"),
    **dict.fromkeys(("edf", "bdf", "vhdr", "fif"), "EEG"),
    **dict.fromkeys(("obj", "ply", "stl", "vtk"), "mesh"),
    **{"mat": "MATLAB", "czi": "CZI", "nd2": "ND2", "ims": "Imaris"},
    **{"wav": "audio", "pdf": "PDF", "swc": "neuron tracing"},
}
_COMPRESSED: Final = ("gz", "zst", "bz2", "xz")
_FOLDERS: Final = (("ome.zarr", ".ome.zarr/"), ("zarr", ".zarr/"), ("n5", ".n5/"))


def data_types(paths: Iterable[str]) -> set[str]:
    """Return the kinds of data that paths have by their suffixes, such as ``NWB`` for ``.nwb``.

    A path below a folder such as ``x.zarr/`` has the kind of that folder.
    """
    lowered = [path.lower() for path in paths]
    # thousands of names have only a few distinct ends
    ends = {path.rpartition("/")[2].partition(".")[2] for path in lowered}
    joined = "\n".join(lowered)
    for suffix, folder in _FOLDERS:
        if folder in joined:
            ends.add(suffix)
            joined = joined.replace(folder, "/")
    return {_BY_SUFFIX[suffix] for suffix in _suffixes(ends) if suffix in _BY_SUFFIX}


def _suffixes(ends: Iterable[str]) -> Iterator[str]:
    for end in ends:
        parts = [part for part in end.split(".") if part not in _COMPRESSED]
        if not parts:
            continue
        pair = ".".join(parts[-2:])
        yield pair if pair in _BY_SUFFIX else parts[-1]


def add_data_types(connection: sqlite3.Connection, version: int, found: Iterable[str]) -> None:
    """Record for a version's dataset the kinds of data ``found``; known kinds are not repeated.

    ``version`` is the row id of the version.
    """
    connection.executemany(
        "INSERT INTO data_types (dataset, type) SELECT dataset, ? FROM versions WHERE id = ? "
        "ON CONFLICT DO NOTHING",
        [(name, version) for name in sorted(found)],
    )


FACETS: Final = (
    *("archive", "project", "species", "subject", "brain_region", "modality", "technique"),
    *("data_type", "level", "license", "size", "year", "status", "volume"),
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
        Kinds of files, from :func:`~neuromirror.index.dataset_text.data_types`.
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
        "project": named.get("project", ()),
        "modality": named.get("modality", ()),
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
        dates = named.get("acquired") or named.get("created") or [version["time"] or ""]
        found["year"] = [date[:4] for date in dates]
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


TEXT_COLUMNS: Final = (
    *("name", "title", "keywords", "species", "anatomy", "techniques", "variables", "people"),
    *("institutions", "funders", "attributes", "other", "description", "readme", "license", "doi"),
)
"""The columns of full-text search; those with several values have one per line."""
_INSERT_TEXT: Final = (
    f"INSERT INTO dataset_text (rowid, {', '.join(TEXT_COLUMNS)}) "
    f"VALUES (?{',?' * len(TEXT_COLUMNS)})"
)


class _Current(Struct, frozen=True):
    """The data of a dataset and its current version for the search tables."""

    name: str
    mirror: str
    title: str
    source_uri: str
    links: list[tuple[str, str]]
    within: str
    version: dict[str, Any] | None
    attributes: list[tuple[str, str]]
    data_types: list[str]
    dois: list[str]


def write_attributes(
    connection: sqlite3.Connection, dataset: int, attributes: dict[str, list[str]]
) -> None:
    """Replace the attributes of a dataset if they differ from the recorded ones.

    Parameters
    ----------
    connection
        The connection; the caller has opened a transaction.
    dataset
        The row id of the dataset.
    attributes
        The values of the current version's attributes, by name.
    """
    rows = sorted({(name, value) for name, values in attributes.items() for value in values})
    known = connection.execute(
        "SELECT name, value FROM attributes WHERE dataset = ? ORDER BY name, value", (dataset,)
    ).fetchall()
    if rows == known:
        return
    connection.execute("DELETE FROM attributes WHERE dataset = ?", (dataset,))
    connection.executemany(
        # names are compared without case
        "INSERT INTO attributes (dataset, name, value, casefolded) VALUES (?,?,?,?) "
        "ON CONFLICT DO NOTHING",
        [(dataset, name, value, value.casefold()) for name, value in rows],
    )


def mark_stale(connection: sqlite3.Connection, dataset: int) -> None:
    """Record that the search text of a dataset must be written again by :func:`refresh_text`.

    ``dataset`` is the row id of the dataset.
    """
    connection.execute("INSERT INTO stale_text VALUES (?) ON CONFLICT DO NOTHING", (dataset,))


def stale_datasets(connection: sqlite3.Connection) -> list[int]:
    """Return the row ids of the datasets whose search text must be written again."""
    return [row[0] for row in connection.execute("SELECT dataset FROM stale_text ORDER BY dataset")]


def read_documents(
    connection: sqlite3.Connection, dataset: int, repositories: Repositories
) -> ArchiveMetadata:
    """Return the metadata that the archive's documents about a dataset's current version contain.

    The result is empty for a dataset without a version, for a withdrawn one and for a component.

    Parameters
    ----------
    connection
        The connection.
    dataset
        The row id of the dataset.
    repositories
        The repositories of the store.
    """
    row = connection.execute(
        "SELECT d.dataset_id, v.commit_id FROM datasets d "
        f"JOIN versions v ON v.id = {CURRENT} WHERE d.id = ? AND d.withdrawn = '' "
        "AND d.within = ''",
        (dataset,),
    ).fetchone()
    if row is None or not row[0]:
        return ArchiveMetadata()
    return read_archive_metadata(repositories.describing_documents(*row))


def refresh_text(connection: sqlite3.Connection, dataset: int, found: ArchiveMetadata) -> None:
    """Write the rows by which searches find a dataset; delete them if it is withdrawn.

    The dataset is no longer stale afterwards (:func:`mark_stale`).

    Parameters
    ----------
    connection
        The connection; the caller has opened a transaction.
    dataset
        The row id of the dataset.
    found
        The result of :func:`read_documents`.
    """
    current = _read_current(connection, dataset)
    _write_text(connection, dataset, None if current is None else _text_row(current, found))
    _write_facets(connection, dataset, set() if current is None else _facets(current, found))
    if current is None:
        connection.execute("DELETE FROM listed_datasets WHERE dataset = ?", (dataset,))
    else:
        version = current.version or {}
        connection.execute(
            "INSERT OR REPLACE INTO listed_datasets VALUES (?,?,?,?,?)",
            (
                dataset,
                int(bool(current.within)),
                version.get("time") or version.get("recorded_at") or "",
                version.get("bytes") or 0,
                current.title.casefold(),
            ),
        )
    connection.execute("DELETE FROM stale_text WHERE dataset = ?", (dataset,))


def _facets(current: _Current, found: ArchiveMetadata) -> set[tuple[str, str]]:
    values = facet_values(
        mirror=current.mirror,
        version=current.version or {},
        attributes=current.attributes,
        metadata=found,
        data_types=current.data_types,
        volume=is_volume(current.source_uri, current.links),
    )
    return {(facet, value) for facet, some in values.items() for value in some}


def _write_facets(
    connection: sqlite3.Connection, dataset: int, facets: set[tuple[str, str]]
) -> None:
    """Replace the facet values of a dataset; most versions do not change them."""
    known = set(connection.execute("SELECT facet, value FROM facets WHERE dataset = ?", (dataset,)))
    connection.executemany(
        "DELETE FROM facets WHERE facet = ? AND value = ? AND dataset = ?",
        [(*one, dataset) for one in sorted(known - facets)],
    )
    connection.executemany(
        "INSERT INTO facets VALUES (?,?,?)", [(*facet, dataset) for facet in sorted(facets - known)]
    )


def _read_current(connection: sqlite3.Connection, dataset: int) -> _Current | None:
    """Return a dataset with its current version; None if it is withdrawn."""
    row = connection.execute(
        "SELECT m.name || ':' || d.local_id, m.name, d.title, "
        "coalesce(d.source_uri, ''), d.links, d.within, v.kind, v.upstream, v.time, v.recorded_at, "
        "v.bytes, v.license FROM datasets d JOIN mirrors m ON m.id = d.mirror "
        f"LEFT JOIN versions v ON v.id = {CURRENT} "
        "WHERE d.id = ? AND d.withdrawn = ''",
        (dataset,),
    ).fetchone()
    if row is None:
        return None
    kind, upstream, time, recorded_at, size, license_ = row[6:]
    version = None
    if kind is not None:
        version = {
            **{"kind": kind, "upstream": upstream, "time": time, "recorded_at": recorded_at},
            **{"bytes": size, "license": json.loads(license_)},
        }
    name, mirror, title, source_uri, links, within = row[:6]
    return _Current(
        name=name,
        mirror=mirror,
        title=title,
        source_uri=source_uri,
        links=[(kind, url) for kind, url in json.loads(links)],
        within=within,
        version=version,
        attributes=_pairs(connection, "SELECT name, value FROM attributes", dataset),
        data_types=_data_types(connection, dataset),
        dois=[
            doi
            for (doi,) in connection.execute(
                "SELECT doi FROM versions WHERE dataset = ? AND doi IS NOT NULL GROUP BY doi "
                "ORDER BY min(seq)",
                (dataset,),
            )
        ],
    )


def _pairs(connection: sqlite3.Connection, select: str, dataset: int) -> list[tuple[str, str]]:
    return connection.execute(f"{select} WHERE dataset = ? ORDER BY 1, 2", (dataset,)).fetchall()


def _data_types(connection: sqlite3.Connection, dataset: int) -> list[str]:
    """Return the kinds of files of all versions, and of subdatasets, which are arrays."""
    own = connection.execute("SELECT type FROM data_types WHERE dataset = ?", (dataset,))
    paths = connection.execute("SELECT path || '/' FROM subdatasets WHERE dataset = ?", (dataset,))
    return sorted({name for (name,) in own} | data_types(path for (path,) in paths))


def _text_row(current: _Current, found: ArchiveMetadata) -> tuple[str, ...]:
    values = {name: _lines(values) for name, values in found.values.items()}
    texts = {
        **values,
        "name": current.name,
        "title": current.title,
        # each with its name, as pages show it
        "attributes": "\n".join(f"{name} {value}" for name, value in current.attributes),
        "other": _lines([*found.values.get("other", ()), *_kinds(current)]),
        "description": found.description,
        "readme": found.readme,
        "license": _lines((current.version or {}).get("license", ())),
        "doi": _lines(current.dois),
    }
    # these characters mark matches
    return tuple(texts.get(column, "").translate({2: " ", 3: " "}) for column in TEXT_COLUMNS)


def _kinds(current: _Current) -> list[str]:
    """Return what a dataset is, in words that no metadata contain."""
    scheme = current.source_uri.partition("://")[0]
    kinds = ["DANDI dandiset"] if "/dandisets/" in current.source_uri else [scheme]
    if is_volume(current.source_uri, current.links):
        kinds.append("volume")
    return kinds


def _lines(values: Iterable[str]) -> str:
    return "\n".join(dict.fromkeys(values))


def _write_text(connection: sqlite3.Connection, dataset: int, row: tuple[str, ...] | None) -> None:
    """Write the full-text row of a dataset if it has changed; None removes it."""
    known = connection.execute(
        f"SELECT {', '.join(TEXT_COLUMNS)} FROM dataset_text WHERE rowid = ?", (dataset,)
    ).fetchone()
    if row == known:
        return
    if known is not None:
        # a table without content needs the old text to delete a row
        connection.execute(
            "INSERT INTO dataset_text_tokens (dataset_text_tokens, rowid, tokens) "
            "VALUES ('delete', ?, ?)",
            (dataset, _tokens(known)),
        )
        connection.execute("DELETE FROM dataset_text WHERE rowid = ?", (dataset,))
    if row is not None:
        connection.execute(_INSERT_TEXT, (dataset, *row))
        connection.execute(
            "INSERT INTO dataset_text_tokens (rowid, tokens) VALUES (?, ?)", (dataset, _tokens(row))
        )


def _tokens(row: tuple[str, ...]) -> str:
    return "\n".join(row)


PATHS_PER_BLOCK = 500
"""Paths per block. Blocks are rows, so changing it changes the schema."""
BLOCK_SHIFT = 20
"""Bits by which a version's id is shifted in the ids of its blocks; the rest is the position."""
MIN_DIGITS = 4
"""Number of digits from which a number is a term of its own."""

_SEPARATORS = bytes(sign for sign in range(128) if not chr(sign).isalnum())
_SPLIT_ALL = bytes.maketrans(_SEPARATORS, b" " * len(_SEPARATORS))
_KEEP_HYPHENS = bytes.maketrans(_SEPARATORS.replace(b"-", b""), b" " * (len(_SEPARATORS) - 1))


def path_terms(text: str) -> set[str]:
    """Return the words and numbers in paths by which searches find files, in lower case.

    A number that is too short to be useful is combined with the word before it: ``sub-01``.

    Parameters
    ----------
    text
        One path, or several separated by newlines.
    """
    pieces = set(text.lower().encode().translate(_KEEP_HYPHENS).split())
    terms = {
        term
        for term in map(bytes.decode, set(b" ".join(pieces).translate(_SPLIT_ALL).split()))
        if len(term) >= (MIN_DIGITS if term.isdecimal() else 2)
    }
    for piece in pieces:
        rest, _, number = piece.rpartition(b"-")
        if number.isdigit() and len(number) < MIN_DIGITS:
            numbered = rest.rpartition(b"-")[2]
            if numbered:
                terms.add(f"{numbered.decode()}-{number.decode()}")
    return terms


def is_single_token(term: str) -> bool:
    """Return whether SQLite's full-text tokenizer does not split a term.

    It may split terms with characters newer than Unicode 3.2. The table of path terms cannot be
    queried for a term of several tokens, because it stores no positions.
    """
    return all(one.isascii() or ucd_3_2_0.category(one)[0] in "LN" for one in term)


class PathBlock(Struct, frozen=True):
    """A few hundred consecutive paths that a version added, whose terms are indexed as one unit.

    Attributes
    ----------
    id
        The row id of the block.
    paths
        The paths, sorted.
    """

    id: int
    paths: Sequence[str]

    @property
    def terms(self) -> list[str]:
        """The terms, sorted, because the order of a set differs between processes."""
        return sorted(path_terms("\n".join(self.paths)))


def split_blocks(version: int, paths: Iterable[str]) -> Iterator[PathBlock]:
    """Divide the paths that a version added into blocks.

    Parameters
    ----------
    version
        The row id of the version, which determines the ids of the blocks.
    paths
        The added paths, sorted.
    """
    left = iter(paths)
    for number in count(version << BLOCK_SHIFT):
        some = list(islice(left, PATHS_PER_BLOCK))
        if not some:
            return
        yield PathBlock(number, some)


class PathTermWriter:
    """Writes the search terms and kinds of the paths that one version adds.

    For use within one transaction, which the caller opens.
    """

    def __init__(self, connection: sqlite3.Connection, version: int) -> None:
        self._db = connection
        self._version = version
        self._next = version << BLOCK_SHIFT
        self._paths: list[str] = []
        self._data_types: set[str] = set()

    def add(self, paths: Iterable[str]) -> None:
        """Add further paths of the version; all paths must be sorted."""
        self._paths.extend(paths)
        while len(self._paths) >= PATHS_PER_BLOCK:
            self._write(self._paths[:PATHS_PER_BLOCK])
            del self._paths[:PATHS_PER_BLOCK]

    def close(self) -> None:
        """Write the last block and the kinds of the files."""
        if self._paths:
            self._write(self._paths)
        add_data_types(self._db, self._version, self._data_types)

    def _write(self, paths: list[str]) -> None:
        _write_block(self._db, PathBlock(self._next, paths))
        self._data_types |= data_types(paths)
        self._next += 1


def _write_block(connection: sqlite3.Connection, block: PathBlock) -> None:
    connection.execute(
        "INSERT INTO path_blocks VALUES (?,?,?)", (block.id, block.paths[0], block.paths[-1])
    )
    connection.execute(
        "INSERT INTO path_text (rowid, terms) VALUES (?,?)", (block.id, " ".join(block.terms))
    )
