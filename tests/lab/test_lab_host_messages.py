"""A problem with a host is printed once, with a remedy, for any number of files."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from support.dataset_clones import clone_dataset
from support.lab_store import LabStore

NAME = "demo:000002"
SETTING = "annex.security.allowed-ip-addresses"


@pytest.fixture
def restricted_clone(still_lab: LabStore, tmp_path: Path, isolated_home: Path) -> Path:
    """A clone whose URLs are on this machine, to which git-annex may not connect."""
    folder = clone_dataset(still_lab.mirror_harness, NAME, tmp_path / "clone")
    config = str(isolated_home / ".gitconfig")
    subprocess.run(["git", "config", "--file", config, "--unset-all", SETTING], check=True)
    return folder


def run(*arguments: str) -> tuple[int, list[dict[str, Any]], list[str]]:
    """Return the exit code, the JSON records, and the lines on stderr."""
    done = CliRunner().invoke(main, ["--json", *arguments])
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, records, done.stderr.splitlines()


@pytest.mark.parametrize("mode", ["--remote", "--full"])
def test_a_forbidden_host_is_named_once_with_the_setting(restricted_clone: Path, mode: str) -> None:
    code, records, lines = run("verify", mode, str(restricted_clone))
    assert code == 1
    url_findings = [record for record in records if record.get("kind") == "url"]
    hosts = {finding["host"] for finding in url_findings}
    assert len(url_findings) > len(hosts)
    assert len(hosts) == 2  # the API and the bucket of the archive
    for host in hosts:
        own = [line for line in lines if line.split()[1] == host]
        assert len(own) == 2  # the message, and the count at the end
        (total,) = [one for one in records if one.get("kind") == "host" and one["host"] == host]
        assert total["count"] == sum(finding["host"] == host for finding in url_findings)
        message = next(finding["message"] for finding in url_findings if finding["host"] == host)
        assert f"git config --global {SETTING} '127.0.0.1'" in message
        assert "allow_private" not in message


def test_the_hint_is_right(restricted_clone: Path) -> None:
    _, records, _ = run("verify", "--remote", str(restricted_clone))
    message = next(record["message"] for record in records if record.get("host"))
    command = message[message.index("git config --global ") :]
    subprocess.run(command, shell=True, cwd=restricted_clone, check=True)
    code, records, _ = run("verify", "--remote", str(restricted_clone))
    assert code == 0
    assert not any(record.get("host") for record in records)


def test_restore_prints_one_message_and_a_count(
    restricted_clone: Path, tmp_path: Path, still_lab: LabStore
) -> None:
    store = ("--store", str(still_lab.mirror_harness.folder))
    lock = str(tmp_path / "datasets.lock")
    assert run("pin", NAME, "-o", lock, *store)[0] == 0
    code, records, lines = run("restore", lock, "--into", str(tmp_path / "data"), *store)
    assert code == 1
    failed = [record for record in records if record["action"] == "get" and "path" in record]
    assert len(failed) > 2
    (hosts,) = {one["host"] for one in failed}
    # the message, the count, and the result of the dataset
    assert len([line for line in lines if line.startswith("error")]) == 3
    assert [record["count"] for record in records if record.get("kind") == "host"] == [len(failed)]
    assert len({one["message"] for one in failed}) == 1
    # the command reads the setting, and adds to it
    assert failed[0]["message"].count(SETTING) == 2
    assert hosts
