"""A catalogue whose index is damaged, and statements that fail: an error status in every form."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from crawl_place import Place
from web_site import Running, running

from neuromirror.index import IndexDamaged, VisitorIndex
from neuromirror.store import Store

FORMS = ("", ".json", ".csv")


@pytest.fixture(scope="module")
def damaged(shown: Place, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A copy of the store in whose index the table of versions cannot be read."""
    folder = tmp_path_factory.mktemp("damaged") / "store"
    shutil.copytree(shown.folder, folder, symlinks=True)
    store = Store.open(folder)
    damage(store.index_path, "versions")
    return store


def damage(index: Path, table: str) -> None:
    """Overwrite all pages of a table."""
    with sqlite3.connect(index) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        asked = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (root,) = connection.execute(asked, [table]).fetchone()
    connection.close()
    with index.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


@pytest.fixture(scope="module")
def broken(damaged: Store) -> Iterator[Running]:
    with running(damaged, "--sql") as found:
        yield found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["newest_versions", "versions"])
def test_a_damaged_index_is_no_mistake_of_the_visitor(
    broken: Running, name: str, form: str
) -> None:
    reply = broken.get(f"/index/{name}{form}")
    assert (reply.status_code, reply.headers.get("retry-after")) == (503, "10")
    assert "malformed" not in reply.text


@pytest.mark.parametrize("form", FORMS)
def test_nor_is_it_in_a_statement_of_the_visitor_s_own(broken: Running, form: str) -> None:
    reply = broken.get(f"/index{form}?sql={quote('select * from versions')}")
    assert reply.status_code == 503


def test_pages_of_a_damaged_index_are_503(broken: Running) -> None:
    for path in ("/", "/api/v1/datasets", "/api/v1/datasets/demo:000002"):
        assert broken.get(path).status_code == 503, path
    assert broken.get("/index").status_code in (200, 503)


def test_an_index_that_is_no_database_is_503(shown: Place, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(shown.folder, folder, symlinks=True)
    store = Store.open(folder)
    with running(store, "--sql") as site:
        assert site.get("/index/versions.csv").status_code == 200
        draft = store.index_path.with_name("draft")
        draft.write_bytes(b"\xff" * 100_000)
        draft.replace(store.index_path)
        for path in ("/", "/index/versions.csv", "/index/newest_versions", "/api/v1/datasets"):
            assert site.get(path).status_code == 503, path


def test_damage_is_one_kind_of_error_for_visitors(damaged: Store) -> None:
    index = VisitorIndex(damaged.index_path, lambda made: None)
    with pytest.raises(IndexDamaged):
        index.run(lambda made: made.execute("SELECT * FROM versions").fetchall())


@pytest.fixture(scope="module")
def free(shown: Place) -> Iterator[Running]:
    with running(shown.store, "--sql") as found:
        yield found


@pytest.mark.parametrize(
    "sql",
    [
        "select * from pragma_database_list",
        "select nothing from datasets",
        "select json('{')",
        "with recursive n(i) as (select 1 union all select i+1 from n) select max(i) from n",
    ],
)
def test_csv_of_a_statement_that_fails_is_an_error(free: Running, sql: str) -> None:
    reply = free.get(f"/index.csv?sql={quote(sql)}")
    assert reply.status_code == 400
    assert not reply.headers["content-type"].startswith("text/csv")
    assert free.get("/index.csv?sql=select+1").status_code == 200
