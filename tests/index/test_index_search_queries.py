"""Datasets are found by terms of their descriptions and of their files' paths."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromirror.index import (
    FilesNotIndexedError,
    FoundDatasets,
    Index,
    MalformedQueryError,
    MatchedText,
    UnknownMirrorError,
    rebuild_from_journal,
)
from neuromirror.index import dataset_text as module
from neuromirror.index import search as search_queries
from neuromirror.index.dataset_text import path_terms
from neuromirror.model import DatasetReinstated, DatasetWithdrawn
from support.disk_journal import DiskJournal, placed_file, read_path_terms

_YUTA = "sub-YutaMouse41/sub-YutaMouse41_ses-YutaMouse41-150831_behavior+ecephys.nwb"


@pytest.fixture
def searchable_index(journal: DiskJournal, index: Index) -> Index:
    """Three datasets of two mirrors; the words of the third are in its paths alone."""
    journal.mint([placed_file("sub-01/a_ecephys.nwb", 1)], "000001", title="Spikes of YutaMouse41")
    journal.mint(
        [placed_file("sub-01/b_ophys.nwb", 2)],
        "000002",
        mirror="other",
        title="Imaging",
        attributes={"species": ["Mus musculus"], "subject": ["YutaMouse41"]},
    )
    journal.mint([placed_file(_YUTA, 3), placed_file("sub-02/c.nwb", 4)], "000003", title="Third")
    index.catch_up(journal)
    return index


def _found(index: Index, text: str, mirror: str | None = None) -> list[str]:
    filters = {"archive": [mirror] if mirror else []}
    return [row.dataset.local_id for row in index.search.datasets(text, filters=filters).rows]


def _archives(page: FoundDatasets) -> dict[str, int]:
    return {facet.value: facet.count for facet in page.facets["archive"] if facet.count}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("YutaMouse41", ["000001", "000002", "000003"]),
        ("yuta", ["000001", "000002", "000003"]),
        ("sub-yutamouse41", ["000003"]),
        ("SUB-YUTA", ["000003"]),
        ("ses-YutaMouse41-150831_behavior", ["000003"]),
        (_YUTA, ["000003"]),
        ("150831", ["000003"]),
        ("behavior+ecephys.nwb", ["000003"]),
        ("ecephys third", ["000003"]),
        ("third sub-02 c.nwb", ["000003"]),
        ("sub-02 behavior", []),
        ("musculus ophys", ["000002"]),
        ("sub-01", ["000001", "000002"]),
        ("sub-0", ["000001", "000002", "000003"]),
        ("mouse41", []),
        ("41", []),
        ("a_ecephys", ["000001"]),
    ],
)
def test_all_terms_must_match_the_dataset_or_one_path(
    searchable_index: Index, text: str, found: list[str]
) -> None:
    assert sorted(_found(searchable_index, text)) == found


def test_metadata_matches_rank_before_paths_and_name_their_field(searchable_index: Index) -> None:
    page = searchable_index.search.datasets("yutamouse41")
    assert [row.dataset.local_id for row in page.rows][2] == "000003"
    matches = {row.dataset.local_id: row for row in page.rows}
    assert matches["000001"].matched == (
        MatchedText("title", "Spikes of YutaMouse41", ((10, 21),)),
    )
    assert matches["000002"].matched == (MatchedText("subject", "YutaMouse41", ((0, 11),)),)
    assert (matches["000001"].version, matches["000001"].path) == (None, None)
    last = matches["000003"]
    assert (last.matched, last.version, last.path) == ((), last.dataset.newest, _YUTA)
    assert last.in_paths == ("yutamouse41",)
    assert (_archives(page), page.total, page.next) == ({"dandi": 2, "other": 1}, 3, None)
    mixed = searchable_index.search.datasets("third behavior").rows[0]
    assert mixed.matched == (MatchedText("title", "Third", ((0, 5),)),)
    assert mixed.in_paths == ("behavior",)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("electrophysiology", "ecephys"),
        ("ephys", "ephys"),
        ("extracellular electrophysiology third", "ecephys"),
        ("electrophysiology yutamouse41 third", "ecephys"),
        ("ecephys", "ecephys"),
        ("behaviour", "behavior"),
    ],
)
def test_synonyms_match_whole_words_of_paths(searchable_index: Index, text: str, word: str) -> None:
    page = searchable_index.search.datasets(text)
    one = next(row for row in page.rows if row.dataset.local_id == "000003")
    assert one.path == _YUTA
    assert word in one.in_paths
    label = one.version
    assert label is not None
    version = searchable_index.versions.resolve(one.dataset.name, label)
    listed = searchable_index.search.files(version, " ".join(one.in_paths))
    assert _YUTA in [file.path for file in listed.files]


def test_a_mirror_and_a_page_are_chosen_and_all_mirrors_counted(searchable_index: Index) -> None:
    of_dandi = {"archive": ["dandi"]}
    page = searchable_index.search.datasets("yuta", filters=of_dandi, limit=1)
    assert (len(page.rows), page.total, page.next) == (1, 2, 1)
    assert _archives(page) == {"dandi": 2, "other": 1}
    rest = searchable_index.search.datasets("yuta", filters=of_dandi, start=1, limit=1)
    assert rest.next is None
    assert {page.rows[0].dataset.id, rest.rows[0].dataset.id} == {1, 3}
    with pytest.raises(UnknownMirrorError):
        searchable_index.search.datasets("yuta", filters={"archive": ["nowhere"]})
    assert [row.local_id for row in searchable_index.datasets.select("dandi", text="yuta")] == [
        "000001",
        "000003",
    ]
    assert {row.local_id for row in searchable_index.search.all_datasets("yuta")} == {
        "000001",
        "000002",
        "000003",
    }


def test_removed_path_is_found_in_the_version_that_added_it(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("old/gone_word.nwb", 1), placed_file("x.nwb", 2)], label="one")
    journal.mint([placed_file("x.nwb", 2), placed_file("new_word.nwb", 1)], label="two")
    index.catch_up(journal)
    for text, label, path in (
        ("gone", "one", "old/gone_word.nwb"),
        ("new", "two", "new_word.nwb"),
        ("x.nwb", "two", "x.nwb"),
    ):
        [one] = index.search.datasets(text).rows
        assert (one.version, one.path) == (label, path)


def test_dataset_is_a_likely_match_when_too_many_rows_would_be_scanned(
    journal: DiskJournal, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for local_id in ("000001", "000002", "000003"):
        journal.mint([placed_file("left.nwb", 1), placed_file("right.nwb", 2)], local_id)
    index.catch_up(journal)
    assert index.search.datasets("left right").rows == ()
    assert index.search.datasets("left right").exact is False
    assert index.search.datasets("left").exact
    monkeypatch.setattr(search_queries, "MAX_BLOCKS", 1)
    found = index.search.datasets("left right")
    assert [row.path for row in found.rows] == [None, None]
    assert {row.version for row in found.rows} < {"2024-1", "2024-2", "2024-3"}


def test_a_search_too_long_to_answer_says_how_long_one_may_be(index: Index) -> None:
    with pytest.raises(MalformedQueryError, match="501"):
        index.search.datasets("x" * 501)
    with pytest.raises(MalformedQueryError, match="41"):
        index.search.datasets(" ".join(f"w{number}" for number in range(41)))


def test_subdataset_paths_are_not_searched(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed_file("chunk/0/0", 1)], "zarr/1", within="000001")
    journal.mint([placed_file("x/chunk.nwb", 1)])
    index.catch_up(journal)
    assert _found(index, "chunk") == ["000001"]
    assert len([row for row in read_path_terms(index.path) if row.startswith("chunk ")]) == 1
    assert _found(index, "zarr") == ["zarr/1"]


def test_withdrawn_dataset_leaves_no_searchable_text(journal: DiskJournal, path: Path) -> None:
    uri = "https://api.example.invalid/dandisets/000001/"
    journal.mint([placed_file("secretword/x.nwb", 1)])
    journal.mint([placed_file("openword/x.nwb", 1)], "000002")
    with Index.open(path) as index:
        index.catch_up(journal)
        journal.append(DatasetWithdrawn("dandi", "000001", uri, "asked", "ada", "2025"))
        index.catch_up(journal)
        assert _found(index, "secretword") == []
        assert index.names.match("000001") is None
    rebuild_from_journal(path, journal)
    assert not [row for row in read_path_terms(path) if "secret" in row]
    journal.append(DatasetReinstated("dandi", "000001", uri, "ada", "2026"))
    rebuild_from_journal(path, journal)
    with Index.open_readonly(path) as index:
        assert _found(index, "secretword") == ["000001"]


@pytest.mark.parametrize(
    "text",
    [
        '"',
        '""',
        "'",
        "*",
        "-",
        "NEAR(yuta mouse)",
        "yuta AND",
        "AND OR NOT",
        "yuta* -mouse",
        '"yuta',
        'yuta"',
        "title:yuta",
        "{title name} : x",
        "^yuta",
        "a+b",
        "(((",
        "x" * 10_000,
        "ab_" * 160,
        " ".join(f"w{n}" for n in range(41)),
        "\0yuta\0",
        "\udcff yuta",
        "% _",
        "²³ ½",
        "日本語",
        "\u202eyuta",
        "'; DROP TABLE files; --",
        "a" * 499,
        "-".join(["ab"] * 160),
        " ".join(["x y"] * 100),
    ],
)
def test_query_syntax_never_causes_a_database_error(searchable_index: Index, text: str) -> None:
    with suppress(MalformedQueryError):
        searchable_index.search.datasets(text)
        searchable_index.search.count_terms(text)
    searchable_index.names.match(text)


def test_path_terms_are_those_that_users_type() -> None:
    assert path_terms(f"{_YUTA}\nÄrger/größe_01.TIF\na/7/chunk-12/img_00012.tif") == {
        *("sub", "yutamouse41", "ses", "150831", "behavior", "ecephys", "nwb"),
        *("ärger", "größe", "tif", "chunk", "chunk-12", "img", "00012"),
    }


_NAMES = st.text("ab1-_. /É", min_size=1, max_size=8).filter(
    lambda name: not any(part in ("", ".", "..") for part in name.split("/"))
)


@given(
    st.lists(st.dictionaries(_NAMES, st.integers(0, 1), min_size=1, max_size=6), max_size=4),
    st.integers(1, 3),
)
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_every_term_of_every_path_finds_its_dataset(
    tmp_path_factory: pytest.TempPathFactory, versions: list[dict[str, int]], block: int
) -> None:
    folder = tmp_path_factory.mktemp("words")
    journal = DiskJournal(folder)
    with pytest.MonkeyPatch.context() as patch, Index.open(folder / "index.sqlite") as index:
        patch.setattr(module, "PATHS_PER_BLOCK", block)
        for one in versions:
            journal.mint([placed_file(name, content) for name, content in one.items()])
        index.catch_up(journal)
        for name in {name for one in versions for name in one}:
            for term in path_terms(name):
                [found] = index.search.datasets(term).rows
                assert found.path is None or term in found.path.lower()
            if path_terms(name):
                version = index.search.datasets(" ".join(path_terms(name))).rows[0].version
                assert version is not None
                row = index.versions.resolve("dandi:000001", version)
                got = index.search.files(row, " ".join(path_terms(name)))
                assert got.files


def test_many_paths_are_found_block_by_block(journal: DiskJournal, index: Index) -> None:
    files = [
        placed_file(f"sub-{n:04d}/f_{'left' if n < 900 else 'right'}.nwb", n) for n in range(1300)
    ]
    journal.mint(files)
    index.catch_up(journal)
    [one] = index.search.datasets("sub-0950 right").rows
    assert one.path == "sub-0950/f_right.nwb"
    assert len([row for row in read_path_terms(index.path) if row.startswith("sub ")]) == 3
    assert _found(index, "sub-0950 left") == []
    assert _found(index, "sub-0001 right") == []


def test_matching_files_have_all_terms_in_their_paths(journal: DiskJournal, index: Index) -> None:
    names = [f"sub-{n:03d}/{'Left' if n % 2 else 'right'}_É{n}.nwb" for n in range(500)]
    journal.mint([placed_file(name, name) for name in names], label="one")
    journal.mint([placed_file(name, name) for name in names[250:]], label="two")
    index.catch_up(journal)
    one, two = (index.versions.resolve("dandi:000001", label) for label in ("one", "two"))
    page = index.search.files(one, "LEFT é")
    assert [file.path for file in page.files] == names[1::2][:200]
    assert page.is_complete
    rest = index.search.files(one, "left é", page.next)
    assert [file.path for file in rest.files] == names[1::2][200:]
    assert (rest.next, rest.is_complete) == ("", True)
    assert [file.path for file in index.search.files(two, "eft").files] == names[251::2]
    for text in ("nothing-of-it", "ü", "left ü"):
        assert index.search.files(one, text).files == ()
    with pytest.raises(MalformedQueryError):
        index.search.files(one, " ")


def test_a_search_for_paths_stops_in_time_and_goes_on(journal: DiskJournal, index: Index) -> None:
    names = [f"{n:03d}.nwb" for n in range(100)]
    for content in range(3):
        journal.mint([placed_file(name, content) for name in names])
    index.catch_up(journal)
    version = index.versions.resolve("dandi:000001")
    found, start, pages = [], "", 0
    while True:
        page = index.search.files(version, "9.nwb", start, scanned=2)
        found += [file.path for file in page.files]
        assert page.is_complete is (page.next == "")
        pages += 1
        if not page.next:
            break
        assert page.next > start
        start = page.next
    assert found == names[9::10]
    assert pages > 20


def test_of_a_version_that_is_not_indexed_no_paths_are_looked_at(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("0/0", 1)], "zarr/1", within="zarr", indexed=False, in_subdatasets=0)
    index.catch_up(journal)
    with pytest.raises(FilesNotIndexedError):
        index.search.files(index.versions.resolve("dandi:zarr/1"), "0")


def test_each_term_is_counted(searchable_index: Index) -> None:
    each = searchable_index.search.count_terms("spikse musculus")
    assert each == {"spikse": 0, "musculus": 1}


@pytest.mark.parametrize(
    "name", ["g\u200cit.nwb", "probe\u2013two.nwb", "\u202egnp.exe", "e\u0301t\u00e9.nwb"]
)
def test_path_terms_of_names_in_other_scripts_agree(
    journal: DiskJournal, index: Index, name: str
) -> None:
    journal.mint([placed_file(f"folder/{name}", 1), placed_file("folder/plain.nwb", 2)], "000001")
    index.catch_up(journal)
    assert index.search.path_terms_agree(index.versions.resolve("dandi:000001"))
    assert _found(index, "plain") == ["000001"]
    assert _found(index, f"folder/{name}") == ["000001"]
