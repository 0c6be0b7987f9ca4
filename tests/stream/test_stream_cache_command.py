"""The command ``neuromirror cache``: its records, its exit codes, and what the cache then has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neuromirror import stream
from neuromirror.cache import open_cache
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest

PROGRAM = Path(sys.executable).with_name("neuromirror")
NWB = "sub-101/sub-101_ses-01_ecephys.nwb"


@pytest.fixture(autouse=True)
def cache_folder(no_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROMIRROR_CACHE", str(tmp_path / "pieces"))
    return tmp_path / "pieces"


def run(folder: Path, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    done = subprocess.run(
        [PROGRAM, "--json", *arguments], cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_filled_cache_needs_no_archive(
    streamed_mirror: MirrorHarness,
    shared_demo: DemoArchive,
    tmp_path: Path,
    cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = pin_latest(streamed_mirror, tmp_path / "datasets.lock", "demo:000001")
    found = run(tmp_path, "cache", "add", "datasets.lock", "sub-101/")
    assert [one["status"] for one in found] == ["ok", "ok"]
    second = run(tmp_path, "cache", "add", "datasets.lock", "sub-101/**")
    assert [one["status"] for one in second] == ["notneeded", "notneeded"]
    (shown,) = run(tmp_path, "cache")
    assert (shown["folder"], shown["contents"]) == (str(cache_folder), 2)
    assert shown["bytes"] >= 2 * 52776
    before = len(shared_demo.requests)
    with stream.open(lock, NWB) as opened:
        assert len(opened.read()) == 52776
    assert len(shared_demo.requests) == before


def test_versions_of_the_store_are_added(streamed_mirror: MirrorHarness, tmp_path: Path) -> None:
    found = run(
        tmp_path, "--store", str(streamed_mirror.folder), "cache", "add", "demo:000001", NWB
    )
    assert [(one["status"], one["path"]) for one in found] == [("ok", NWB)]


def test_a_glob_without_files_beside_others_is_an_error(
    streamed_mirror: MirrorHarness, tmp_path: Path
) -> None:
    store = str(streamed_mirror.folder)
    found = run(
        tmp_path, "--store", store, "cache", "add", "demo:000001", "sub-x", "sub-101", code=1
    )
    assert [one["path"] for one in found if one["status"] == "error"] == ["sub-x"]
    assert len(found) == 3


def test_contents_are_removed(streamed_mirror: MirrorHarness, tmp_path: Path) -> None:
    pin_latest(streamed_mirror, tmp_path / "datasets.lock", "demo:000001")
    run(tmp_path, "cache", "add", "datasets.lock")
    assert [one["removed"] for one in run(tmp_path, "cache", "prune")] == [0]
    (pruned,) = run(tmp_path, "cache", "prune", "--size", "100kB")
    assert pruned["removed"] > 0
    (cleared,) = run(tmp_path, "cache", "clear")
    assert cleared["removed"] > 0
    cache = open_cache()
    assert cache is not None
    assert [*cache.entries()] == []
    assert [one["removed"] for one in run(tmp_path, "cache", "clear")] == [0]


def test_files_that_do_not_fit_are_refused(
    streamed_mirror: MirrorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin_latest(streamed_mirror, tmp_path / "datasets.lock", "demo:000001")
    monkeypatch.setenv("NEUROMIRROR_CACHE_SIZE", "60kB")
    assert run(tmp_path, "cache", "add", "datasets.lock", code=2)[0]["status"] == "error"
    assert run(tmp_path, "cache")[0]["contents"] == 0


def test_a_switched_off_cache_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")
    assert run(tmp_path, "cache")[0]["folder"] is None
    run(tmp_path, "cache", "clear", code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["add"],
        ["add", "missing.lock"],
        ["clear", "x"],
        ["prune", "--size", "much"],
        ["show", "--size", "1GB"],
        ["clear", "--jobs", "2"],
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: list[str]) -> None:
    run(tmp_path, "cache", *arguments, code=2)


def test_a_pattern_without_files_exits_with_2(
    streamed_mirror: MirrorHarness, tmp_path: Path
) -> None:
    pin_latest(streamed_mirror, tmp_path / "datasets.lock", "demo:000001")
    run(tmp_path, "cache", "add", "datasets.lock", "*.none", code=2)
