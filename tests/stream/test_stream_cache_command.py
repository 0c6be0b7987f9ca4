"""The command ``neuromirror cache``: its records, its exit codes, and what the cache then has."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror import stream
from neuromirror.cache import open_cache
from neuromirror.cli import main
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest

NWB = "sub-101/sub-101_ses-01_ecephys.nwb"


@pytest.fixture(autouse=True)
def cache_folder(no_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROMIRROR_CACHE", str(tmp_path / "pieces"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pieces"


def run(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    done = CliRunner().invoke(main, ["--json", *arguments])
    assert done.exit_code == code, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_filled_cache_needs_no_archive(
    demo_harness: MirrorHarness,
    shared_demo: DemoArchive,
    tmp_path: Path,
    cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = pin_latest(demo_harness, tmp_path / "datasets.lock", "demo:000001")
    found = run("cache", "add", "datasets.lock", "sub-101/")
    assert [one["status"] for one in found] == ["ok", "ok"]
    second = run("cache", "add", "datasets.lock", "sub-101/**")
    assert [one["status"] for one in second] == ["notneeded", "notneeded"]
    (shown,) = run("cache")
    assert (shown["folder"], shown["contents"]) == (str(cache_folder), 2)
    assert shown["bytes"] >= 2 * 52776
    before = len(shared_demo.requests)
    with stream.open(lock, NWB) as opened:
        assert len(opened.read()) == 52776
    assert len(shared_demo.requests) == before


def test_a_glob_without_files_beside_others_is_an_error(demo_harness: MirrorHarness) -> None:
    add = ["--store", str(demo_harness.folder), "cache", "add", "demo:000001"]
    found = run(*add, "sub-x", NWB, code=1)
    assert [(one["status"], one["path"]) for one in found] == [("error", "sub-x"), ("ok", NWB)]
    run(*add, "*.none", code=2)


def test_contents_are_removed(demo_harness: MirrorHarness, tmp_path: Path) -> None:
    pin_latest(demo_harness, tmp_path / "datasets.lock", "demo:000001")
    run("cache", "add", "datasets.lock")
    assert [one["removed"] for one in run("cache", "prune")] == [0]
    (pruned,) = run("cache", "prune", "--size", "100kB")
    assert pruned["removed"] > 0
    (cleared,) = run("cache", "clear")
    assert cleared["removed"] > 0
    cache = open_cache()
    assert cache is not None
    assert [*cache.entries()] == []
    assert [one["removed"] for one in run("cache", "clear")] == [0]
