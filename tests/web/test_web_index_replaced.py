"""A replaced index is no longer read after a takedown, rebuild or restore."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from neuromirror.crawl import load_mirrors, open_recorder, rebuild_index
from neuromirror.crawl.takedown import take_down
from neuromirror.index import Index
from neuromirror.index.backup import copy_database, restore_copy
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue

NAME = "demo:000002"
_WARM = 4
"""Requests at once, so that every thread and process has a connection."""


def withdraw(harness: MirrorHarness) -> None:
    store = harness.store
    with open_recorder(store, store.index_path) as recorder:
        list(take_down(store, recorder, NAME, "asked for", "me", load_mirrors(harness.mirrors)))


def secrets(harness: MirrorHarness) -> tuple[str, str]:
    """The title and a key that the dataset alone has."""
    with harness.index() as index:
        dataset = index.datasets.get(NAME)
        others = {
            file.key
            for one in index.datasets.select()
            if one.name != NAME
            for file in index.files.of(index.versions.resolve(one.name))
        }
        keys = [
            one.key for one in index.files.of(index.versions.resolve(NAME)) if one.key not in others
        ]
    assert dataset.title
    assert keys
    return dataset.title, keys[0]


SURFACES = (
    "/",
    "/?q=000002",
    "/dataset/demo:000002",
    "/dataset/demo:000002@latest",
    "/checksums/demo:000002@latest",
    "/cite/demo:000002@latest?format=text",
    "/badge/demo:000002@latest.svg",
    "/feed.atom",
    "/feed/demo.atom",
    "/feed/demo:000002.atom",
    "/events",
    "/mirrors",
    "/api/v1/datasets",
    "/api/v1/datasets?q=000002",
    "/api/v1/datasets/demo:000002",
    "/api/v1/datasets/demo:000002@latest",
    "/api/v1/datasets/demo:000002@latest/files?limit=1000",
    "/api/v1/events",
)


def replies(site: RunningCatalogue, *more: str) -> dict[str, list[requests.Response]]:
    """Each surface some times, by many clients at once."""
    found: dict[str, list[requests.Response]] = {}
    with ThreadPoolExecutor(_WARM) as pool:
        for path in (*SURFACES, *more):
            several = list(pool.map(lambda _, path=path: site.get(path), range(_WARM)))
            found[path] = [one for one in several if one.status_code not in (429, 503)]
            assert found[path], path
    return found


def leaking_paths(site: RunningCatalogue, secret_texts: tuple[str, str]) -> set[str]:
    """URLs whose responses contain a title or a key."""
    found = replies(
        site, f"/find?checksum={secret_texts[1]}", f"/api/v1/find?checksum={secret_texts[1]}"
    )
    return {
        path
        for path, several in found.items()
        if any(
            one.status_code == 200 and secret in one.text
            for one in several
            for secret in secret_texts
        )
        and "checksum=" not in path
    } | {
        path
        for path, several in found.items()
        if "checksum=" in path and any(NAME in one.text for one in several)
    }


def test_warm_connections_show_nothing_after_a_takedown(copied_harness: MirrorHarness) -> None:
    secret_texts = secrets(copied_harness)
    with run_catalogue(copied_harness.store) as site:
        before = leaking_paths(site, secret_texts)
        assert len(before) > 10
        withdraw(copied_harness)
        # at once, within the seconds that replies are kept
        assert leaking_paths(site, secret_texts) == set()
        assert site.get("/dataset/demo:000002").status_code == 410


def test_a_replaced_index_is_read_at_once(copied_harness: MirrorHarness, tmp_path: Path) -> None:
    path, store = copied_harness.store.index_path, copied_harness.store
    old = tmp_path / "old.sqlite"
    copy_database(path, old)
    with run_catalogue(store) as site:
        for replace in (
            lambda: Path(shutil.copy(old, tmp_path / "other")).replace(path),
            lambda: rebuild_index(store, path),
            lambda: restore_copy(path, old, store),
        ):
            # a title that no journal has
            change(path, "UPDATE datasets SET title = 'marked' WHERE local_id = '000002'")
            with ThreadPoolExecutor(_WARM) as pool:
                warm = list(pool.map(lambda _: site.get(f"/dataset/{NAME}"), range(_WARM)))
            assert any("marked" in one.text for one in warm)
            replace()
            several = [site.get(f"/dataset/{NAME}") for _ in range(4)]
            assert {one.status_code for one in several} == {200}
            assert not any("marked" in one.text for one in several)


def change(path: Path, sql: str) -> None:
    """A write by another program."""
    import sqlite3

    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql)
    connection.close()


_READER = """
import sys
from pathlib import Path
from neuromirror.index import Index
path = Path(sys.argv[1])
index = Index.open_readonly(path)
def titles(index):
    return index.reader.row("SELECT uri FROM mirrors")[0]
print(titles(index))
sys.stdout.flush(); sys.stdin.readline()
if index.is_replaced:
    index = Index.open_readonly(path)
print(titles(index))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_reader_that_may_not_write_sees_each_change(
    demo_harness: MirrorHarness, tmp_path_factory: pytest.TempPathFactory
) -> None:
    person = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c"]
    tried = subprocess.run([*person, "import neuromirror.web"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("another user cannot read this installation")
    folder = tmp_path_factory.mktemp("readonly")
    path = folder / "index.sqlite"
    copy_database(demo_harness.store.index_path, path)
    change(path, "PRAGMA journal_mode = WAL")
    folder.chmod(0o755)
    for parent in folder.parents:  # of pytest, for each of its workers
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    path.chmod(0o644)
    with subprocess.Popen(
        [*person, _READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "changed" not in process.stdout.readline()
        change(path, "UPDATE mirrors SET uri = 'changed'")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().split() == ["changed"]


def test_index_replaced_during_open_is_reopened(
    demo_harness: MirrorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "index.sqlite", tmp_path / "other.sqlite"
    copy_database(demo_harness.store.index_path, path)
    copy_database(path, other)
    from neuromirror.index import database

    opened = database.open_reader

    def replaced(at: Path) -> object:
        connection = opened(at)
        other.replace(at)
        return connection

    monkeypatch.setattr(database, "open_reader", replaced)
    with Index.open_readonly(path) as index:
        assert index.is_replaced
