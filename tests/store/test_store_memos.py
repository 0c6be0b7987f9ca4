"""Memos between visits, and workspaces that survive a killed visit."""

import os
import time
from pathlib import Path

import pytest

from neuromirror.store.memos import Memos, StoredMemo, Workspace

ID = "3f6cd1d4-9a54-5d0a-8b8e-111111111111"
MEMO = StoredMemo("a" * 40, "b" * 40, b"\n\0pages\xff\n")


def files(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def test_memo_is_returned_unchanged_for_its_own_version_only(tmp_path: Path) -> None:
    Memos(tmp_path).write(ID, "at 2024", MEMO)
    memos = Memos(tmp_path)
    assert memos.read(ID, "at 2024") == MEMO
    assert memos.read(ID, "current") is None
    assert memos.read(ID.replace("3f6", "4f6"), "at 2024") is None


def test_equal_memo_is_not_rewritten(tmp_path: Path) -> None:
    memos = Memos(tmp_path)
    memos.write(ID, "current", MEMO)
    (path,) = files(tmp_path)
    os.utime(path, (1, 1))
    before = files(tmp_path)
    memos.write(ID, "current", MEMO)
    assert files(tmp_path) == before
    memos.write(ID, "current", StoredMemo("c" * 40, "b" * 40, MEMO.content))
    assert files(tmp_path) != before
    found = memos.read(ID, "current")
    assert found is not None
    assert found.commit == "c" * 40


def test_writing_none_removes_the_old_memo(tmp_path: Path) -> None:
    memos = Memos(tmp_path)
    memos.write(ID, "current", MEMO)
    memos.write(ID, "current", None)
    assert memos.read(ID, "current") is None
    assert files(tmp_path) == {}


def test_a_memo_with_any_byte_damaged_reads_as_none(tmp_path: Path) -> None:
    memos = Memos(tmp_path)
    memos.write(ID, "current", MEMO)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes((whole[offset] ^ 1,)) + whole[offset + 1 :])
        assert memos.read(ID, "current") is None, offset
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert memos.read(ID, "current") is None, length
    path.write_bytes(whole)
    assert memos.read(ID, "current") == MEMO


@pytest.mark.parametrize("content", [b"", b"[]\n", b"{}\n", b"\xff\n", b'{"format":9}\n', b"1\n"])
def test_invalid_memo_reads_as_none_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    memos = Memos(tmp_path)
    memos.write(ID, "current", MEMO)
    (path,) = files(tmp_path)
    path.write_bytes(content)
    assert memos.read(ID, "current") is None
    memos.write(ID, "current", MEMO)
    assert memos.read(ID, "current") == MEMO


def test_next_memo_removes_files_of_a_killed_writer(tmp_path: Path) -> None:
    memos = Memos(tmp_path)
    memos.write(ID, "current", MEMO)
    (path,) = files(tmp_path)
    (path.parent / ".new-killed").write_bytes(b"half")
    memos.write(ID, "current", StoredMemo("c" * 40, "b" * 40, b""))
    assert list(files(tmp_path)) == [path]


def test_new_workspace_is_empty_and_keeps_its_files(tmp_path: Path) -> None:
    assert not list(tmp_path.iterdir())
    folder = Workspace(tmp_path, ID, "current").path()
    assert list(folder.iterdir()) == []
    (folder / "page-1").write_bytes(b"rows")
    reopened = Workspace(tmp_path, ID, "current")
    assert (reopened.path() / "page-1").read_bytes() == b"rows"
    assert list(Workspace(tmp_path, ID, "at 2024").path().iterdir()) == []
    reopened.remove_if_empty()
    assert (reopened.path() / "page-1").exists()


def test_removing_a_workspace_keeps_that_of_another_version(tmp_path: Path) -> None:
    one, other = (Workspace(tmp_path, ID, upstream) for upstream in ("current", "at 2024"))
    (one.path() / "page-1").write_bytes(b"rows")
    (other.path() / "page-1").write_bytes(b"rows")
    one.remove()
    one.remove()
    assert (other.path() / "page-1").exists()
    other.remove()
    assert list((tmp_path / "neuromirror" / "workspaces").iterdir()) == []
    one.path()
    one.remove_if_empty()
    assert list((tmp_path / "neuromirror" / "workspaces").iterdir()) == []


def test_listing_is_not_resumed_from_pages_older_than_a_day(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, ID, "current").path()
    (folder / "page-1").write_bytes(b"rows")
    yesterday = time.time() - 25 * 3600
    for one in (folder, folder / "page-1"):
        os.utime(one, (yesterday, yesterday))
    assert list(Workspace(tmp_path, ID, "current").path().iterdir()) == []


def test_listing_that_takes_days_is_resumed_while_pages_are_recent(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, ID, "current").path()
    for name in ("page-1", "page-2"):
        (folder / name).write_bytes(b"rows")
    long_ago = time.time() - 72 * 3600
    for one in (folder.parent, folder, folder / "page-1"):
        os.utime(one, (long_ago, long_ago))
    assert len(list(Workspace(tmp_path, ID, "current").path().iterdir())) == 2
