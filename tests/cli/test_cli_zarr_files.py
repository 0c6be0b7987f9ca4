"""Zarrs whose files are in the store and not in the index: what people are told of them."""

from __future__ import annotations

import pytest

from neuromirror_demo import DemoArchive
from support.command_shell import Shell

DATASET = "demo:000005"
NOTHING = "0" * 64


@pytest.fixture
def zarrs(shell: Shell, demo: DemoArchive) -> Shell:
    """A store that was synced under a setting by which the index has the files of no Zarr."""
    setting(shell, 0)
    shell.run("sync", DATASET)
    return shell


def setting(shell: Shell, entries: int) -> None:
    path = shell.mirrors / "demo.toml"
    text = path.read_text().partition("[zarr]")[0]
    path.write_text(f"{text}\n[zarr]\ninline_components = 0\nindex_entries = {entries}\n")


def zarr(shell: Shell) -> tuple[str, int]:
    """The largest Zarr of the dandiset: its name, and how many files it has."""
    found = shell.records("list", "--parts")
    return max(((one["dataset"], one["files"]) for one in found if one["part"]), key=lambda x: x[1])


def test_files_of_a_zarr_come_from_the_store_as_they_would_from_the_index(zarrs: Shell) -> None:
    name, count = zarr(zarrs)
    text, found = zarrs.run("files", name).lines, zarrs.records("files", name)
    assert len(text) == len(found) == count > 1
    assert zarrs.records("show", name)[0]["indexed"] is False
    assert "'find' does not look at them" in zarrs.run("show", name).out
    setting(zarrs, count)
    zarrs.run("rebuild-index")
    assert zarrs.run("files", name).lines == text
    second = zarrs.records("files", name)
    # the index adds the places of other files of the same bytes
    assert all(one["urls"][0].split("?")[0].endswith(one["path"]) for one in found)
    assert [one | {"urls": []} for one in second] == [one | {"urls": []} for one in found]
    assert zarrs.records("show", name)[0]["indexed"] is True
    assert "does not look at" not in zarrs.run("show", name).out


def test_find_says_what_it_did_not_look_at_and_how_to_bring_it_in(zarrs: Shell) -> None:
    name, count = zarr(zarrs)
    one = next(one for one in zarrs.records("files", DATASET) if one["type"] == "file")
    digest = zarrs.records("files", name)[-1]["digest"]
    message = (
        f"not looked at: the files of 1 Zarr of demo ({count} files), which are not in the index; "
        f"'[zarr] index_entries = {count}' in demo.toml and 'neuromirror rebuild-index' bring them "
        "in"
    )
    missed = zarrs.run("find", digest, code=1)
    assert missed.out == ""
    assert missed.err.splitlines() == [
        f"no file with checksum {digest} is in the index; is its dataset mirrored?",
        message,
    ]
    failed, note = zarrs.records("find", digest, code=1)
    assert failed["status"] == "impossible"
    assert note == {
        "action": "find",
        "type": "not-indexed",
        "status": "notneeded",
        "message": message,
        "mirror": "demo",
        "zarrs": 1,
        "files": count,
        "largest": count,
        "setting": "[zarr] index_entries",
    }
    # it is told beside what was found, too
    there = zarrs.run("find", one["digest"])
    assert one["path"] in there.out
    assert there.err == f"{message}\n"
    assert [one["type"] for one in zarrs.records("find", one["digest"])] == ["file", "not-indexed"]
    setting(zarrs, count)
    zarrs.run("rebuild-index")
    assert name in {one["dataset"] for one in zarrs.records("find", digest)}
    assert zarrs.run("find", NOTHING, code=1).error_line.startswith("no file with checksum")


def test_an_index_rebuilt_without_mirror_files_stays_the_same(zarrs: Shell) -> None:
    name, _ = zarr(zarrs)
    nowhere = zarrs.with_changes(mirrors=zarrs.store / "nowhere")
    nowhere.run("rebuild-index")
    assert nowhere.records("show", name)[0]["indexed"] is False
    setting(zarrs, 10**6)
    nowhere.run("rebuild-index")
    assert nowhere.records("show", name)[0]["indexed"] is False
    (zarrs.mirrors / "demo.toml").write_text("source = 7\n")
    assert "demo.toml" in zarrs.run("rebuild-index", code=2).error_line
