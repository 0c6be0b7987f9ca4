"""Zarrs whose files are in the store alone, and not in the index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from crawl_place import Place, git
from scripted import Box, File, Scripted, Thing, at, files
from zarr_box import parts, version_labels, zarr

from neuromirror.crawl import ZarrLimits, rebuild_index
from neuromirror.index import FilesNotIndexed, NotIndexed
from neuromirror.model import MirrorSeen, VersionMinted
from neuromirror.sources import Known, KnownContent, Listing
from neuromirror.store import Store
from neuromirror_demo import DemoArchive

NAME = "box:zarr/l"


def made(tmp_path: Path, source: Scripted, index_entries: int, more: str = "") -> Box:
    """A store of a mirror for which three files are few, and so many may be in the index."""
    settings = f"[zarr]\ninline_parts = 4\nindex_entries = {index_entries}\n{more}"
    return Box(tmp_path / f"box-{index_entries}", source, settings)


@pytest.fixture
def stateful(tmp_path: Path, source: Scripted) -> Box:
    """A store of a mirror that keeps the files of no Zarr in the index."""
    return made(tmp_path, source, 0)


def assets(source: Scripted) -> Thing:
    """A dataset with an inline Zarr and two large ones."""
    source.zarrs = {"s": zarr(3), "m": zarr(6, "m"), "l": zarr(9, "l")}
    thing = source.things["a"] = Thing(files("x.bin"), counted=True)
    thing.zarrs = {f"{name}.zarr": name for name in source.zarrs}
    return thing


def indexed(box: Box) -> dict[str, list[bool]]:
    with box.index() as index:
        return {
            one.name: [row.indexed for row in index.versions(one.name)] for one in index.datasets()
        }


def dump(box: Box) -> list[str]:
    with box.index() as index:
        return list(index.dump())


def rebuilt(box: Box, limits: dict[str, ZarrLimits] | None = None) -> list[str]:
    store = box.store
    rebuild_index(store, store.index_path, limits=limits)
    return dump(box)


def key(box: Box, dataset: str, path: str) -> str:
    """The git-annex key of a file in git."""
    link = git(box.repository(dataset), "show", f"main:{path}").strip()
    return link.rpartition("/")[2]


def test_git_and_records_are_the_same_whatever_the_index_keeps(
    tmp_path: Path, source: Scripted
) -> None:
    assets(source)
    boxes = [made(tmp_path, source, limit) for limit in (0, 6, 9)]
    for box in boxes:
        assert box.sync()["box:a"].visit == "full"
    assert boxes[0].refs() == boxes[1].refs() == boxes[2].refs()
    assert [indexed(box) for box in boxes] == [
        {"box:a": [True], "box:zarr/m": [False], NAME: [False]},
        {"box:a": [True], "box:zarr/m": [True], NAME: [False]},
        {"box:a": [True], "box:zarr/m": [True], NAME: [True]},
    ]
    found = []
    for box in boxes:
        with box.index() as index:
            keys = [key(box, f"box:zarr/{name}", f"{name}0") for name in "ml"]
            found.append([[one.dataset for one in index.find(one)] for one in keys])
            (own,) = index.find(key(box, "box:a", "s.zarr/0"))
            assert own.path == "s.zarr/0"
            assert parts(box)["l.zarr"].files == index.resolve(NAME).files == 9
            assert index.holders(NAME) == ["box:a"]
        assert dump(box) == rebuilt(box)
    assert found == [[[], []], [["box:zarr/m"], []], [["box:zarr/m"], [NAME]]]
    with boxes[0].index() as index:
        assert index.not_indexed() == [NotIndexed("box", 2, 15, 9)]
        with pytest.raises(FilesNotIndexed):
            index.files(index.resolve(NAME))


def test_a_zarr_is_visited_again_without_its_rows_in_the_index(
    stateful: Box, source: Scripted
) -> None:
    thing = assets(source)
    stateful.sync()
    source.read.clear()
    before = stateful.written()
    assert stateful.sync()["box:a"].status == "notneeded"
    assert (source.read, stateful.written()) == ([], before)
    first = source.zarrs["l"].checksum
    source.zarrs["l"].files["l0"] = File(b"other", at(4))
    del source.zarrs["l"].files["l1"]
    assert stateful.sync()["box:a"].visit == "full"
    assert source.read == ["a current", f"zarr/l {source.zarrs['l'].checksum}"]
    assert version_labels(stateful, NAME) == [first, source.zarrs["l"].checksum]
    assert stateful.sync(deep=True)["box:a"].status == "notneeded"
    thing.zarrs["again.zarr"] = "l"
    assert stateful.sync()["box:a"].visit == "full"
    assert parts(stateful)["again.zarr"].commit == parts(stateful)["l.zarr"].commit
    assert dump(stateful) == rebuilt(stateful)
    stateful.fsck()


def test_a_zarr_that_grows_over_the_limit_and_back(tmp_path: Path, source: Scripted) -> None:
    box = made(tmp_path, source, 6)
    assets(source)
    states = [zarr(5, "l").files, zarr(9, "l").files, zarr(6, "l").files]
    for content in states:
        source.zarrs["l"].files = content
        assert box.sync()["box:a"].visit == "full"
    assert indexed(box)[NAME] == [True, False, True]
    with box.index() as index:
        found = [(one.first, one.last, one.current) for one in index.find(key(box, NAME, "l0"))]
        labels = [row.label for row in index.versions(NAME)]
        assert found == [(labels[0], labels[0], False), (labels[2], labels[2], True)]
    assert dump(box) == rebuilt(box)


def test_a_changed_setting_holds_at_once_for_new_states_and_for_all_after_a_rebuild(
    tmp_path: Path, source: Scripted
) -> None:
    box = made(tmp_path, source, 0)
    thing = assets(source)
    box.sync()
    (path,) = box.mirrors.glob("*.toml")
    path.write_text(path.read_text().replace("index_entries = 0", "index_entries = 6"))
    source.zarrs["m"].files["m0"] = File(b"other", at(4))
    assert box.sync()["box:a"].visit == "full"
    assert indexed(box) == {"box:a": [True] * 2, "box:zarr/m": [False, True], NAME: [False]}
    assert dump(box) == rebuilt(box)  # the store alone knows
    changed = rebuilt(box, {"box": ZarrLimits(index_entries=6)})
    assert indexed(box) == {"box:a": [True] * 2, "box:zarr/m": [True, True], NAME: [False]}
    journal = box.folder / "neuromirror" / "journal.jsonl"
    before = journal.read_bytes()
    assert rebuilt(box) == rebuilt(box, {"box": ZarrLimits(index_entries=6)}) == changed
    assert journal.read_bytes() == before
    assert [one.index_entries for one in box.entries(MirrorSeen)] == [None, 6]
    assert len({one.uri for one in box.entries(MirrorSeen)}) == 1
    # a sync goes on from there
    assert box.sync()["box:a"].status == "notneeded"
    thing.files |= files("y.bin")
    source.zarrs["l"].files["l0"] = File(b"other", at(5))
    assert box.sync()["box:a"].visit == "full"
    assert indexed(box)[NAME] == [False, False]
    assert dump(box) == rebuilt(box)
    rebuilt(box, {"box": ZarrLimits(index_entries=0)})
    assert indexed(box) == {"box:a": [True] * 3, "box:zarr/m": [False] * 2, NAME: [False] * 2}


@pytest.mark.parametrize(("limits", "kept"), [({"box": ZarrLimits(index_entries=0)}, 0), ({}, 2)])
def test_without_a_journal_the_setting_comes_from_the_mirror_file_or_is_the_default(
    stateful: Box, source: Scripted, limits: dict[str, ZarrLimits], kept: int
) -> None:
    assets(source)
    stateful.sync()
    (stateful.folder / "neuromirror" / "journal.jsonl").unlink()
    rebuilt(stateful, limits)
    zarrs = {name: flags for name, flags in indexed(stateful).items() if "zarr" in name}
    assert sum(flags == [True] for flags in zarrs.values()) == kept
    assert stateful.entries(MirrorSeen) == []  # each version says it itself
    assert len(zarrs) == 2
    assert parts(stateful)["l.zarr"].label is not None


def test_a_zarr_that_only_git_has_is_recorded_as_the_mirror_file_says(
    stateful: Box, source: Scripted
) -> None:
    assets(source)
    stateful.sync()
    (stateful.folder / "neuromirror" / "journal.jsonl").unlink()
    stateful.store.index_path.unlink()
    (stateful.repository("box:a") / "packed-refs").unlink()
    stateful.sync()
    assert indexed(stateful)[NAME] == [False]
    assert dump(stateful) == rebuilt(stateful)


def test_zarrs_inside_a_zarr_keep_their_places(tmp_path: Path, source: Scripted) -> None:
    box = made(tmp_path, source, 0, "inline = 6\n")
    inner = {f"inner/{path}": one for path, one in zarr(8).files.items()}
    source.zarrs = {"l": zarr(1)}
    source.zarrs["l"].files = files("a", "b", "c", "d") | inner
    source.things["a"] = Thing(files("x.bin"), zarrs={"l.zarr": "l"})
    assert box.sync()["box:a"].visit == "full"
    assert {one.files for one in parts(box, NAME).values()} == {8}
    assert parts(box)["l.zarr"].files == 12
    told = {one.local_id: (one.indexed, one.in_parts) for one in box.entries(VersionMinted)}
    assert told == {"zarr/l": (False, 8), "zarr/l/inner": (False, 0), "a": (True, 12)}
    source.zarrs["l"].files["a"] = File(b"other", at(3))
    assert box.sync()["box:a"].visit == "full"
    assert list(parts(box, NAME)) == ["inner"]
    assert dump(box) == rebuilt(box)


# --- what a source asks


def etag(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def sha256s(answers: Sequence[KnownContent | None]) -> list[str | None]:
    return [one.sha256.value if one is not None and one.sha256 is not None else None
            for one in answers]  # fmt: skip


CONTENTS = (b"l0", b"l8", b"nothing", b"x.bin")


def wanted(*there: bytes) -> list[str | None]:
    return [hashlib.sha256(one).hexdigest() if one in there else None for one in CONTENTS]


def test_what_was_learnt_of_a_zarr_is_told_from_its_records(
    stateful: Box, source: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str | None]] = []
    asked = source.zarr_listing

    def listing(name: str, moment: object, known: Known) -> Listing:
        told.append(sha256s(known.contents([etag(one) for one in CONTENTS])))
        return asked(name, moment, known)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "zarr_listing", listing, raising=False)
    source.zarrs = {"l": zarr(1)}
    names = [f"l{number}" for number in range(9)]
    source.zarrs["l"].files = files(".zarray", *names, sha256=True)
    source.things["a"] = Thing(files("x.bin", sha256=True), zarrs={"l.zarr": "l"})
    assert stateful.sync()["box:a"].visit == "full"
    source.zarrs["l"].files["l0"] = File(b"other", at(4), "l0", True)
    assert stateful.sync()["box:a"].visit == "full"
    # of the second state the index knows as little
    source.zarrs["l"].files["l1"] = File(b"more", at(5), "l1", True)
    assert stateful.sync()["box:a"].visit == "full"
    assert told == [wanted(), wanted(b"l0", b"l8", b"x.bin"), wanted(b"l8", b"x.bin")]
    assert not list((stateful.folder / "neuromirror" / "tmp").iterdir())


def test_what_was_learnt_of_a_zarr_in_a_bucket_is_told_to_the_listing_around_it(
    tmp_path: Path, source: Scripted
) -> None:
    box = made(tmp_path, source, 0, "inline = 6\n")
    told: list[list[str | None]] = []

    def listed(known: Known) -> None:
        told.append(sha256s(known.contents([etag(b"z/" + one) for one in CONTENTS])))

    names = [".zarray", *(f"l{number}" for number in range(9))]
    thing = source.things["a"] = Thing(files(*(f"z/{name}" for name in names), sha256=True))
    source.on_listing = listed
    assert box.sync()["box:a"].visit == "full"
    assert [one.files for one in parts(box).values()] == [10]
    thing.files |= files("y.bin")
    assert box.sync()["box:a"].visit == "full"
    z = [hashlib.sha256(b"z/" + one).hexdigest() for one in (b"l0", b"l8")]
    assert told == [[None] * 4, [*z, None, None]]


def test_records_are_not_read_for_what_nobody_asks(
    stateful: Box, source: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets(source)
    stateful.sync()
    read: list[str] = []
    records = Store.records
    monkeypatch.setattr(
        Store, "records", lambda store, *one: read.append(one[0]) or records(store, *one)
    )
    source.zarrs["l"].files["l0"] = File(b"other", at(4))
    assert stateful.sync()["box:a"].visit == "full"
    assert source.dataset("zarr/l").dataset_id not in read


@pytest.mark.parametrize("entries", [0, 100])
def test_chunks_that_were_uploaded_in_parts_are_asked_about_once(
    demo: DemoArchive, place: Place, entries: int
) -> None:
    toml = place.mirrors / "demo.toml"
    limits = f"[zarr]\ninline_parts = 0\nindex_entries = {entries}\n"
    toml.write_text(f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n{limits}')
    chunks = {f"0/{number}": f"{number}".encode() * 30 for number in range(6)}
    metadata = {".zarray": b'{"zarr_format": 2}'}
    sizes = dict.fromkeys(chunks, 16)
    zarr_id = demo.add_zarr("000008", "z.zarr", {**metadata, **chunks}, part_sizes=sizes)
    assert place.sync("demo:000008")["demo:000008"].visit == "full"
    assert demo.count_requests(f"HEAD .*{zarr_id}.*partNumber=1") == 6
    demo.change_zarr("000008", "z.zarr", "0/0", b"other" * 7, part_size=16)
    demo.clear_requests()
    assert place.sync("demo:000008")["demo:000008"].visit == "full"
    assert demo.count_requests(f"HEAD .*{zarr_id}.*partNumber=1") == 1
    with place.index() as index:
        first, second = index.versions(f"demo:zarr/{zarr_id}")
    assert (first.indexed, second.indexed) == (entries > 0,) * 2
    assert first.evidence == second.evidence == {"etag": 6, "md5": 1}
