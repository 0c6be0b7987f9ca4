"""Zarrs whose files are in the store and not in the index."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from neuromirror.config.mirror_files import ZarrLimits
from neuromirror.crawl import rebuild_index
from neuromirror.index import FilesNotIndexedError, UnindexedFiles
from neuromirror.model import MirrorSeen, VersionMinted
from neuromirror.sources import KnownContent, Listing, VisitContext
from neuromirror.store.records import Records
from neuromirror_demo import DemoArchive
from support.index_dump import dump_index
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    at,
    files,
)
from support.scripted_zarrs import parts, scripted_zarr, version_labels

NAME = "box:zarr/l"


def limited_harness(
    tmp_path: Path, source: ScriptedSource, index_entries: int, more: str = ""
) -> ScriptedHarness:
    """A store whose mirror stores up to three files inline and indexes so many."""
    settings = f"[zarr]\ninline_components = 4\nindex_entries = {index_entries}\n{more}"
    return ScriptedHarness(tmp_path / f"box-{index_entries}", source, settings)


@pytest.fixture
def unindexed_harness(tmp_path: Path, source: ScriptedSource) -> ScriptedHarness:
    """A store whose mirror indexes no files of Zarrs."""
    return limited_harness(tmp_path, source, 0)


def assets(source: ScriptedSource) -> ScriptedDataset:
    """A dataset with an inline Zarr and two large ones."""
    source.zarrs = {"s": scripted_zarr(3), "m": scripted_zarr(6, "m"), "l": scripted_zarr(9, "l")}
    scripted_dataset = source.scripted_datasets["a"] = ScriptedDataset(
        files("x.bin"), has_summary=True
    )
    scripted_dataset.zarrs = {f"{name}.zarr": name for name in source.zarrs}
    return scripted_dataset


def indexed_flags(harness: ScriptedHarness) -> dict[str, list[bool]]:
    with harness.index() as index:
        return {
            one.name: [row.indexed for row in index.versions.of(one.name)]
            for one in index.datasets.select()
        }


def dump(harness: ScriptedHarness) -> list[str]:
    with harness.index() as index:
        return dump_index(index)


def rebuild_and_dump(
    harness: ScriptedHarness, limits: dict[str, ZarrLimits] | None = None
) -> list[str]:
    store = harness.store
    rebuild_index(store, store.index_path, limits=limits)
    return dump(harness)


def key(harness: ScriptedHarness, dataset: str, path: str) -> str:
    """Return the git-annex key of a file in git."""
    link = run_git(harness.repository(dataset), "show", f"main:{path}").strip()
    return link.rpartition("/")[2]


def test_git_and_records_are_the_same_whatever_the_index_keeps(
    tmp_path: Path, source: ScriptedSource
) -> None:
    assets(source)
    boxes = [limited_harness(tmp_path, source, limit) for limit in (0, 6, 9)]
    for harness in boxes:
        assert harness.sync()["box:a"].visit == "full"
    assert boxes[0].refs() == boxes[1].refs() == boxes[2].refs()
    assert [indexed_flags(harness) for harness in boxes] == [
        {"box:a": [True], "box:zarr/m": [False], NAME: [False]},
        {"box:a": [True], "box:zarr/m": [True], NAME: [False]},
        {"box:a": [True], "box:zarr/m": [True], NAME: [True]},
    ]
    found = []
    for harness in boxes:
        with harness.index() as index:
            keys = [key(harness, f"box:zarr/{name}", f"{name}0") for name in "ml"]
            found.append([[one.dataset for one in index.files.find(one)] for one in keys])
            (own,) = index.files.find(key(harness, "box:a", "s.zarr/0"))
            assert own.path == "s.zarr/0"
            assert parts(harness)["l.zarr"].files == index.versions.resolve(NAME).files == 9
            assert index.datasets.superdatasets(NAME) == ["box:a"]
        assert dump(harness) == rebuild_and_dump(harness)
    assert found == [[[], []], [["box:zarr/m"], []], [["box:zarr/m"], [NAME]]]
    with boxes[0].index() as index:
        assert index.files.unindexed() == [UnindexedFiles("box", 2, 15, 9)]
        with pytest.raises(FilesNotIndexedError):
            index.files.of(index.versions.resolve(NAME))


def test_a_second_visit_of_a_zarr_needs_no_rows_in_the_index(
    unindexed_harness: ScriptedHarness,
) -> None:
    scripted_dataset = assets(unindexed_harness.source)
    unindexed_harness.sync()
    unindexed_harness.source.read_listings.clear()
    before = unindexed_harness.file_stamps()
    assert unindexed_harness.sync()["box:a"].status == "notneeded"
    assert (unindexed_harness.source.read_listings, unindexed_harness.file_stamps()) == ([], before)
    first = unindexed_harness.source.zarrs["l"].checksum
    unindexed_harness.source.zarrs["l"].files["l0"] = ScriptedFile(b"other", at(4))
    del unindexed_harness.source.zarrs["l"].files["l1"]
    assert unindexed_harness.sync()["box:a"].visit == "full"
    assert unindexed_harness.source.read_listings == [
        "a current",
        f"zarr/l {unindexed_harness.source.zarrs['l'].checksum}",
    ]
    assert version_labels(unindexed_harness, NAME) == [
        first,
        unindexed_harness.source.zarrs["l"].checksum,
    ]
    assert unindexed_harness.sync(deep=True)["box:a"].status == "notneeded"
    scripted_dataset.zarrs["again.zarr"] = "l"
    assert unindexed_harness.sync()["box:a"].visit == "full"
    assert (
        parts(unindexed_harness)["again.zarr"].commit == parts(unindexed_harness)["l.zarr"].commit
    )
    assert dump(unindexed_harness) == rebuild_and_dump(unindexed_harness)
    unindexed_harness.fsck()


def test_a_zarr_that_grows_over_the_limit_and_back(tmp_path: Path, source: ScriptedSource) -> None:
    harness = limited_harness(tmp_path, source, 6)
    assets(source)
    states = [scripted_zarr(5, "l").files, scripted_zarr(9, "l").files, scripted_zarr(6, "l").files]
    for content in states:
        source.zarrs["l"].files = content
        assert harness.sync()["box:a"].visit == "full"
    assert indexed_flags(harness)[NAME] == [True, False, True]
    with harness.index() as index:
        found = [
            (one.first, one.last, one.current) for one in index.files.find(key(harness, NAME, "l0"))
        ]
        labels = [row.label for row in index.versions.of(NAME)]
        assert found == [(labels[0], labels[0], False), (labels[2], labels[2], True)]
    assert dump(harness) == rebuild_and_dump(harness)


def test_a_changed_setting_holds_at_once_for_new_states_and_for_all_after_a_rebuild(
    tmp_path: Path, source: ScriptedSource
) -> None:
    harness = limited_harness(tmp_path, source, 0)
    scripted_dataset = assets(source)
    harness.sync()
    (path,) = harness.mirrors.glob("*.toml")
    path.write_text(path.read_text().replace("index_entries = 0", "index_entries = 6"))
    source.zarrs["m"].files["m0"] = ScriptedFile(b"other", at(4))
    assert harness.sync()["box:a"].visit == "full"
    assert indexed_flags(harness) == {
        "box:a": [True] * 2,
        "box:zarr/m": [False, True],
        NAME: [False],
    }
    assert dump(harness) == rebuild_and_dump(harness)  # only the store has them
    changed = rebuild_and_dump(harness, {"box": ZarrLimits(index_entries=6)})
    assert indexed_flags(harness) == {
        "box:a": [True] * 2,
        "box:zarr/m": [True, True],
        NAME: [False],
    }
    journal = harness.folder / "neuromirror" / "journal.jsonl"
    before = journal.read_bytes()
    assert (
        rebuild_and_dump(harness)
        == rebuild_and_dump(harness, {"box": ZarrLimits(index_entries=6)})
        == changed
    )
    assert journal.read_bytes() == before
    assert [entry.index_entries for entry in harness.entries(MirrorSeen)] == [None, 6]
    assert len({entry.uri for entry in harness.entries(MirrorSeen)}) == 1
    # a sync continues from there
    assert harness.sync()["box:a"].status == "notneeded"
    scripted_dataset.files |= files("y.bin")
    source.zarrs["l"].files["l0"] = ScriptedFile(b"other", at(5))
    assert harness.sync()["box:a"].visit == "full"
    assert indexed_flags(harness)[NAME] == [False, False]
    assert dump(harness) == rebuild_and_dump(harness)
    rebuild_and_dump(harness, {"box": ZarrLimits(index_entries=0)})
    assert indexed_flags(harness) == {
        "box:a": [True] * 3,
        "box:zarr/m": [False] * 2,
        NAME: [False] * 2,
    }


@pytest.mark.parametrize(("limits", "kept"), [({"box": ZarrLimits(index_entries=0)}, 0), ({}, 2)])
def test_without_a_journal_the_setting_comes_from_the_mirror_file_or_is_the_default(
    unindexed_harness: ScriptedHarness, limits: dict[str, ZarrLimits], kept: int
) -> None:
    assets(unindexed_harness.source)
    unindexed_harness.sync()
    (unindexed_harness.folder / "neuromirror" / "journal.jsonl").unlink()
    rebuild_and_dump(unindexed_harness, limits)
    zarrs = {
        name: flags for name, flags in indexed_flags(unindexed_harness).items() if "zarr" in name
    }
    assert sum(flags == [True] for flags in zarrs.values()) == kept
    assert unindexed_harness.entries(MirrorSeen) == []  # each version has its own flag
    assert len(zarrs) == 2
    assert parts(unindexed_harness)["l.zarr"].label is not None


def test_a_zarr_that_only_git_has_is_recorded_as_the_mirror_file_says(
    unindexed_harness: ScriptedHarness,
) -> None:
    assets(unindexed_harness.source)
    unindexed_harness.sync()
    (unindexed_harness.folder / "neuromirror" / "journal.jsonl").unlink()
    unindexed_harness.store.index_path.unlink()
    (unindexed_harness.repository("box:a") / "packed-refs").unlink()
    unindexed_harness.sync()
    assert indexed_flags(unindexed_harness)[NAME] == [False]
    assert dump(unindexed_harness) == rebuild_and_dump(unindexed_harness)


def test_zarrs_inside_a_zarr_keep_their_paths(tmp_path: Path, source: ScriptedSource) -> None:
    harness = limited_harness(tmp_path, source, 0, "inline = 6\n")
    inner = {f"inner/{path}": one for path, one in scripted_zarr(8).files.items()}
    source.zarrs = {"l": scripted_zarr(1)}
    source.zarrs["l"].files = files("a", "b", "c", "d") | inner
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"l.zarr": "l"})
    assert harness.sync()["box:a"].visit == "full"
    assert {part.files for part in parts(harness, NAME).values()} == {8}
    assert parts(harness)["l.zarr"].files == 12
    entries = {
        one.local_id: (one.indexed, one.in_subdatasets) for one in harness.entries(VersionMinted)
    }
    assert entries == {"zarr/l": (False, 8), "zarr/l/inner": (False, 0), "a": (True, 12)}
    source.zarrs["l"].files["a"] = ScriptedFile(b"other", at(3))
    assert harness.sync()["box:a"].visit == "full"
    assert list(parts(harness, NAME)) == ["inner"]
    assert dump(harness) == rebuild_and_dump(harness)


# --- lookups by a source


def etag(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def sha256s(answers: Sequence[KnownContent | None]) -> list[str | None]:
    return [answer.sha256.value if answer is not None and answer.sha256 is not None else None
            for answer in answers]  # fmt: skip


CONTENTS = (b"l0", b"l8", b"nothing", b"x.bin")


def expected_digests(*there: bytes) -> list[str | None]:
    return [hashlib.sha256(one).hexdigest() if one in there else None for one in CONTENTS]


def test_known_contents_of_a_zarr_come_from_its_records(
    unindexed_harness: ScriptedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_digests: list[list[str | None]] = []
    zarr_listing = unindexed_harness.source.zarr_listing

    def listing(name: str, moment: object, known: VisitContext) -> Listing:
        known_digests.append(sha256s(known.contents([etag(content) for content in CONTENTS])))
        return zarr_listing(name, moment, known)  # type: ignore[arg-type]

    monkeypatch.setattr(unindexed_harness.source, "zarr_listing", listing, raising=False)
    unindexed_harness.source.zarrs = {"l": scripted_zarr(1)}
    names = [f"l{number}" for number in range(9)]
    unindexed_harness.source.zarrs["l"].files = files(".zarray", *names, sha256=True)
    unindexed_harness.datasets["a"] = ScriptedDataset(
        files("x.bin", sha256=True), zarrs={"l.zarr": "l"}
    )
    assert unindexed_harness.sync()["box:a"].visit == "full"
    unindexed_harness.source.zarrs["l"].files["l0"] = ScriptedFile(b"other", at(4), "l0", True)
    assert unindexed_harness.sync()["box:a"].visit == "full"
    # the index does not have the second state either
    unindexed_harness.source.zarrs["l"].files["l1"] = ScriptedFile(b"more", at(5), "l1", True)
    assert unindexed_harness.sync()["box:a"].visit == "full"
    assert known_digests == [
        expected_digests(),
        expected_digests(b"l0", b"l8", b"x.bin"),
        expected_digests(b"l8", b"x.bin"),
    ]
    assert not list((unindexed_harness.folder / "neuromirror" / "tmp").iterdir())


def test_known_contents_of_a_zarr_in_a_bucket_reach_the_listing_around_it(
    tmp_path: Path, source: ScriptedSource
) -> None:
    harness = limited_harness(tmp_path, source, 0, "inline = 6\n")
    known_digests: list[list[str | None]] = []

    def listed(known: VisitContext) -> None:
        known_digests.append(sha256s(known.contents([etag(b"z/" + one) for one in CONTENTS])))

    names = [".zarray", *(f"l{number}" for number in range(9))]
    scripted_dataset = source.scripted_datasets["a"] = ScriptedDataset(
        files(*(f"z/{name}" for name in names), sha256=True)
    )
    source.on_listing = listed
    assert harness.sync()["box:a"].visit == "full"
    assert [part.files for part in parts(harness).values()] == [10]
    scripted_dataset.files |= files("y.bin")
    assert harness.sync()["box:a"].visit == "full"
    z = [hashlib.sha256(b"z/" + one).hexdigest() for one in (b"l0", b"l8")]
    assert known_digests == [[None] * 4, [*z, None, None]]


def test_records_are_not_read_without_need(
    unindexed_harness: ScriptedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets(unindexed_harness.source)
    unindexed_harness.sync()
    read: list[str] = []
    read_records = Records.read
    monkeypatch.setattr(
        Records,
        "read",
        lambda self, *version: read.append(version[0]) or read_records(self, *version),
    )
    unindexed_harness.source.zarrs["l"].files["l0"] = ScriptedFile(b"other", at(4))
    assert unindexed_harness.sync()["box:a"].visit == "full"
    assert unindexed_harness.source.dataset("zarr/l").dataset_id not in read


@pytest.mark.parametrize("entries", [0, 100])
def test_multipart_chunks_are_requested_once(
    demo: DemoArchive, mirror_harness: MirrorHarness, entries: int
) -> None:
    toml = mirror_harness.mirrors / "demo.toml"
    limits = f"[zarr]\ninline_components = 0\nindex_entries = {entries}\n"
    toml.write_text(f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n{limits}')
    chunks = {f"0/{number}": f"{number}".encode() * 30 for number in range(6)}
    metadata = {".zarray": b'{"zarr_format": 2}'}
    sizes = dict.fromkeys(chunks, 16)
    zarr_id = demo.add_zarr("000008", "z.zarr", {**metadata, **chunks}, part_sizes=sizes)
    assert mirror_harness.sync("demo:000008")["demo:000008"].visit == "full"
    assert demo.count_requests(f"HEAD .*{zarr_id}.*partNumber=1") == 6
    demo.change_zarr("000008", "z.zarr", "0/0", b"other" * 7, part_size=16)
    demo.clear_requests()
    assert mirror_harness.sync("demo:000008")["demo:000008"].visit == "full"
    assert demo.count_requests(f"HEAD .*{zarr_id}.*partNumber=1") == 1
    with mirror_harness.index() as index:
        first, second = index.versions.of(f"demo:zarr/{zarr_id}")
    assert (first.indexed, second.indexed) == (entries > 0,) * 2
    assert first.evidence == second.evidence == {"etag": 6, "md5": 1}
