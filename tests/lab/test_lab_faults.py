"""What goes wrong for a person with a lock: a message of its own each, and an exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from crawl_place import Place
from lab_again import Lab
from lab_clones import flip
from lab_get import GetWorld, objects, other_bytes
from lab_pins import DRAFT, PUBLISHED, Paper, bring_back

from neuromirror.cli import main
from neuromirror.lab import pin
from neuromirror.lab.alone import LockBusy, alone
from neuromirror.lab.pin import Wanted
from neuromirror_demo import DemoArchive

NOBODY = "http://127.0.0.1:9/alias/{alias}"
TWO = "two/a.dat"


@pytest.fixture(scope="session")
def ready(still_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Paper:
    """A lock with a bundle, and what it pins restored in ``data`` beside it; to be copied."""
    paper = Paper(still_lab.place, tmp_path_factory.mktemp("ready") / "paper")
    paper.pin(PUBLISHED, bundle=True, clones=(NOBODY,))
    return paper


@pytest.fixture
def paper(ready: Paper, tmp_path: Path) -> Paper:
    return ready.copied(tmp_path / "paper")


@pytest.fixture
def restored(paper: Paper) -> Paper:
    """The same, and what it pins in ``data``."""
    assert bring_back(paper.lock, paper.folder / "data").only().status == "ok"
    return paper


def command(paper: Paper, *arguments: str, code: int = 0) -> Result:
    """Runs a command where there is no store; ``LOCK`` and ``DATA`` stand for paths."""
    places = {"LOCK": str(paper.file), "DATA": str(paper.folder / "data")}
    given = [places.get(one, one) for one in arguments]
    with chdir(paper.folder):
        done = CliRunner().invoke(main, given, catch_exceptions=False)
    assert done.exit_code == code, (done.exit_code, done.output)
    return done


RESTORE = ("restore", "LOCK", "--into", "DATA")
VERIFY = ("verify", "LOCK", "--in", "DATA")


# --- bytes


def test_bytes_corrupted_here_are_named_by_verify(restored: Paper) -> None:
    (folder,) = (restored.folder / "data").glob("demo*")
    file = sorted(folder.glob("sub-*/*.nwb"))[0]
    flip(file)
    told = command(restored, *VERIFY, code=1).stderr
    assert f"{file.parent.name}/{file.name}" in told
    assert "other bytes" in told or "sha256" in told
    # and only there: upstream has them still
    command(restored, *VERIFY, "--full")


@pytest.fixture
def at_work(world: GetWorld, monkeypatch: pytest.MonkeyPatch) -> GetWorld:
    monkeypatch.chdir(world.clone)
    return world


def test_bytes_corrupted_at_one_place_come_from_the_next(at_work: GetWorld) -> None:
    at_work.web.faults[at_work.address(TWO)] = [other_bytes]
    done = CliRunner().invoke(main, ["--json", "get", TWO], catch_exceptions=False)
    assert done.exit_code == 0
    record = json.loads(done.stdout)
    assert (record["status"], record["url"]) == ("ok", at_work.files[TWO].urls[1])
    assert at_work.is_right(TWO)


def test_bytes_corrupted_at_all_places_are_an_error_that_names_each(at_work: GetWorld) -> None:
    for place in (0, 1):
        at_work.web.faults[at_work.address(TWO, place)] = [other_bytes]
    done = CliRunner().invoke(main, ["get", TWO], catch_exceptions=False)
    assert done.exit_code == 1
    assert all(url in done.stderr for url in at_work.files[TWO].urls)
    assert done.stderr.count("other bytes") == 2
    assert objects(at_work.clone) == {}


# --- the lock


@pytest.mark.parametrize("key", ["commit", "state", "tree", "files", "paths"])
@pytest.mark.parametrize("verb", [RESTORE, VERIFY], ids=lambda verb: verb[0])
def test_a_lock_edited_by_hand_is_told(
    restored: Paper, still_lab: Lab, key: str, verb: tuple[str, ...]
) -> None:
    pinned = restored.pinned(PUBLISHED)
    value = str(getattr(pinned, key))
    if key == "commit":
        with restored.place.index() as index:
            other = index.resolve(PUBLISHED, still_lab.labels(PUBLISHED)[0]).commit
        restored.edit(f'\ncommit = "{pinned.commit}"', f'\ncommit = "{other}"')
        restored.edit(f"rev:{pinned.commit}", f"rev:{other}")
    elif key == "files":
        restored.edit("files = 5", "files = 4")
        restored.edit("claimed = 5", "claimed = 4")
    elif key == "paths":
        restored.edit("durability =", 'paths = ["sub-201"]\ndurability =')
    else:
        restored.edit(f'{key} = "{value}"', f'{key} = "{value[:-4]}0000"')
    if (key, verb) == ("commit", RESTORE):
        # what is restored stands in its way, and is left alone
        assert pinned.commit in command(restored, *verb, code=2).stderr
        return
    told = command(restored, *verb, code=1).stderr
    words = {"paths": "files", "commit": pinned.commit}
    assert words.get(key, key) in told, told
    assert key == "commit" or "edited by hand" in told or f"{value[:-4]}0000" in told


@pytest.mark.parametrize(
    "verb",
    [
        RESTORE,
        VERIFY,
        (*VERIFY, "--remote"),
        ("cite", "LOCK"),
        ("pin", "--remove", PUBLISHED, "-o", "LOCK"),
    ],
    ids=lambda verb: " ".join(verb[::3]),
)
def test_a_lock_from_the_future_is_refused_by_every_verb(
    paper: Paper, still_lab: Lab, verb: tuple[str, ...]
) -> None:
    paper.edit("lock-version = 1", "lock-version = 2")
    before = paper.files()
    store = ("--store", str(still_lab.place.folder))
    told = command(paper, *store, *verb, code=2).stderr
    assert "lock-version 2" in told
    assert "install a newer neuromirror" in told
    assert paper.files() == before


def test_a_missing_manifest_is_told_by_verify_and_missed_by_no_other(restored: Paper) -> None:
    restored.without(".zst")
    told = command(restored, *VERIFY, code=1).stderr
    assert "manifest" in told
    assert "is missing" in told
    shutil.rmtree(restored.folder / "data", onerror=_force)
    command(restored, *RESTORE)
    command(restored, "cite", "LOCK")


def test_without_a_bundle_the_manifest_brings_it_back_and_that_is_said(paper: Paper) -> None:
    paper.without(".bundle")
    told = command(paper, *RESTORE).stdout
    assert "from the manifest" in told
    assert "not from the bundle" in told
    assert "is missing" in told


def test_without_bundle_and_manifest_there_is_no_way_and_each_is_named(paper: Paper) -> None:
    paper.without(".bundle")
    paper.without(".zst")
    told = command(paper, *RESTORE, code=1).stderr
    assert "no way leads to commit" in told
    assert told.count("is missing") == 2
    assert "is there a network?" in told


def _force(function: Callable[[str], object], path: str, _: object) -> None:
    Path(path).parent.chmod(0o700)
    Path(path).chmod(0o700)
    function(path)


# --- the network


@pytest.fixture
def unplugged(demo: DemoArchive, tmp_path: Path) -> Paper:
    """A lock whose archive was there when it was made, and is not any more."""
    place = Place(demo.mirrors, tmp_path / "store")
    place.sync(PUBLISHED)
    paper = Paper(place, tmp_path / "paper")
    paper.pin(PUBLISHED, bundle=True, clones=(NOBODY,))
    demo.__exit__(None, None, None)
    return paper


def test_without_a_network_the_dataset_comes_back_and_its_files_are_named(
    unplugged: Paper,
) -> None:
    told = command(unplugged, *RESTORE, code=1).stderr
    assert "5 files could not be had" in told
    assert "cannot be reached" in told
    assert told.count("error ") == 6
    # that much needs none
    command(unplugged, *RESTORE, "--offline")
    command(unplugged, *VERIFY, "--allow-missing")
    told = command(unplugged, "verify", "LOCK", "--remote", code=1).stderr
    assert "cannot be reached" in told
    command(unplugged, "cite", "LOCK")


# --- at the same time, and half way


def test_two_pins_on_one_lock_do_not_lose_each_others_work(paper: Paper) -> None:
    before = paper.files()
    refused: list[str] = []

    def meanwhile(_: str) -> None:
        if not refused:
            second = [Wanted(PUBLISHED, "latest", paths=("sub-201",))]
            with paper.place.index() as inner, pytest.raises(LockBusy) as caught:
                list(pin(paper.file, second, paper.place.store, inner))
            assert paper.files().keys() - before.keys() <= {f".{paper.name}.pinning"}
            refused.append(str(caught.value))

    with paper.place.index() as index:
        wanted = [Wanted(DRAFT, "latest")]
        list(pin(paper.file, wanted, paper.place.store, index, progress=meanwhile))
    (told,) = refused
    assert str(paper.file) in told
    assert "run this again" in told
    assert [one.name for one in paper.lock.datasets] == [PUBLISHED, DRAFT]
    assert paper.pinned(PUBLISHED).paths == ()
    assert not list(paper.folder.glob(".*"))


def test_the_second_of_two_pins_exits_with_1(paper: Paper) -> None:
    with alone(paper.file):
        store = ("--store", str(paper.place.folder))
        told = command(paper, *store, "pin", DRAFT, "-o", "LOCK", code=1).stderr
    assert "another neuromirror process is writing" in told
    assert [one.name for one in paper.lock.datasets] == [PUBLISHED]
    # what a killed one left keeps nobody out
    (paper.folder / f".{paper.name}.pinning").touch()
    command(paper, *store, "pin", DRAFT, "-o", "LOCK")


def test_a_restore_that_was_interrupted_goes_on_where_it_was(
    demo: DemoArchive, paper: Paper, tmp_path: Path
) -> None:
    place = Place(demo.mirrors, tmp_path / "store")
    place.sync(PUBLISHED)
    paper = Paper(place, tmp_path / "another")
    paper.pin(PUBLISHED, bundle=True)
    demo.fault("hang", server="s3", path="/blobs/", times=2, seconds=3600)
    program = Path(sys.executable).with_name("neuromirror")
    into = paper.folder / "data"
    with subprocess.Popen(
        [program, "restore", paper.file, "--into", into],
        cwd=tmp_path / "another",
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        until = time.monotonic() + 600
        while len(list(into.glob("*/.git/annex/objects/**/*.nwb"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGINT)
        _, told = run.communicate(timeout=600)
    assert run.returncode == 130
    assert "interrupted" in told
    assert [path.name for path in into.iterdir()] == ["demo--000002"]
    demo.clear_faults()
    demo.clear_requests()
    told = command(paper, *RESTORE).stdout
    assert "was there" in told
    assert "here already" in told
    # what the first run had asked for may be answered, and told, only now
    assert 0 < len(set(demo.s3_requests)) <= 3
    command(paper, *VERIFY)
