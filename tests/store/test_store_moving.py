"""A private store, and what goes from it to the public one."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from store_world import Publisher, dataset, git, git_refs, in_child, kill_steps

from neuromirror.model import (
    DatasetRef,
    Entry,
    EventRaised,
    HoldPlaced,
    HoldReleased,
    MirrorSeen,
    NeuromirrorError,
    VersionKind,
    VersionMinted,
    VisitEnded,
)
from neuromirror.store import PUBLISHED, Store, versions_in_git
from neuromirror.store.moving import (
    HistoriesDiffer,
    check_whole,
    copy_dataset,
    entries_of,
    forget_files,
    forget_in_journal,
)
from neuromirror.store.private import (
    StoreNotPrivate,
    StorePrivate,
    close_to_others,
    find_private,
    is_private,
    open_private,
    refuse_private,
)

ONE, TWO = dataset(1), dataset(2)
AT = "2024-03-01T12:00:00+00:00"


def visit(of: DatasetRef, status: str = "full") -> VisitEnded:
    return VisitEnded(
        f"{AT}-{status}", of.mirror, of.local_id, of.source_uri, "T", AT, AT, status, "f", 0, ""
    )


def hold(of: DatasetRef, name: str) -> HoldPlaced:
    return HoldPlaced(name, of.mirror, of.local_id, "draft", "sha256:0", "empty", 1, 1, AT)


@pytest.fixture
def public(tmp_path: Path) -> Store:
    """A public store that knows the mirror."""
    store = Store.open(tmp_path / "public", create=True)
    store.append(MirrorSeen("demo", "dandi", "https://api.example.org/api/", AT))
    return store


@pytest.fixture
def private(tmp_path: Path, public: Store) -> Store:
    """A private store with two datasets, of which some things are shared."""
    store = open_private(tmp_path / "private", public.root)
    store.append(MirrorSeen("demo", "dandi", "https://api.example.org/api/", AT))
    store.append(hold(ONE, "aa"), hold(TWO, "bb"), HoldReleased("bb", "me", AT))
    for one in (ONE, TWO):
        publisher = Publisher(store, one)
        publisher.publish("a", {"x.bin": 1, "y.bin": 2})
        publisher.publish("b", {"x.bin": 1, f"{one.local_id}.bin": 3})
        publisher.publish("1.0", {"x.bin": 1}, VersionKind.PUBLISHED)
        store.append(*versions_in_git(publisher.repository, set(), AT), visit(one))
    store.append(HoldReleased("aa", "me", AT), EventRaised("demo", "000001", "incident", "m", AT))
    return store


def carry(source: Store, target: Store, one: DatasetRef) -> None:
    """All steps of a move but those of the index."""
    target.append(*copy_dataset(source, target, one))
    check_whole(source, target, one)
    forget_in_journal(source, one)
    forget_files(source, one)


def kept_of(store: Store, one: DatasetRef) -> dict[str, object]:
    """Everything that a store has of a dataset."""
    entries = entries_of(store, one)
    versions = [entry for entry in entries if isinstance(entry, VersionMinted)]
    repository = store.repository(one)
    there = repository.exists()
    return {
        "entries": entries,
        "refs": git_refs(repository.path) if there else {},
        "objects": git(
            repository.path, "cat-file", "--batch-all-objects", "--batch-check", "--unordered"
        ).count("\n")
        if there
        else 0,
        "records": {
            entry.commit: list(store.record_lines(one.dataset_id, entry.commit))
            for entry in versions
        },
        "manifests": {entry.state: store.manifest_path(entry.state).exists() for entry in versions},
        "alias": (store.root / "alias" / one.alias).is_symlink(),
    }


NOTHING: dict[str, object] = {
    **{"entries": [], "refs": {}, "objects": 0, "records": {}, "manifests": {}, "alias": False}
}


def files_with(store: Store, name: str) -> list[str]:
    """Names of files and folders, but of locks."""
    return [str(path) for path in store.root.rglob(f"*{name}*") if "locks" not in path.parts]


# --- moving


def test_a_moved_dataset_is_whole_in_one_store_and_gone_from_the_other(
    private: Store, public: Store
) -> None:
    before, other = kept_of(private, ONE), kept_of(private, TWO)
    assert before["alias"] is True
    assert len(before["refs"]) == 6  # type: ignore[arg-type]
    assert len(entries_of(private, ONE)) == 7
    carry(private, public, ONE)
    assert kept_of(public, ONE) == before
    assert kept_of(private, ONE) == NOTHING
    assert not files_with(private, ONE.dataset_id[3:])
    assert kept_of(private, TWO) == other
    assert kept_of(public, TWO) == NOTHING
    repository = public.repository(ONE).path
    assert git(repository, "fsck", "--strict", "--full", "--dangling") == ""
    assert git(repository, "rev-parse", "HEAD").strip() == git_refs(repository)[PUBLISHED]


def test_a_moved_dataset_can_be_read_by_all(private: Store, public: Store) -> None:
    close_to_others(private.root)
    carry(private, public, ONE)
    for path in public.root.rglob("*"):
        if "locks" in path.parts or path.is_symlink() or path.suffix == ".lock":
            continue
        wanted = 0o555 if path.is_dir() else 0o444
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path


def test_a_move_killed_at_any_step_is_made_good_by_the_next(
    private: Store, public: Store, tmp_path: Path
) -> None:
    expected, other = kept_of(private, ONE), entries_of(private, TWO)
    source, target = tmp_path / "source", tmp_path / "target"

    def prepare(step: int) -> Callable[[], object]:
        for folder, template in ((source, private.root), (target, public.root)):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(template, folder, symlinks=True)
        return lambda: carry(Store.open(source), Store.open(target), ONE)

    steps = 0
    for steps in kill_steps(prepare):
        old, new = Store.open(source), Store.open(target)
        # until the public store has all of it, the private one must
        if entries_of(new, ONE) != expected["entries"]:
            assert kept_of(old, ONE) == expected, steps
        carry(old, new, ONE)
        assert kept_of(new, ONE) == expected, steps
        assert entries_of(old, ONE) == [], steps
        assert entries_of(old, TWO) == other, steps
        assert not files_with(old, ONE.dataset_id[3:]), steps
        assert not files_with(new, ".new-"), steps
    assert steps > 30, steps


def test_a_move_that_was_done_is_done_again_without_harm(private: Store, public: Store) -> None:
    copied = copy_dataset(private, public, ONE)
    public.append(*copied)
    assert copy_dataset(private, public, ONE) == []
    before = kept_of(public, ONE)
    carry(private, public, ONE)
    carry(private, public, ONE)
    assert kept_of(public, ONE) == before


def test_the_public_store_may_be_ahead(private: Store, public: Store) -> None:
    public.append(*copy_dataset(private, public, ONE))
    publisher = Publisher(public, ONE)
    publisher.made = [None] * 9  # type: ignore[list-item] # later than the others
    publisher.publish("c", {"x.bin": 1, "z.bin": 9})
    refs = publisher.repository.refs()
    carry(private, public, ONE)
    assert publisher.repository.refs() == refs
    assert kept_of(private, ONE) == NOTHING


def test_two_histories_are_not_mixed(private: Store, public: Store) -> None:
    publisher = Publisher(public, ONE)
    publisher.publish("other", {"x.bin": 1, "other.bin": 5})
    before, there = kept_of(private, ONE), git_refs(publisher.repository.path)
    with pytest.raises(HistoriesDiffer, match="history of its own"):
        carry(private, public, ONE)
    assert kept_of(private, ONE) == before
    assert git_refs(publisher.repository.path) == there
    assert entries_of(public, ONE) == []


@pytest.mark.parametrize("lost", ["records", "manifests", "journal", "objects"])
def test_nothing_is_forgotten_while_the_copy_lacks_something(
    private: Store, public: Store, lost: str
) -> None:
    copied = copy_dataset(private, public, ONE)
    public.append(*(copied[:-1] if lost == "journal" else copied))
    if lost == "objects":
        for path in (public.repository(ONE).path / "objects" / "pack").glob("*.pack"):
            path.unlink()
            path.with_suffix(".idx").unlink()
    elif lost != "journal":
        folder = public.root / ("neuromirror/records" if lost == "records" else "manifests")
        next(folder.rglob("*.zst")).unlink()
    before = kept_of(private, ONE)
    with pytest.raises(NeuromirrorError):
        check_whole(private, public, ONE)
    assert kept_of(private, ONE) == before


def test_what_a_killed_visit_began_in_the_public_store_is_replaced(
    private: Store, public: Store
) -> None:
    public.repository(ONE).create()
    before = kept_of(private, ONE)
    carry(private, public, ONE)
    assert kept_of(public, ONE) == before


# --- the private store


def test_a_private_store_is_for_its_owner_alone(tmp_path: Path, public: Store) -> None:
    store = open_private(tmp_path / "deep" / "er" / "private", public.root)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    Publisher(store, ONE).publish("a", {"x.bin": 1})
    close_to_others(store.root)
    for path in store.root.rglob("*"):
        assert path.is_symlink() or not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert is_private(store.root)
    assert not is_private(public.root)


def test_a_private_store_of_a_group_stays_one(tmp_path: Path, public: Store) -> None:
    store = open_private(tmp_path / "private", public.root)
    store.root.chmod(0o750)
    Publisher(store, ONE).publish("a", {"x.bin": 1})
    open_private(store.root, public.root)
    modes = {stat.S_IMODE(p.stat().st_mode) & 0o077 for p in (store.root / "manifests").rglob("*")}
    assert modes == {0o050, 0o040}


@pytest.mark.parametrize("where", ["", "private", "deep/private", "neuromirror"])
def test_a_private_store_is_never_in_the_public_one(public: Store, where: str) -> None:
    before = sorted(public.root.rglob("*"))
    with pytest.raises(StoreNotPrivate, match="must not be in one another"):
        open_private(public.root / where, public.root)
    with pytest.raises(StoreNotPrivate):
        find_private(public.root / where, public.root)
    assert sorted(public.root.rglob("*")) == before


def test_a_link_into_the_public_store_is_seen_through(public: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(public.root)
    with pytest.raises(StoreNotPrivate):
        open_private(tmp_path / "link" / "private", public.root)
    with pytest.raises(StoreNotPrivate):
        open_private(public.root / "private", tmp_path / "link")


def test_the_public_store_is_not_in_the_private_one(tmp_path: Path) -> None:
    with pytest.raises(StoreNotPrivate):
        open_private(tmp_path / "place", tmp_path / "place" / "store")


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, public: Store) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(StoreNotPrivate, match="chmod 700"):
        open_private(folder, public.root)
    assert not any(folder.iterdir())
    folder.chmod(0o700)
    assert open_private(folder, public.root).root == folder


def test_a_public_store_does_not_become_private_nor_the_other_way(
    tmp_path: Path, public: Store
) -> None:
    other = Store.open(tmp_path / "other", create=True)
    other.root.chmod(0o700)
    for opening in (open_private, find_private):
        with pytest.raises(StoreNotPrivate, match="public store already"):
            opening(other.root, public.root)
    private = open_private(tmp_path / "private", public.root)
    refuse_private(public.root)
    with pytest.raises(StorePrivate):
        refuse_private(private.root)


def test_a_private_store_killed_in_the_making_is_made_by_the_next(
    tmp_path: Path, public: Store
) -> None:
    folder = tmp_path / "private"
    step, killed = 0, True
    while killed:
        step += 1
        shutil.rmtree(folder, ignore_errors=True)
        killed = in_child(lambda: open_private(folder, public.root), step)
        if folder.exists():
            assert not stat.S_IMODE(folder.stat().st_mode) & 0o077
        assert is_private(open_private(folder, public.root).root)
    assert step > 5


def test_no_private_store_is_made_by_looking_for_one(tmp_path: Path, public: Store) -> None:
    assert find_private(tmp_path / "private", public.root) is None
    assert not (tmp_path / "private").exists()
    made = open_private(tmp_path / "private", public.root)
    found = find_private(tmp_path / "private", public.root)
    assert found is not None
    assert found.root == made.root


def test_entries_about_a_dataset_are_told_from_all_others(public: Store) -> None:
    mine: list[Entry] = [visit(ONE), hold(ONE, "aa"), HoldReleased("aa", "me", AT)]
    public.append(HoldReleased("aa", "me", AT), *mine, visit(TWO), HoldReleased("bb", "me", AT))
    public.append(visit(replace(ONE, mirror="other")))
    assert entries_of(public, ONE) == mine
