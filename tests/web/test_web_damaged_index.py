"""A catalogue whose index is damaged, and statements that fail: an error status in every form."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from neuromirror.index import IndexDamagedError, SandboxIndex
from neuromirror.store import Store
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue

FORMS = ("", ".json", ".csv")


@pytest.fixture(scope="module")
def damaged(demo_harness: MirrorHarness, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A copy of the store in whose index the table of versions cannot be read."""
    folder = tmp_path_factory.mktemp("damaged") / "store"
    shutil.copytree(demo_harness.folder, folder, symlinks=True)
    store = Store.open(folder)
    damage(store.index_path, "versions")
    return store


def damage(index: Path, table: str) -> None:
    """Overwrite all pages of a table."""
    with sqlite3.connect(index) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (root,) = connection.execute(query, [table]).fetchone()
    connection.close()
    with index.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)


@pytest.fixture(scope="module")
def broken(damaged: Store) -> Iterator[RunningCatalogue]:
    with run_catalogue(damaged, "--sql") as found:
        yield found


def test_a_damaged_index_is_a_server_error(broken: RunningCatalogue) -> None:
    statement = f"?sql={quote('select * from versions')}"
    for form in FORMS:
        for path in (f"/newest_versions{form}", f"/versions{form}", f"{form}{statement}"):
            reply = broken.get(f"/index{path}")
            assert (reply.status_code, reply.headers.get("retry-after")) == (503, "10"), path
            assert "malformed" not in reply.text
    for path in ("/", "/api/v1/datasets", "/api/v1/datasets/demo:000002"):
        assert broken.get(path).status_code == 503, path
    assert broken.get("/index").status_code in (200, 503)


def test_an_index_that_is_no_database_is_503(copied_harness: MirrorHarness) -> None:
    store = copied_harness.store
    with run_catalogue(store, "--sql") as site:
        assert site.get("/index/versions.csv").status_code == 200
        draft = store.index_path.with_name("draft")
        draft.write_bytes(b"\xff" * 100_000)
        draft.replace(store.index_path)
        for path in ("/", "/index/versions.csv", "/index/newest_versions", "/api/v1/datasets"):
            assert site.get(path).status_code == 503, path


def test_damage_is_one_kind_of_error_for_visitors(damaged: Store) -> None:
    index = SandboxIndex(damaged.index_path, lambda made: None)
    with pytest.raises(IndexDamagedError):
        index.run(lambda made: made.execute("SELECT * FROM versions").fetchall())


@pytest.mark.parametrize(
    "sql",
    [
        "select * from pragma_database_list",
        "select nothing from datasets",
        "select json('{')",
        "with recursive n(i) as (select 1 union all select i+1 from n) select max(i) from n",
    ],
)
def test_csv_of_a_statement_that_fails_is_an_error(
    sql_catalogue: RunningCatalogue, sql: str
) -> None:
    reply = sql_catalogue.get(f"/index.csv?sql={quote(sql)}")
    assert reply.status_code == 400
    assert not reply.headers["content-type"].startswith("text/csv")
    found = sql_catalogue.get("/index.csv?sql=select+1")
    assert (found.status_code, found.headers["cache-control"]) == (200, "no-cache")
