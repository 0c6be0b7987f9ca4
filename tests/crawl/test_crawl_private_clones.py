"""Content of a clone of the private store: fetched with a token that is stored nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neuromirror.volume.tokens import token_variable
from support.embargo_harness import FOLDER, ID, EmbargoHarness, contents
from support.foreign_pushes import run_checked, run_in


@pytest.fixture
def private_clone(embargo: EmbargoHarness, tmp_path: Path) -> Path:
    """A clone of the embargoed dandiset, created by datalad."""
    embargo.sync()
    clone = tmp_path / "clone"
    run_checked(
        tmp_path, "datalad", "clone", f"ria+file://{embargo.private}#~demo--{ID}", str(clone)
    )
    return clone


def add_remote(clone: Path, host: str, token: str) -> str:
    """Add the remote that fetches files with a token; return git-annex's output."""
    added = run_in(
        clone,
        *("git", "annex", "initremote", "token", "--private", "type=external"),
        *("externaltype=neuromirror", "encryption=none", f"archive={host}"),
        environment={token_variable(host): token},
    ).stdout
    run_checked(clone, "git", "config", "remote.token.annex-speculate-present", "true")
    return added


def test_files_are_got_with_a_token_that_is_kept_nowhere(
    embargo: EmbargoHarness, private_clone: Path
) -> None:
    host, token = urlsplit(embargo.demo.api_url).netloc, embargo.demo.token
    assert run_in(private_clone, "git", "annex", "get", ".").returncode != 0
    printed = add_remote(private_clone, host, token)
    paths = [Path(FOLDER, "file.txt"), Path("notes.txt")]
    right = {token_variable(host): token}

    without = run_in(private_clone, "git", "annex", "get", "notes.txt")
    assert without.returncode != 0
    assert token_variable(host) in without.stdout
    wrong = run_in(
        private_clone,
        "git",
        "annex",
        "get",
        "notes.txt",
        environment={token_variable(host): "0" * 40},
    )
    assert wrong.returncode != 0
    assert token_variable(host) in wrong.stdout

    got = run_in(private_clone, "datalad", "get", ".", environment=right)
    assert got.returncode == 0, got.stdout
    fsck_records = run_in(
        private_clone, "git", "annex", "fsck", "--json", environment=right
    ).stdout.splitlines()
    assert all(json.loads(line)["success"] for line in fsck_records if line.startswith("{"))
    for path in paths:
        assert (private_clone / path).exists()
    dropped = run_in(
        private_clone, "datalad", "drop", "--reckless", "availability", ".", environment=right
    )
    assert dropped.returncode == 0, dropped.stdout
    assert (
        run_in(private_clone, "git", "annex", "get", "-J2", ".", environment=right).returncode == 0
    )

    assert token.encode() not in b"\n".join(contents(private_clone))
    everything = printed + without.stdout + wrong.stdout + got.stdout + dropped.stdout
    assert token not in everything
    assert "X-Amz-" not in everything
    # the remote exists only in this clone
    assert "archive=" not in run_in(private_clone, "git", "show", "git-annex:remote.log").stdout


def test_a_token_goes_only_to_its_own_host_and_over_tls(
    embargo: EmbargoHarness, private_clone: Path
) -> None:
    host, token = urlsplit(embargo.demo.api_url).netloc, embargo.demo.token
    elsewhere = "archive.example.org"
    # the author of a dataset chooses the remote's settings, but not which token it gets
    add_remote(private_clone, elsewhere, token)
    result = run_in(
        private_clone, "git", "annex", "get", "notes.txt", environment={token_variable(host): token}
    )
    assert result.returncode != 0
    assert token_variable(elsewhere) in result.stdout
    key = run_checked(private_clone, "git", "annex", "lookupkey", "notes.txt").strip()
    run_checked(private_clone, "git", "annex", "registerurl", key, f"http://{elsewhere}/notes.txt")
    result = run_in(
        private_clone,
        "git",
        "annex",
        "get",
        "notes.txt",
        environment={token_variable(elsewhere): token},
    )
    assert result.returncode != 0
    assert f"{key} has no URL at {elsewhere}" in result.stdout
