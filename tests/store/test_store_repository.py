"""Published repositories: clones over plain HTTP, durable writes, versions rebuilt from git."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from neuromirror.model import VersionKind
from neuromirror.store import (
    ANNEX_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    Store,
    StoreDamagedError,
    read_versions_from_git,
)
from neuromirror.store.durable_files import HOOKS
from support.disk_states import disk_states
from support.store_publisher import Publisher, commits, dataset, git

Serve = Callable[[Path], str]
NOW = "2024-01-01T00:00:00+00:00"

OWN = ("-c", "user.name=neuromirror", "-c", "user.email=x@neuromirror.invalid")


def clone(address: str, path: Path) -> dict[str, str]:
    """Clone; return the server's refs by their names there."""
    git(path.parent, "clone", "-q", address, str(path))
    git(path, "fsck", "--full")
    lines = git(path, "ls-remote", "-q", address).splitlines()
    return {name: sha for sha, name in (line.split("\t") for line in lines)}


def test_every_publication_can_be_cloned_from_a_static_web_server(
    store: Store, serve_directory: Serve, tmp_path: Path
) -> None:
    address = f"{serve_directory(store.root)}/alias/demo--000001"
    publisher = Publisher(store)
    refs: dict[str, str] = {}
    for number in range(3):
        label = f"2022-12-1{number}T000000Z"
        minted = publisher.publish(label, {f"f{one}": one for one in range(number + 1)})
        refs |= {
            MAIN_BRANCH: minted.commit,
            ANNEX_BRANCH: minted.annex_commit,
            TAG_PREFIX + label: minted.commit,
        }
        seen = clone(address, tmp_path / f"clone-{number}")
        assert seen == refs | {"HEAD": minted.commit}
        head = git(tmp_path / f"clone-{number}", "rev-parse", "HEAD").strip()
        assert head == minted.commit
        assert (tmp_path / f"clone-{number}" / "f0").is_symlink()
        assert len(list((tmp_path / f"clone-{number}").glob("f*"))) == number + 1
    git(tmp_path, "clone", "-q", "-b", "2022-12-10T000000Z", address, "pinned")
    assert git(tmp_path / "pinned", "rev-parse", "HEAD").strip() == publisher.minted[0].commit


def test_head_is_the_published_branch_from_the_first_published_version_on(
    store: Store, serve_directory: Serve, tmp_path: Path
) -> None:
    address = f"{serve_directory(store.root)}/alias/demo--000001"
    publisher = Publisher(store)
    draft = publisher.publish("draft-1", {"a": 1})
    assert clone(address, tmp_path / "one")["HEAD"] == draft.commit
    assert git(tmp_path / "one", "symbolic-ref", "HEAD").strip() == MAIN_BRANCH
    first = publisher.publish("0.1", {"a": 1}, VersionKind.PUBLISHED)
    assert clone(address, tmp_path / "two")["HEAD"] == first.commit
    assert git(tmp_path / "two", "symbolic-ref", "HEAD").strip() == PUBLISHED_BRANCH
    publisher.publish("draft-2", {"a": 2})
    assert clone(address, tmp_path / "three")["HEAD"] == first.commit


def test_killed_at_the_first_published_version_head_never_names_a_missing_branch(
    store: Store, tmp_path: Path
) -> None:
    publisher = Publisher(store)
    draft = publisher.publish("draft-1", {"a": 1})
    repository = publisher.repository
    refs = repository.refs()
    heads = set()
    new = {PUBLISHED_BRANCH: draft.commit}
    for _ in disk_states(store.root, lambda: repository.publish({PUBLISHED_BRANCH: None}, new)):
        assert git(repository.path, "rev-parse", "HEAD").strip() == draft.commit
        heads.add(git(repository.path, "symbolic-ref", "HEAD").strip())
        repository.remove_stale_files()
        repository.publish({}, new)
        assert git(repository.path, "symbolic-ref", "HEAD").strip() == PUBLISHED_BRANCH
        assert repository.refs() == refs | {PUBLISHED_BRANCH: draft.commit}
    assert heads == {MAIN_BRANCH, PUBLISHED_BRANCH}


def test_clone_works_after_an_operator_ran_git_gc(
    store: Store, serve_directory: Serve, tmp_path: Path
) -> None:
    address = f"{serve_directory(store.root)}/alias/demo--000001"
    publisher = Publisher(store)
    publisher.publish("one", {"a": 1})
    path = publisher.repository.path
    git(path, "gc", "-q", "--prune=now")
    git(path, "tag", "-a", "-m", "m", "theirs", MAIN_BRANCH)
    publisher.publish("two", {"a": 1, "b": 2})
    git(path, "repack", "-adq")
    last = publisher.publish("three", {"a": 1, "b": 3})
    seen = clone(address, tmp_path / "clone")
    assert seen[MAIN_BRANCH] == last.commit
    assert set(seen) >= {
        TAG_PREFIX + "one",
        TAG_PREFIX + "two",
        TAG_PREFIX + "theirs",
        TAG_PREFIX + "theirs^{}",
    }
    git(path, "fsck", "--strict", "--full")


def test_info_refs_equals_update_server_info(store: Store) -> None:
    publisher = Publisher(store)
    path = publisher.repository.path

    def info_refs_pair() -> list[bytes]:
        ours = (path / "info" / "refs").read_bytes()
        git(path, "update-server-info", "--force")
        return [ours, (path / "info" / "refs").read_bytes()]

    publisher.publish("one", {"a": 1})
    ours, gits = info_refs_pair()
    assert ours == gits
    assert ours.count(b"\n") == 3
    git(path, "tag", "-a", "-m", "m", "packed", MAIN_BRANCH)
    git(path, "pack-refs", "--all")
    publisher.publish("two", {"a": 2})
    ours, gits = info_refs_pair()
    assert ours == gits
    assert b"refs/tags/packed^{}" in ours
    git(path, "tag", "-a", "-m", "m", "loose", MAIN_BRANCH)
    publisher.publish("three", {"a": 3})
    ours, gits = info_refs_pair()
    assert ours == gits
    assert b"refs/tags/loose^{}" in ours


def test_new_repository_equals_that_of_git_init(store: Store, tmp_path: Path) -> None:
    repository = store.repositories.of(dataset())
    repository.create()
    git(tmp_path, "init", "-q", "--bare", "--template=", "-b", "main", "gits")
    found = {path.relative_to(repository.path).as_posix() for path in repository.path.rglob("*")}
    expected = {
        path.relative_to(tmp_path / "gits").as_posix() for path in (tmp_path / "gits").rglob("*")
    }
    hooks = {"hooks", *(f"hooks/{name}" for name in HOOKS)}
    assert found == expected | hooks | {"info", "ria-layout-version"}
    assert (repository.path / "HEAD").read_bytes() == (tmp_path / "gits" / "HEAD").read_bytes()
    listed = [
        set(git(where, "config", "--local", "--list").splitlines())
        for where in (repository.path, tmp_path / "gits")
    ]
    assert {one.split(".")[0] for one in listed[0] - listed[1]} == {"receive", "gc"}
    assert "core.bare=true" in listed[0]
    for path in (repository.path, *repository.path.rglob("*")):
        runs = path.is_dir() or path.parent.name == "hooks"
        assert path.stat().st_mode & 0o777 == (0o755 if runs else 0o644)


def test_killed_publication_is_served_after_a_refresh(
    store: Store, serve_directory: Serve, tmp_path: Path
) -> None:
    publisher = Publisher(store)
    minted = publisher.publish("one", {"a": 1})
    repository = publisher.repository
    for name in ("info/refs", "objects/info/packs"):
        (repository.path / name).unlink()
    (repository.path / "HEAD").write_text("ref: refs/heads/published\n")
    repository.update_server_info()
    before = {
        path: path.stat().st_mtime_ns for path in repository.path.rglob("*") if path.is_file()
    }
    seen = clone(f"{serve_directory(store.root)}/alias/demo--000001", tmp_path / "clone")
    assert seen["HEAD"] == minted.commit
    repository.update_server_info()
    after = {path: path.stat().st_mtime_ns for path in repository.path.rglob("*") if path.is_file()}
    assert after == before


def test_objects_are_durable_before_refs_move(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    unsynced: dict[Path, set[str]] = {}
    moved = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def note_fsync(handle: int) -> None:
        fsync(handle)
        state = os.fstat(handle)
        synced.add(state.st_ino)
        unsynced.pop(Path(os.readlink(f"/proc/self/fd/{handle}")), None)

    def note(do: Callable[..., None]) -> Callable[..., None]:
        def renamed(source: os.PathLike[str], target: os.PathLike[str]) -> None:
            path = Path(target)
            if path.name == "packed-refs":
                moved.append(dict(unsynced))
            assert os.lstat(source).st_ino in synced or path.is_symlink() or "alias" in path.parts
            do(source, target)
            unsynced.setdefault(path.parent, set()).add(path.name)

        return renamed

    if not Path("/proc/self/fd").exists():
        pytest.skip("/proc is required to see which file was synced")
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note(replace))
    monkeypatch.setattr(os, "rename", note(rename))
    publisher = Publisher(store)
    publisher.publish("one", {"a": 1})
    publisher.publish("two", {"a": 2})
    assert moved == [{}, {}]
    assert unsynced == {}


# --- versions rebuilt from git


def test_versions_are_read_from_git_without_other_files(store: Store) -> None:
    publisher = Publisher(store)
    one = publisher.publish("0.1", {"a": 1}, VersionKind.PUBLISHED)
    publisher.publish("draft-1", {"a": 1, "b": 20})
    publisher.publish("0.2", {"a": 3}, VersionKind.PUBLISHED)
    publisher.publish("draft-2", {"a": 1, "b": 20}, title="Another title")
    found = list(read_versions_from_git(publisher.repository, set(), NOW))
    assert [(entry.label, entry.kind, entry.upstream) for entry in found] == [
        ("0.1", "published", "0.1"),
        ("0.2", "published", "0.2"),
        ("draft-1", "observed", "draft"),
        ("draft-2", "observed", "draft"),
    ]
    first = found[0]
    assert (first.commit, first.tree, first.state) == (one.commit, one.tree, one.state)
    assert first.annex_commit == publisher.minted[-1].annex_commit
    assert (first.files, first.bytes, first.evidence) == (1, 1, {"sha256": 1})
    assert first.time == "2022-12-13T10:11:12+00:00"
    assert first.at == NOW
    assert (first.title, first.license, first.doi) == ("A title", ["spdx:CC0-1.0"], "10.1/x")
    assert first.exceptions == [
        {"path": "z.zarr", "reason": "zarr", "detail": "is a folder", "size": 5}
    ]
    assert [entry.metadata_only for entry in found] == [False, False, False, True]
    assert first.dataset_ref == dataset()

    known = {found[0].commit, found[2].commit}
    repeated = list(read_versions_from_git(publisher.repository, known, NOW))
    assert repeated == [found[1], found[3]]
    everything = {entry.commit for entry in found}
    assert list(read_versions_from_git(publisher.repository, everything, NOW)) == []


def test_foreign_repository_is_reported_as_damage(store: Store) -> None:
    repository = store.repositories.of(dataset())
    repository.create()
    assert list(read_versions_from_git(repository, set(), NOW)) == []
    (one,) = commits(repository.path, 1)
    git(repository.path, "update-ref", MAIN_BRANCH, one)
    with pytest.raises(StoreDamagedError, match="git-annex"):
        list(read_versions_from_git(repository, set(), NOW))
    git(repository.path, "update-ref", ANNEX_BRANCH, one)
    for content in ("not json", "[]", '{"dataset":"demo:1"}', '"x"'):
        blob = git(repository.path, "hash-object", "-w", "--stdin", stdin=content).strip()
        inner = git(repository.path, "mktree", stdin=f"100644 blob {blob}\tdataset.json\n").strip()
        outer = git(repository.path, "mktree", stdin=f"040000 tree {inner}\t.neuromirror\n").strip()
        commit = git(repository.path, "commit-tree", outer, "-m", "x").strip()
        git(repository.path, "update-ref", MAIN_BRANCH, commit)
        assert list(read_versions_from_git(repository, set(), NOW)) == []  # a foreign commit
        commit = git(repository.path, *OWN, "commit-tree", outer, "-m", "x").strip()
        git(repository.path, "update-ref", MAIN_BRANCH, commit)
        with pytest.raises(StoreDamagedError, match=commit):
            list(read_versions_from_git(repository, set(), NOW))


def test_failed_git_command_is_an_error_with_its_stderr(store: Store) -> None:
    publisher = Publisher(store)
    publisher.publish("one", {"a": 1})
    publisher.repository.path.joinpath("packed-refs").write_text(f"{'0' * 39}1 {MAIN_BRANCH}\n")
    with pytest.raises(StoreDamagedError, match="neuromirror repair"):
        publisher.repository.main_tip()
