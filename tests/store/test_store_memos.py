"""What a source remembers between visits, and what survives a visit that was killed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from neuromirror.store.memos import Memo, MemoFolder, Workspace

ID = "3f6cd1d4-9a54-5d0a-8b8e-111111111111"
MEMO = Memo("a" * 40, "b" * 40, b"\n\0pages\xff\n")


def files(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def test_a_memo_comes_back_byte_for_byte_under_its_own_word_only(tmp_path: Path) -> None:
    MemoFolder(tmp_path).keep(ID, "at 2024", MEMO)
    memos = MemoFolder(tmp_path)
    assert memos.read(ID, "at 2024") == MEMO
    assert memos.read(ID, "current") is None
    assert memos.read(ID.replace("3f6", "4f6"), "at 2024") is None


def test_an_equal_memo_is_not_written_again(tmp_path: Path) -> None:
    memos = MemoFolder(tmp_path)
    memos.keep(ID, "current", MEMO)
    (path,) = files(tmp_path)
    os.utime(path, (1, 1))
    before = files(tmp_path)
    memos.keep(ID, "current", MEMO)
    assert files(tmp_path) == before
    memos.keep(ID, "current", Memo("c" * 40, "b" * 40, MEMO.content))
    assert files(tmp_path) != before
    found = memos.read(ID, "current")
    assert found is not None
    assert found.commit == "c" * 40


def test_no_memo_takes_the_place_of_an_old_one(tmp_path: Path) -> None:
    memos = MemoFolder(tmp_path)
    memos.keep(ID, "current", MEMO)
    memos.keep(ID, "current", None)
    assert memos.read(ID, "current") is None
    assert files(tmp_path) == {}


def test_a_memo_with_any_byte_damaged_reads_as_none(tmp_path: Path) -> None:
    memos = MemoFolder(tmp_path)
    memos.keep(ID, "current", MEMO)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :])
        assert memos.read(ID, "current") is None, place
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert memos.read(ID, "current") is None, length
    path.write_bytes(whole)
    assert memos.read(ID, "current") == MEMO


@pytest.mark.parametrize("content", [b"", b"[]\n", b"{}\n", b"\xff\n", b'{"format":9}\n', b"1\n"])
def test_a_file_that_is_no_memo_reads_as_none_and_is_replaced(
    tmp_path: Path, content: bytes
) -> None:
    memos = MemoFolder(tmp_path)
    memos.keep(ID, "current", MEMO)
    (path,) = files(tmp_path)
    path.write_bytes(content)
    assert memos.read(ID, "current") is None
    memos.keep(ID, "current", MEMO)
    assert memos.read(ID, "current") == MEMO


def test_what_a_killed_writer_left_goes_with_the_next_memo(tmp_path: Path) -> None:
    memos = MemoFolder(tmp_path)
    memos.keep(ID, "current", MEMO)
    (path,) = files(tmp_path)
    (path.parent / ".new-killed").write_bytes(b"half")
    memos.keep(ID, "current", Memo("c" * 40, "b" * 40, b""))
    assert list(files(tmp_path)) == [path]


def test_a_workspace_is_empty_at_first_and_keeps_what_is_put_there(tmp_path: Path) -> None:
    assert not list(tmp_path.iterdir())
    folder = Workspace(tmp_path, ID, "current").path()
    assert list(folder.iterdir()) == []
    (folder / "page-1").write_bytes(b"rows")
    again = Workspace(tmp_path, ID, "current")
    assert (again.path() / "page-1").read_bytes() == b"rows"
    assert list(Workspace(tmp_path, ID, "at 2024").path().iterdir()) == []
    again.leave()
    assert (again.path() / "page-1").exists()


def test_a_removed_workspace_leaves_nothing_and_spares_another_versions(tmp_path: Path) -> None:
    one, other = (Workspace(tmp_path, ID, word) for word in ("current", "at 2024"))
    (one.path() / "page-1").write_bytes(b"rows")
    (other.path() / "page-1").write_bytes(b"rows")
    one.remove()
    one.remove()
    assert (other.path() / "page-1").exists()
    other.remove()
    assert list((tmp_path / "neuromirror" / "workspaces").iterdir()) == []
    one.path()
    one.leave()
    assert list((tmp_path / "neuromirror" / "workspaces").iterdir()) == []


def test_pages_older_than_a_day_are_not_gone_on_with(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, ID, "current").path()
    (folder / "page-1").write_bytes(b"rows")
    yesterday = time.time() - 25 * 3600
    for one in (folder, folder / "page-1"):
        os.utime(one, (yesterday, yesterday))
    assert list(Workspace(tmp_path, ID, "current").path().iterdir()) == []


def test_a_reading_of_days_is_gone_on_with_where_it_was_under_way_today(tmp_path: Path) -> None:
    folder = Workspace(tmp_path, ID, "current").path()
    for name in ("page-1", "page-2"):
        (folder / name).write_bytes(b"rows")
    long_ago = time.time() - 72 * 3600
    for one in (folder.parent, folder, folder / "page-1"):
        os.utime(one, (long_ago, long_ago))
    assert len(list(Workspace(tmp_path, ID, "current").path().iterdir())) == 2
