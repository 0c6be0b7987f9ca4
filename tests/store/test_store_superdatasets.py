"""Superdatasets: their members, commits and repetition after a kill."""

import shutil

import pytest

from neuromirror.model import DatasetRef
from neuromirror.store import (
    MAIN_BRANCH,
    Repository,
    Store,
    SuperdatasetMember,
    superdataset_commit,
)
from support.disk_states import disk_states
from support.store_publisher import Publisher, dataset, git, read_files

TOP = DatasetRef("demo", "", "https://api.example.org/api/")


def member(publisher: Publisher, path: str | None = None) -> SuperdatasetMember:
    one = publisher.dataset
    newest = publisher.repository.main_tip()
    assert newest is not None
    commit, date = newest
    return SuperdatasetMember(path or one.local_id, one, commit, date, f"../{one.alias}")


@pytest.fixture
def publishers(store: Store) -> list[Publisher]:
    """Two datasets, the second with two states."""
    both = [Publisher(store, dataset(number)) for number in (1, 2)]
    for one in both:
        one.publish("one", {"a": 1})
    both[1].publish("two", {"a": 2})
    return both


def top(store: Store) -> Repository:
    return store.repositories.of(TOP)


def update_superdataset(
    store: Store, members: list[SuperdatasetMember], dataset: DatasetRef = TOP, alias: str = "demo"
) -> str | None:
    """Commits the members; returns the new commit."""
    with superdataset_commit(store, dataset, alias, members) as (tip, commit):
        if commit is not None:
            store.repositories.of(dataset).publish({MAIN_BRANCH: tip}, {MAIN_BRANCH: commit})
    return commit


def test_superdataset_names_the_urls_of_its_members(
    store: Store, publishers: list[Publisher]
) -> None:
    one, two = map(member, publishers)
    commit = update_superdataset(store, [two, one])
    repository = top(store)
    assert repository.refs() == {MAIN_BRANCH: commit}
    assert git(repository.path, "show", "main:.gitmodules") == (
        '[submodule "000001"]\n\tpath = 000001\n\turl = ../demo--000001\n'
        f"\tdatalad-id = {one.dataset.dataset_id}\n"
        '[submodule "000002"]\n\tpath = 000002\n\turl = ../demo--000002\n'
        f"\tdatalad-id = {two.dataset.dataset_id}\n"
    )
    assert git(repository.path, "ls-tree", "main", "000001", "000002") == (
        f"160000 commit {one.commit}\t000001\n160000 commit {two.commit}\t000002\n"
    )
    config = git(repository.path, "show", "main:.datalad/config")
    assert f"id = {TOP.dataset_id}" in config
    when = git(repository.path, "log", "-1", "--format=%at %ct %P", "main").split()
    assert when == [str(two.date), str(two.date)]
    assert git(repository.path, "fsck", "--strict", "--full").strip() == ""


def test_unchanged_members_make_no_commit_and_write_nothing(
    store: Store, publishers: list[Publisher]
) -> None:
    members = [member(publisher) for publisher in publishers]
    first = update_superdataset(store, members)
    before = read_files(store.root)
    assert update_superdataset(store, members[::-1]) is None
    assert read_files(store.root) == before
    publishers[0].publish("later", {"a": 5})
    second = update_superdataset(store, [member(publisher) for publisher in publishers])
    assert second is not None
    assert git(top(store).path, "log", "--format=%H %P", "main").split() == [second, first, first]
    assert update_superdataset(store, members) not in (None, first, second)


def test_members_may_lie_in_folders_and_have_odd_names(
    store: Store, publishers: list[Publisher]
) -> None:
    paths = ["coll/exp/em", "coll/exp-2/em", 'od"d #;\\', "coll.x"]
    members = [member(publishers[0], path) for path in paths]
    update_superdataset(store, members)
    path = top(store).path
    assert git(path, "fsck", "--strict", "--full").strip() == ""
    listed = git(path, "ls-tree", "-rz", "--name-only", "main").split("\0")
    assert [name for name in listed if name and not name.startswith(".")] == sorted(paths)
    found = git(path, "config", "--blob", "main:.gitmodules", "-z", "--get-regexp", r"\.path$")
    assert dict(line.split("\n") for line in found.split("\0") if line) == {
        f"submodule.{name}.path": name for name in paths
    }


def test_repeated_after_a_kill_at_any_step_it_converges(
    store: Store, publishers: list[Publisher]
) -> None:
    members = [member(publisher) for publisher in publishers]
    update_superdataset(store, members[:1])
    shutil.copytree(store.root, store.root.with_name("copy"), symlinks=True)
    copy = Store.open(store.root.with_name("copy"))
    update_superdataset(copy, members)
    expected = git(top(copy).path, "rev-parse", "main^{tree}")
    trees = set()
    for _ in disk_states(store.root, lambda: update_superdataset(store, members)):
        git(top(store).path, "fsck", "--strict", "--full")
        trees.add(git(top(store).path, "rev-parse", "main^{tree}"))
        update_superdataset(store, members)
        assert git(top(store).path, "rev-parse", "main^{tree}") == expected
    assert len(trees) == 2
