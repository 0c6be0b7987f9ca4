"""Lock files name vaults, from which they are restored and read without upstream and mirror."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import neuromirror
from neuromirror.annex import VaultKind
from neuromirror.cli import main
from neuromirror.lab.lockfile import LockUnusableError, PinnedVault
from neuromirror.lab.output_files import add_vaults
from neuromirror.lab.verify import Mode, verify
from neuromirror.model import ConfigurationError
from neuromirror.stream import StreamError, open_tree
from support.foreign_pushes import run_checked
from support.kept_dataset import NAME, REMOTE, KeptDataset
from support.lock_folders import LockFolder, restore_lock
from support.mirror_harness import run_git
from support.signed_buckets import PROFILE, SignedBuckets, signing_server, write_profile
from support.vaults import OTHER_UUID, write_vault

Serve = Callable[[Path], str]


pytestmark = pytest.mark.usefixtures("no_waits")


@pytest.fixture
def locked(kept: KeptDataset, tmp_path: Path) -> LockFolder:
    """An empty folder for a lock file."""
    (tmp_path / "paper").mkdir()
    return LockFolder(kept.harness, tmp_path / "paper")


def test_a_lock_is_restored_and_opened_from_a_vault_only(
    kept: KeptDataset, locked: LockFolder, serve_directory: Serve, tmp_path: Path
) -> None:
    url = kept.serve(serve_directory)
    locked.pin(NAME)
    (named,) = locked.pin_of(NAME).copies
    assert named == PinnedVault(REMOTE, kept.vault.uuid, VaultKind.DIRECTORY, url)
    kept.stop_upstream()
    kept.remove_store()
    found = restore_lock(locked.lock, tmp_path / "data")
    assert found.only().status == "ok"
    assert found.strategies(NAME)[-1] == "the manifest"
    assert {outcome.status for outcome in found.outcomes} == {"ok"}
    assert kept.read_all(found.folder(NAME)) == kept.contents
    # a lock file may be untrusted: it configures no remote
    assert REMOTE not in run_git(found.folder(NAME), "remote").split()
    for path, content in kept.contents.items():
        with neuromirror.open(locked.file, path, verify="whole-objects", cache=False) as file:
            assert file.read() == content


def test_own_vault_files_are_used_without_upstream_and_mirror(
    kept: KeptDataset, locked: LockFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked.pin(NAME)
    assert not locked.pin_of(NAME).copies
    kept.stop_upstream()
    kept.remove_store()
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    path, content = next(iter(kept.contents.items()))
    with (
        neuromirror.open(locked.file, path, verify="whole-objects", cache=False) as file,
        pytest.raises(StreamError),
    ):
        file.read()

    monkeypatch.chdir(kept.vault.config.path.parent.parent)  # with the folder "vaults"
    with neuromirror.open(locked.file, path, verify="whole-objects", cache=False) as file:
        assert file.read() == content
    monkeypatch.chdir(empty)
    monkeypatch.setenv("NEUROMIRROR_VAULTS", str(kept.vault.config.path.parent))
    done = CliRunner().invoke(
        main, ["restore", str(locked.file), "--into", str(tmp_path / "data"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert kept.read_all(tmp_path / "data" / "demo--000002") == kept.contents


@pytest.fixture(scope="module")
def buckets() -> Iterator[SignedBuckets]:
    """A server of buckets that only signed requests can read."""
    with signing_server() as running:
        yield running


def test_the_vault_files_of_the_user_configure_the_requests_to_a_bucket(
    kept: KeptDataset,
    locked: LockFolder,
    buckets: SignedBuckets,
    isolated_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the bucket has an endpoint, in a private network, and credentials that only its file names
    (isolated_home / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
    write_profile(isolated_home, buckets.admin)
    found = {f"lab/{kept.paths[path]}": content for path, content in kept.contents.items()}
    bucket = buckets.make(found)
    settings = {"kind": "s3", "bucket": bucket, "endpoint": buckets.endpoint}
    vaults = tmp_path / "vaults"
    write_vault(vaults, "minio", prefix="lab/", profile=PROFILE, **settings)
    write_vault(vaults, "a-none", prefix="open/", credentials="none", **settings)
    locked.pin(NAME)
    named = PinnedVault("minio", OTHER_UUID, VaultKind.S3, f"s3://{bucket}/lab/")
    kept.stop_upstream()
    kept.remove_store()
    path, content = next(iter(kept.contents.items()))
    monkeypatch.chdir(tmp_path)
    restore = ["restore", str(locked.file), "--into", str(tmp_path / "data")]

    # a folder "vaults" may be from others, who could choose where requests are signed for
    buckets.rule()
    done = CliRunner().invoke(main, restore)
    assert done.exit_code == 1
    assert "minio.toml" in done.output
    assert "NEUROMIRROR_VAULTS" in done.output
    assert not buckets.requests()

    monkeypatch.setenv("NEUROMIRROR_VAULTS", str(vaults))
    with neuromirror.open(locked.file, path, verify="whole-objects", cache=False) as file:
        assert file.read() == content
    tree = open_tree(locked.file)
    listed = tree.file(path)
    assert listed is not None
    # references for other programs do not name what only this machine finds
    assert [url for url in listed.urls if tree.access.is_local(url)] == [
        f"s3://{bucket}/{prefix}/{kept.paths[path]}" for prefix in ("open", "lab")
    ]
    add_vaults(locked.file, {NAME: [named]})
    done = CliRunner().invoke(main, restore)
    assert done.exit_code == 0, done.output
    assert kept.read_all(tmp_path / "data" / "demo--000002") == kept.contents
    sent = {(one["path"].split("/")[2], one["authorization"][:4]) for one in buckets.requests()}
    assert sent == {("lab", "AWS4"), ("open", "")}


def test_a_folder_with_copies_is_named_on_the_command_line(
    kept: KeptDataset, locked: LockFolder, tmp_path: Path
) -> None:
    kept.publish()
    locked.pin(NAME)
    # a path of a machine is not in a lock file
    assert locked.pin_of(NAME).copies == ()
    kept.stop_upstream()
    kept.remove_store()
    into = tmp_path / "data"
    command = ["restore", str(locked.file), "--into", str(into), "--store", str(tmp_path / "no")]
    assert CliRunner().invoke(main, command).exit_code == 1
    command += ["--copies", str(kept.vault.path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert kept.read_all(into / "demo--000002") == kept.contents
    done = CliRunner().invoke(main, [*command, "--copies", str(tmp_path / "paper")])
    assert done.exit_code == 2


def test_a_pin_does_not_name_a_vault_that_became_private(
    kept: KeptDataset, locked: LockFolder, serve_directory: Serve
) -> None:
    kept.serve(serve_directory)
    locked.pin(NAME)
    assert len(locked.pin_of(NAME).copies) == 1
    kept.conceal()
    locked.pin(NAME)
    assert locked.pin_of(NAME).copies == ()


def test_vaults_are_added_to_and_removed_from_pins(kept: KeptDataset, locked: LockFolder) -> None:
    locked.pin(NAME)
    before = locked.file.read_text()
    locked.file.write_text(before.replace("[[dataset]]", "# our study\n[[dataset]]"))
    one = PinnedVault("nas", kept.vault.uuid, VaultKind.DIRECTORY, "https://a.example/v")
    two = PinnedVault("cold", OTHER_UUID, VaultKind.S3, "s3://bucket/lab/")
    assert add_vaults(locked.file, {NAME: [one], "demo:000009": [two]}) == [NAME]
    assert add_vaults(locked.file, {NAME: [one]}) == []
    assert locked.pin_of(NAME).copies == (one,)
    moved = msgspec.structs.replace(one, url="https://b.example/v")
    assert add_vaults(locked.file, {NAME: [two, moved]}) == [NAME]
    assert locked.pin_of(NAME).copies == (two, moved)
    assert "# our study" in locked.file.read_text()
    # a new pin keeps the vault that repositories do not name
    locked.pin(NAME)
    assert locked.pin_of(NAME).copies == (two,)
    wrong = PinnedVault("nas", kept.vault.uuid, VaultKind.DIRECTORY, "/srv/vault")
    with pytest.raises(ConfigurationError):
        add_vaults(locked.file, {NAME: [wrong]})
    with pytest.raises(LockUnusableError):
        add_vaults(locked.file.with_name("no.lock"), {NAME: [one]})


def test_verify_requests_copies_of_files_that_upstream_has_lost(
    kept: KeptDataset, locked: LockFolder, serve_directory: Serve, tmp_path: Path
) -> None:
    modes: tuple[Mode, ...] = ("remote", "full")
    url = kept.serve(serve_directory)
    locked.pin(NAME)
    run_checked(tmp_path, "git", "clone", "-q", str(kept.harness.repository(NAME)), "clone")
    run_checked(tmp_path / "clone", "git", "annex", "init", "-q")
    run_checked(tmp_path / "clone", "git", "annex", "info", "--fast")
    for mode, target in product(modes, (locked.lock, tmp_path / "clone")):
        found = [one for one in verify(target, mode) if one.url]
        assert not [one for one in found if str(one.url).startswith(url)], "upstream has them"
    kept.stop_upstream()
    (gone, *others) = kept.paths
    kept.vault.remove(kept.paths[gone])
    for mode, target in product(modes, (locked.lock, tmp_path / "clone")):
        copies = {one.path: one for one in verify(target, mode) if str(one.url).startswith(url)}
        assert {copies[path].status for path in others} == {"ok"}
        assert copies[gone].failed


def test_keep_names_the_vault_in_the_lock_and_the_lock_is_restored_from_it(
    kept: KeptDataset, locked: LockFolder, serve_directory: Serve, tmp_path: Path
) -> None:
    other = tmp_path / "other-vault"
    url = serve_directory(other)
    write_vault(tmp_path / "vaults", "lab", kind="directory", path=str(other), url=url)
    locked.pin(NAME)
    assert locked.pin_of(NAME).copies == ()
    store = str(kept.harness.folder)
    keep = ["keep", str(locked.file), "--in", "lab", "--vaults", str(tmp_path / "vaults")]
    done = CliRunner().invoke(main, [*keep, "--store", store])
    assert done.exit_code == 0, done.output
    (named,) = locked.pin_of(NAME).copies
    assert (named.name, named.kind, named.url) == ("lab", VaultKind.DIRECTORY, url)
    written = locked.file.stat().st_mtime_ns
    assert CliRunner().invoke(main, [*keep, "--store", store]).exit_code == 0
    assert locked.file.stat().st_mtime_ns == written
    kept.stop_upstream()
    kept.remove_store()
    found = restore_lock(locked.lock, tmp_path / "data")
    assert found.only().status == "ok"
    assert kept.read_all(found.folder(NAME)) == kept.contents
