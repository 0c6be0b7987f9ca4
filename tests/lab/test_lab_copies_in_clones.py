"""Clones get content from vaults when upstream, and then the store, are gone."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from neuromirror.annex import directory_vault_config, s3_vault_config
from neuromirror.lab.clone import clone_dataset, remote_url
from neuromirror.transfer import get
from support.foreign_pushes import run_checked, run_in
from support.kept_dataset import ALIAS, NAME, REMOTE, KeptDataset
from support.mirror_harness import run_git
from support.moto_buckets import moto_server
from support.synced_mirror import flip_bit
from support.vaults import OTHER_UUID

Serve = Callable[[Path], str]


pytestmark = pytest.mark.usefixtures("no_waits")


def plain_clone(kept: KeptDataset, folder: Path) -> Path:
    """Return a new clone by git, in which git-annex is initialized."""
    run_checked(
        folder.parent, "git", "clone", "-q", str(kept.harness.repository(NAME)), folder.name
    )
    run_checked(folder, "git", "annex", "init", "-q")
    return folder


@pytest.mark.parametrize("address", ["path", "ria+http"])
def test_git_annex_and_datalad_get_from_the_vault(
    kept: KeptDataset, tmp_path: Path, serve_directory: Serve, address: str
) -> None:
    clone = tmp_path / "clone"
    if address == "path":
        kept.publish()
        plain_clone(kept, clone)
    else:
        kept.serve(serve_directory)
        store = serve_directory(kept.harness.folder)
        run_checked(tmp_path, "datalad", "clone", f"ria+{store}#~{ALIAS}", "clone")
    kept.stop_upstream()
    kept.remove_store()
    program = ("git", "annex") if address == "path" else ("datalad",)
    run_checked(clone, *program, "get", ".")
    assert kept.read_all(clone) == kept.contents
    assert run_git(clone, "remote").split().count(REMOTE) == 1
    assert run_in(clone, "git", "annex", "fsck", "--fast").returncode == 0


def test_clones_use_a_bucket_only_as_long_as_it_is_public(
    kept: KeptDataset, tmp_path: Path, serve_directory: Serve
) -> None:
    with moto_server() as moto:
        bucket = moto.make()
        for path, key in kept.paths.items():
            bucket.put(f"lab/{key}", kept.contents[path])
        endpoint = f"{moto.endpoint}/{bucket.name}/"
        public = s3_vault_config(REMOTE, endpoint, bucket.name, "lab/")
        _check_clones_of_a_bucket(kept, tmp_path, serve_directory, public)


def _check_clones_of_a_bucket(
    kept: KeptDataset, tmp_path: Path, serve_directory: Serve, public: dict[str, str]
) -> None:
    kept.publish(public)
    plain_clone(kept, tmp_path / "old")
    assert REMOTE in run_git(tmp_path / "old", "remote").split()
    kept.stop_upstream()
    (first, *_) = kept.paths
    run_checked(tmp_path / "old", "git", "annex", "get", first)
    assert (tmp_path / "old" / first).read_bytes() == kept.contents[first]
    run_checked(tmp_path / "old", "git", "annex", "drop", "--force", "-q", first)
    kept.conceal()
    run_checked(tmp_path / "old", "git", "fetch", "-q")
    plain_clone(kept, tmp_path / "new")
    # nothing was left out that the mirror still announces
    address = remote_url(serve_directory(kept.harness.folder), ALIAS, None)
    assert clone_dataset(address, tmp_path / "own") == []
    for name in ("old", "new", "own"):
        clone = tmp_path / name
        assert run_in(clone, "git", "annex", "get", ".").returncode != 0
        assert {one.status for one in get(clone)} == {"error"}
        assert kept.read_all(clone) == {}
    for name in ("new", "own"):
        assert REMOTE not in run_git(tmp_path / name, "remote").split()
    kept.publish(public)
    assert clone_dataset(address, tmp_path / "again") == []
    assert REMOTE in run_git(tmp_path / "again", "remote").split()


def test_get_needs_no_enabled_remote(
    kept: KeptDataset, tmp_path: Path, serve_directory: Serve
) -> None:
    clone = plain_clone(kept, tmp_path / "clone")
    url = kept.serve(serve_directory)
    run_git(clone, "fetch", "-q", "origin")
    # upstream is first as long as it has the content
    first, *others = kept.paths
    (found,) = get(clone, [first])
    assert found.status == "ok"
    assert found.url is not None
    assert not found.url.startswith(url)
    kept.stop_upstream()
    kept.remove_store()
    outcomes = list(get(clone, others))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert all(str(outcome.url).startswith(f"{url}/annex/objects/") for outcome in outcomes)
    assert {outcome.checked for outcome in outcomes} == {"checked"}
    assert kept.read_all(clone) == kept.contents
    assert REMOTE not in run_git(clone, "remote").split()
    assert run_in(clone, "git", "annex", "fsck").returncode == 0


def test_get_reads_a_vault_at_a_path_only_where_it_is_a_remote(
    kept: KeptDataset, tmp_path: Path
) -> None:
    kept.publish()
    for name in ("enabled", "not"):
        run_checked(tmp_path, "git", "clone", "-q", str(kept.harness.repository(NAME)), name)
    run_checked(tmp_path / "enabled", "git", "annex", "init", "-q")
    run_checked(tmp_path / "not", "git", "annex", "init", "-q", "--no-autoenable")
    kept.stop_upstream()
    assert {one.status for one in get(tmp_path / "not")} == {"error"}
    outcomes = list(get(tmp_path / "enabled"))
    assert {(outcome.status, outcome.message) for outcome in outcomes} == {("ok", "")}
    assert all(str(outcome.url).startswith("file:///") for outcome in outcomes)
    assert kept.read_all(tmp_path / "enabled") == kept.contents


def test_wrong_bytes_in_a_vault_are_not_accepted(
    kept: KeptDataset, tmp_path: Path, serve_directory: Serve
) -> None:
    url = kept.serve(serve_directory)
    run_checked(tmp_path, "git", "clone", "-q", str(kept.harness.repository(NAME)), "clone")
    wrong, gone, *others = kept.paths
    flip_bit(Path(os.fsdecode(kept.vault.object_path(kept.paths[wrong]))))
    kept.vault.remove(kept.paths[gone])
    kept.stop_upstream()
    found = {one.path: one for one in get(tmp_path / "clone")}
    assert {path: one.status for path, one in found.items()} == {
        wrong: "error", gone: "error", **dict.fromkeys(others, "ok"),
    }  # fmt: skip
    assert set(kept.read_all(tmp_path / "clone")) == set(others)
    assert url in (found[gone].message or "")


def test_a_clone_from_a_mirror_enables_a_vault_at_a_url_for_content_only(
    kept: KeptDataset, tmp_path: Path, serve_directory: Serve
) -> None:
    kept.serve(serve_directory)
    store = serve_directory(kept.harness.folder)
    assert clone_dataset(remote_url(store, ALIAS, None), tmp_path / "clone") == []
    clone = tmp_path / "clone"
    kept.stop_upstream()
    kept.remove_store()
    run_checked(clone, "git", "annex", "get", ".")
    assert kept.read_all(clone) == kept.contents
    settings = run_git(clone, "config", "--list", "--local")
    for setting in ("skipfetchall=true", "annex-sync=false", "annex-readonly=true"):
        assert f"remote.{REMOTE}.{setting}" in settings


def test_other_lines_of_vaults_are_not_enabled(
    kept: KeptDataset, tmp_path: Path, serve_directory: Serve, isolated_home: Path
) -> None:
    store = serve_directory(kept.harness.folder)
    # so that the address of another port is not allowed
    path = isolated_home / ".gitconfig"
    port = store.rpartition(":")[2]
    path.write_text(path.read_text().replace("127.0.0.1 ::1", f"[127.0.0.1]:{port}"))
    bucket = s3_vault_config(REMOTE, "https://vault.example/", "bucket")
    folder = directory_vault_config(REMOTE, "https://vault.example/x")
    configs = [
        directory_vault_config(REMOTE, "/srv/vault"),
        directory_vault_config(REMOTE, "http://127.0.0.1:1/vault"),
        directory_vault_config(REMOTE, "https://user@vault.example/x"),
        directory_vault_config(REMOTE, "ssh://vault.example/x"),
        folder | {"cost": "1"},
        folder | {"annex-ssh-options": "-oX"},
        bucket | {"host": "other.example"},
        bucket | {"signature": "v4"},
        bucket | {"exporttree": "yes"},
    ]
    named = {f"vault-{number}": config for number, config in enumerate(configs)}
    for number, (name, config) in enumerate(named.items()):
        kept.publish(config | {"name": name}, OTHER_UUID[:-1] + str(number))
    skipped = clone_dataset(remote_url(store, ALIAS, None), tmp_path / "clone")
    assert {one.name for one in skipped} == named.keys()
    log = run_git(tmp_path / "clone", "cat-file", "blob", "git-annex:remote.log").splitlines()
    for name, config in named.items():
        (line,) = (one for one in log if f" name={name} " in one)
        values = (config | {"name": name}).items()
        assert all(f" {key}={value} " in line for key, value in values), config
    assert not named.keys() & set(run_git(tmp_path / "clone", "remote").split())
