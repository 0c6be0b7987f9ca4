"""Content of a clone of the private store: fetched with a token that is stored nowhere."""

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from urllib.parse import urlsplit

import pytest

from neuromirror.sources.volumes.urls import token_variable
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
    """An archive and two stores that no test changes, and ``clone``, a clone of the dandiset."""
    folder = tmp_path_factory.mktemp("embargo")
    with DemoArchive(folder / "small", cache=demo_files, empty=True) as demo:
        embargo = prepare_embargo(demo, folder / "stores")
        embargo.sync()
        alias = embargo.private / "alias" / f"demo--{ID}"
        run_checked(embargo.folder, "git", "clone", "-q", str(alias), "clone")
        run_checked(embargo.folder / "clone", "git", "annex", "init", "-q")
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
    get = ("git", "annex", "get", ".")
    wrong = {token_variable(host): "0" * 40}
    refused = run_in(private_clone, "git", "annex", "get", "notes.txt", environment=wrong)
    assert refused.returncode != 0
    assert token_variable(host) in refused.stdout

    printed = [refused.stdout]
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


def test_clone_get_and_verify_mirror_an_embargoed_dandiset_and_leave_no_token(
    embargo: EmbargoHarness, isolated_home: Path, tmp_path: Path
) -> None:
    """The stores, the clone, the plain files, HOME with its caches and all processes."""
    token = embargo.demo.token
    variable = token_variable(urlsplit(embargo.demo.api_url).netloc)
    right = {
        **embargo.environment(),
        "NEUROMIRROR_PRIVATE_STORE": str(embargo.private),
        variable: token,
    }

    def run(*command: str, code: int = 0, **changes: str) -> str:
        done = run_here(folder, *command, environment={**right, **changes})
        embargo.output.append(done.stdout.replace(FOLDER, ""))
        assert done.returncode == code, done.stdout
        return done.stdout

    folder = tmp_path / "work"
    folder.mkdir()
    name = f"demo:{ID}"
    with watched_processes(token) as shown:
        run("clone", name, "refused", code=2, DEMO_TOKEN="")
        run("clone", name, "refused", code=2, NEUROMIRROR_PRIVATE_STORE="")
        assert not embargo.private.exists()
        run("clone", name, "clone", "--get", "**")
        run("verify", "clone")
        private = "--store", str(embargo.private)
        assert variable in run(*private, "get", name, "--into", "none", code=1, **{variable: ""})
        run("get", name, "--into", "plain")
    assert shown == []
    assert not list((folder / "none").rglob("*.txt"))
    for path in PATHS:
        assert (folder / "clone" / path).read_bytes() == (folder / "plain" / path).read_bytes()
    embargo.assert_no_canary_outside()  # in the public store and the output
    for kept in (folder, embargo.private, isolated_home):
        assert token.encode() not in b"\n".join(contents(kept)), kept
    embargo.write_mirror_file(private=False)
    run("clone", name, "refused", code=1, NEUROMIRROR_PRIVATE_STORE="")
    assert not (folder / "refused").exists()


def test_files_are_got_with_the_keyring_entry_of_dandi(
    synced_embargo: EmbargoHarness, private_clone: Path, isolated_home: Path
) -> None:
    token = synced_embargo.demo.token
    keyring = store_in_keyring(isolated_home, token)
    host = urlsplit(synced_embargo.demo.api_url).netloc
    run_checked(
        private_clone, "git", "config", "--global", f"neuromirror.{host}.instance", INSTANCE
    )
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
    run_checked(
        private_clone, "git", "config", "--global", f"neuromirror.{host}.instance", "other-service"
    )
    environment = {"OTHER_SERVICE_API_KEY": token}
    for done in (
        run_in(private_clone, "git", "annex", "get", "notes.txt", environment=environment),
        run_here(private_clone, "verify", "--remote", environment=environment),
    ):
        assert done.returncode != 0
    assert not (private_clone / "notes.txt").exists()
