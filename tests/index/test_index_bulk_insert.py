"""A large first version is written many rows per statement: the same rows as one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.index import Index, contents
from neuromirror.index import file_writer as recording_module
from neuromirror.model import Digest, Location, SnapshotEntry
from support.disk_journal import DiskJournal, placed_file, subdataset
from support.index_dump import dump_index


def _files(count: int) -> list[SnapshotEntry]:
    """Files, some of equal contents, with digests of all kinds, one place twice, and a part."""
    files = []
    for number in range(count):
        content = number if number % 50 else number // 100
        url = f"https://bucket.example.invalid/{number}"
        kinds = [
            {},
            {"digests": (Digest("md5", f"{content:032x}", "s3", True),), "part_size": None},
            {"digests": (Digest("md5", "not hex", "s3"),), "part_size": None},
            {"digests": (), "part_size": None, "path": b"\xff%d" % number},
            {"locations": (Location(url, "s3"), Location(url, "s3"), Location(url + "/", "api"))},
        ]
        key = f"XTEST-s7--{content}"
        files.append(placed_file(f"{number:06d}", content, key=key, **kinds[number % len(kinds)]))
    return [*files, subdataset("zarr", "zarr/1")]


def _dump(folder: Path, journal: DiskJournal, name: str) -> list[str]:
    with Index.open(folder / name) as index:
        index.catch_up(journal)
        assert index._db.execute("PRAGMA foreign_key_check").fetchall() == []
        return dump_index(index)


def test_rows_do_not_depend_on_how_many_are_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = DiskJournal(tmp_path)
    journal.mint(_files(1100), "000001")
    journal.mint(_files(1200), "000002")
    journal.mint(_files(1110)[5:], "000001")
    default = _dump(tmp_path, journal, "default")
    assert sum(line.startswith("files ") for line in default) > 2300
    for rows in (2, 499, 501):
        monkeypatch.setattr(contents, "_ROWS", rows)
        monkeypatch.setattr(recording_module, "_BATCH", 2 * rows + 1)
        assert _dump(tmp_path, journal, f"{rows} at once") == default, rows
