"""Files are read from copies in vaults when upstream is gone: of a store, a clone, the gateway."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

import neuromirror
from neuromirror.annex import directory_vault_config
from neuromirror.crawl import JournalRecorder
from neuromirror.git import ObjectMissingError
from neuromirror.model import DESCRIPTION_PATH, LocationsChecked, NeuromirrorError
from neuromirror.net import RequestLimits
from neuromirror.stream import StreamError, open_tree
from neuromirror.stream.git_tree import GitTree
from support.foreign_pushes import run_checked
from support.kept_dataset import NAME, REMOTE, KeptDataset
from support.running_catalogue import commands, links, run_catalogue
from support.synced_mirror import flip_bit

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


def publish(kept: KeptDataset, serve_directory: Serve, address: str) -> None:
    """Name the vault in the store, at its path or at a URL."""
    if address == "path":
        kept.publish()
    else:
        kept.serve(serve_directory)


@pytest.mark.parametrize("address", ["path", "http"])
def test_a_version_of_a_store_is_read_from_the_vault(
    kept: KeptDataset, serve_directory: Serve, address: str
) -> None:
    publish(kept, serve_directory, address)
    kept.stop_upstream()
    for path, content in kept.contents.items():
        assert read(NAME, path, kept.harness.folder) == content


@pytest.mark.parametrize("is_initialized", [True, False])
@pytest.mark.parametrize("address", ["path", "http"])
def test_an_old_clone_is_read_from_the_vault(
    kept: KeptDataset, serve_directory: Serve, tmp_path: Path, address: str, is_initialized: bool
) -> None:
    publish(kept, serve_directory, address)
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


def test_the_gateway_serves_the_pinned_bytes_without_upstream(
    kept: KeptDataset, serve_directory: Serve
) -> None:
    kept.serve(serve_directory)
    kept.stop_upstream()
    with run_catalogue(kept.harness.store, "--gateway=proxy") as site:
        for path, content in kept.contents.items():
            reply = site.get(f"/at/{NAME}@latest/{path}")
            assert reply.status_code == 200, reply.text
            assert reply.content == content


def git_processes() -> set[int]:
    """The git processes that this process has started."""
    tasks = Path("/proc/self/task").glob("*/children")
    children = [int(one) for task in tasks for one in task.read_text().split()]
    return {child for child in children if Path(f"/proc/{child}/comm").read_text().strip() == "git"}


def test_a_state_that_cannot_be_opened_leaves_no_process(kept: KeptDataset, tmp_path: Path) -> None:
    repository, before = kept.harness.repository(NAME), git_processes()
    with pytest.raises(ObjectMissingError):
        GitTree(repository, "0" * 40, None, NAME)
    assert git_processes() == before
    (tmp_path / "damaged").write_text("{")
    blob = run_checked(repository, "git", "hash-object", "-w", str(tmp_path / "damaged")).strip()
    git = ("env", f"GIT_INDEX_FILE={tmp_path / 'index'}", "git")
    entry = f"100644,{blob},{DESCRIPTION_PATH}"
    run_checked(repository, *git, "update-index", "--add", "--cacheinfo", entry)
    tree = run_checked(repository, *git, "write-tree").strip()
    commit = run_checked(repository, "git", "commit-tree", "-m", "damaged", tree).strip()
    with pytest.raises(NeuromirrorError):
        GitTree(repository, commit, None, NAME)
    assert git_processes() == before


@pytest.mark.parametrize("mode", ["redirect", "off"])
def test_a_file_that_only_a_vault_has_is_downloaded_from_it(
    kept: KeptDataset, serve_directory: Serve, mode: str
) -> None:
    path, content = next(iter(kept.contents.items()))
    mirror, local_id = NAME.split(":")
    with kept.harness.index() as index:
        file = index.files.get(index.versions.resolve(NAME), path)
        urls = [one.url for one in index.locations.of(file.content)]
    with closing(JournalRecorder(kept.harness.store, kept.harness.store.index_path)) as recorder:
        at = "2026-03-01T12:00:00+00:00"
        recorder.record(LocationsChecked(mirror, local_id, {"not-found": urls}, at))
    version = f"{NAME}@latest?path={quote(path)}"
    if mode == "redirect":
        with run_catalogue(kept.harness.store, "--gateway=redirect") as site:
            assert f"/download/{NAME}@" not in site.page(f"/file/{version}")
            assert site.get(f"/download/{version}").status_code == 404
    url = kept.serve(serve_directory)
    kept.stop_upstream()
    with run_catalogue(kept.harness.store, f"--gateway={mode}") as site:
        page = site.page(f"/file/{version}")
        (button,) = [link for link in links(page) if link.startswith("/download/")]
        reply = site.get(button)
        assert reply.content == content
        assert f'filename="{path.rpartition("/")[2]}"' in reply.headers["content-disposition"]
        assert any(url in command for command in commands(page))


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
