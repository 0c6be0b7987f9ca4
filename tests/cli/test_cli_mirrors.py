"""Mirror files: configured, received from others, and the archives that they name."""

import json
import os
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.cli.common import Settings
from neuromirror.config.mirror_files import builtin_mirror_files
from neuromirror.sources.volumes.urls import token_variable
from neuromirror_demo import DemoArchive
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness
from support.stub_server import StubServer


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
    demo: DemoArchive, empty_folder: Path, isolated_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Settings().store(create=True)
    assert store.root.is_relative_to(isolated_home)
    assert str(store.root) in capsys.readouterr().err
    assert list(empty_folder.iterdir()) == []
    Shell(demo.mirrors, store.root).run("sync", "demo:000001")
    assert [record["dataset"] for record in records("list")] == ["demo:000001"]


NAME = "demo:000002"


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder ./mirrors, which no option and no variable names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEUROMIRROR_MIRRORS", raising=False)
    folder = tmp_path / "mirrors"
    folder.mkdir()
    return folder


def exit_code(*arguments: str) -> int:
    done = CliRunner().invoke(main, ["--store", "store", *arguments])
    assert "Traceback" not in done.output
    return done.exit_code


@pytest.mark.parametrize("option", ['token_env = "OTHER_KEY"', 'instance = "other-service"'])
def test_no_variable_is_sent_to_a_host_that_a_received_file_names(
    demo: DemoArchive, mirrors: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "canary")
    monkeypatch.setenv("OTHER_SERVICE_API_KEY", "canary")
    (mirrors / "dandi.toml").write_text(
        f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n{option}\n'
    )
    demo.clear_requests()
    for command in (["get", "dandi:000002"], ["sync", "dandi"], ["doctor"], ["check-config"]):
        assert exit_code(*command) == 2
    assert demo.count_requests("") == 0
    # the user names the folder
    assert exit_code("--mirrors", "mirrors", "check-config") == 0


def test_requests_are_not_signed_for_an_endpoint_of_a_received_file(mirrors: Path) -> None:
    (mirrors / "lab.toml").write_text(
        'source = "s3"\n[options]\nbucket = "lab"\nendpoint = "https://example.org"\n'
        'credentials = "aws"\n'
    )
    assert exit_code("sync", "lab", "--private-store", "private") == 2
    assert exit_code("--mirrors", "mirrors", "check-config") == 0


def test_the_variable_of_the_host_is_used(demo: DemoArchive, mirrors: Path) -> None:
    variable = token_variable(urlsplit(demo.api_url).netloc)
    for name in ("", f'token_env = "{variable}"'):
        (mirrors / "demo.toml").write_text(
            f'source = "dandi"\n[options]\napi = "{demo.api_url}"\n{name}\n'
        )
        assert exit_code("sync", NAME, "--dry-run") == 0
    (mirrors / "dandi.toml").write_text(
        'source = "dandi"\n[options]\napi = "https://api.dandiarchive.org/api"\n'
        'token_env = "DANDI_API_KEY"\n'
    )
    assert exit_code("check-config") == 0


def test_a_pipe_is_no_mirror_file(mirrors: Path) -> None:
    os.mkfifo(mirrors / "x.toml")
    assert exit_code("mirrors") == 2
    assert exit_code("--mirrors", "mirrors", "check-config") == 2


def test_no_credential_is_sent_to_a_forge_of_a_received_file(
    shared_demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror_harness = MirrorHarness(shared_demo.mirrors, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEUROMIRROR_SIBLINGS", raising=False)
    mirror_harness.sync(NAME)
    store = ("--store", str(mirror_harness.folder))
    with StubServer() as server:
        (siblings := tmp_path / "siblings").mkdir()
        (siblings / "forge.toml").write_text(
            f'type = "gitea"\napi = "{server.url}"\nowner = "lab"\ncredential = "lab-forge"\n'
            'datasets = ["*"]\n'
        )
        for command in (["publish", NAME, "--to", "forge"], ["serve", "--once"]):
            assert exit_code(*store, *command) == 2
        assert server.requests == []
        # the user names the folder
        named = ("--siblings", "siblings")
        assert exit_code(*store, "publish", NAME, "--to", "forge", *named) == 1
