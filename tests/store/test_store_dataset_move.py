"""Private stores, and moves of datasets from a private to a public store."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuromirror.annex import directory_vault_config
from neuromirror.git import try_git
from neuromirror.mint import CustodyRemote
from neuromirror.model import (
    ContentsDigested,
    DatasetRef,
    DigestedContent,
    EventRaised,
    HoldPlaced,
    HoldReleased,
    JournalEntry,
    MirrorSeen,
    NeuromirrorError,
    VersionKind,
    VersionMinted,
    VisitEnded,
)
from neuromirror.store import (
    CUSTODY_BRANCH,
    PUBLISHED_BRANCH,
    Store,
    publish_locations,
    read_versions_from_git,
)
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.store.custody import published_locations
from neuromirror.store.durable_files import is_protected
from neuromirror.store.private_store import (
    DivergedHistoriesError,
    StoreNotPrivateError,
    UnexpectedPrivateStoreError,
    check_copy_complete,
    copy_dataset,
    dataset_entries,
    find_private_store,
    is_private_store,
    open_private_store,
    remove_files,
    remove_from_journal,
    require_public_store,
    restrict_to_owner,
)
from neuromirror.store.repository import update_refs
from support.block_digests import claimed_digests
from support.disk_states import disk_states
from support.store_publisher import Publisher, dataset, git, git_refs, packed_objects, read_files
from support.vaults import OTHER_UUID, VAULT_UUID

ONE, TWO = dataset(1), dataset(2)
AT = "2024-03-01T12:00:00+00:00"


def visit(of: DatasetRef, status: str = "full") -> VisitEnded:
    return VisitEnded(
        of.mirror, of.local_id, of.source_uri, f"{AT}-{status}", "T", AT, AT, status, "f", 0, ""
    )


def hold(of: DatasetRef, name: str) -> HoldPlaced:
    return HoldPlaced(name, of.mirror, of.local_id, "draft", "sha256:0", "empty", 1, 1, AT)


@pytest.fixture
def public(tmp_path: Path) -> Store:
    """A public store with the mirror in its journal."""
    store = Store.open(tmp_path / "public", create=True)
    store.journal.append(MirrorSeen("demo", "dandi", "https://api.example.org/api/", AT))
    return store


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private store with two datasets that share a state."""
    folder = tmp_path_factory.mktemp("prepared")
    store = open_private_store(folder / "private", folder / "public")
    store.journal.append(MirrorSeen("demo", "dandi", "https://api.example.org/api/", AT))
    store.journal.append(hold(ONE, "aa"), hold(TWO, "bb"), HoldReleased("bb", "me", AT))
    for one in (ONE, TWO):
        publisher = Publisher(store, one)
        publisher.publish("a", {"x.bin": 1, f"{one.local_id}.bin": 3})
        publisher.publish("1.0", {"x.bin": 1}, VersionKind.PUBLISHED)
        store.journal.append(*read_versions_from_git(publisher.repository, set(), AT), visit(one))
    store.journal.append(
        HoldReleased("aa", "me", AT), EventRaised("demo", "000001", "incident", "m", AT)
    )
    return store.root


@pytest.fixture
def private(prepared: Path, tmp_path: Path) -> Store:
    """A copy of the prepared store."""
    return Store.open(shutil.copytree(prepared, tmp_path / "private", symlinks=True))


def move(source: Store, target: Store, one: DatasetRef) -> None:
    """All steps of a move, except those of the index."""
    target.journal.append(*copy_dataset(source, target, one))
    check_copy_complete(source, target, one)
    remove_from_journal(source, one)
    remove_files(source, one)


def read_kept_files(store: Store, one: DatasetRef) -> dict[str, object]:
    """All files and entries of a dataset in a store."""
    entries = dataset_entries(store, one)
    versions = [entry for entry in entries if isinstance(entry, VersionMinted)]
    repository = store.repositories.of(one)
    return {
        "entries": entries,
        "refs": repository.refs(),
        "objects": packed_objects(repository.path),
        "records": {
            entry.commit: list(store.records.lines(one.dataset_id, entry.commit))
            for entry in versions
        },
        "manifests": {entry.state: store.manifest_path(entry.state).exists() for entry in versions},
        "alias": (store.root / "alias" / one.alias).is_symlink(),
    }


NOTHING: dict[str, object] = {
    **{"entries": [], "refs": {}, "objects": [], "records": {}, "manifests": {}, "alias": False}
}


def files_with(store: Store, name: str) -> list[str]:
    """Names of files and folders, without locks."""
    return [
        entry
        for folder, folders, files in os.walk(store.root)
        for entry in (*folders, *files)
        if name in entry and os.path.basename(folder) != "locks"
    ]


# --- moving


def test_moved_dataset_is_complete_in_one_store_and_removed_from_the_other(
    private: Store, public: Store
) -> None:
    before, other = read_kept_files(private, ONE), read_kept_files(private, TWO)
    assert before["alias"] is True
    assert len(before["refs"]) == 5  # type: ignore[arg-type]
    assert len(dataset_entries(private, ONE)) == 6
    move(private, public, ONE)
    assert read_kept_files(public, ONE) == before
    assert git_refs(public.repositories.of(ONE).path) == before["refs"]
    assert read_kept_files(private, ONE) == NOTHING
    assert not files_with(private, ONE.dataset_id[3:])
    assert read_kept_files(private, TWO) == other
    assert read_kept_files(public, TWO) == NOTHING
    repository = public.repositories.of(ONE).path
    assert git(repository, "fsck", "--strict", "--full", "--dangling") == ""
    assert git(repository, "rev-parse", "HEAD").strip() == git_refs(repository)[PUBLISHED_BRANCH]


def test_copies_in_vaults_of_a_private_store_are_not_named_in_the_public_one(
    private: Store, public: Store
) -> None:
    key = "SHA256E-s1--" + "0" * 64
    publish_locations(private, ONE, CustodyRemote(VAULT_UUID, "secret"), [key])
    assert dict(published_locations(private, ONE)) == {key: [VAULT_UUID]}
    move(private, public, ONE)
    assert CUSTODY_BRANCH not in git_refs(public.repositories.of(ONE).path)
    assert CUSTODY_BRANCH not in (public.repositories.of(ONE).path / "info" / "refs").read_text()
    assert publish_locations(public, ONE, CustodyRemote(OTHER_UUID, "lab"), [key])
    assert dict(published_locations(public, ONE)) == {key: [OTHER_UUID]}


@pytest.mark.parametrize("is_branch_deleted", [False, True], ids=["branch", "deleted branch"])
def test_no_object_of_the_public_store_names_a_vault_of_the_private_one(
    private: Store, public: Store, is_branch_deleted: bool
) -> None:
    vault = directory_vault_config("secret", "/srv/secret-vault")
    key = "SHA256E-s1--" + "0" * 64
    publish_locations(private, ONE, CustodyRemote(VAULT_UUID, "secret", vault), [key])
    source, target = private.repositories.of(ONE), public.repositories.of(ONE)
    custody = git_refs(source.path)[CUSTODY_BRANCH]
    # housekeeping puts all objects into one pack
    git(source.path, "repack", "-adkq")
    if is_branch_deleted:
        update_refs(source.path, {}, {CUSTODY_BRANCH: None})
    refs = {name: sha for name, sha in source.refs().items() if name != CUSTODY_BRANCH}
    move(private, public, ONE)
    assert target.refs() == refs
    assert is_protected(target.path)
    assert try_git(target.path, "cat-file", "-e", custody).returncode != 0
    command = ("git", "-C", target.path, "cat-file", "--batch-all-objects", "--batch")
    content = subprocess.run(command, capture_output=True, check=True).stdout
    assert b"x.bin" in content
    assert b"secret" not in content
    assert VAULT_UUID.encode() not in content
    for path in target.path.rglob("*"):
        assert path.is_dir() or custody.encode() not in path.read_bytes(), path
    assert git(target.path, "fsck", "--strict", "--full", "--dangling") == ""
    listed = (target.path / "objects" / "info" / "packs").read_text().split()[1::2]
    assert listed == [path.name for path in (target.path / "objects" / "pack").glob("*.pack")]


def test_a_moved_dataset_can_be_read_by_all(private: Store, public: Store) -> None:
    restrict_to_owner(private.root)
    move(private, public, ONE)
    for path in public.root.rglob("*"):
        if "locks" in path.parts or path.is_symlink() or path.suffix == ".lock":
            continue
        expected_mode = 0o555 if path.is_dir() else 0o444
        assert stat.S_IMODE(path.stat().st_mode) & expected_mode == expected_mode, path


def test_move_killed_at_any_step_is_completed_by_the_next(
    private: Store, public: Store, tmp_path: Path
) -> None:
    expected, other = read_kept_files(private, ONE), dataset_entries(private, TWO)
    unchanged = read_files(private.root)
    for steps in disk_states(tmp_path, lambda: move(private, public, ONE), at_least=30):
        old, new = Store.open(private.root), Store.open(public.root)
        # the private store must have it until the public one does
        if dataset_entries(new, ONE) != expected["entries"] and read_files(old.root) != unchanged:
            assert read_kept_files(old, ONE) == expected, steps
        move(old, new, ONE)
        assert read_kept_files(new, ONE) == expected, steps
        assert dataset_entries(old, ONE) == [], steps
        assert dataset_entries(old, TWO) == other, steps
        assert not files_with(old, ONE.dataset_id[3:]), steps
        assert not files_with(new, ".new-"), steps


def test_completed_move_can_be_repeated(private: Store, public: Store) -> None:
    copied = copy_dataset(private, public, ONE)
    public.journal.append(*copied)
    assert copy_dataset(private, public, ONE) == []
    before = read_kept_files(public, ONE)
    move(private, public, ONE)
    move(private, public, ONE)
    assert read_kept_files(public, ONE) == before


def test_the_public_store_may_be_ahead(private: Store, public: Store) -> None:
    public.journal.append(*copy_dataset(private, public, ONE))
    publisher = Publisher(public, ONE)
    publisher.minted = [None] * 9  # type: ignore[list-item] # later than the others
    publisher.publish("c", {"x.bin": 1, "z.bin": 9})
    refs = publisher.repository.refs()
    move(private, public, ONE)
    assert publisher.repository.refs() == refs
    assert read_kept_files(private, ONE) == NOTHING


def test_two_histories_are_not_mixed(private: Store, public: Store) -> None:
    publisher = Publisher(public, ONE)
    publisher.publish("other", {"x.bin": 1, "other.bin": 5})
    before, there = read_kept_files(private, ONE), git_refs(publisher.repository.path)
    with pytest.raises(DivergedHistoriesError):
        move(private, public, ONE)
    assert read_kept_files(private, ONE) == before
    assert git_refs(publisher.repository.path) == there
    assert dataset_entries(public, ONE) == []


@pytest.mark.parametrize("lost", ["records", "manifests", "journal", "objects"])
def test_nothing_is_removed_while_the_copy_is_incomplete(
    private: Store, public: Store, lost: str
) -> None:
    copied = copy_dataset(private, public, ONE)
    public.journal.append(*(copied[:-1] if lost == "journal" else copied))
    if lost == "objects":
        for path in (public.repositories.of(ONE).path / "objects" / "pack").glob("*.pack"):
            path.unlink()
            path.with_suffix(".idx").unlink()
    elif lost != "journal":
        folder = public.root / ("neuromirror/records" if lost == "records" else "manifests")
        next(folder.rglob("*.zst")).unlink()
    before = read_kept_files(private, ONE)
    with pytest.raises(NeuromirrorError):
        check_copy_complete(private, public, ONE)
    assert read_kept_files(private, ONE) == before


def test_incomplete_repository_of_a_killed_visit_is_replaced(private: Store, public: Store) -> None:
    public.repositories.of(ONE).create()
    before = read_kept_files(private, ONE)
    move(private, public, ONE)
    assert read_kept_files(public, ONE) == before


# --- the private store


def test_private_store_is_accessible_to_its_owner_only(tmp_path: Path, public: Store) -> None:
    store = open_private_store(tmp_path / "deep" / "er" / "private", public.root)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    Publisher(store, ONE).publish("a", {"x.bin": 1})
    restrict_to_owner(store.root)
    for path in store.root.rglob("*"):
        assert path.is_symlink() or not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert is_private_store(store.root)
    assert not is_private_store(public.root)


def test_private_store_of_a_group_keeps_its_mode(tmp_path: Path, public: Store) -> None:
    store = open_private_store(tmp_path / "private", public.root)
    store.root.chmod(0o750)
    Publisher(store, ONE).publish("a", {"x.bin": 1})
    open_private_store(store.root, public.root)
    modes = {stat.S_IMODE(p.stat().st_mode) & 0o077 for p in (store.root / "manifests").rglob("*")}
    assert modes == {0o050, 0o040}


@pytest.mark.parametrize("where", ["", "private", "deep/private", "neuromirror"])
def test_a_private_store_is_never_in_the_public_one(public: Store, where: str) -> None:
    before = sorted(public.root.rglob("*"))
    with pytest.raises(StoreNotPrivateError):
        open_private_store(public.root / where, public.root)
    with pytest.raises(StoreNotPrivateError):
        find_private_store(public.root / where, public.root)
    assert sorted(public.root.rglob("*")) == before


def test_private_path_that_links_into_the_public_store_is_refused(
    public: Store, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(public.root)
    with pytest.raises(StoreNotPrivateError):
        open_private_store(tmp_path / "link" / "private", public.root)
    with pytest.raises(StoreNotPrivateError):
        open_private_store(public.root / "private", tmp_path / "link")


def test_the_public_store_is_not_in_the_private_one(tmp_path: Path) -> None:
    with pytest.raises(StoreNotPrivateError):
        open_private_store(tmp_path / "place", tmp_path / "place" / "store")


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, public: Store) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(StoreNotPrivateError, match="chmod 700"):
        open_private_store(folder, public.root)
    assert not any(folder.iterdir())
    folder.chmod(0o700)
    assert open_private_store(folder, public.root).root == folder


def test_public_store_does_not_become_private_nor_vice_versa(tmp_path: Path, public: Store) -> None:
    other = Store.open(tmp_path / "other", create=True)
    other.root.chmod(0o700)
    for opening in (open_private_store, find_private_store):
        with pytest.raises(StoreNotPrivateError):
            opening(other.root, public.root)
    private = open_private_store(tmp_path / "private", public.root)
    require_public_store(public.root)
    with pytest.raises(UnexpectedPrivateStoreError):
        require_public_store(private.root)


def test_private_store_creation_killed_at_any_step_is_completed_by_the_next(
    tmp_path: Path, public: Store
) -> None:
    folder = tmp_path / "private"
    for _ in disk_states(folder, lambda: open_private_store(folder, public.root), at_least=6):
        if folder.exists():
            assert not stat.S_IMODE(folder.stat().st_mode) & 0o077
        assert is_private_store(open_private_store(folder, public.root).root)


def test_looking_for_a_private_store_creates_none(tmp_path: Path, public: Store) -> None:
    assert find_private_store(tmp_path / "private", public.root) is None
    assert not (tmp_path / "private").exists()
    made = open_private_store(tmp_path / "private", public.root)
    private_store = find_private_store(tmp_path / "private", public.root)
    assert private_store is not None
    assert private_store.root == made.root


def test_entries_of_one_dataset_are_separated_from_all_others(public: Store) -> None:
    mine: list[JournalEntry] = [visit(ONE), hold(ONE, "aa"), HoldReleased("aa", "me", AT)]
    public.journal.append(
        HoldReleased("aa", "me", AT), *mine, visit(TWO), HoldReleased("bb", "me", AT)
    )
    public.journal.append(visit(replace(ONE, mirror="other")))
    assert dataset_entries(public, ONE) == mine


def test_block_digests_move_with_the_dataset(private: Store, public: Store) -> None:
    own = {
        placed.key
        for entry in dataset_entries(private, ONE)
        if isinstance(entry, VersionMinted)
        for placed in private.records.read(ONE.dataset_id, entry.commit)
    }
    source, target = BlockDigestsFolder.of_store(private), BlockDigestsFolder.of_store(public)
    content = DigestedContent(min(own), "0" * 64, 1 << 20, "0" * 64)
    private.journal.append(ContentsDigested([content], AT))
    for key in own:
        source.write(key, claimed_digests(key))
    move(private, public, ONE)
    assert all(target.read(key) == claimed_digests(key) for key in own)
    assert not any(isinstance(one, ContentsDigested) for one in dataset_entries(public, ONE))
