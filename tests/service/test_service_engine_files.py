"""Mirror files that change while a service runs, and syncs beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crawl_place import Place
from service_engine import HOUR, Held, works_of, write_mirror

from neuromirror.crawl import Mirror
from neuromirror.model import ConfigurationError
from neuromirror.service.mirror_files import MirrorFiles


def test_a_wrong_edit_is_told_once_and_the_old_file_kept(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    file = place.mirrors / "demo.toml"
    right = file.read_text("utf-8")
    with works_of(place) as works:
        works.settle()
        before = works.files.mirrors["demo"]
        file.write_text(right.replace("[options]", "[optoins]"), "utf-8")
        for _ in range(3):
            works.service.reread()
        told = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
        assert len(told) == 1
        assert "demo.toml: 'optoins' is not a setting that exists here" in told[0]
        assert works.files.mirrors["demo"] is before
        works.clock.now += 2 * HOUR
        assert "list" in works.settle()
        assert works.row("demo").status != "failed"

        # the old words again are no change
        file.write_text(right, "utf-8")
        works.service.reread()
        assert works.settle() == []


def test_a_right_edit_counts_at_once(place: Place) -> None:
    file = place.mirrors / "demo.toml"
    with works_of(place) as works:
        works.settle()
        file.write_text(file.read_text("utf-8") + "\n[schedule]\nlist_minutes = 10\n", "utf-8")
        works.service.reread()
        assert "list" in works.settle()
        assert works.clock.now < (works.row("demo").due or 0) <= works.clock.now + 660


def test_bounds_that_become_narrower_bring_back_what_was_put_off(place: Place) -> None:
    file = place.mirrors / "demo.toml"
    right = file.read_text("utf-8")
    file.write_text(right + "\n[schedule]\ndeep_days = 3000\n", "utf-8")
    with works_of(place) as works:
        works.settle()
        far = max(row.deep_due or 0 for row in works.office.schedule.tasks("demo"))
        assert far > works.clock.now + 1000 * 24 * HOUR
        file.write_text(right + "\n[schedule]\ndeep_days = 2\n", "utf-8")
        works.service.reread()
        works.settle()
        far = max(row.deep_due or 0 for row in works.office.schedule.tasks("demo"))
        assert far < works.clock.now + 3 * 24 * HOUR


def test_a_mirror_comes_and_goes_with_its_file(place: Place, tmp_path: Path) -> None:
    content = (place.mirrors / "demo.toml").read_text("utf-8")
    with works_of(place) as works:
        works.settle()
        # the same archive under another name: its datasets have a mirror already
        write_mirror(place.mirrors, "second", content)
        works.service.reread()
        assert works.settle() == ["list"]
        assert "is mirrored in this store as demo:" in works.row("second").message

        (place.mirrors / "demo.toml").unlink()
        works.service.reread()
        works.clock.now += 10 * HOUR
        works.settle()
        listed = [mirror for kind, mirror, _ in works.counted.jobs if kind == "list"]
        assert listed[-1] == "second"
        before = len(works.counted.jobs)
        works.clock.now += 10 * HOUR
        works.settle()
        assert {mirror for _, mirror, _ in works.counted.jobs[before:]} == {"second", "neuromirror"}
        # its tasks wait for it
        assert works.office.schedule.task("demo:000001") is not None


def test_only_mirrors_that_are_named_are_served(place: Place) -> None:
    content = (place.mirrors / "demo.toml").read_text("utf-8")
    write_mirror(place.mirrors, "other", content)
    held = Held()
    with works_of(place, executor=held, names=["demo"]) as works:
        works.service.tick()
        assert held.names == ["demo"]
        write_mirror(place.mirrors, "third", content)
        works.service.reread()
        works.service.tick()
        assert sorted(works.files.mirrors) == ["demo"]


def test_a_folder_that_is_away_for_a_while_changes_nothing(place: Place) -> None:
    files = MirrorFiles(place.mirrors, [], lambda mirror: None)
    away = place.mirrors.with_name("away")
    place.mirrors.rename(away)
    found = files.reread()
    assert "there is no folder of mirrors" in found.wrong[""]
    assert files.reread().wrong == {}
    assert sorted(files.mirrors) == ["demo"]
    away.rename(place.mirrors)
    found = files.reread()
    assert (found.changed, found.gone, found.wrong) == ([], [], {})


def test_what_cannot_be_served_here_is_refused_at_the_start_and_told_later(place: Place) -> None:
    def check(mirror: Mirror) -> None:
        if mirror.settings.title == "No":
            raise ConfigurationError(f"{mirror.name}: not here")

    content = (place.mirrors / "demo.toml").read_text("utf-8")
    files = MirrorFiles(place.mirrors, [], check)
    file = write_mirror(place.mirrors, "other", 'title = "No"\n' + _untitled(content))
    found = files.reread()
    assert (found.wrong, found.changed) == ({"other": "other: not here"}, [])
    with pytest.raises(ConfigurationError, match="other: not here"):
        MirrorFiles(place.mirrors, [], check)
    file.write_text(content, "utf-8")
    assert files.reread().changed == ["other"]
    with pytest.raises(ConfigurationError, match="there is no mirror 'thrid'"):
        MirrorFiles(place.mirrors, ["thrid"], check)


def _untitled(content: str) -> str:
    return "\n".join(line for line in content.splitlines() if not line.startswith("title"))


# --- syncs beside a service


def sync(place: Place, *names: str) -> list[dict[str, str]]:
    """What a sync of another process says."""
    program = [sys.executable, "-m", "neuromirror", "--json", "sync", *names]
    folders = {"NEUROMIRROR_MIRRORS": str(place.mirrors), "NEUROMIRROR_STORE": str(place.folder)}
    done = subprocess.run(
        program, env={**os.environ, **folders}, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_sync_leaves_a_dataset_to_the_service_that_visits_it(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=1) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        (name,) = held.names
        (said,) = sync(place, name)
        assert (said["dataset"], said["status"]) == (name, "notneeded")
        assert said["message"].startswith("is being visited by serve on ")
        assert place.refs() == {}
        # the others it visits, and the service need not
        told = {one["dataset"]: one for one in sync(place)}
        assert told.pop(name)["status"] == "notneeded"
        assert "ok" in {one["status"] for one in told.values()}
        held.do(name)
        works.service.tick()
        assert works.row(name).status == "changed"
        # and leases are given back
        assert {one.name for one in works.office.schedule.leases(works.clock.now)} == set(
            held.names
        )


def test_the_service_leaves_a_dataset_to_the_sync_that_visits_it(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=20) as works:
        works.service.tick()
        held.do("demo")
        works.settle_writing()
        schedule, now = works.office.schedule, works.clock.now
        token = schedule.claim("demo:000001", "sync on this machine", now, 60)
        assert token is not None
        works.service.tick()
        works.service.tick()
        assert "demo:000002" in held.names
        assert "demo:000001" not in held.names
        schedule.give_back("demo:000001", token)
        held.do("demo:000002")
        works.service.tick()
        assert "demo:000001" in held.names
