"""Datasets are found by words of what is said of them and of their files' paths."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_on_disk import DiskJournal, placed, words_of_paths

from neuromirror.index import (
    FilesNotIndexed,
    Index,
    MalformedQuery,
    UnknownMirror,
    rebuild,
    search_queries,
)
from neuromirror.index import path_words as module
from neuromirror.index.path_words import path_words
from neuromirror.model import Reinstated, Withheld

_YUTA = "sub-YutaMouse41/sub-YutaMouse41_ses-YutaMouse41-150831_behavior+ecephys.nwb"


@pytest.fixture
def lab(journal: DiskJournal, index: Index) -> Index:
    """Three datasets of two mirrors; the words of the third are in its paths alone."""
    journal.mint([placed("sub-01/a_ecephys.nwb", 1)], "000001", title="Spikes of YutaMouse41")
    journal.mint(
        [placed("sub-01/b_ophys.nwb", 2)],
        "000002",
        mirror="other",
        title="Imaging",
        attributes={"species": ["Mus musculus"], "subject": ["YutaMouse41"]},
    )
    journal.mint([placed(_YUTA, 3), placed("sub-02/c.nwb", 4)], "000003", title="Third")
    index.catch_up(journal)
    return index


def _found(index: Index, words: str, mirror: str | None = None) -> list[str]:
    return [one.dataset.local_id for one in index.find_datasets(words, mirror).rows]


@pytest.mark.parametrize(
    ("words", "found"),
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
def test_all_words_must_be_said_of_a_dataset_or_be_in_one_path(
    lab: Index, words: str, found: list[str]
) -> None:
    assert sorted(_found(lab, words)) == found


def test_what_is_said_goes_before_paths_and_where_the_words_are_is_told(lab: Index) -> None:
    page = lab.find_datasets("yutamouse41")
    assert [one.dataset.local_id for one in page.rows][2] == "000003"
    told = {one.dataset.local_id: one for one in page.rows}
    assert told["000001"].said == (("title", "Spikes of YutaMouse41"),)
    assert told["000002"].said == (("subject", "YutaMouse41"),)
    assert (told["000001"].version, told["000001"].path) == (None, None)
    last = told["000003"]
    assert (last.said, last.version, last.path) == ((), last.dataset.newest, _YUTA)
    assert last.in_paths == ("yutamouse41",)
    assert (page.mirrors, page.total, page.next) == ({"dandi": 2, "other": 1}, 3, None)
    mixed = lab.find_datasets("third behavior").rows[0]
    assert (mixed.said, mixed.in_paths) == ((("title", "Third"),), ("behavior",))


def test_a_mirror_and_a_page_are_chosen_and_all_mirrors_counted(lab: Index) -> None:
    page = lab.find_datasets("yuta", "dandi", limit=1)
    assert (len(page.rows), page.total, page.next) == (1, 2, 1)
    assert page.mirrors == {"dandi": 2, "other": 1}
    rest = lab.find_datasets("yuta", "dandi", start=1, limit=1)
    assert rest.next is None
    assert {page.rows[0].dataset.id, rest.rows[0].dataset.id} == {1, 3}
    with pytest.raises(UnknownMirror):
        lab.find_datasets("yuta", "nowhere")
    assert [row.local_id for row in lab.datasets("dandi", words="yuta")] == ["000001", "000003"]
    assert {row.local_id for row in lab.search("yuta")} == {"000001", "000002", "000003"}


def test_a_path_that_is_gone_is_found_in_the_version_that_brought_it(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed("old/gone_word.nwb", 1), placed("x.nwb", 2)], label="one")
    journal.mint([placed("x.nwb", 2), placed("new_word.nwb", 1)], label="two")
    index.catch_up(journal)
    for words, label, path in (
        ("gone", "one", "old/gone_word.nwb"),
        ("new", "two", "new_word.nwb"),
        ("x.nwb", "two", "x.nwb"),
    ):
        [one] = index.find_datasets(words).rows
        assert (one.version, one.path) == (label, path)


def test_of_several_versions_that_brought_such_a_path_the_newest_is_told(
    journal: DiskJournal, index: Index
) -> None:
    for label in ("one", "two"):
        journal.mint([placed(f"word_{label}.nwb", label)], label=label)
    index.catch_up(journal)
    [one] = index.find_datasets("word").rows
    assert (one.version, one.path) == ("two", "word_two.nwb")


def test_where_too_much_would_have_to_be_looked_at_a_dataset_is_told_as_likely(
    journal: DiskJournal, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for local_id in ("000001", "000002", "000003"):
        journal.mint([placed("left.nwb", 1), placed("right.nwb", 2)], local_id)
    index.catch_up(journal)
    assert index.find_datasets("left right").rows == ()
    assert index.find_datasets("left right").exact is False
    assert index.find_datasets("left").exact
    monkeypatch.setattr(search_queries, "BLOCKS", 1)
    found = index.find_datasets("left right")
    assert [one.path for one in found.rows] == [None, None]
    assert {one.version for one in found.rows} < {"2024-1", "2024-2", "2024-3"}


def test_a_search_too_long_to_answer_says_how_long_one_may_be(index: Index) -> None:
    with pytest.raises(MalformedQuery, match="500 characters, not 501"):
        index.find_datasets("x" * 501)
    with pytest.raises(MalformedQuery, match="40 words, not 41"):
        index.find_datasets(" ".join(f"w{number}" for number in range(41)))


def test_of_parts_no_paths_are_looked_up(journal: DiskJournal, index: Index) -> None:
    journal.mint([placed("chunk/0/0", 1)], "zarr/1", within="000001")
    journal.mint([placed("x/chunk.nwb", 1)])
    index.catch_up(journal)
    assert _found(index, "chunk") == ["000001"]
    assert len([row for row in words_of_paths(index.path) if row.startswith("chunk ")]) == 1
    assert _found(index, "zarr") == ["zarr/1"]


def test_of_a_dataset_that_was_taken_down_no_word_is_left(journal: DiskJournal, path: Path) -> None:
    uri = "https://api.example.invalid/dandisets/000001/"
    journal.mint([placed("secretword/x.nwb", 1)])
    journal.mint([placed("openword/x.nwb", 1)], "000002")
    with Index.open(path) as index:
        index.catch_up(journal)
        journal.append(Withheld("dandi", "000001", uri, "asked", "ada", "2025"))
        index.catch_up(journal)
        assert _found(index, "secretword") == []
        assert index.named("000001") is None
    rebuild(path, journal)
    assert not [row for row in words_of_paths(path) if "secret" in row]
    journal.append(Reinstated("dandi", "000001", uri, "ada", "2026"))
    rebuild(path, journal)
    with Index.open_readonly(path) as index:
        assert _found(index, "secretword") == ["000001"]


@pytest.mark.parametrize(
    "words",
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
def test_no_words_are_an_error_of_the_database(lab: Index, words: str) -> None:
    with suppress(MalformedQuery):
        lab.find_datasets(words)
        lab.each_word(words)
    lab.named(words)


def test_words_that_say_what_search_does_are_only_words(lab: Index) -> None:
    assert _found(lab, "yuta AND") == []
    assert _found(lab, "third NOT nwb") == []


def test_the_words_of_paths_are_what_people_would_type() -> None:
    assert path_words(f"{_YUTA}\nÄrger/größe_01.TIF\na/7/chunk-12/img_00012.tif") == {
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
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_whole_word_of_every_path_ever_finds_its_dataset(
    tmp_path_factory: pytest.TempPathFactory, versions: list[dict[str, int]], block: int
) -> None:
    folder = tmp_path_factory.mktemp("words")
    journal = DiskJournal(folder)
    with pytest.MonkeyPatch.context() as patch, Index.open(folder / "index.sqlite") as index:
        patch.setattr(module, "PATHS", block)
        for one in versions:
            journal.mint([placed(name, content) for name, content in one.items()])
        index.catch_up(journal)
        for name in {name for one in versions for name in one}:
            for word in path_words(name):
                [found] = index.find_datasets(word).rows
                assert found.path is None or word in found.path.lower()
            if path_words(name):
                version = index.find_datasets(" ".join(path_words(name))).rows[0].version
                assert version is not None
                row = index.resolve("dandi:000001", version)
                got = index.matching_paths(row, " ".join(path_words(name)))
                assert got.files


def test_many_paths_are_found_block_by_block(journal: DiskJournal, index: Index) -> None:
    files = [placed(f"sub-{n:04d}/f_{'left' if n < 900 else 'right'}.nwb", n) for n in range(1300)]
    journal.mint(files)
    index.catch_up(journal)
    [one] = index.find_datasets("sub-0950 right").rows
    assert one.path == "sub-0950/f_right.nwb"
    assert len([row for row in words_of_paths(index.path) if row.startswith("sub ")]) == 3
    assert _found(index, "sub-0950 left") == []
    assert _found(index, "sub-0001 right") == []


def test_files_of_a_version_whose_paths_have_the_words(journal: DiskJournal, index: Index) -> None:
    names = [f"sub-{n:03d}/{'Left' if n % 2 else 'right'}_É{n}.nwb" for n in range(500)]
    journal.mint([placed(name, name) for name in names], label="one")
    journal.mint([placed(name, name) for name in names[250:]], label="two")
    index.catch_up(journal)
    one, two = (index.resolve("dandi:000001", label) for label in ("one", "two"))
    page = index.matching_paths(one, "LEFT é")
    assert [file.path for file in page.files] == names[1::2][:200]
    assert page.whole
    rest = index.matching_paths(one, "left é", page.next)
    assert [file.path for file in rest.files] == names[1::2][200:]
    assert (rest.next, rest.whole) == ("", True)
    assert [file.path for file in index.matching_paths(two, "eft").files] == names[251::2]
    for words in ("nothing-of-it", "ü", "left ü"):
        assert index.matching_paths(one, words).files == ()
    with pytest.raises(MalformedQuery):
        index.matching_paths(one, " ")


def test_a_search_for_paths_stops_in_time_and_goes_on(journal: DiskJournal, index: Index) -> None:
    names = [f"{n:03d}.nwb" for n in range(100)]
    for content in range(3):
        journal.mint([placed(name, content) for name in names])
    index.catch_up(journal)
    version = index.resolve("dandi:000001")
    found, start, pages = [], "", 0
    while True:
        page = index.matching_paths(version, "9.nwb", start, looked=2)
        found += [file.path for file in page.files]
        assert page.whole is (page.next == "")
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
    journal.mint([placed("0/0", 1)], "zarr/1", within="zarr", indexed=False, in_parts=0)
    index.catch_up(journal)
    with pytest.raises(FilesNotIndexed):
        index.matching_paths(index.resolve("dandi:zarr/1"), "0")


def test_a_word_with_a_slip_is_put_right_and_each_word_counted(lab: Index) -> None:
    each = lab.each_word("spikse musculus")
    assert each == {"spikse": 0, "musculus": 1}
    assert lab.alike(each) == "spikes musculus"
    assert lab.alike({"spikes": 1}) == ""
    assert lab.alike({"qqqq": 0}) == ""


@pytest.mark.parametrize(
    "name", ["g\u200cit.nwb", "probe\u2013two.nwb", "\u202egnp.exe", "e\u0301t\u00e9.nwb"]
)
def test_the_words_of_names_with_signs_of_other_scripts_agree(
    journal: DiskJournal, index: Index, name: str
) -> None:
    journal.mint([placed(f"folder/{name}", 1), placed("folder/plain.nwb", 2)], "000001")
    index.catch_up(journal)
    assert index.words_agree(index.resolve("dandi:000001"))
    assert _found(index, "plain") == ["000001"]
    assert _found(index, f"folder/{name}") == ["000001"]
