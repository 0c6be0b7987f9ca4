"""Searches that a scientist would type, among a thousand datasets, and their first hits."""

from collections.abc import Iterator

import pytest
from benchmarks.synthetic_metadata import documents, study

from neuromirror.index import FoundDatasets, Index
from neuromirror.model import VersionMinted
from support.disk_journal import DiskJournal, placed_file, published_fields

_COUNTS = {"dandi": 700, "aind": 250, "bossdb": 50}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """A thousand datasets of three archives, of DANDI's three in four published."""
    folder = tmp_path_factory.mktemp("catalogue")
    journal = DiskJournal(folder)
    for archive, count in _COUNTS.items():
        for number in range(1, count + 1):
            _mint(journal, archive, number)
    with Index.open(folder / "index.sqlite") as index:
        index.catch_up(journal)
        yield index


def _mint(journal: DiskJournal, archive: str, number: int) -> VersionMinted:
    of = study(archive, number)
    local_id = {
        "dandi": f"{number:06d}",
        "aind": of.title,
        "bossdb": f"collection{number}/experiment/channel",
    }[archive]
    published = archive == "dandi" and number % 4 != 0
    label = "0.240301.0900" if published else "draft"
    suffix = {"dandi": "nwb", "aind": "zarr/0", "bossdb": "json"}[archive]
    paths = [f"sub-{number:04d}/sub-{number:04d}_ses-01.{suffix}"]
    if (archive, number) == ("dandi", 699):
        paths.append("sub-9001/sub-9001_probe-neuropix_ecephys.nwb")
    minted = journal.mint(
        [placed_file(path, (archive, number)) for path in paths],
        local_id,
        mirror=archive,
        source_uri=f"{'boss' if archive == 'bossdb' else 'https'}://x.invalid/{local_id}",
        title=of.title,
        bytes=number * 10**9,
        time=f"{2018 + number % 7}-01-01T00:00:00+00:00",
        attributes={},
        **(published_fields(label) if published else {}),
    )
    found = documents(archive, of, label, minted.at)
    if (archive, number) == ("bossdb", 3):
        found[".boss/channel.json"] = b'{"name": "cells", "type": "annotation"}'
    journal.documents[minted.commit] = found
    return minted


SEARCHES = [
    # topics, with stems and several forms of a word
    ("place cells remapping", "dandi:000001"),
    ("place cell remap", "dandi:000001"),
    ("theta sequences goal directed navigation", "dandi:000001"),
    ("recognition memory faces single neuron", "dandi:000002"),
    ('"sharp wave ripples"', "dandi:000003"),
    ("swr memory consolidation", "dandi:000003"),
    ("birdsong", "dandi:000004"),
    ("zebra finch song learning", "dandi:000004"),
    ("patch-seq somatostatin", "dandi:000005"),
    ("whole cell transcriptomic interneuron", "dandi:000005"),
    ("prey capture", "dandi:000006"),
    ("larval zebrafish lightsheet GCaMP", "dandi:000006"),
    ("grid cells entorhinal", "dandi:000007"),
    ("ecog speech", "dandi:000008"),
    ("human intracranial eeg speech production", "dandi:000008"),
    ("dopamine photometry reversal", "dandi:000009"),
    ("dLight", "dandi:000009"),
    # people, institutions, funders and grants
    ("Buonaventura", "dandi:000001"),
    ("Rutherford-Hale", "dandi:000002"),
    ("Nunez ripples", "dandi:000003"),
    ("Northern Speech Laboratory", "dandi:000008"),
    ("Kavli Foundation", "dandi:000007"),
    ("R01NS104829", "dandi:000001"),
    ("U19MH114830", "aind:ecephys_650001_2024-03-04_10-00-00"),
    # other archives, abbreviations and synonyms
    ("neuropixels dynamic foraging", "aind:ecephys_650001_2024-03-04_10-00-00"),
    ("locus coeruleus spim", "aind:SmartSPIM_661234_2024-03-09_12-00-00"),
    ("EM cortical column mouse", "bossdb:collection1/experiment/channel"),
    ("electron microscopy drosophila connectome", "bossdb:collection2/experiment/channel"),
    ("fly mushroom body", "bossdb:collection2/experiment/channel"),
    ("IARPA", "bossdb:collection1/experiment/channel"),
    # as typed in haste: a prefix, a typing error, a path
    ("hippoc reactivat ripp", "dandi:000003"),
    ("sub-0423", "dandi:000423"),
    # a volume of object ids, and names that only the paths of files have
    ("segmentation annotation", "bossdb:collection3/experiment/channel"),
    ("mouse segmentation", "bossdb:collection3/experiment/channel"),
    ("electrophysiology sub-9001", "dandi:000699"),
    ("extracellular electrophysiology sub-9001", "dandi:000699"),
    ("ecephys sub-9001", "dandi:000699"),
    ("neuropixels sub-9001", "dandi:000699"),
]


@pytest.mark.parametrize(("text", "first"), SEARCHES, ids=[text for text, _ in SEARCHES])
def test_a_search_has_the_expected_first_hit(catalogue: Index, text: str, first: str) -> None:
    found = catalogue.search.datasets(text)
    assert [row.dataset.name for row in found.rows][:1] == [first]
    one = found.rows[0]
    assert one.matched or one.path  # the reason is shown


def _values(found: FoundDatasets, facet: str) -> dict[str, int]:
    return {one.value: one.count for one in found.facets[facet]}


@pytest.mark.parametrize(
    ("text", "species"),
    [
        ("mouse", "Mus musculus"),
        ("mice", "Mus musculus"),
        ("human", "Homo sapiens"),
        ("rat", "Rattus norvegicus"),
        ("macaque", "Macaca mulatta"),
        ("monkey", "Macaca mulatta"),
        ("zebrafish", "Danio rerio"),
        ("fruit fly", "Drosophila melanogaster"),
        ("marmoset", "Callithrix jacchus"),
        ("worm", "Caenorhabditis elegans"),
    ],
)
def test_a_common_name_finds_every_dataset_of_the_species(
    catalogue: Index, text: str, species: str
) -> None:
    everything = _values(catalogue.search.datasets(), "species")
    assert everything[species] > 0
    assert _values(catalogue.search.datasets(text), "species")[species] == everything[species]


def test_counts_are_those_under_the_other_facets(catalogue: Index) -> None:
    everything = catalogue.search.datasets()
    assert (everything.total, everything.exact) == (1000, True)
    assert _values(everything, "archive") == _COUNTS
    assert _values(everything, "volume") == {"yes": 50}
    filters = {"archive": ["dandi"], "species": ["Mus musculus", "Homo sapiens"]}
    found = catalogue.search.datasets("learning", filters=filters, limit=1000)
    species = _values(found, "species")
    assert found.total == species["Mus musculus"] + species["Homo sapiens"] == len(found.rows)
    assert species["Rattus norvegicus"] > 0  # without the selection in its own facet
    one = catalogue.search.datasets("learning", filters={**filters, "species": ["Mus musculus"]})
    assert one.total == species["Mus musculus"]
    archives = _values(found, "archive")
    assert archives["dandi"] == found.total
    both = catalogue.search.datasets("learning", filters={"species": filters["species"]})
    assert both.total == sum(archives.values())
    for status, count in _values(found, "status").items():
        chosen = catalogue.search.datasets("learning", filters={**filters, "status": [status]})
        assert chosen.total == count


def test_orders_are_by_time_size_and_title(catalogue: Index) -> None:
    newest = catalogue.search.datasets("mouse", sort="newest", limit=1000).rows
    times = [one.dataset.time or "" for one in newest]
    assert times == sorted(times, reverse=True)
    sizes = [row.dataset.bytes for row in catalogue.search.datasets(sort="size", limit=1000).rows]
    assert sizes == sorted(sizes, reverse=True)
    titles = [row.dataset.title.casefold() for row in catalogue.search.datasets(sort="title").rows]
    assert titles == sorted(titles)
    pages = [catalogue.search.datasets("mouse", start=start, limit=7).rows for start in (0, 7)]
    assert len({one.dataset.id for page in pages for one in page}) == 14
