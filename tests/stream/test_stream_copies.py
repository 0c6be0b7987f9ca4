"""Files are read from copies in vaults when upstream is gone: of a store, a clone, the gateway."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

import neuromirror
from neuromirror.annex import directory_vault_config
from neuromirror.net import RequestLimits
from neuromirror.stream import StreamError, open_tree
from support.dataset_clones import flip_bit
from support.foreign_pushes import run_checked
from support.kept_dataset import NAME, REMOTE, KeptDataset
from support.running_catalogue import run_catalogue

Serve = Callable[[Path], str]
LIMITS = RequestLimits(attempts=1, connect=2.0, read=5.0)


@pytest.fixture
def kept(
    tmp_path: Path, demo_files: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KeptDataset]:
    """A dataset with a vault that its repository does not name yet; there is no cache."""
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")
    kept = KeptDataset(tmp_path / "kept", demo_files)
    yield kept
    kept.stop_upstream()


def read(address: str | Path, path: str, store: Path | None = None) -> bytes:
    with neuromirror.open(
        address, path, store=store, verify="whole-objects", cache=False, limits=LIMITS
    ) as file:
        return file.read()


@pytest.mark.parametrize("address", ["path", "http"])
def test_a_version_of_a_store_is_read_from_the_vault(
    kept: KeptDataset, serve_directory: Serve, address: str
) -> None:
    if address == "path":
        kept.publish()
    else:
        kept.serve(serve_directory)
    kept.stop_upstream()
    for path, content in kept.contents.items():
        assert read(NAME, path, kept.harness.folder) == content


@pytest.mark.parametrize("is_initialized", [True, False])
@pytest.mark.parametrize("address", ["path", "http"])
def test_an_old_clone_is_read_from_the_vault(
    kept: KeptDataset, serve_directory: Serve, tmp_path: Path, address: str, is_initialized: bool
) -> None:
    if address == "path":
        kept.publish()
    else:
        kept.serve(serve_directory)
    clone = tmp_path / "clone"
    run_checked(tmp_path, "git", "clone", "-q", str(kept.harness.repository(NAME)), "clone")
    if is_initialized:
        run_checked(clone, "git", "annex", "init", "-q")
    kept.stop_upstream()
    kept.remove_store()
    path, content = next(iter(kept.contents.items()))
    if address == "path" and not is_initialized:
        # a repository of others may name any folder of this machine
        with pytest.raises(StreamError):
            read(clone, path)
    else:
        assert read(clone, path) == content


def test_a_clone_that_is_not_initialized_has_the_urls_of_upstream(
    kept: KeptDataset, tmp_path: Path
) -> None:
    kept.publish()
    run_checked(tmp_path, "git", "clone", "-q", str(kept.harness.repository(NAME)), "clone")
    path, content = next(iter(kept.contents.items()))
    assert read(tmp_path / "clone", path) == content


def test_wrong_bytes_of_a_vault_are_replaced_by_those_of_upstream(
    kept: KeptDataset, serve_directory: Serve
) -> None:
    url = serve_directory(kept.vault.path)
    kept.publish(directory_vault_config(REMOTE, url, prefer=True))
    path, content = next(iter(kept.contents.items()))
    tree = open_tree(NAME, store=kept.harness.folder)
    listed = tree.file(path)
    assert listed is not None
    assert [one.startswith(url) for one in listed.urls[:2]] == [True, False]
    tree.close()
    assert read(NAME, path, kept.harness.folder) == content
    flip_bit(Path(os.fsdecode(kept.vault.object_path(kept.paths[path]))))
    assert read(NAME, path, kept.harness.folder) == content
    # the same copy at its path
    kept.publish()
    assert read(NAME, path, kept.harness.folder) == content
    kept.stop_upstream()
    with pytest.raises(StreamError):
        read(NAME, path, kept.harness.folder)


@pytest.mark.parametrize("address", ["path", "http"])
def test_the_gateway_serves_the_pinned_bytes_without_upstream(
    kept: KeptDataset, serve_directory: Serve, address: str
) -> None:
    if address == "path":
        kept.publish()
    else:
        kept.serve(serve_directory)
    kept.stop_upstream()
    with run_catalogue(kept.harness.store, "--gateway=proxy") as site:
        for path, content in kept.contents.items():
            reply = site.get(f"/at/{NAME}@latest/{path}")
            assert reply.status_code == 200, reply.text
            assert reply.content == content


def test_the_gateway_redirects_to_a_preferred_vault(
    kept: KeptDataset, serve_directory: Serve
) -> None:
    url = serve_directory(kept.vault.path)
    kept.publish(directory_vault_config(REMOTE, url, prefer=True))
    path, content = next(iter(kept.contents.items()))
    with run_catalogue(kept.harness.store, "--gateway=redirect") as site:
        page = site.get(f"/at/{NAME}@latest/{path}", allow_redirects=True)
        assert page.content == content
        assert page.url.startswith(f"{url}/annex/objects/")
    assert requests.get(url, timeout=10).status_code == 200
