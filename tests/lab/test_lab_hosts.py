"""What is the matter with a host is printed once, with what to do about it, however many files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lab_again import Lab
from lab_clones import clone

from neuromirror.cli import main
from neuromirror_demo import DemoArchive

NAME = "demo:000002"
SETTING = "annex.security.allowed-ip-addresses"


@pytest.fixture
def strict(lab: Lab, tmp_path: Path, isolated_home: Path) -> Path:
    """A clone of a dataset whose places are on this machine, which git-annex may not ask."""
    lab.place.sync(NAME)
    folder = clone(lab.place, NAME, tmp_path / "clone")
    config = str(isolated_home / ".gitconfig")
    subprocess.run(["git", "config", "--file", config, "--unset-all", SETTING], check=True)
    return folder


def run(*arguments: str) -> tuple[int, list[dict[str, Any]], list[str]]:
    """The exit code, the JSON records, and the lines for people, on stderr."""
    done = CliRunner().invoke(main, ["--json", *arguments])
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, records, done.stderr.splitlines()


@pytest.mark.parametrize("mode", ["--remote", "--full"])
def test_a_host_that_may_not_be_asked_is_named_once_with_the_setting(
    strict: Path, mode: str
) -> None:
    code, records, lines = run("verify", mode, str(strict))
    assert code == 1
    places = [one for one in records if one.get("what") == "place"]
    hosts = {one["host"] for one in places}
    assert len(places) > len(hosts)
    assert len(hosts) == 2  # the archive's API, and its bucket
    for host in hosts:
        own = [line for line in lines if line.split()[1] == host]
        assert len(own) == 2  # the message, and the count at the end
        (total,) = [one for one in records if one.get("what") == "host" and one["host"] == host]
        assert total["count"] == sum(one["host"] == host for one in places)
        message = next(one["message"] for one in places if one["host"] == host)
        assert f"git config {SETTING} '127.0.0.1'" in message
        assert "allow_private" not in message


def test_the_hint_is_right(strict: Path) -> None:
    _, records, _ = run("verify", "--remote", str(strict))
    command = next(one["message"] for one in records if one.get("host")).partition("; ")[2]
    assert command.startswith("to allow it, run git config ")
    subprocess.run(command.partition("run ")[2], shell=True, cwd=strict, check=True)
    code, records, _ = run("verify", "--remote", str(strict))
    assert code == 0
    assert not any(one.get("host") for one in records)


def test_a_host_that_takes_no_token_is_named_once(strict: Path, demo: DemoArchive) -> None:
    subprocess.run(["git", "-C", str(strict), "config", SETTING, "127.0.0.1"], check=True)
    with demo.fault("status", server="s3", path=".", status=401):
        code, records, lines = run("verify", "--remote", str(strict))
    assert code == 1
    hosts = [one["host"] for one in records if one.get("what") == "place" and one.get("host")]
    assert len(hosts) > 2
    for host in set(hosts):
        assert len([line for line in lines if line.split()[1] == host]) == 2


def test_an_audit_names_a_host_that_takes_no_token_once(lab: Lab, demo: DemoArchive) -> None:
    lab.place.sync(NAME)
    with demo.fault("status", server="s3", path=".", status=401):
        code, records, lines = run("audit", "--store", str(lab.place.folder), NAME)
    assert code == 1
    hosts = [one["host"] for one in records if one.get("url") and one.get("host")]
    assert len(hosts) > 2
    for host in set(hosts):
        # the message, and the count at the end
        assert len([line for line in lines if host in line.split()[:2]]) == 2
        (total,) = [one for one in records if one.get("what") == "host" and one["host"] == host]
        assert total["count"] == hosts.count(host)


def test_get_names_hosts_that_may_not_be_asked_once(
    strict: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(strict)
    code, records, lines = run("get")
    assert code == 1
    failed = [one for one in records if one["status"] == "error" and "path" in one]
    assert len(failed) > 2
    (hosts,) = {one["host"] for one in failed}
    assert len([line for line in lines if hosts in line]) == 2
    assert [one["count"] for one in records if one.get("what") == "host"] == [len(failed)]
