"""An older release refuses a store of a newer one and writes nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from neuromirror.store import Store
from support.command_shell import Shell, folder_snapshot

WRITES_STORE = [
    ["sync"],
    ["takedown", "demo:000001", "--reason", "x"],
    ["repair"],
    ["housekeeping"],
    ["rebuild-index"],
    ["backup", "{folder}/backup"],
    ["fsck"],
    ["release", "demo:000001"],
    ["pin", "demo:000002", "--output", "{folder}/datasets.lock"],
    ["catalogue", "--listen", "127.0.0.1:0"],
    ["serve", "--once"],
]
WRITES_INDEX = [
    ["sync"],
    ["takedown", "demo:000001", "--reason", "x"],
    ["release", "demo:000001"],
    ["pin", "demo:000002", "--output", "{folder}/datasets.lock"],
    ["catalogue", "--listen", "127.0.0.1:0"],
]


def refuses(shell: Shell, command: list[str], folder: Path) -> str:
    """Run a command that must fail with one error line and not change the store."""
    before = folder_snapshot(shell.store)
    filled = [part.format(folder=folder) for part in command]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "neuromirror", "--mirrors", str(shell.mirrors)),
            *("--store", str(shell.store)),
            *filled,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (1, 2), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    after = folder_snapshot(shell.store)
    after.pop("neuromirror/locks/service.lock", None)
    assert after == before
    assert not list(folder.glob("backup*")), done.stderr
    assert not list(folder.glob("datasets.lock*")), done.stderr
    return done.stderr


@pytest.mark.parametrize("command", WRITES_STORE, ids=lambda one: one[0])
def test_a_newer_store(copied: Shell, tmp_path: Path, command: list[str]) -> None:
    (copied.store / "neuromirror" / "store.json").write_text('{"format":99}\n')
    assert "format 99" in refuses(copied, command, tmp_path)


@pytest.mark.parametrize("command", WRITES_INDEX, ids=lambda one: one[0])
def test_a_newer_index(copied: Shell, tmp_path: Path, command: list[str]) -> None:
    index = Store.open(copied.store).index_path
    with sqlite3.connect(index) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "schema 99" in refuses(copied, command, tmp_path)


def test_a_newer_schedule(copied: Shell, tmp_path: Path) -> None:
    path = Store.open(copied.store).schedule_path
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 0")
    connection.close()
    path.unlink()
    from neuromirror.index import Schedule

    with Schedule.open(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "schema 99" in refuses(copied, ["serve"], tmp_path)


@pytest.mark.parametrize("command", WRITES_STORE, ids=lambda one: one[0])
def test_an_older_store(copied: Shell, tmp_path: Path, command: list[str]) -> None:
    (copied.store / "neuromirror" / "store.json").write_text('{"format":1}\n')
    assert "format 1" in refuses(copied, command, tmp_path)


@pytest.mark.parametrize("found", [0, 2, 99])
def test_a_backup_of_another_release(copied: Shell, tmp_path: Path, found: int) -> None:
    folder = tmp_path / "copies"
    copied.run("backup", str(folder))
    (metadata_file,) = folder.glob("*/backup.json")
    metadata_file.write_text(metadata_file.read_text().replace('"format": 1', f'"format": {found}'))
    before = folder_snapshot(folder)
    assert f"format {found}" in refuses(copied, ["restore-index", str(folder)], tmp_path)
    assert folder_snapshot(folder) == before
