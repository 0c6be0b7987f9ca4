"""Zarrs whose files are in the store and not in the index."""

from __future__ import annotations

import pytest

from neuromirror_demo import DemoArchive
from support.command_shell import Shell

DATASET = "demo:000005"
NOTHING = "0" * 64


@pytest.fixture
def zarrs(shell: Shell, demo: DemoArchive) -> Shell:
    """A store whose index has no files of Zarrs."""
    setting(shell, 0)
    shell.run("sync", DATASET)
    return shell


def setting(shell: Shell, entries: int) -> None:
    path = shell.mirrors / "demo.toml"
    text = path.read_text().partition("[zarr]")[0]
    path.write_text(f"{text}\n[zarr]\ninline_components = 0\nindex_entries = {entries}\n")


def zarr(shell: Shell) -> tuple[str, int]:
    """Return the name of the largest Zarr of the dandiset, and the number of its files."""
    found = shell.records("list", "--subdatasets")
    return max(
        ((one["dataset"], one["files"]) for one in found if one["is_subdataset"]),
        key=lambda x: x[1],
    )


def test_files_of_a_zarr_come_from_the_store_as_they_would_from_the_index(zarrs: Shell) -> None:
    name, count = zarr(zarrs)
    text, found = zarrs.run("files", name).lines, zarrs.records("files", name)
    assert len(text) == len(found) == count > 1
    assert zarrs.records("show", name)[0]["indexed"] is False
    assert "  index " in zarrs.run("show", name).out
    setting(zarrs, count)
    zarrs.run("rebuild-index")
    assert zarrs.run("files", name).lines == text
    second = zarrs.records("files", name)
    # the index adds the URLs of other files with the same content
    assert all(one["urls"][0].split("?")[0].endswith(one["path"]) for one in found)
    assert [one | {"urls": []} for one in second] == [one | {"urls": []} for one in found]
    assert zarrs.records("show", name)[0]["indexed"] is True
    assert "  index " not in zarrs.run("show", name).out


def test_find_reports_zarrs_that_are_not_searched_and_the_setting_to_change(zarrs: Shell) -> None:
    name, count = zarr(zarrs)
    one = next(one for one in zarrs.records("files", DATASET) if one["type"] == "file")
    digest = zarrs.records("files", name)[-1]["digest"]
    missed = zarrs.run("find", digest, code=1)
    assert missed.out == ""
    not_found, message = missed.err.splitlines()
    assert digest in not_found
    assert f"[zarr] index_entries = {count}" in message
    assert "neuromirror rebuild-index" in message
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
    # the message is printed after a match too
    there = zarrs.run("find", one["digest"])
    assert one["path"] in there.out
    assert there.err == f"{message}\n"
    assert [one["type"] for one in zarrs.records("find", one["digest"])] == ["file", "not-indexed"]
    setting(zarrs, count)
    zarrs.run("rebuild-index")
    assert name in {one["dataset"] for one in zarrs.records("find", digest)}
    assert zarrs.run("find", NOTHING, code=1).error_line.count(NOTHING) == 1
