"""Content of a clone of the private store: fetched with a token that is stored nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.sources.volumes.tokens import token_variable
from neuromirror_demo import DemoArchive
from support.embargo_harness import FOLDER, ID, EmbargoHarness, contents, prepare_embargo
from support.foreign_pushes import run_checked, run_in
from support.keyrings import INSTANCE, store_in_keyring
from support.private_buckets import run_here, watched_processes

PATHS = [Path(FOLDER, "file.txt"), Path("notes.txt")]


@pytest.fixture(scope="module")
def shared_embargo(
    demo_files: Path, module_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbargoHarness]:
    """An archive and two stores that no test changes, and ``clone``, created by datalad."""
    folder = tmp_path_factory.mktemp("embargo")
    with DemoArchive(folder / "small", cache=demo_files, empty=True) as demo:
        embargo = prepare_embargo(demo, folder / "stores")
        embargo.sync()
        address = f"ria+file://{embargo.private}#~demo--{ID}"
        run_checked(folder, "datalad", "clone", address, str(embargo.folder / "clone"))
        yield embargo


@pytest.fixture
def synced_embargo(shared_embargo: EmbargoHarness) -> EmbargoHarness:
    """The same, without the requests of other tests."""
    shared_embargo.demo.clear_requests()
    return shared_embargo


@pytest.fixture
def private_clone(synced_embargo: EmbargoHarness, tmp_path: Path) -> Path:
    """A copy of the clone of the embargoed dandiset."""
    return copytree(synced_embargo.folder / "clone", tmp_path / "clone", symlinks=True)


def test_files_are_got_with_a_token_that_is_kept_nowhere(
    synced_embargo: EmbargoHarness, private_clone: Path
) -> None:
    host, token = urlsplit(synced_embargo.demo.api_url).netloc, synced_embargo.demo.token
    get = ("git", "annex", "get", "-J2", ".")
    printed = []
    for wrong in ({}, {token_variable(host): "0" * 40}):
        command = ("git", "annex", "get", "notes.txt")
        refused = run_in(private_clone, *command, environment=wrong)
        assert refused.returncode != 0
        assert token_variable(host) in refused.stdout
        printed.append(refused.stdout)

    right = {token_variable(host): token}
    with watched_processes(token) as shown:
        for command in (get, ("git", "annex", "fsck"), ("git", "annex", "drop", ".")):
            done = run_in(private_clone, *command, environment=right)
            assert done.returncode == 0, done.stdout
            printed.append(done.stdout)
            assert all((private_clone / path).exists() is ("drop" not in command) for path in PATHS)
        got = run_here(private_clone, "get", environment=right)
    assert got.returncode == 0, got.stdout
    assert shown == []
    assert token.encode() not in b"\n".join(contents(private_clone))
    everything = "".join([*printed, got.stdout])
    assert token not in everything
    assert "X-Amz-" not in everything


def test_clone_get_and_verify_leave_no_token(
    synced_embargo: EmbargoHarness, isolated_home: Path, tmp_path: Path
) -> None:
    """The stores, the clone, the plain files, HOME with its caches and all processes."""
    host, token = urlsplit(synced_embargo.demo.api_url).netloc, synced_embargo.demo.token
    right = {token_variable(host): token}
    command = ("--store", str(synced_embargo.private))
    name = f"demo:{ID}"
    refused = run_here(tmp_path, *command, "get", name, "--into", "none", environment={})
    assert refused.returncode == 1
    assert token_variable(host) in refused.stdout
    assert not list((tmp_path / "none").rglob("*.txt"))
    printed = [refused.stdout]
    with watched_processes(token) as shown:
        for arguments in (
            ("clone", name, "clone", "--get", "**"),
            ("verify", "clone"),
            ("get", name, "--into", "plain"),
        ):
            done = run_here(tmp_path, *command, *arguments, environment=right)
            assert done.returncode == 0, done.stdout
            printed.append(done.stdout)
    assert shown == []
    for path in PATHS:
        assert (tmp_path / "clone" / path).read_bytes() == (tmp_path / "plain" / path).read_bytes()
    for folder in (tmp_path, synced_embargo.public, synced_embargo.private, isolated_home):
        assert token.encode() not in b"\n".join(contents(folder)), folder
    everything = "".join(printed)
    assert token not in everything
    assert "X-Amz-" not in everything


def test_clone_and_get_mirror_an_embargoed_dandiset_into_the_private_store(
    embargo: EmbargoHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    right = {
        **embargo.environment(),
        "NEUROMIRROR_PRIVATE_STORE": str(embargo.private),
        token_variable(urlsplit(embargo.demo.api_url).netloc): embargo.demo.token,
    }

    def run(*command: str, code: int = 0, **changes: str) -> None:
        environment = {**right, **changes}
        done = CliRunner().invoke(main, command, env=environment, catch_exceptions=False)
        embargo.output.append((done.stdout + done.stderr).replace(FOLDER, ""))
        assert done.exit_code == code, done.stdout + done.stderr

    name = f"demo:{ID}"
    run("clone", name, "refused", code=2, DEMO_TOKEN="")
    run("clone", name, "refused", code=2, NEUROMIRROR_PRIVATE_STORE="")
    assert not embargo.private.exists()
    run("clone", name, "clone", "--get", "**")
    run("get", name, "--into", "plain")
    for path in PATHS:
        assert (tmp_path / "clone" / path).read_bytes() == (tmp_path / "plain" / path).read_bytes()
    embargo.assert_no_canary_outside()
    embargo.write_mirror_file(private=False)
    run("clone", name, "refused", code=1, NEUROMIRROR_PRIVATE_STORE="")
    assert not (tmp_path / "refused").exists()


def test_files_are_got_with_the_keyring_entry_of_dandi(
    synced_embargo: EmbargoHarness, private_clone: Path, isolated_home: Path
) -> None:
    token = synced_embargo.demo.token
    keyring = store_in_keyring(isolated_home, token)
    host = urlsplit(synced_embargo.demo.api_url).netloc
    run_checked(private_clone, "git", "config", f"neuromirror.{host}.instance", INSTANCE)
    got = run_in(private_clone, "git", "annex", "get", ".", environment=keyring)
    assert got.returncode == 0, got.stdout
    assert all((private_clone / path).exists() for path in PATHS)
    assert token.encode() not in b"\n".join(contents(private_clone))


def test_a_token_goes_only_to_its_own_host_and_over_tls(
    synced_embargo: EmbargoHarness, private_clone: Path
) -> None:
    """The author of a dataset chooses the URLs, but not which token is sent there."""
    host, token = urlsplit(synced_embargo.demo.api_url).netloc, synced_embargo.demo.token
    elsewhere = "archive.example.org"
    key = run_checked(private_clone, "git", "annex", "lookupkey", "notes.txt").strip()
    for scheme in ("https", "http"):
        address = f"{scheme}://{elsewhere}/notes.txt"
        run_checked(private_clone, "git", "annex", "registerurl", key, address)
    synced_embargo.demo.clear_requests()
    environment = {token_variable(elsewhere): token}
    got = run_in(private_clone, "git", "annex", "get", "notes.txt", environment=environment)
    assert got.returncode != 0
    assert f"no token for {host}" in got.stdout
    assert token_variable(host) in got.stdout
    assert "no token for archive" not in got.stdout
    assert token not in got.stdout
    assert synced_embargo.demo.count_requests("download") == 0


def test_urls_are_verified_with_a_token_that_is_kept_nowhere(
    synced_embargo: EmbargoHarness, private_clone: Path
) -> None:
    host, token = urlsplit(synced_embargo.demo.api_url).netloc, synced_embargo.demo.token
    for mode in ("--remote", "--full"):
        command = ("--json", "verify", mode, ".")
        refused = run_here(private_clone, *command, environment={})
        assert refused.returncode == 1
        with watched_processes(token) as shown:
            right = {token_variable(host): token}
            done = run_here(private_clone, *command, environment=right)
        assert (done.returncode, shown) == (0, []), done.stdout
        assert token not in done.stdout
        assert "X-Amz-" not in done.stdout
    assert token.encode() not in b"\n".join(contents(private_clone))


def test_a_received_repository_selects_no_variable(
    synced_embargo: EmbargoHarness, private_clone: Path
) -> None:
    """The settings of a repository that was received as files are those of its sender."""
    host, token = urlsplit(synced_embargo.demo.api_url).netloc, synced_embargo.demo.token
    run_checked(private_clone, "git", "config", f"neuromirror.{host}.instance", "other-service")
    environment = {"OTHER_SERVICE_API_KEY": token}
    for done in (
        run_in(private_clone, "git", "annex", "get", "notes.txt", environment=environment),
        run_here(private_clone, "verify", "--remote", environment=environment),
    ):
        assert done.returncode != 0
    assert not (private_clone / "notes.txt").exists()
