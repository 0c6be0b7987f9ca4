"""Failures are recorded until they are resolved, and those of a plug-in name it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from neuromirror.cli import main
from neuromirror.crawl import FailureLog, open_recorder, rebuild_index
from neuromirror.crawl.plan import PluginSource, describe_unexpected
from neuromirror.model import (
    DatasetRef,
    Digest,
    FileRecord,
    LocationsChecked,
    TaskFailed,
    VisitEnded,
)
from neuromirror_demo import DemoArchive
from neuromirror_demo.boss import TISSUE, DemoBoss
from support.embargo_harness import ID, NAME, EmbargoHarness
from support.mirror_harness import MirrorHarness
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, files


@pytest.fixture
def demo(two_dandisets: DemoArchive) -> DemoArchive:
    """A small archive instead of the demo's."""
    return two_dandisets


def status(mirror_harness: MirrorHarness) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code of ``status``, and its records of failures."""
    arguments = [
        "--mirrors",
        str(mirror_harness.mirrors),
        "--store",
        str(mirror_harness.folder),
        "--json",
        "status",
    ]
    done = CliRunner().invoke(main, arguments)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, [record for record in records if record["status"] == "error"]


def failing_tasks(mirror_harness: MirrorHarness) -> set[tuple[str, str, str | None]]:
    """Return the failing tasks of ``status``; a rebuilt index must have the same."""
    code, found = status(mirror_harness)
    assert code == (1 if found else 0)
    rebuild_index(mirror_harness.store, mirror_harness.store.index_path)
    assert status(mirror_harness) == (code, found)
    return {(one["task"], one["mirror"], one["dataset"]) for one in found}


BOSS = """
source = "boss"
[options]
api = "{api}"
include = ["{channel}"]
hash = "none"
{more}
"""


def boss_harness(boss: DemoBoss, folder: Path, more: str = "") -> MirrorHarness:
    """A store that mirrors one BOSS channel, whose blocks are not read."""
    mirrors = folder / "mirrors"
    mirrors.mkdir()
    (mirrors / "b.toml").write_text(BOSS.format(api=boss.api, channel=TISSUE, more=more))
    return MirrorHarness(mirrors, folder / "store")


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


def test_a_list_that_cannot_be_read_fails_until_it_can(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync()
    assert failing_tasks(mirror_harness) == set()
    with demo.fault("status", path="^/api/dandisets/$", status=403):
        assert {one.status for one in mirror_harness.sync().values()} >= {"error"}
        assert failing_tasks(mirror_harness) == {("list", "demo", None)}
        written = len(mirror_harness.entries(TaskFailed))
        mirror_harness.sync()
        assert len(mirror_harness.entries(TaskFailed)) == written
    mirror_harness.sync()
    assert failing_tasks(mirror_harness) == set()


def test_a_dataset_that_is_requested_by_name_fails_until_it_answers(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    with demo.fault("status", path="/dandisets/000001/", status=418):
        assert mirror_harness.sync("demo:000001")["demo:000001"].visit == "failed"
        assert failing_tasks(mirror_harness) == {("list", "demo", "demo:000001")}
    mirror_harness.sync("demo:000001")
    assert failing_tasks(mirror_harness) == set()
    with demo.fault("status", path="/dandisets/000001/", status=418):
        mirror_harness.sync("demo:000001")
        assert failing_tasks(mirror_harness) == {("visit", "demo", "demo:000001")}
    mirror_harness.sync("demo:000001")
    assert failing_tasks(mirror_harness) == set()


def test_an_id_that_was_mistyped_is_no_failure_of_the_store(mirror_harness: MirrorHarness) -> None:
    mirror_harness.sync("demo:000001")
    assert mirror_harness.sync("demo:999999")["demo:999999"].visit == "not_found"
    assert failing_tasks(mirror_harness) == set()


def test_a_channel_that_was_made_private_fails_until_it_is_public(
    boss: DemoBoss, tmp_path: Path
) -> None:
    mirror_harness = boss_harness(boss, tmp_path)
    mirror_harness.sync()
    before = mirror_harness.refs()
    boss.set_public(TISSUE, False)
    assert mirror_harness.sync()[f"b:{TISSUE}"].visit == "failed"
    assert failing_tasks(mirror_harness) == {("visit", "b", f"b:{TISSUE}")}
    assert mirror_harness.refs() == before
    visits = len(mirror_harness.entries(VisitEnded))
    mirror_harness.sync()
    assert (
        len(mirror_harness.entries(VisitEnded)) == visits
    )  # the same failure is not recorded again
    boss.set_public(TISSUE, True)
    mirror_harness.sync()
    assert failing_tasks(mirror_harness) == set()


def test_a_token_that_ran_out_fails_until_there_is_a_good_one(
    boss: DemoBoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOSS_TOKEN", boss.token)
    mirror_harness = boss_harness(boss, tmp_path, 'token_env = "BOSS_TOKEN"')
    mirror_harness.sync()
    monkeypatch.setenv("BOSS_TOKEN", "0123456789-not-the-token")
    mirror_harness.sync()
    assert failing_tasks(mirror_harness) == {("list", "b", None)}
    assert b"0123456789" not in mirror_harness.store.journal.path.read_bytes()
    monkeypatch.setenv("BOSS_TOKEN", boss.token)
    mirror_harness.sync()
    assert failing_tasks(mirror_harness) == set()


def test_a_defect_in_one_visit_is_on_record(harness: ScriptedHarness) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))
    harness.datasets["two"] = ScriptedDataset(files("b"))

    def broken() -> None:
        raise RuntimeError("a defect")

    harness.source.on_entries = broken
    assert {one.visit for name, one in harness.sync().items() if ":" in name} == {"failed"}
    assert failing_tasks(harness) == {("visit", "box", "box:one"), ("visit", "box", "box:two")}
    harness.source.on_entries = lambda: None
    harness.sync()
    assert failing_tasks(harness) == set()


def test_a_defect_while_a_list_is_read_is_on_record_and_the_run_goes_on(
    harness: ScriptedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))
    with monkeypatch.context() as patched:
        patched.setattr(harness.source, "hint", lambda dataset: {}[dataset.local_id])
        assert harness.sync()["box"].status == "error"
    assert failing_tasks(harness) == {("list", "box", None)}
    harness.sync()
    assert failing_tasks(harness) == set()


def test_superdatasets_that_cannot_be_written_fail_until_they_can(harness: ScriptedHarness) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))
    harness.sync()
    top = DatasetRef("neuromirror", "", "neuromirror:mirrors")
    for name, dataset in [("box", DatasetRef("box", "", harness.source.uri)), ("", top)]:
        repository = harness.store.repositories.of(dataset).path
        harness.datasets["one"] = ScriptedDataset(files("a", f"new-{name}"))
        hidden = repository.with_name("hidden")
        repository.rename(hidden)
        repository.write_text("no repository")
        harness.sync()
        assert ("superdatasets", name, None) in failing_tasks(harness)
        repository.unlink()
        hidden.rename(repository)
        harness.sync()
        assert failing_tasks(harness) == set()


def test_the_capability_probe_fails_until_upstream_answers(harness: ScriptedHarness) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))
    harness.source.probe_result = OSError(5, "an error of input or output")
    harness.sync()
    assert failing_tasks(harness) == {("probe", "box", None)}
    harness.source.probe_result = {}
    harness.sync()
    assert failing_tasks(harness) == set()


def test_a_dataset_that_failed_and_that_upstream_keeps_back_now_fails_no_more(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))

    def broken() -> None:
        raise RuntimeError("a defect")

    harness.source.on_entries = broken
    harness.sync()
    assert failing_tasks(harness) == {("visit", "box", "box:one")}
    harness.source.unavailable["one"] = "kept back"
    harness.sync()
    assert failing_tasks(harness) == set()
    harness.source.unavailable.clear()
    harness.source.on_entries = lambda: None
    assert harness.sync()["box:one"].visit == "full"


def test_embargoed_datasets_that_fail_are_named_only_in_the_private_store(
    embargo: EmbargoHarness,
) -> None:
    public = MirrorHarness(embargo.demo.mirrors, embargo.public)
    private = MirrorHarness(embargo.demo.mirrors, embargo.private)
    with embargo.demo.fault("status", path=f"/dandisets/{ID}/versions", status=418):
        embargo.sync(code=1)
    assert failing_tasks(public) == {("private", "demo", None)}
    assert {one["dataset"] for one in status(private)[1]} == {NAME}
    embargo.assert_no_canary_outside()
    embargo.sync()
    assert failing_tasks(public) == set()
    assert status(private) == (0, [])


def test_a_mirror_file_that_was_renamed_takes_its_failure_with_it(
    demo: DemoArchive, tmp_path: Path, invoke: Callable[..., int]
) -> None:
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    content = next(demo.mirrors.glob("*.toml")).read_text("utf-8")
    (mirrors / "typo.toml").write_text(content)
    mirror_harness = MirrorHarness(mirrors, tmp_path / "store")
    with demo.fault("status", path="^/api/dandisets/$", status=403):
        assert invoke(mirror_harness, "sync") == 1
    assert failing_tasks(mirror_harness) == {("list", "typo", None)}
    (mirrors / "typo.toml").rename(mirrors / "demo.toml")
    assert invoke(mirror_harness, "sync") == 0
    assert failing_tasks(mirror_harness) == set()


@pytest.fixture
def invoke() -> Callable[..., int]:
    def run(mirror_harness: MirrorHarness, *arguments: str) -> int:
        folders = ["--mirrors", str(mirror_harness.mirrors), "--store", str(mirror_harness.folder)]
        return CliRunner().invoke(main, [*folders, *arguments]).exit_code

    return run


def test_a_backup_that_failed_is_on_record_until_one_succeeds(
    harness: ScriptedHarness, tmp_path: Path, invoke: Callable[..., int]
) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))
    harness.sync()
    folder = tmp_path / "backup"
    folder.write_text("no folder")
    assert invoke(harness, "backup", str(folder)) == 1
    assert failing_tasks(harness) == {("backup", "", None)}
    folder.unlink()
    assert invoke(harness, "backup", str(folder)) == 0
    assert failing_tasks(harness) == set()


def test_housekeeping_that_failed_is_on_record_by_dataset(
    harness: ScriptedHarness, invoke: Callable[..., int]
) -> None:
    for number in range(12):
        harness.datasets["one"] = ScriptedDataset(files("a", f"b{number}"))
        harness.sync()
    packs = (harness.repository("box:one") / "objects" / "pack").glob("*.pack")
    pack = max(packs, key=lambda one: one.stat().st_size)
    whole = pack.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0x55
    pack.chmod(0o644)
    pack.write_bytes(damaged)
    assert invoke(harness, "housekeeping") == 1
    assert failing_tasks(harness) == {("housekeeping", "box", "box:one")}
    pack.write_bytes(whole)
    assert invoke(harness, "housekeeping") == 0
    assert failing_tasks(harness) == set()


def test_locations_that_lost_a_current_file_fail_until_it_is_back(
    harness: ScriptedHarness, invoke: Callable[..., int]
) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a", "b"))
    harness.sync()
    harness.datasets["one"] = ScriptedDataset(files("a"))
    harness.sync()
    with harness.index() as index:
        (url,) = [
            location.url
            for file in index.files.of(index.versions.resolve("box:one"))
            for location in index.locations.of(file.content)
        ]
    old = url.replace("/a?", "/b?")

    def record_audit(result: str, *urls: str) -> None:
        with open_recorder(harness.store, harness.store.index_path) as recorder:
            at = "2026-03-01T12:00:00+00:00"
            recorder.record(LocationsChecked("box", "one", {result: list(urls)}, at))

    record_audit("not-found", url)
    assert failing_tasks(harness) == {("locations", "box", None)}
    record_audit("ok", url)
    assert failing_tasks(harness) == set()
    # files of older observed states may be lost
    record_audit("not-found", old)
    assert failing_tasks(harness) == set()


def test_show_names_what_fails_of_a_dataset(harness: ScriptedHarness) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))
    harness.sync()
    harness.datasets["one"] = ScriptedDataset(files("a", "b"))

    def broken() -> None:
        raise RuntimeError("a defect")

    harness.source.on_entries = broken
    harness.sync()
    arguments = ["--store", str(harness.folder), "--json", "show", "box:one"]
    record = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert [one["task"] for one in record["failures"]] == ["visit"]
    harness.source.on_entries = lambda: None
    harness.sync()
    assert json.loads(CliRunner().invoke(main, arguments).stdout)["failures"] == []


def test_the_failures_of_a_task_and_of_a_mirror(mirror_harness: MirrorHarness) -> None:
    store = mirror_harness.store
    with open_recorder(store, store.index_path) as recorder:
        log = FailureLog(recorder)
        for task, name in (("list", "demo"), ("list", "demo:1"), ("list", ""), ("probe", "demo")):
            log.record_failure(task, "failed", name)

        def failed(*only: str | None) -> set[tuple[str, str, str | None]]:
            found = recorder.ask(lambda index: index.crawl.failed_tasks(*only))
            return {(one.task, one.mirror, one.dataset) for one in found}

        listed = {("list", "demo", None), ("list", "demo", "demo:1")}
        assert failed("list", "demo") == listed
        assert failed("list") == {*listed, ("list", "", None)}
        assert failed(None, "demo") == {*listed, ("probe", "demo", None)}
        log.record_success("list", "demo")
        assert failed("list", "demo") == {("list", "demo", "demo:1")}
        log.record_success("list", "demo", with_datasets=True)
        assert failed() == {("list", "", None), ("probe", "demo", None)}


SOURCE = "the source 'scripted' of support.scripted_source"
PLUGIN = PluginSource("shelf", "shelf_source.reader")


class MalformedFile(ScriptedFile):
    """A file whose record has a digest of the wrong length."""

    def record(self, path: str) -> FileRecord:
        return replace(super().record(path), digests=(Digest("sha256", "abc", "box"),))


def broken() -> None:
    raise KeyError("size")


def test_a_dataset_with_a_malformed_record_is_not_minted(harness: ScriptedHarness) -> None:
    """Which records are malformed, test_crawl_validate states."""
    harness.datasets["one"] = ScriptedDataset({**files("a"), "sub-01/x": MalformedFile(b"content")})
    harness.datasets["two"] = ScriptedDataset(files("b"))
    results = harness.sync()
    assert (results["box:one"].status, results["box:two"].status) == ("error", "ok")
    assert "box:one current: 'sub-01/x': Digest(" in results["box:one"].message
    assert not harness.store.repositories.of(harness.source.dataset("one")).exists()


def test_an_unexpected_error_names_its_line_and_the_plugin(harness: ScriptedHarness) -> None:
    harness.datasets["one"] = ScriptedDataset({"a": None})  # type: ignore[dict-item]
    message = harness.sync()["box:one"].message
    assert re.fullmatch(
        r"unexpected AttributeError: .* in scripted_source\.py, line \d+; the error is in "
        + re.escape(SOURCE),
        message,
    )


def test_an_unexpected_error_in_a_library_names_the_call_in_the_plugin(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["one"] = ScriptedDataset(files("a"))
    harness.source.on_entries = lambda: json.loads("{")
    message = harness.sync()["box:one"].message
    assert re.search(
        r" in decoder\.py, line \d+, called from scripted_source\.py, line \d+; ", message
    )
    assert message.endswith(f"; the error is in {SOURCE}")


def test_an_unexpected_error_in_a_list_names_the_plugin(harness: ScriptedHarness) -> None:
    harness.source.scripted_datasets = None  # type: ignore[assignment]
    message = harness.sync()["box"].message
    assert re.search(r" in scripted_source\.py, line \d+; ", message)
    assert message.endswith(f"; the error is in {SOURCE}")


def test_a_wrong_value_of_a_plugin_names_the_plugin(harness: ScriptedHarness) -> None:
    class WrongFile(ScriptedFile):
        def record(self, path: str) -> FileRecord:
            return path  # type: ignore[return-value]

    harness.datasets["one"] = ScriptedDataset({"a": WrongFile(b"")})
    message = harness.sync()["box:one"].message
    assert re.search(r"in validate\.py, line \d+; check the values that", message)
    assert message.endswith(f"{SOURCE} returned")


@pytest.mark.parametrize(
    ("plugin", "end"),
    [
        (None, "; please report this"),
        (PLUGIN, "; check the values that the source 'shelf' of shelf_source.reader returned"),
    ],
)
def test_an_unexpected_error_elsewhere(plugin: PluginSource | None, end: str) -> None:
    with pytest.raises(KeyError) as raised:
        broken()
    line = broken.__code__.co_firstlineno + 1
    start = "unexpected KeyError: 'size'"
    position = f" in test_crawl_failure_log.py, line {line}"
    assert describe_unexpected(raised.value, plugin) == start + position + end
    # an error of another process has no frames
    assert describe_unexpected(KeyError("size"), plugin) == start + end
