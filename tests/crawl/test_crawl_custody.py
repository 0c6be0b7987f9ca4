"""Syncs, checks and repairs of datasets that have copies in vaults."""

from pathlib import Path

import pytest

from neuromirror.annex import directory_vault_config
from neuromirror.crawl import load_mirrors, rebuild_index
from neuromirror.crawl.recorder import open_recorder
from neuromirror.crawl.takedown import reinstate, take_down
from neuromirror.mint import CustodyRemote
from neuromirror.model import DatasetRef, VersionMinted
from neuromirror.store import CUSTODY_BRANCH, publish_locations
from neuromirror.store.custody import published_locations
from support.foreign_pushes import problems_of, repair_harness, run_checked, unprotect
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, at, files
from support.vaults import VAULT_UUID

VAULT = CustodyRemote(VAULT_UUID, "lab", directory_vault_config("lab", "https://m.example/lab"))
NAME = "box:a"


def dataset_of(harness: MirrorHarness) -> DatasetRef:
    return harness.entries(VersionMinted)[0].dataset_ref


def keys_of(harness: MirrorHarness) -> list[str]:
    """Return the keys that the dataset's git-annex branch has."""
    listed = run_git(harness.repository(NAME), "ls-tree", "-r", "--name-only", "git-annex")
    names = [name.rpartition("/")[2] for name in listed.splitlines() if name.endswith(".log")]
    return [name.removesuffix(".log") for name in names if "-s" in name]


@pytest.fixture
def kept_harness(harness: ScriptedHarness, source: ScriptedSource) -> ScriptedHarness:
    """A store of one dataset whose files are in a vault."""
    source.scripted_datasets["a"] = ScriptedDataset(files("one.txt", "two.txt", sha256=True))
    assert {result.status for result in harness.sync().values()} == {"ok"}
    assert publish_locations(harness.store, dataset_of(harness), VAULT, keys_of(harness))
    return harness


def own_refs(harness: MirrorHarness) -> dict[str, str]:
    return {
        name: commit for name, commit in harness.refs().items() if not name.endswith(CUSTODY_BRANCH)
    }


def test_ids_of_later_versions_are_those_of_a_store_without_vaults(
    kept_harness: ScriptedHarness, other_harness: ScriptedHarness, source: ScriptedSource
) -> None:
    other_harness.sync()
    assert own_refs(kept_harness) == other_harness.refs()
    for number in (1, 2):
        more = files(f"more-{number}.txt", modified=at(60 * number), sha256=True)
        source.scripted_datasets["a"].files |= more
        assert {one.status for one in other_harness.sync().values()} == {"ok"}
        assert {one.status for one in kept_harness.sync().values()} == {"ok"}
        assert own_refs(kept_harness) == other_harness.refs()
        publish_locations(
            kept_harness.store, dataset_of(kept_harness), VAULT, keys_of(kept_harness)
        )
    assert len(dict(published_locations(kept_harness.store, dataset_of(kept_harness)))) == 4
    assert {one.status for one in kept_harness.sync().values()} == {"notneeded"}
    assert problems_of(kept_harness) == []
    assert {one.status for one in repair_harness(kept_harness).values()} == {"notneeded"}
    kept_harness.fsck()


def test_a_lost_journal_and_index_are_rebuilt_beside_the_copies(
    kept_harness: ScriptedHarness,
) -> None:
    before = kept_harness.refs()
    with kept_harness.index() as index:
        rows = list(index.versions.of(NAME))
    store = kept_harness.store
    rebuild_index(store, store.index_path)
    with kept_harness.index() as index:
        assert list(index.versions.of(NAME)) == rows
    (kept_harness.folder / "neuromirror" / "journal.jsonl").unlink()
    store.index_path.unlink()
    assert {one.status for one in kept_harness.sync().values()} <= {"ok", "notneeded"}
    assert kept_harness.refs() == before
    with kept_harness.index() as index:
        assert [one.commit for one in index.versions.of(NAME)] == [row.commit for row in rows]
    assert problems_of(kept_harness) == []


def test_a_foreign_commit_on_the_branch_is_undone_and_the_copies_stay(
    kept_harness: ScriptedHarness, source: ScriptedSource, tmp_path: Path
) -> None:
    unprotect(kept_harness)
    repository, before = kept_harness.repository(NAME), kept_harness.refs()
    clone = tmp_path / "clone"
    run_checked(tmp_path, "git", "clone", "-q", "-b", "custody/git-annex", str(repository), "clone")
    (clone / "uuid.log").write_text("")
    run_checked(clone, "git", "commit", "-qam", "theirs")
    run_checked(clone, "git", "push", "-q", "origin", "HEAD")
    theirs = run_git(clone, "rev-parse", "HEAD").strip()
    source.scripted_datasets["a"].files |= files("more.txt", modified=at(60), sha256=True)
    assert kept_harness.sync()[NAME].status == "error"
    assert {problem.subject for problem in problems_of(kept_harness)} == {"refs"}
    (repaired,) = [one for one in repair_harness(kept_harness).values() if one.status == "ok"]
    assert [(ref["name"], ref["actual"]) for ref in repaired.refs] == [(CUSTODY_BRANCH, theirs)]
    assert kept_harness.refs() == before
    assert problems_of(kept_harness) == []
    assert kept_harness.sync()[NAME].status == "ok"


def test_a_deleted_branch_is_no_damage_and_is_rewritten(kept_harness: ScriptedHarness) -> None:
    run_git(
        kept_harness.repository(NAME), "-c", "core.hooksPath=/dev/null", "update-ref", "-d",
        CUSTODY_BRANCH,
    )  # fmt: skip
    run_git(kept_harness.repository(NAME), "update-server-info")
    assert problems_of(kept_harness) == []
    assert {one.status for one in kept_harness.sync().values()} == {"notneeded"}
    assert publish_locations(
        kept_harness.store, dataset_of(kept_harness), VAULT, keys_of(kept_harness)
    )
    assert len(dict(published_locations(kept_harness.store, dataset_of(kept_harness)))) == 2


def test_a_takedown_hides_the_copies_and_a_reinstatement_shows_them(
    kept_harness: ScriptedHarness,
) -> None:
    before, store = kept_harness.refs(), kept_harness.store
    found = load_mirrors(kept_harness.mirrors).items()
    mirrors = {name: kept_harness.open_mirror(mirror) for name, mirror in found}
    with open_recorder(store, store.index_path) as recorder:
        list(take_down(store, recorder, NAME, "court order", "me", mirrors))
    assert not kept_harness.repository(NAME).exists()
    assert f"box--a {CUSTODY_BRANCH}" not in kept_harness.refs()
    with open_recorder(store, store.index_path) as recorder:
        list(reinstate(store, recorder, NAME, "me", mirrors))
    assert kept_harness.refs()[f"box--a {CUSTODY_BRANCH}"] == before[f"box--a {CUSTODY_BRANCH}"]
    assert problems_of(kept_harness) == []
