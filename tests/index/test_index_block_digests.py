"""Block digests in the index, by the journal's entries."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from neuromirror.index import Index, MalformedQueryError, rebuild_from_journal
from neuromirror.model import ContentsDigested, DigestedContent, dump_entry, load_entry
from support.disk_journal import DiskJournal, placed_file
from support.index_dump import dump_index

AT = "2026-03-01T12:00:00+00:00"
ROOT, SHA256 = hashlib.sha256(b"root").hexdigest(), hashlib.sha256(b"bytes").hexdigest()


def digested(*keys: str, root: str = ROOT, sha256: str = SHA256) -> ContentsDigested:
    return ContentsDigested([DigestedContent(key, sha256, 1 << 20, root) for key in keys], AT)


def test_an_entry_comes_back_from_its_line() -> None:
    entry = digested("MD5E-s5--" + "0" * 32)
    assert load_entry(dump_entry(entry)) == entry


@pytest.mark.parametrize(
    ("old", "new"), [(ROOT, ROOT[:-1]), ('"piece_size":1048576', '"piece_size":-1'), (SHA256, "")]
)
def test_malformed_entries_are_refused(old: str, new: str) -> None:
    line = dump_entry(digested("MD5E-s5--" + "0" * 32)).decode()
    assert old in line
    with pytest.raises(ValueError, match="not a journal entry"):
        load_entry(line.replace(old, new).encode())


def test_a_content_is_found_by_what_the_pass_computed(journal: DiskJournal, index: Index) -> None:
    key = "MD5E-s7--" + "1" * 32 + ".nwb"
    journal.mint([placed_file("a", 1, key=key, digests=()), placed_file("b", 2)])
    journal.append(digested(key, "MD5E-s9--" + "2" * 32))
    index.catch_up(journal)
    for query in (f"sha256:{SHA256}", f"sha256:{SHA256[:12]}", f"btv2:{ROOT}"):
        assert [one.path for one in index.find(query)] == ["a"]
    assert list(index.find(f"btv2:{SHA256}")) == []
    with pytest.raises(MalformedQueryError):
        index.find("btv2:0123")
    # the digests of a version stay those that upstream stated
    (file,) = (one for one in index.files(index.resolve("dandi:000001")) if one.path == "a")
    assert file.digests == ()


def test_later_digests_replace_earlier_ones(journal: DiskJournal, index: Index) -> None:
    placed = placed_file("a", 1)
    journal.mint([placed])
    journal.append(digested(placed.key))
    journal.append(digested(placed.key, root=SHA256))
    index.catch_up(journal)
    assert [one.path for one in index.find(f"btv2:{SHA256}")] == ["a"]
    assert list(index.find(f"btv2:{ROOT}")) == []


def test_a_rebuilt_index_has_the_same_rows(
    journal: DiskJournal, index: Index, tmp_path: Path
) -> None:
    first, later = placed_file("a", 1), placed_file("b", 2)
    journal.mint([first])
    journal.append(digested(first.key, later.key))
    index.catch_up(journal)
    journal.mint([first, later])
    index.catch_up(journal)
    rebuilt = tmp_path / "again.sqlite"
    rebuild_from_journal(rebuilt, journal)
    with Index.open_readonly(rebuilt) as other:
        assert dump_index(other) == dump_index(index)
        assert [one.path for one in other.find(f"btv2:{ROOT}")] == ["a"]


def test_keys_of_shown_datasets(journal: DiskJournal, index: Index) -> None:
    placed = [placed_file("a", 1), placed_file("b", 2)]
    journal.mint(placed)
    index.catch_up(journal)
    keys = [one.key for one in placed]
    assert index.shown_keys([*keys, "MD5E-s9--" + "2" * 32]) == set(keys)
    assert index.shown_keys([]) == set()
