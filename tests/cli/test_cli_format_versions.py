"""An older release refuses a store of a newer one and writes nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

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
    """Run a command that must fail and not change the store; return what it prints on stderr."""
    before = folder_snapshot(shell.store)
    done = shell.run_any(*(part.format(folder=folder) for part in command))
    assert done.code in (1, 2), (done.out, done.err)
    assert "Traceback" not in done.err
    after = folder_snapshot(shell.store)
    after.pop("neuromirror/locks/service.lock", None)
    assert after == before
    assert not list(folder.glob("backup*")), done.err
    assert not list(folder.glob("datasets.lock*")), done.err
    return done.err


def test_a_newer_store(copied: Shell, tmp_path: Path) -> None:
    (copied.store / "neuromirror" / "store.json").write_text('{"format":99}\n')
    for command in WRITES_STORE:
        assert "format 99" in refuses(copied, command, tmp_path), command


def test_a_newer_index(copied: Shell, tmp_path: Path) -> None:
    index = Store.open(copied.store).index_path
    with sqlite3.connect(index) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for command in WRITES_INDEX:
        assert "schema 99" in refuses(copied, command, tmp_path), command


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


def test_an_older_store(copied: Shell, tmp_path: Path) -> None:
    (copied.store / "neuromirror" / "store.json").write_text('{"format":1}\n')
    for command in WRITES_STORE:
        assert "format 1" in refuses(copied, command, tmp_path), command


def test_a_backup_of_another_release(copied: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    copied.run("backup", str(folder))
    (metadata_file,) = folder.glob("*/backup.json")
    metadata = metadata_file.read_text()
    for found in (0, 2, 99):
        metadata_file.write_text(metadata.replace('"format": 1', f'"format": {found}'))
        before = folder_snapshot(folder)
        assert f"format {found}" in refuses(copied, ["restore-index", str(folder)], tmp_path)
        assert folder_snapshot(folder) == before
