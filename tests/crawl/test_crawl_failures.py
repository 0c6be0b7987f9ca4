"""What fails is on record, in the status, the catalogue and a rebuilt index, until it succeeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from crawl_place import Place
from embargo_place import ID, NAME, Embargo
from scripted import Box, Scripted, Thing, files

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index, recording
from neuromirror.model import DatasetRef, PlacesAsked, TaskFailed, VisitEnded
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import TISSUE, DemoBoss


def status(place: Place) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of ``status``, and its records of failures."""
    arguments = ["--mirrors", str(place.mirrors), "--store", str(place.folder), "--json", "status"]
    done = CliRunner().invoke(main, arguments)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, [one for one in records if one["status"] == "error"]


def failing(place: Place) -> set[tuple[str, str, str | None]]:
    """What ``status`` says fails, after checking that a rebuilt index says the same."""
    code, found = status(place)
    assert code == (1 if found else 0)
    rebuild_index(place.store, place.store.index_path)
    assert status(place) == (code, found)
    return {(one["task"], one["mirror"], one["dataset"]) for one in found}


BOSS = """
source = "boss"
[options]
api = "{api}"
include = ["{channel}"]
hash = "none"
{more}
"""


def of_boss(boss: DemoBoss, folder: Path, more: str = "") -> Place:
    """A place with a mirror of one channel, whose blocks are not read."""
    mirrors = folder / "mirrors"
    mirrors.mkdir()
    (mirrors / "b.toml").write_text(BOSS.format(api=boss.api, channel=TISSUE, more=more))
    return Place(mirrors, folder / "store")


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


def test_a_list_that_cannot_be_read_fails_until_it_can(place: Place, demo: DemoArchive) -> None:
    place.sync()
    assert failing(place) == set()
    with demo.fault("status", path="^/api/dandisets/$", status=403):
        assert {one.status for one in place.sync().values()} >= {"error"}
        assert failing(place) == {("list", "demo", None)}
        written = len(place.entries(TaskFailed))
        place.sync()
        assert len(place.entries(TaskFailed)) == written
    place.sync()
    assert failing(place) == set()


def test_a_first_list_that_cannot_be_read_fails_until_it_can(
    place: Place, demo: DemoArchive
) -> None:
    with demo.fault("status", path="^/api/dandisets/$", status=401):
        place.sync()
        assert failing(place) == {("list", "demo", None)}
    place.sync()
    assert failing(place) == set()


def test_a_dataset_that_is_asked_for_by_name_fails_until_it_answers(
    place: Place, demo: DemoArchive
) -> None:
    with demo.fault("status", path="/dandisets/000001/", status=418):
        assert place.sync("demo:000001")["demo:000001"].visit == "failed"
        assert failing(place) == {("list", "demo", "demo:000001")}
    place.sync("demo:000001")
    assert failing(place) == set()
    with demo.fault("status", path="/dandisets/000001/", status=418):
        place.sync("demo:000001")
        assert failing(place) == {("visit", "demo", "demo:000001")}
    place.sync("demo:000001")
    assert failing(place) == set()


def test_an_id_that_was_mistyped_is_no_failure_of_the_store(place: Place) -> None:
    place.sync("demo:000001")
    assert place.sync("demo:999999")["demo:999999"].visit == "not_found"
    assert failing(place) == set()


def test_a_channel_that_was_made_private_fails_until_it_is_public(
    boss: DemoBoss, tmp_path: Path
) -> None:
    place = of_boss(boss, tmp_path)
    place.sync()
    before = place.refs()
    boss.set_public(TISSUE, False)
    assert place.sync()[f"b:{TISSUE}"].visit == "failed"
    assert failing(place) == {("visit", "b", f"b:{TISSUE}")}
    assert place.refs() == before
    visits = len(place.entries(VisitEnded))
    place.sync()
    assert len(place.entries(VisitEnded)) == visits  # the same once more is no news
    boss.set_public(TISSUE, True)
    place.sync()
    assert failing(place) == set()


def test_a_token_that_ran_out_fails_until_there_is_a_good_one(
    boss: DemoBoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOSS_TOKEN", boss.token)
    place = of_boss(boss, tmp_path, 'token_env = "BOSS_TOKEN"')
    place.sync()
    monkeypatch.setenv("BOSS_TOKEN", "0123456789-not-the-token")
    place.sync()
    assert failing(place) == {("list", "b", None)}
    assert b"0123456789" not in place.store.journal_path.read_bytes()
    monkeypatch.setenv("BOSS_TOKEN", boss.token)
    place.sync()
    assert failing(place) == set()


def test_a_defect_in_one_visit_is_on_record(box: Box, source: Scripted) -> None:
    source.things["one"] = Thing(files("a"))
    source.things["two"] = Thing(files("b"))

    def broken() -> None:
        raise RuntimeError("a defect")

    source.on_entries = broken
    assert {one.visit for name, one in box.sync().items() if ":" in name} == {"failed"}
    assert failing(box) == {("visit", "box", "box:one"), ("visit", "box", "box:two")}
    source.on_entries = lambda: None
    box.sync()
    assert failing(box) == set()


def test_a_defect_while_a_list_is_read_is_on_record_and_the_run_goes_on(
    box: Box, source: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.things["one"] = Thing(files("a"))
    with monkeypatch.context() as patched:
        patched.setattr(source, "hint", lambda dataset: {}[dataset.local_id])
        assert box.sync()["box"].status == "error"
    assert failing(box) == {("list", "box", None)}
    box.sync()
    assert failing(box) == set()


def test_superdatasets_that_cannot_be_written_fail_until_they_can(
    box: Box, source: Scripted
) -> None:
    source.things["one"] = Thing(files("a"))
    box.sync()
    top = DatasetRef("neuromirror", "", "neuromirror:mirrors")
    for name, dataset in [("box", DatasetRef("box", "", source.uri)), ("", top)]:
        repository = box.store.repository(dataset).path
        source.things["one"] = Thing(files("a", f"new-{name}"))
        hidden = repository.with_name("hidden")
        repository.rename(hidden)
        repository.write_text("no repository")
        box.sync()
        assert ("superdatasets", name, None) in failing(box)
        repository.unlink()
        hidden.rename(repository)
        box.sync()
        assert failing(box) == set()


def test_what_upstream_allows_fails_until_it_can_be_asked(box: Box, source: Scripted) -> None:
    source.things["one"] = Thing(files("a"))
    source.probed = OSError(5, "an error of input or output")
    box.sync()
    assert failing(box) == {("probe", "box", None)}
    source.probed = {}
    box.sync()
    assert failing(box) == set()


def test_a_dataset_that_failed_and_that_upstream_keeps_back_now_fails_no_more(
    box: Box, source: Scripted
) -> None:
    source.things["one"] = Thing(files("a"))

    def broken() -> None:
        raise RuntimeError("a defect")

    source.on_entries = broken
    box.sync()
    assert failing(box) == {("visit", "box", "box:one")}
    source.unavailable["one"] = "kept back"
    box.sync()
    assert failing(box) == set()
    source.unavailable.clear()
    source.on_entries = lambda: None
    assert box.sync()["box:one"].visit == "full"


def test_embargoed_datasets_that_fail_are_named_in_the_private_store_alone(
    embargo: Embargo,
) -> None:
    public = Place(embargo.demo.mirrors, embargo.public)
    private = Place(embargo.demo.mirrors, embargo.private)
    with embargo.demo.fault("status", path=f"/dandisets/{ID}/versions", status=418):
        embargo.sync(code=1)
    assert failing(public) == {("private", "demo", None)}
    assert {one["dataset"] for one in status(private)[1]} == {NAME}
    embargo.assert_silent()
    embargo.sync()
    assert failing(public) == set()
    assert status(private) == (0, [])


def test_a_mirror_file_that_was_renamed_takes_its_failure_with_it(
    demo: DemoArchive, tmp_path: Path, invoke: Callable[..., int]
) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    content = next(demo.mirrors.glob("*.toml")).read_text("utf-8")
    (mirrors / "typo.toml").write_text(content)
    place = Place(mirrors, tmp_path / "store")
    with demo.fault("status", path="^/api/dandisets/$", status=403):
        assert invoke(place, "sync") == 1
    assert failing(place) == {("list", "typo", None)}
    (mirrors / "typo.toml").rename(mirrors / "demo.toml")
    assert invoke(place, "sync") == 0
    assert failing(place) == set()


@pytest.fixture
def invoke() -> Callable[..., int]:
    def run(place: Place, *arguments: str) -> int:
        folders = ["--mirrors", str(place.mirrors), "--store", str(place.folder)]
        return CliRunner().invoke(main, [*folders, *arguments]).exit_code

    return run


def test_a_backup_that_failed_is_on_record_until_one_succeeds(
    box: Box, source: Scripted, tmp_path: Path, invoke: Callable[..., int]
) -> None:
    source.things["one"] = Thing(files("a"))
    box.sync()
    folder = tmp_path / "backup"
    folder.write_text("no folder")
    assert invoke(box, "backup", str(folder)) == 1
    assert failing(box) == {("backup", "", None)}
    folder.unlink()
    assert invoke(box, "backup", str(folder)) == 0
    assert failing(box) == set()


def test_housekeeping_that_failed_is_on_record_by_dataset(
    box: Box, source: Scripted, invoke: Callable[..., int]
) -> None:
    for number in range(12):
        source.things["one"] = Thing(files("a", f"b{number}"))
        box.sync()
    packs = (box.repository("box:one") / "objects" / "pack").glob("*.pack")
    pack = max(packs, key=lambda one: one.stat().st_size)
    whole = pack.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0x55
    pack.chmod(0o644)
    pack.write_bytes(damaged)
    assert invoke(box, "housekeeping") == 1
    assert failing(box) == {("housekeeping", "box", "box:one")}
    pack.write_bytes(whole)
    assert invoke(box, "housekeeping") == 0
    assert failing(box) == set()


def test_locations_that_lost_a_current_file_fail_until_they_have_it_again(
    box: Box, source: Scripted, invoke: Callable[..., int]
) -> None:
    source.things["one"] = Thing(files("a", "b"))
    box.sync()
    source.things["one"] = Thing(files("a"))
    box.sync()
    with box.index() as index:
        (url,) = [
            place.url
            for file in index.files(index.resolve("box:one"))
            for place in index.locations(file.content)
        ]
    old = url.replace("/a?", "/b?")

    def asked(result: str, *urls: str) -> None:
        with recording(box.store, box.store.index_path) as recorder:
            at = "2026-03-01T12:00:00+00:00"
            recorder.record(PlacesAsked("box", "one", {result: list(urls)}, at))

    asked("gone", url)
    assert failing(box) == {("locations", "box", None)}
    asked("ok", url)
    assert failing(box) == set()
    # what only an older observed state has may go
    asked("gone", old)
    assert failing(box) == set()


def test_show_names_what_fails_of_a_dataset(box: Box, source: Scripted) -> None:
    source.things["one"] = Thing(files("a"))
    box.sync()
    source.things["one"] = Thing(files("a", "b"))

    def broken() -> None:
        raise RuntimeError("a defect")

    source.on_entries = broken
    box.sync()
    arguments = ["--store", str(box.folder), "--json", "show", "box:one"]
    record = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert [one["task"] for one in record["failures"]] == ["visit"]
    source.on_entries = lambda: None
    box.sync()
    assert json.loads(CliRunner().invoke(main, arguments).stdout)["failures"] == []
