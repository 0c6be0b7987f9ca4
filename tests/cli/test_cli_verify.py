"""``neuromirror verify``: what it prints, and how it exits."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from neuromirror.transfer.verified_repository import VerifiedRepository
from neuromirror_demo import DemoArchive
from support.command_shell import Shell, folder_snapshot

NAME = "demo:000004"


def filled(folder: Path) -> Path:
    """A clone with its content where git-annex would have put it."""
    with VerifiedRepository.at(folder) as opened:
        for link in [one for one in folder.rglob("*") if one.is_symlink()]:
            target = link.parent / os.readlink(link)
            target.parent.mkdir(parents=True)
            with urlopen(opened.urls(target.name)[0]) as reply:
                target.write_bytes(reply.read())
    return folder


def cloned(shell: Shell, target: Path, name: str = NAME) -> Path:
    source = shell.store / "alias" / name.replace(":", "--")
    subprocess.run(["git", "clone", "-q", str(source.resolve()), str(target)], check=True)
    return target


@pytest.fixture
def clone(synced: Shell, tmp_path: Path) -> Path:
    """Three NWB files, with their content."""
    return filled(cloned(synced, tmp_path / "clone"))


@pytest.fixture
def without_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: Shell) -> Shell:
    """A machine without a store."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return synced.with_changes(store=Path("store"), mirrors=folder)


def test_problems_are_named_on_stderr_with_exit_code_1(without_store: Shell, clone: Path) -> None:
    first, second, _ = sorted(clone.glob("sub-*/*.nwb"))
    first.resolve().write_bytes(first.read_bytes()[::-1])
    second.resolve().unlink()
    ran = without_store.run("verify", str(clone), code=1)
    wrong, absent, whole = ran.err.splitlines()
    assert wrong.split()[:2] == ["error", str(first.relative_to(clone))]
    assert absent.split()[:2] == ["impossible", str(second.relative_to(clone))]
    assert whole.startswith(f"error      {NAME}@")
    assert ran.out == ""
    *_, last = without_store.records("verify", "--allow-missing", str(clone), code=1)
    assert (last["failed"], last["missing"]) == (1, 1)
    first.resolve().write_bytes(first.read_bytes()[::-1])
    ran = without_store.run("verify", "--allow-missing", str(clone))
    assert "1 missing" in ran.out


def test_an_altered_file_is_named_and_the_index_remembers(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    shell.run("sync", "demo:000002")
    label = "0.240301.1026"
    lock = tmp_path / "datasets.lock"
    shell.run("pin", f"demo:000002@{label}", "-o", str(lock))
    path = demo.paths("000002", label)[0]
    demo.tamper_published("000002", label, path, b"x")
    ran = shell.run("verify", "--remote", str(lock), code=1)
    line, whole = ran.err.splitlines()
    assert line.split()[:2] == ["error", path.split()[0]]
    assert "/api/assets/" in line
    assert "1 changed" in whole
    journal = (shell.store / "neuromirror" / "journal.jsonl").read_text()
    assert '"changed":["http://127.0.0.1' in journal
    before = folder_snapshot(shell.store)
    shell.run("verify", "--remote", str(lock), code=1)
    assert folder_snapshot(shell.store) == before


def test_urls_are_checked_even_if_the_store_cannot_be_written(copied: Shell, clone: Path) -> None:
    index = copied.store / "neuromirror" / "index.sqlite"
    index.write_bytes(b"damaged" * 1000)
    ran = copied.run("verify", "--remote", str(clone))
    assert "not recorded" in ran.error_line
    assert len(ran.lines) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing.lock"], "nothing.lock"),
        (["--remote", "--full", "CLONE"], "--full"),
        (["--in", "x", "CLONE"], "--in"),
        (["."], "not a dataset"),
        (["LOCK"], "lock-version"),
        (["--remote", "--store", "nowhere", "CLONE"], "no store"),
    ],
)
def test_wrong_usage_is_code_2_and_one_line(
    without_store: Shell, clone: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    lock = tmp_path / "my.lock"
    lock.write_text("[[dataset]]\n")
    given = {"CLONE": str(clone), "LOCK": str(lock)}
    ran = without_store.run("verify", *[given.get(one, one) for one in arguments], code=2)
    assert expected in ran.error_line


def test_the_workflow_in_the_recipes_works(
    synced: Shell, without_store: Shell, tmp_path: Path
) -> None:
    recipes = (Path(__file__).parents[2] / "docs" / "howto" / "recipes.md").read_text()
    workflow = recipes.partition("```yaml\n")[2].partition("```")[0]
    (command,) = re.findall(r"run: neuromirror (.*) > findings.jsonl$", workflow, re.M)
    synced.run("pin", NAME, "-o", "datasets.lock")
    records = without_store.run(*command.split()).lines
    assert json.loads(records[-1])["location_health"] == {"ok": 6}
    for line in re.findall(r"^    neuromirror (verify datasets.lock --[a-z-]+)", recipes, re.M):
        without_store.run(*line.split(), code=0 if "remote" in line or "full" in line else 1)


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    shell.run("sync", "demo:000004")
    clone = cloned(shell, tmp_path / "clone")
    with demo.fault("hang", server="s3", path=".", seconds=3600) as fault:
        with shell.start("verify", "--remote", str(clone), "--jobs", "2") as process:
            while fault.struck < 2:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            # far less than the server would take
            out, err = process.communicate(timeout=100)
        assert (process.returncode, out, err) == (130, "", "neuromirror: interrupted\n")
