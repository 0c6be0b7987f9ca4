"""A catalogue whose index is damaged."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.store import Store
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue


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
    with run_catalogue(damaged) as found:
        yield found


def test_a_damaged_index_is_a_server_error(broken: RunningCatalogue) -> None:
    for path in ("/", "/api/v1/datasets", "/api/v1/datasets/demo:000002"):
        reply = broken.get(path)
        assert (reply.status_code, reply.headers.get("retry-after")) == (503, "10"), path
        assert "malformed" not in reply.text


def test_an_index_that_is_no_database_is_503(copied_harness: MirrorHarness) -> None:
    store = copied_harness.store
    with run_catalogue(store) as site:
        assert site.get("/").status_code == 200
        draft = store.index_path.with_name("draft")
        draft.write_bytes(b"\xff" * 100_000)
        draft.replace(store.index_path)
        for path in ("/", "/api/v1/datasets"):
            assert site.get(path).status_code == 503, path
