"""A folder ./mirrors may have come with a repository of others."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.sources.volumes.urls import token_variable
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.stub_server import StubServer

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
