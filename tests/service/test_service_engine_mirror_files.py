"""Mirror files that change while a service runs, and syncs beside it."""

import json
from pathlib import Path

import pytest

from neuromirror.crawl import Mirror
from neuromirror.model import ConfigurationError
from neuromirror.service.engine import MirrorFiles
from support.command_shell import Shell, write_mirror_file
from support.mirror_harness import MirrorHarness
from support.service_harness import HOUR, ManualExecutor, open_service_harness


def test_an_invalid_edit_is_logged_once_and_the_old_settings_stay(
    mirror_harness: MirrorHarness, caplog: pytest.LogCaptureFixture
) -> None:
    file = mirror_harness.mirrors / "demo.toml"
    right = file.read_text("utf-8")
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        before = harness.files.mirrors["demo"]
        file.write_text(right.replace("[options]", "[optoins]"), "utf-8")
        for _ in range(3):
            harness.service.reload_mirror_files()
        messages = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(messages) == 1
        assert "demo.toml: " in messages[0]
        assert "'optoins'" in messages[0]
        assert harness.files.mirrors["demo"] is before
        harness.clock.now += 2 * HOUR
        assert "listing" in harness.settle()
        assert harness.row("demo").status != "failed"

        # the old words again are no change
        file.write_text(right, "utf-8")
        harness.service.reload_mirror_files()
        assert harness.settle() == []


def test_a_mirror_comes_and_goes_with_its_file(
    mirror_harness: MirrorHarness, tmp_path: Path
) -> None:
    content = (mirror_harness.mirrors / "demo.toml").read_text("utf-8")
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        # the same archive under another name: its datasets have a mirror already
        write_mirror_file(mirror_harness.mirrors, "second", content)
        harness.service.reload_mirror_files()
        assert harness.settle() == ["listing"]
        assert "demo:000001" in harness.row("second").message

        (mirror_harness.mirrors / "demo.toml").unlink()
        harness.service.reload_mirror_files()
        harness.clock.now += 10 * HOUR
        harness.settle()
        listed = [mirror for kind, mirror, _ in harness.observer.jobs if kind == "listing"]
        assert listed[-1] == "second"
        before = len(harness.observer.jobs)
        harness.clock.now += 10 * HOUR
        harness.settle()
        assert {mirror for _, mirror, _ in harness.observer.jobs[before:]} == {
            "second",
            "neuromirror",
        }
        # its tasks wait for it
        assert harness.job_harness.schedule.task("demo:000001") is not None


def test_a_folder_that_is_away_for_a_while_changes_nothing(mirror_harness: MirrorHarness) -> None:
    files = MirrorFiles(mirror_harness.mirrors, [], lambda mirror: None)
    away = mirror_harness.mirrors.with_name("away")
    mirror_harness.mirrors.rename(away)
    assert files.reload() == ([], [])
    assert str(mirror_harness.mirrors) in files.errors[""]
    assert sorted(files.mirrors) == ["demo"]
    away.rename(mirror_harness.mirrors)
    assert files.reload() == ([], [])
    assert files.errors == {}


def test_an_unservable_mirror_is_refused_at_start_and_logged_later(
    mirror_harness: MirrorHarness,
) -> None:
    def check(mirror: Mirror) -> None:
        if mirror.settings.title == "No":
            raise ConfigurationError(f"{mirror.name}: not here")

    content = (mirror_harness.mirrors / "demo.toml").read_text("utf-8")
    files = MirrorFiles(mirror_harness.mirrors, [], check)
    file = mirror_harness.mirrors / "other.toml"
    file.write_text('title = "No"\n' + _untitled(content), "utf-8")
    assert files.reload() == ([], [])
    assert files.errors == {"other": "other: not here"}
    with pytest.raises(ConfigurationError, match="other: not here"):
        MirrorFiles(mirror_harness.mirrors, [], check)
    file.write_text(content, "utf-8")
    assert files.reload() == (["other"], [])
    with pytest.raises(ConfigurationError, match="'thrid'"):
        MirrorFiles(mirror_harness.mirrors, ["thrid"], check)


def _untitled(content: str) -> str:
    return "\n".join(line for line in content.splitlines() if not line.startswith("title"))


# --- syncs beside a service


def sync(mirror_harness: MirrorHarness, *names: str) -> list[dict[str, str]]:
    """Return the results of a sync in another process."""
    shell = Shell(mirror_harness.mirrors, mirror_harness.folder)
    return [json.loads(line) for line in shell.program("--json", "sync", *names).lines]


def test_a_sync_leaves_a_dataset_to_the_service_that_visits_it(
    mirror_harness: MirrorHarness,
) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=1) as harness:
        harness.read_list()
        (name,) = manual_executor.names
        (result,) = sync(mirror_harness, name)
        assert (result["dataset"], result["status"]) == (name, "notneeded")
        assert result["message"].startswith("is being visited by serve on ")
        assert mirror_harness.refs() == {}
        # the others it visits, and the service need not
        results = {one["dataset"]: one for one in sync(mirror_harness)}
        assert results.pop(name)["status"] == "notneeded"
        assert "ok" in {one["status"] for one in results.values()}
        manual_executor.run(name)
        harness.service.tick()
        assert harness.row(name).status == "changed"
        # and leases are given back
        assert {
            one.name for one in harness.job_harness.schedule.leases.in_force(harness.clock.now)
        } == set(manual_executor.names)


def test_the_service_leaves_a_dataset_to_the_sync_that_visits_it(
    mirror_harness: MirrorHarness,
) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=20) as harness:
        harness.service.tick()
        manual_executor.run("demo")
        harness.settle_writing()
        schedule, now = harness.job_harness.schedule, harness.clock.now
        token = schedule.leases.claim("demo:000001", "sync on this machine", now, 60)
        assert token is not None
        harness.service.tick()
        harness.service.tick()
        assert "demo:000002" in manual_executor.names
        assert "demo:000001" not in manual_executor.names
        schedule.leases.release("demo:000001", token)
        manual_executor.run("demo:000002")
        harness.service.tick()
        assert "demo:000001" in manual_executor.names
