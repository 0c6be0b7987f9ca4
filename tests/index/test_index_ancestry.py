"""Derivations: names resolve to datasets, and datasets to versions, at query time."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromirror.index import EdgeRow, Index, RelatedVersion, UnknownVersionError
from support.disk_journal import DiskJournal, placed_file, subdataset

RAW = "ecephys_625749_2022-08-03_15-15-06"
SORTED = f"{RAW}_sorted_2023-02-01_10-11-12"


class _LineageJournal(DiskJournal):
    """Mints datasets that hold one file; a time is a day of 2024."""

    def add(
        self, local_id: str, day: int, *inputs: str, mirror: str = "aind", label: str = ""
    ) -> None:
        self.mint(
            [placed_file("data", local_id)],
            local_id,
            mirror=mirror,
            source_uri=f"s3://{mirror}/{local_id}/",
            label=label or f"day-{day}",
            time=f"2024-01-{day:02d}T00:00:00+00:00",
            inputs=list(inputs),
        )


@pytest.fixture
def lineage_journal(tmp_path: Path) -> _LineageJournal:
    root = tmp_path / "lab"
    root.mkdir()
    return _LineageJournal(root)


def _one_input(index: Index, name: str, label: str = "latest") -> EdgeRow:
    [edge] = index.ancestry.of(name, label)[0]
    return edge


def test_an_input_is_pinned_to_the_version_that_was_newest_when_it_was_used(
    lineage_journal: _LineageJournal, index: Index
) -> None:
    lineage_journal.add(RAW, 10)
    lineage_journal.add(RAW, 20)
    lineage_journal.add(RAW, 25)
    lineage_journal.add(SORTED, 5, RAW)
    lineage_journal.add(SORTED, 20, RAW)
    lineage_journal.add(SORTED, 24, RAW)
    index.catch_up(lineage_journal)
    raw, name = f"aind:{RAW}", f"aind:{SORTED}"
    assert [_one_input(index, name, f"day-{day}") for day in (5, 20, 24)] == [
        # nothing is as old as that: the first
        EdgeRow(RAW, raw, "day-10", "day-5"),
        EdgeRow(RAW, raw, "day-20", "day-20"),
        EdgeRow(RAW, raw, "day-20", "day-24"),
    ]
    assert index.ancestry.of(raw, "day-10") == ([], [EdgeRow(RAW, name, "day-5", "day-10")])
    assert index.ancestry.of(raw, "day-20")[1] == [
        EdgeRow(RAW, name, "day-24", "day-20"),
        EdgeRow(RAW, name, "day-20", "day-20"),
    ]
    assert index.ancestry.of(raw, "day-25") == ([], [])
    with pytest.raises(UnknownVersionError):
        index.ancestry.of(raw, "day-7")


@pytest.mark.parametrize(
    ("raw", "derived"),
    [
        (
            "ecephys_600000_2022-06-28_10-31-30",
            "600000_2022-06-28_10-31-30_videoprocessed_2023-01-02_03-04-05",
        ),
        (
            "600000_2022-06-28_10-31-30",
            "ecephys_600000_2022-06-28_10-31-30_sorted_2023-01-02_03-04-05",
        ),
        (
            "HCR_BL6-000_2022-06-28_10-31-30_fused_2022-07-01_00-00-00",
            "BL6-000_2022-06-28_10-31-30_fused_2022-07-01_00-00-00_spots_2023-01-02_03-04-05",
        ),
    ],
)
def test_a_name_without_or_with_a_platform_is_that_of_the_other_scheme(
    lineage_journal: _LineageJournal, index: Index, raw: str, derived: str
) -> None:
    named = derived.rsplit("_", 3)[0]
    lineage_journal.add(raw, 10)
    lineage_journal.add("other_100000_2022-06-28_10-31-30", 10)
    lineage_journal.add(derived, 12, named)
    index.catch_up(lineage_journal)
    assert _one_input(index, f"aind:{derived}") == EdgeRow(named, f"aind:{raw}", "day-10", "day-12")
    [made] = index.ancestry.of(f"aind:{raw}")[1]
    assert made.dataset == f"aind:{derived}"


def test_two_platforms_with_one_subject_at_one_time_are_no_input(
    lineage_journal: _LineageJournal, index: Index
) -> None:
    named = "600000_2022-06-28_10-31-30"
    for platform in ("ecephys", "behavior"):
        lineage_journal.add(f"{platform}_{named}", 10)
    lineage_journal.add("made", 12, named)
    index.catch_up(lineage_journal)
    assert _one_input(index, "aind:made") == EdgeRow(named, None, None, "day-12")
    assert index.ancestry.of(f"aind:ecephys_{named}")[1] == []


def test_the_input_that_has_exactly_the_name_comes_before_the_other_scheme(
    lineage_journal: _LineageJournal, index: Index
) -> None:
    lineage_journal.add("ecephys_600000_2022-06-28_10-31-30", 10)
    lineage_journal.add("600000_2022-06-28_10-31-30", 10)
    lineage_journal.add("made", 12, "600000_2022-06-28_10-31-30")
    index.catch_up(lineage_journal)
    assert _one_input(index, "aind:made").dataset == "aind:600000_2022-06-28_10-31-30"
    assert index.ancestry.of("aind:ecephys_600000_2022-06-28_10-31-30")[1] == []


def test_versions_with_equal_times_are_ordered_by_sequence(
    lineage_journal: _LineageJournal, index: Index
) -> None:
    lineage_journal.add("raw", 10, label="first")
    lineage_journal.add("raw", 10, label="second")
    lineage_journal.add("later", 11, "raw")
    lineage_journal.add("earlier", 9, "raw")
    index.catch_up(lineage_journal)
    assert _one_input(index, "aind:later").label == "second"
    assert _one_input(index, "aind:earlier").label == "first"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("s1", "aind:ephys/np1/s1"),
        ("s1/", "aind:ephys/np1/s1"),
        ("ephys/np1/s1", "aind:ephys/np1/s1"),
        ("np1/s1", None),
        ("ephys", None),
        ("S1", None),
        ("s2", "aind:s2"),
        ("s3", "other:deep/s3"),
        ("made", "other:made"),
        ("zarr", None),
        ("nothing", None),
    ],
)
def test_a_name_is_a_local_id_or_its_last_component_of_the_same_mirror_first(
    lineage_journal: _LineageJournal, index: Index, name: str, found: str | None
) -> None:
    for local_id in ("ephys/np1/s1", "deep/s2", "s2"):
        lineage_journal.add(local_id, 1)
    for local_id in ("s1", "s2", "deep/s3", "made"):
        lineage_journal.add(local_id, 1, mirror="other")
    lineage_journal.mint([placed_file("0", 0)], "whole/zarr", mirror="aind", within="whole")
    lineage_journal.add("made", 2, name)
    index.catch_up(lineage_journal)
    assert _one_input(index, "aind:made").dataset == found
    if found is not None:
        assert index.ancestry.of(found)[1] == [EdgeRow(name, "aind:made", "day-2", "day-1")]


def test_an_input_that_is_mirrored_later_is_found_then(
    lineage_journal: _LineageJournal, index: Index
) -> None:
    lineage_journal.add(SORTED, 9, RAW)
    index.catch_up(lineage_journal)
    assert _one_input(index, f"aind:{SORTED}") == EdgeRow(RAW, None, None, "day-9")
    lineage_journal.visit(RAW, "failed", mirror="aind", source_uri=f"s3://aind/{RAW}/")
    index.catch_up(lineage_journal)
    assert _one_input(index, f"aind:{SORTED}") == EdgeRow(RAW, f"aind:{RAW}", None, "day-9")
    lineage_journal.add(RAW, 8)
    index.catch_up(lineage_journal)
    assert _one_input(index, f"aind:{SORTED}").label == "day-8"


def test_ancestors_and_descendants_stop_at_the_requested_depth(
    lineage_journal: _LineageJournal, index: Index
) -> None:
    for number in range(5):
        lineage_journal.add(f"g{number}", number + 1, *[f"g{number - 1}"] * (number > 0))
    index.catch_up(lineage_journal)

    def names(relatives: tuple[RelatedVersion, ...]) -> list[str]:
        found: list[str] = []
        while relatives:
            [one] = relatives
            found.append(str(one.dataset).removeprefix("aind:") + " …" * one.is_truncated)
            relatives = one.relatives
        return found

    last, first = index.versions.resolve("aind:g4"), index.versions.resolve("aind:g0")
    assert names(index.ancestry.ancestors(last)) == ["g3", "g2", "g1", "g0"]
    assert names(index.ancestry.ancestors(last, 2)) == ["g3", "g2 …"]
    assert names(index.ancestry.descendants(first)) == ["g1", "g2", "g3", "g4"]
    assert names(index.ancestry.descendants(first, 3)) == ["g1", "g2", "g3 …"]
    assert index.ancestry.ancestors(first) == index.ancestry.descendants(last) == ()


def _edge(related: RelatedVersion) -> EdgeRow:
    return EdgeRow(related.name, related.dataset, related.label, related.own_label)


def test_derived_dataset_is_listed_once_with_the_version_derived_from_this_one(
    lineage_journal: _LineageJournal, index: Index
) -> None:
    lineage_journal.add("raw", 1)
    lineage_journal.add("made", 2, "raw")
    lineage_journal.add("made", 3, "raw")
    lineage_journal.add("raw", 4)
    lineage_journal.add("made", 5, "raw")
    index.catch_up(lineage_journal)
    edges = {
        version.label: [_edge(descendant) for descendant in index.ancestry.descendants(version)]
        for version in index.versions.of("aind:raw")
    }
    assert edges == {
        "day-1": [EdgeRow("raw", "aind:made", "day-3", "day-1")],
        "day-4": [EdgeRow("raw", "aind:made", "day-5", "day-4")],
    }
    lineage_journal.add("raw", 6)
    index.catch_up(lineage_journal)
    [newest] = index.ancestry.descendants(index.versions.resolve("aind:raw"))
    assert _edge(newest) == EdgeRow("raw", "aind:made", "day-5", "day-4")


_NAMES = st.sampled_from(["a", "b", "x/a", "x/b", "c"])


@given(
    st.lists(
        st.tuples(_NAMES, st.integers(1, 9), st.lists(_NAMES, max_size=3), st.booleans()),
        max_size=9,
    )
)
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
def test_ancestors_and_descendants_have_the_same_edges_and_cycles_end(
    versions: list[tuple[str, int, list[str], bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = _LineageJournal(Path(folder))
        for number, (local_id, day, inputs, elsewhere) in enumerate(versions):
            mirror = "other" if elsewhere else "aind"
            lab.add(local_id, day, *inputs, mirror=mirror, label=f"v{number}")
        with Index.open(Path(folder, "index")) as index:
            index.catch_up(lab)
            up, down = set(), set()
            for dataset in list(index.datasets.select()):
                for version in list(index.versions.of(dataset.name)):
                    inputs, derived = index.ancestry.of(dataset.name, version.label)
                    up |= {
                        (edge.name, edge.dataset, edge.label, dataset.name, edge.own_label)
                        for edge in inputs
                        if edge.dataset is not None
                    }
                    down |= {
                        (edge.name, dataset.name, edge.own_label, edge.dataset, edge.label)
                        for edge in derived
                    }
                    assert all(edge.own_label == version.label for edge in [*inputs, *derived])
                    assert all(edge.dataset != dataset.name for edge in [*inputs, *derived])
                    assert _size(index.ancestry.ancestors(version)) <= 60
                    assert _size(index.ancestry.descendants(version)) <= 60
            assert up == down


def _size(relatives: tuple[RelatedVersion, ...]) -> int:
    return sum(1 + _size(relative.relatives) for relative in relatives)


def test_subdataset_is_not_an_ancestor(lineage_journal: _LineageJournal, index: Index) -> None:
    lineage_journal.mint([subdataset("x.zarr", "whole--x")], "whole", mirror="aind")
    index.catch_up(lineage_journal)
    assert index.ancestry.of("aind:whole") == ([], [])
