"""Results of queries are kept while the index is unchanged, and no longer."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from neuromirror.index import Index
from neuromirror.index.reader import ResultCache
from support.disk_journal import DiskJournal, placed_file

NAME = "dandi:000001"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "some.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n)")
    connection.close()
    return path


def test_a_result_is_read_again_after_a_commit_of_another_connection(database: Path) -> None:
    reads: list[int] = []
    with sqlite3.connect(database) as reader, sqlite3.connect(database) as writer:
        cache = ResultCache(reader)

        def count() -> int:
            reads.append(1)
            return int(reader.execute("SELECT count(*) FROM t").fetchone()[0])

        assert [cache.recall("n", count, lambda _: 1) for _ in range(3)] == [0, 0, 0]
        assert len(reads) == 1
        writer.execute("INSERT INTO t VALUES (1)")
        assert cache.recall("n", count, lambda _: 1) == 0  # not committed
        assert len(reads) == 1
        writer.commit()
        assert cache.recall("n", count, lambda _: 1) == 1
        assert cache.recall("n", count, lambda _: 1) == 1
        assert len(reads) == 2


def test_an_index_shows_each_version_at_once(journal: DiskJournal, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    journal.mint([placed_file("recordings/one.nwb", 1)])
    with Index.open(path) as writer:
        writer.catch_up(journal)
        with Index.open_readonly(path) as reader:
            for _ in range(2):
                assert reader.versions.change_counts(NAME) == {1: (1, 0, 0)}
                assert reader.search.datasets("two").total == 0
                assert reader.search.datasets("").total == 1
            journal.mint([placed_file("recordings/two.nwb", 2)])
            journal.mint([placed_file("recordings/two.nwb", 2)], "000002")
            writer.catch_up(journal)
            assert reader.versions.change_counts(NAME) == {1: (1, 0, 0), 2: (1, 1, 0)}
            assert reader.search.datasets("two").total == 2
            assert reader.search.datasets("").total == 2


def test_facets_of_an_earlier_search_are_not_shown(
    journal: DiskJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.sqlite"
    journal.mint([placed_file("recordings/one.nwb", 1)])
    with Index.open(path) as writer, Index.open_readonly(path) as reader:
        writer.catch_up(journal)
        journal.mint([placed_file("recordings/two.nwb", 2)], "000002")
        select = reader.search._selected

        def select_after_commit(filters: Mapping[str, Sequence[str]]) -> dict[str, set[int]]:
            writer.catch_up(journal)
            return select(filters)

        with monkeypatch.context() as during:
            during.setattr(reader.search, "_selected", select_after_commit)
            assert reader.search.datasets("").total == 1
        found = reader.search.datasets("")
        assert found.total == 2
        assert [facet.count for facet in found.facets["archive"]] == [2]
