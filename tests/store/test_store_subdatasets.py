"""Datasets with subdatasets: clones by DataLad and git, and versions rebuilt from git."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from neuromirror.model import DatasetRef, Document, load_snapshot_entry
from neuromirror.store import (
    ANNEX_BRANCH,
    MAIN_BRANCH,
    HousekeepingPolicy,
    Store,
    StoreDamagedError,
    SuperdatasetMember,
    read_records_from_git,
    read_versions_from_git,
    run_housekeeping,
    superdataset_commit,
)
from support.store_publisher import Publisher, git, subdataset_of

Serve = Callable[[Path], str]
NOW = "2024-01-01T00:00:00+00:00"
PATHS = ["s/img.zarr", "my img #2.zarr"]
DOCUMENTS = (Document(b"session.json", b"{}\n"), Document(b"s/my notes.json", b"[1]\n"))


def zarr_of(path: str) -> DatasetRef:
    uri = f"https://api.example.org/api/dandisets/000001/{path}/"
    return DatasetRef("demo", f"000001/{path.replace(' ', '=20').replace('#', '=23')}", uri)


@pytest.fixture(scope="module")
def subdataset_publishers(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Publisher, dict[str, Publisher]]:
    """A dataset with three states, in which a component is added, changed and removed."""
    store = Store.open(tmp_path_factory.mktemp("subdatasets") / "store", create=True)
    whole = Publisher(store)
    parts = {path: Publisher(store, zarr_of(path)) for path in PATHS}
    one, two = (parts[path] for path in PATHS)
    one.publish("z1", {".zgroup": 1, "0/0": 2}, within="000001")
    two.publish("z1", {"zarr.json": 3}, within="000001")
    both = [subdataset_of(parts[path], path) for path in PATHS]
    whole.publish("one", {"s/a": 1}, parts=both[:1], documents=DOCUMENTS)
    whole.publish("two", {"s/a": 1, "my img": 2}, parts=both, documents=DOCUMENTS[:1])
    one.publish("z2", {".zgroup": 1, "0/0": 5}, within="000001")
    last = [subdataset_of(parts[path], path) for path in PATHS]
    whole.publish("three", {"s/a": 1, "s/img": 2}, parts=last, documents=DOCUMENTS)
    return whole, parts


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def add_superdataset(
    store: Store, dataset: DatasetRef, alias: str, path: str, member: DatasetRef, url: str
) -> None:
    """Publish a superdataset whose only member is another dataset of the store."""
    newest = store.repositories.of(member).main_tip()
    assert newest is not None
    members = [SuperdatasetMember(path, member, *newest, url)]
    with superdataset_commit(store, dataset, alias, members) as (tip, commit):
        assert commit is not None
        store.repositories.of(dataset).publish({MAIN_BRANCH: tip}, {MAIN_BRANCH: commit})


def test_datalad_gets_the_subdatasets_of_every_state_below_superdatasets(
    subdataset_publishers: tuple[Publisher, dict[str, Publisher]],
    serve_directory: Serve,
    tmp_path: Path,
) -> None:
    whole, parts = subdataset_publishers
    store, top = whole.store, DatasetRef("demo", "", "https://api.example.org/api/")
    add_superdataset(store, top, "demo", "000001", whole.dataset, f"../{whole.dataset.alias}")
    everything = DatasetRef("all", "", "https://example.org/all")
    add_superdataset(store, everything, "all", "demo", top, "../demo")
    run(tmp_path, "datalad", "clone", f"{serve_directory(store.root)}/alias/all", "clone")
    run(tmp_path / "clone", "datalad", "get", "-n", "-r", ".")
    assert git(tmp_path / "clone", "status", "--porcelain") == ""
    clone = tmp_path / "clone" / "demo" / "000001"
    assert (clone / "s" / "my notes.json").read_text() == "[1]\n"
    for path, publisher in parts.items():
        head = git(clone / path, "rev-parse", "HEAD").strip()
        assert head == publisher.minted[-1].commit
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
            expected = git(clone, "ls-tree", label, path).split()[2]
            assert git(clone / path, "rev-parse", "HEAD").strip() == expected
        left = [line for line in git(clone, "status", "--porcelain").splitlines() if line]
        assert all(line.startswith("??") for line in left)
    first, second = (one.commit for one in parts[PATHS[0]].minted)
    assert git(clone, "ls-tree", "two", PATHS[0]).split()[2] == first
    assert git(clone, "ls-tree", "three", PATHS[0]).split()[2] == second


def test_plain_git_gets_the_subdatasets_from_a_static_web_server(
    subdataset_publishers: tuple[Publisher, dict[str, Publisher]],
    serve_directory: Serve,
    tmp_path: Path,
) -> None:
    whole, parts = subdataset_publishers
    own = whole.dataset.dataset_id
    address = serve_directory(whole.store.root)
    for number, path_on_server in enumerate(("alias/demo--000001", f"{own[:3]}/{own[3:]}")):
        name = f"clone-{number}"
        git(tmp_path, "clone", "-q", "--recurse-submodules", f"{address}/{path_on_server}", name)
        for path, publisher in parts.items():
            head = git(tmp_path / name / path, "rev-parse", "HEAD").strip()
            assert head == publisher.minted[-1].commit
        git(tmp_path / name, "fsck", "--strict", "--full")


def test_records_with_subdatasets_are_read_back_from_git(
    subdataset_publishers: tuple[Publisher, dict[str, Publisher]],
) -> None:
    whole, _ = subdataset_publishers
    annex = whole.repository.refs()[ANNEX_BRANCH]
    for minted in whole.minted:
        kept = list(whole.store.records.lines(whole.dataset.dataset_id, minted.commit))
        found = list(read_records_from_git(whole.repository, minted.commit, annex, "observed"))
        assert [line.replace(b'"git",false]', b'"demo",false]') for line in found] == kept
    assert sum(b'"subdataset":' in line for line in found) == 2


def test_chunks_that_git_lacks_are_read_back_from_the_manifest(store: Store) -> None:
    publisher = Publisher(store)
    files = {".zgroup": 1, "0/.zarray": 2, **{f"0/{n}": 5 + n for n in range(20)}}
    minted = publisher.publish("one", files, form="manifest")
    assert minted.manifest_only.files == 20
    arguments = (publisher.repository, minted.commit, minted.annex_commit, "observed")
    kept = list(store.records.read(publisher.dataset.dataset_id, minted.commit))
    found = list(map(_without_claims, read_records_from_git(*arguments)))
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
        with pytest.raises(StoreDamagedError, match="manifest"):
            list(read_records_from_git(*arguments))
    manifest.unlink()
    with pytest.raises(StoreDamagedError, match="neuromirror repair"):
        list(read_records_from_git(*arguments))


def _without_claims(line: bytes) -> tuple[object, ...]:
    one = load_snapshot_entry(line)
    return one.git_path, one.key, one.record.size, one.record.locations


def test_version_description_is_read_from_git(
    subdataset_publishers: tuple[Publisher, dict[str, Publisher]],
) -> None:
    whole, parts = subdataset_publishers
    found = list(read_versions_from_git(whole.repository, set(), NOW))
    assert [one.metadata for one in found] == [one.metadata for one in whole.minted]
    assert len({one.metadata for one in found}) == 2
    assert found[0].attributes == {"subject": ["m1", "m2"]}
    assert found[0].inputs == ["raw_1"]
    assert [one.within for one in found] == ["", "", ""]
    inner = list(read_versions_from_git(parts[PATHS[0]].repository, set(), NOW))
    assert [one.within for one in inner] == ["000001", "000001"]


def test_housekeeping_keeps_subdatasets_and_their_superdatasets(
    subdataset_publishers: tuple[Publisher, dict[str, Publisher]],
) -> None:
    whole, parts = subdataset_publishers
    publishers = (whole, *parts.values())
    aliases = [one.dataset.alias for one in publishers]
    policy = HousekeepingPolicy(max_packs=0, max_bytes=0)
    kept = list(run_housekeeping(whole.store, aliases, policy))
    assert {one.status for one in kept} == {"ok"}
    assert len(kept) == 3
    for publisher in publishers:
        assert "error" not in git(publisher.repository.path, "fsck", "--strict", "--full")
