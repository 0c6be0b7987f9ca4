"""The branch with the copies of a dataset: written, repeated, removed, and killed at any step."""

from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from neuromirror.annex import (
    directory_vault_config,
    parse_remote_log,
    s3_vault_config,
    vault_address,
)
from neuromirror.git import CommitTree
from neuromirror.mint import CustodyRemote
from neuromirror.model import NeuromirrorError
from neuromirror.store import CUSTODY_BRANCH, Store, publish_locations
from neuromirror.store.custody import published_locations, published_remotes
from neuromirror.transfer.annex_branch import PublishedCopies
from support.disk_states import disk_states
from support.store_publisher import Publisher, exit_code, fork_child, git, git_refs
from support.vaults import OTHER_UUID, VAULT_UUID

LAB = CustodyRemote(
    VAULT_UUID, "vault-lab", directory_vault_config("vault-lab", "https://mirror.example/lab")
)
SHELF = CustodyRemote(OTHER_UUID, "vault-shelf")
KEYS = [f"SHA256E-s{number}--{number:064x}.nwb" for number in range(30)]


@pytest.fixture
def publisher(store: Store) -> Publisher:
    """A dataset with one version."""
    publisher = Publisher(store)
    publisher.publish("a", {"x.bin": 1, "y.bin": 2})
    return publisher


def locations(publisher: Publisher) -> dict[str, list[str]]:
    return dict(published_locations(publisher.store, publisher.dataset))


def test_copies_are_published_and_removed_without_a_change_of_other_refs(
    publisher: Publisher,
) -> None:
    store, dataset, repository = publisher.store, publisher.dataset, publisher.repository
    before = git_refs(repository.path)
    assert publish_locations(store, dataset, LAB, KEYS[:20])
    assert publish_locations(store, dataset, SHELF, KEYS[10:])
    assert locations(publisher) == {
        key: [*([OTHER_UUID] if at >= 10 else []), *([VAULT_UUID] if at < 20 else [])]
        for at, key in enumerate(KEYS)
    }
    assert published_remotes(store, dataset) == {VAULT_UUID: LAB.config}
    tip = git_refs(repository.path)[CUSTODY_BRANCH]

    # recorded keys are not written twice, and an unknown key cannot be removed
    assert not publish_locations(store, dataset, LAB, KEYS[:20], ["MD5E-s1--" + "0" * 32])
    assert git_refs(repository.path)[CUSTODY_BRANCH] == tip

    assert publish_locations(store, dataset, LAB, removed=KEYS[:15])
    found = locations(publisher)
    assert set(found) == set(KEYS[10:])
    assert found[KEYS[10]] == [OTHER_UUID]
    assert found[KEYS[15]] == [OTHER_UUID, VAULT_UUID]
    # a copy that comes back counts again, although the clock has the same second
    assert publish_locations(store, dataset, LAB, KEYS[:1])
    assert locations(publisher)[KEYS[0]] == [VAULT_UUID]

    after = git_refs(repository.path)
    assert {name: after[name] for name in before} == before
    assert set(after) == {*before, CUSTODY_BRANCH}
    assert git(repository.path, "fsck", "--strict", "--full", "--dangling") == ""
    served = (repository.path / "info" / "refs").read_text()
    assert f"{after[CUSTODY_BRANCH]}\t{CUSTODY_BRANCH}\n" in served


def test_a_vault_that_moves_has_its_new_location_in_clones(publisher: Publisher) -> None:
    store, dataset = publisher.store, publisher.dataset
    publish_locations(store, dataset, LAB, KEYS[:2])
    moved = CustodyRemote(
        VAULT_UUID, "vault-lab", directory_vault_config("vault-lab", "https://new.example/lab")
    )
    assert publish_locations(store, dataset, moved, KEYS[:2])
    assert not publish_locations(store, dataset, moved, KEYS[:2])
    assert published_remotes(store, dataset) == {VAULT_UUID: moved.config}
    log = git(publisher.repository.path, "show", f"{CUSTODY_BRANCH}:remote.log")
    assert parse_remote_log(log.encode())[VAULT_UUID]["location"] == "https://new.example/lab"


def test_a_vault_that_becomes_private_has_no_location_any_more(publisher: Publisher) -> None:
    store, dataset = publisher.store, publisher.dataset
    public = s3_vault_config("vault-lab", "https://bucket.example/", "bucket", "lab/")
    publish_locations(store, dataset, CustodyRemote(VAULT_UUID, "vault-lab", public), KEYS[:2])
    private = CustodyRemote(VAULT_UUID, "vault-lab")
    assert publish_locations(store, dataset, private, KEYS[:2])
    assert not publish_locations(store, dataset, private, KEYS[:2])
    expected = {"autoenable": "false", "name": "vault-lab", "type": "S3"}
    assert published_remotes(store, dataset) == {VAULT_UUID: expected}
    assert vault_address(expected) is None
    tree = CommitTree(publisher.repository.path, publisher.minted[-1].commit)
    with closing(tree):
        assert PublishedCopies(tree, None, None).vaults(KEYS[0]) == []
    # the vault still has the copies
    assert locations(publisher) == {key: [VAULT_UUID] for key in KEYS[:2]}
    reopened = CustodyRemote(VAULT_UUID, "vault-lab", public)
    assert publish_locations(store, dataset, reopened, KEYS[:2])
    assert published_remotes(store, dataset) == {VAULT_UUID: public}


def test_a_killed_publication_is_completed_by_the_next_one(
    store: Store, publisher: Publisher
) -> None:
    dataset = publisher.dataset
    publish_locations(store, dataset, LAB, KEYS[:3])
    publish_locations(store, dataset, LAB, removed=KEYS[:3])
    work = partial(publish_locations, store, dataset, LAB, KEYS[:3])
    for steps in disk_states(store.root, work, at_least=6):
        left = locations(publisher)
        assert left in ({}, {key: [VAULT_UUID] for key in KEYS[:3]}), steps
        work()
        assert set(locations(publisher)) == set(KEYS[:3])
        git(publisher.repository.path, "fsck", "--strict", "--full")
    assert not list(publisher.repository.path.rglob("*.lock"))


def test_two_writers_at_once_lose_nothing(store: Store, publisher: Publisher) -> None:
    def publish_part(number: int) -> None:
        for key in KEYS[number * 10 : number * 10 + 10]:
            publish_locations(store, publisher.dataset, LAB, [key])

    children = [fork_child(partial(publish_part, number)) for number in range(3)]
    assert [exit_code(child) for child in children] == [0, 0, 0]
    assert set(locations(publisher)) == set(KEYS)


def test_a_foreign_commit_is_not_built_upon(store: Store, publisher: Publisher) -> None:
    publish_locations(store, publisher.dataset, LAB, KEYS[:1])
    repository = publisher.repository.path
    foreign = git(
        repository, "commit-tree", f"{CUSTODY_BRANCH}^{{tree}}", "-p", CUSTODY_BRANCH, "-m", "x"
    ).strip()
    git(repository, "update-ref", CUSTODY_BRANCH, foreign)
    with pytest.raises(NeuromirrorError):
        publish_locations(store, publisher.dataset, LAB, KEYS[1:2])
    assert git_refs(repository)[CUSTODY_BRANCH] == foreign


@pytest.mark.parametrize(
    ("uuid", "name", "config"),
    [
        ("not-a-uuid", "lab", None),
        (VAULT_UUID, "origin", None),
        (VAULT_UUID, "a b", None),
        (VAULT_UUID, "-x", None),
        (VAULT_UUID, "lab", {"name": "other"}),
    ],
)
def test_names_that_clones_cannot_use_are_refused(
    uuid: str, name: str, config: dict[str, str] | None
) -> None:
    with pytest.raises(ValueError):
        CustodyRemote(uuid, name, config)


def test_an_unknown_dataset_has_no_copies(store: Store, tmp_path: Path) -> None:
    other = Publisher(store)
    assert locations(other) == {}
    assert published_remotes(store, other.dataset) == {}
    with pytest.raises(NeuromirrorError):
        publish_locations(store, other.dataset, LAB, KEYS[:1])
