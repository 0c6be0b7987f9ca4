"""Datasets with sub-datasets: cloned with DataLad and git, and told from git alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from store_world import Publisher, git, part_of

from neuromirror.model import DatasetRef, Document, load_placed
from neuromirror.store import (
    ANNEX,
    Member,
    Store,
    StoreDamaged,
    keep_house,
    record_lines_in_git,
    update_superdataset,
    versions_in_git,
)
from neuromirror.store.housekeeping import Rules

Serve = Callable[[Path], str]
NOW = "2024-01-01T00:00:00+00:00"
PATHS = ["s/img.zarr", "my img #2.zarr"]
DOCUMENTS = (
    Document(b"session.json", b"{}\n"),
    Document(b"s/my notes.json", b"[1]\n"),
)


def zarr_of(path: str) -> DatasetRef:
    uri = f"https://api.example.org/api/dandisets/000001/{path}/"
    return DatasetRef("demo", f"000001/{path.replace(' ', '=20').replace('#', '=23')}", uri)


@pytest.fixture
def world(store: Store) -> tuple[Publisher, dict[str, Publisher]]:
    """A dataset with two parts and three states: a part comes, a part changes, a part goes."""
    whole = Publisher(store)
    parts = {path: Publisher(store, zarr_of(path)) for path in PATHS}
    one, two = (parts[path] for path in PATHS)
    one.publish("z1", {".zgroup": 1, "0/0": 2}, within="000001")
    two.publish("z1", {"zarr.json": 3}, within="000001")
    both = [part_of(parts[path], path) for path in PATHS]
    whole.publish("one", {"s/a": 1}, parts=both[:1], documents=DOCUMENTS)
    whole.publish("two", {"s/a": 1, "my img": 2}, parts=both, documents=DOCUMENTS[:1])
    one.publish("z2", {".zgroup": 1, "0/0": 5}, within="000001")
    last = [part_of(parts[path], path) for path in PATHS]
    whole.publish("three", {"s/a": 1, "s/img": 2}, parts=last, documents=DOCUMENTS)
    return whole, parts


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("address", ["{}/alias/demo--000001", "ria+{}#{}"])
def test_datalad_gets_the_parts_of_every_state(
    store: Store,
    world: tuple[Publisher, dict[str, Publisher]],
    serve: Serve,
    tmp_path: Path,
    address: str,
) -> None:
    whole, parts = world
    url = address.format(serve(store.root), whole.dataset.dataset_id)
    run(tmp_path, "datalad", "clone", url, "clone")
    clone = tmp_path / "clone"
    assert (clone / "s" / "my notes.json").read_text() == "[1]\n"
    run(clone, "datalad", "get", "-n", "-r", ".")
    for path, publisher in parts.items():
        head = git(clone / path, "rev-parse", "HEAD").strip()
        assert head == publisher.made[-1].commit
        config = git(clone, "config", "-f", ".gitmodules", f"submodule.{path}.datalad-id")
        assert config.strip() == publisher.dataset.dataset_id
        run(clone / path, "git", "annex", "fsck", "--fast", "--quiet")
    assert (clone / PATHS[0] / "0" / "0").is_symlink()
    run(clone, "git", "annex", "fsck", "--fast", "--quiet")
    assert git(clone, "status", "--porcelain") == ""
    for label, present in (("two", PATHS), ("one", PATHS[:1]), ("three", PATHS)):
        git(clone, "checkout", "-q", label)
        git(clone, "submodule", "update", "-q")
        for path in present:
            wanted = git(clone, "ls-tree", label, path).split()[2]
            assert git(clone / path, "rev-parse", "HEAD").strip() == wanted
        left = [line for line in git(clone, "status", "--porcelain").splitlines() if line]
        assert all(line.startswith("??") for line in left)
    first, second = (one.commit for one in parts[PATHS[0]].made)
    assert git(clone, "ls-tree", "two", PATHS[0]).split()[2] == first
    assert git(clone, "ls-tree", "three", PATHS[0]).split()[2] == second


def test_parts_are_found_below_a_super_dataset(
    store: Store,
    world: tuple[Publisher, dict[str, Publisher]],
    serve: Serve,
    tmp_path: Path,
) -> None:
    whole, parts = world
    top = DatasetRef("demo", "", "https://api.example.org/api/")
    newest = whole.repository.main()
    assert newest is not None
    member = Member("000001", whole.dataset, *newest, url=f"../{whole.dataset.alias}")
    update_superdataset(store, top, "demo", [member])
    run(tmp_path, "datalad", "clone", f"ria+{serve(store.root)}#~demo", "clone")
    run(tmp_path / "clone", "datalad", "get", "-n", "-r", ".")
    for path, publisher in parts.items():
        head = git(tmp_path / "clone" / "000001" / path, "rev-parse", "HEAD").strip()
        assert head == publisher.made[-1].commit


def test_git_alone_gets_the_parts_from_a_static_web_server(
    store: Store,
    world: tuple[Publisher, dict[str, Publisher]],
    serve: Serve,
    tmp_path: Path,
) -> None:
    whole, parts = world
    own = whole.dataset.dataset_id
    for number, place in enumerate(("alias/demo--000001", f"{own[:3]}/{own[3:]}")):
        name = f"clone-{number}"
        git(tmp_path, "clone", "-q", "--recurse-submodules", f"{serve(store.root)}/{place}", name)
        for path, publisher in parts.items():
            head = git(tmp_path / name / path, "rev-parse", "HEAD").strip()
            assert head == publisher.made[-1].commit
        git(tmp_path / name, "fsck", "--strict", "--full")


def test_records_with_parts_are_read_back_from_git(
    world: tuple[Publisher, dict[str, Publisher]],
) -> None:
    whole, _ = world
    annex = whole.repository.refs()[ANNEX]
    for minted in whole.made:
        kept = list(whole.store.record_lines(whole.dataset.dataset_id, minted.commit))
        found = list(record_lines_in_git(whole.repository, minted.commit, annex, "observed"))
        assert [line.replace(b'"git",false]', b'"demo",false]') for line in found] == kept
    assert sum(b'"sub":' in line for line in found) == 2


def test_chunks_that_git_lacks_are_read_back_from_the_manifest(store: Store) -> None:
    publisher = Publisher(store)
    files = {".zgroup": 1, "0/.zarray": 2, **{f"0/{n}": 5 + n for n in range(20)}}
    minted = publisher.publish("one", files, form="manifest")
    assert minted.manifest_only.files == 20
    told = (publisher.repository, minted.commit, minted.annex_commit, "observed")
    kept = list(store.records(publisher.dataset.dataset_id, minted.commit))
    found = list(map(_without_claims, record_lines_in_git(*told)))
    assert [one[:3] for one in found] == [(p.git_path, p.key, p.record.size) for p in kept]
    in_git = (b".zgroup", b".zarray")
    assert [one[3] for one in found] == [
        p.record.locations if p.git_path.endswith(in_git) else () for p in kept
    ]
    manifest = store.manifest_path(minted.state)
    whole = manifest.read_bytes()
    manifest.chmod(0o644)
    for damaged in (whole[:-40], zstandard.compress(b""), b"no manifest"):
        manifest.write_bytes(damaged)
        with pytest.raises(StoreDamaged, match="manifest"):
            list(record_lines_in_git(*told))
    manifest.unlink()
    with pytest.raises(StoreDamaged, match="backup"):
        list(record_lines_in_git(*told))


def _without_claims(line: bytes) -> tuple[object, ...]:
    one = load_placed(line)
    return one.git_path, one.key, one.record.size, one.record.locations


def test_what_a_version_says_of_itself_is_told_from_git(
    world: tuple[Publisher, dict[str, Publisher]],
) -> None:
    whole, parts = world
    found = list(versions_in_git(whole.repository, set(), NOW))
    assert [one.metadata for one in found] == [one.metadata for one in whole.made]
    assert len({one.metadata for one in found}) == 2
    assert found[0].attributes == {"subject": ["m1", "m2"]}
    assert found[0].inputs == ["raw_1"]
    assert [one.within for one in found] == ["", "", ""]
    inner = list(versions_in_git(parts[PATHS[0]].repository, set(), NOW))
    assert [one.within for one in inner] == ["000001", "000001"]


def test_housekeeping_keeps_parts_and_what_holds_them(
    store: Store, world: tuple[Publisher, dict[str, Publisher]]
) -> None:
    whole, parts = world
    kept = list(keep_house(store, rules=Rules(packs=0, bytes=0)))
    assert {one.status for one in kept} <= {"ok", "notneeded"}
    assert len(kept) == 3
    for publisher in (whole, *parts.values()):
        assert "error" not in git(publisher.repository.path, "fsck", "--strict", "--full")
