"""``neuromirror mirrors``, and commands in a folder without mirror files and store."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.cli.common import Settings
from neuromirror.config.mirror_files import builtin_mirror_files
from neuromirror_demo import DemoArchive
from support.command_shell import Shell


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a new empty folder, without settings in the environment."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def records(*arguments: str, code: int = 0) -> list[dict[str, object]]:
    done = CliRunner().invoke(main, ["--json", *arguments], prog_name="neuromirror")
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_mirrors_lists_the_builtin_ones_in_an_empty_folder(empty_folder: Path) -> None:
    found = {str(record["mirror"]): record for record in records("mirrors")}
    assert set(found) == set(builtin_mirror_files())
    assert all(record["builtin"] and not record["overrides"] for record in found.values())
    assert found["dandi"]["title"] == "DANDI Archive"
    assert found["dandi"]["needs"] == []
    assert found["linc"]["needs"] != []


def test_mirrors_shows_what_local_files_override_and_which_are_invalid(empty_folder: Path) -> None:
    local = empty_folder / "mirrors"
    local.mkdir()
    (local / "dandi.toml").write_text(
        'source = "s3"\ntitle = "Ours"\n[options]\nbucket = "bucket"\n'
    )
    (local / "lab.toml").write_text('source = "s3"\n[options]\nbucket = "bucket"\n')
    found = {str(record["mirror"]): record for record in records("mirrors")}
    assert (found["dandi"]["title"], found["dandi"]["overrides"]) == ("Ours", True)
    assert (found["lab"]["builtin"], found["lab"]["overrides"]) == (False, False)
    assert found["aind"]["builtin"]
    (local / "lab.toml").write_text("source = 7\n")
    found = {str(record["mirror"]): record for record in records("mirrors", code=2)}
    assert found["lab"]["status"] == "error"
    assert found["aind"]["status"] == "ok"


def test_a_shown_mirror_is_a_file_to_start_from(empty_folder: Path) -> None:
    (record,) = records("mirrors", "show", "aind")
    shown = CliRunner().invoke(main, ["mirrors", "show", "aind"], prog_name="neuromirror").stdout
    assert record["text"] == shown
    assert tomllib.loads(shown) == tomllib.loads(builtin_mirror_files()["aind"].read_text())
    folder = empty_folder / "mirrors"
    folder.mkdir()
    (folder / "lab.toml").write_text(shown)
    (checked,) = records("check-config")
    assert (checked["mirror"], checked["status"]) == ("lab", "ok")
    for wrong in (["mirrors", "show"], ["mirrors", "list", "dandi"], ["mirrors", "show", "dnadi"]):
        (failed,) = records(*wrong, code=2)
        assert failed["status"] == "error"


def test_without_a_store_that_of_the_user_is_named_and_found_everywhere(
    demo: DemoArchive,
    empty_folder: Path,
    isolated_home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Settings().store(create=True)
    assert store.root.is_relative_to(isolated_home)
    assert str(store.root) in capsys.readouterr().err
    assert list(empty_folder.iterdir()) == []
    Shell(demo.mirrors, store.root).run("sync", "demo:000001")
    assert [record["dataset"] for record in records("list")] == ["demo:000001"]
