"""Restricted channels of a BOSS, with the token in the file of ``intern``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.net import CredentialsError
from neuromirror.sources.api_tokens import InternToken
from neuromirror_demo.boss import ACTIVITY, PRIVATE, DemoBoss
from support.embargo_harness import contents
from support.foreign_pushes import run_checked, run_in
from support.private_buckets import run_here, watched_processes


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    with DemoBoss(tmp_path / "boss") as running:
        yield running


@pytest.fixture
def folder(boss: DemoBoss, tmp_path: Path) -> Path:
    """A folder with a mirror file for a public and a restricted channel."""
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    lines = ['source = "boss"', "[options]", f'api = "{boss.api}"', 'restricted = "private"']
    lines += [f'include = ["{ACTIVITY}", "{PRIVATE}"]', "block = [128, 128, 32]"]
    (mirrors / "bossdb.toml").write_text("\n".join(lines) + "\n")
    return tmp_path


def host_of(boss: DemoBoss) -> str:
    return boss.api.partition("://")[2]


def write_intern_file(home: Path, boss: DemoBoss) -> None:
    (home / ".intern").mkdir()
    section = f"protocol = http\nhost = {host_of(boss)}\ntoken = {boss.token}\n"
    (home / ".intern" / "intern.cfg").write_text(f"[Default]\n{section}")


def sync(folder: Path, code: int = 0) -> str:
    environment = {
        "NEUROMIRROR_MIRRORS": str(folder / "mirrors"),
        "NEUROMIRROR_STORE": str(folder / "public"),
        "NEUROMIRROR_PRIVATE_STORE": str(folder / "private"),
    }
    done = CliRunner().invoke(main, ["sync"], env=environment, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout + done.stderr


def clone_of(folder: Path, store: str, channel: str) -> Path:
    clone = folder / f"clone-{store}"
    alias = f"bossdb--{channel.replace('/', '--')}"
    run_checked(folder, "git", "clone", "-q", str(folder / store / "alias" / alias), str(clone))
    return clone


def blocks_of(clone: Path) -> list[str]:
    found = run_checked(clone, "git", "annex", "find", "--not", "--in=here").splitlines()
    assert found
    return found[:2]


def test_a_restricted_channel_is_mirrored_privately_cloned_got_and_verified(
    boss: DemoBoss, folder: Path, isolated_home: Path
) -> None:
    """By git-annex and by neuromirror; the token is found nowhere afterwards."""
    write_intern_file(isolated_home, boss)
    printed = sync(folder)
    assert (folder / "private" / "alias" / f"bossdb--{PRIVATE.replace('/', '--')}").exists()
    public = b"\n".join(contents(folder / "public"))
    assert PRIVATE.encode() not in public
    assert ACTIVITY.encode() in public
    clone = clone_of(folder, "private", PRIVATE)
    (block,) = blocks_of(clone)
    with watched_processes(boss.token) as shown:
        done = [run_in(clone, "git", "annex", "get", block)]
        for command in (
            ("clone", f"bossdb:{PRIVATE}", "ours", "--get", block),
            ("verify", "--allow-missing", "ours"),
        ):
            private = "--store", str(folder / "private")
            done.append(run_here(folder, *private, *command, environment={}))
    assert [one.returncode for one in done] == [0, 0, 0], done
    assert shown == []
    assert (folder / "ours" / block).exists()
    run_checked(clone, "git", "annex", "drop", "--force", block)
    (isolated_home / ".intern" / "intern.cfg").unlink()
    refused = [
        run_in(clone, "git", "annex", "get", block),
        run_here(clone, "get", block, environment={}),
    ]
    assert [one.returncode for one in refused] == [1, 1], refused
    for kept in (folder, isolated_home):
        assert boss.token.encode() not in b"\n".join(contents(kept)), kept
    assert boss.token not in "".join([printed, *(one.stdout for one in (*done, *refused))])


def test_without_a_token_nothing_is_requested(boss: DemoBoss, folder: Path) -> None:
    assert "intern.cfg" in sync(folder, code=2)
    assert not (folder / "public").exists()


def test_public_channels_do_not_depend_on_the_file(
    boss: DemoBoss, folder: Path, isolated_home: Path
) -> None:
    (isolated_home / ".intern").mkdir()
    file = isolated_home / ".intern" / "intern.cfg"
    file.write_text("canary of a malformed file\n")
    printed = sync(folder, code=2)
    assert "canary" not in printed
    mirror = folder / "mirrors" / "bossdb.toml"
    mirror.write_text(mirror.read_text().replace('restricted = "private"\n', ""))
    sync(folder)
    clone = clone_of(folder, "public", ACTIVITY)
    first, second = blocks_of(clone)
    assert run_in(clone, "git", "annex", "get", first).returncode == 0
    # a token that has expired
    file.write_text(f"[Default]\nprotocol = http\nhost = {host_of(boss)}\ntoken = {'0' * 40}\n")
    assert run_in(clone, "git", "annex", "get", second).returncode == 0


@pytest.mark.parametrize(
    "text", ["no section\n", "[Default]\nhost = h\nhost = h\n", "[Default\n", "\xff"]
)
def test_a_malformed_file_is_one_kind_of_error(isolated_home: Path, text: str) -> None:
    (isolated_home / ".intern").mkdir()
    (isolated_home / ".intern" / "intern.cfg").write_bytes(text.encode("latin-1"))
    token = InternToken("h", "A_TOKEN")
    with pytest.raises(CredentialsError) as caught:
        token.read()
    assert caught.value.cause_name
    assert token.known() == ""


def test_a_missing_home_is_an_error_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(CredentialsError) as caught:
        InternToken("h", "A_TOKEN").read()
    assert caught.value.cause_name == "RuntimeError"
    monkeypatch.setenv("A_TOKEN", "given")
    assert InternToken("h", "A_TOKEN").read() == "given"


def test_a_token_for_another_host_is_not_used(
    isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (isolated_home / ".intern").mkdir()
    text = "[Project Service]\nhost = api.bossdb.io\ntoken = canary%token\n"
    (isolated_home / ".intern" / "intern.cfg").write_text(text)
    assert InternToken("api.bossdb.io", "A_TOKEN").read() == "canary%token"
    assert InternToken("api.bossdb.example", "A_TOKEN").read() == ""
    monkeypatch.setenv("INTERN_HOST", "other.example")
    monkeypatch.setenv("INTERN_TOKEN", "other")
    assert InternToken("other.example", "A_TOKEN").read() == "other"
    assert InternToken("third.example", "A_TOKEN").read() == ""
