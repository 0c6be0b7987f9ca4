"""Foreign changes to a store: found by fsck, never recorded, quarantined and undone by repair."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index
from neuromirror.model import AnnexBranchMoved, EventRaised, VersionMinted
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH
from neuromirror.store.store import Store
from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.foreign_pushes import (
    problems_of,
    push_commit,
    push_records,
    repair_harness,
    run_checked,
    unprotect,
)
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, at, files

HIT, OTHER = "box:a", "box:b"


@pytest.fixture
def unprotected_harness(
    harness: ScriptedHarness, source: ScriptedSource, tmp_path: Path
) -> ScriptedHarness:
    """A store of two datasets without write protection."""
    source.scripted_datasets["a"] = ScriptedDataset(files("one.txt", sha256=True))
    source.scripted_datasets["b"] = ScriptedDataset(files("two.txt", sha256=True))
    assert {one.status for one in harness.sync().values()} == {"ok"}
    unprotect(harness)
    (tmp_path / "clones").mkdir()
    return harness


@pytest.fixture
def undisturbed_harness(
    unprotected_harness: ScriptedHarness, other_harness: ScriptedHarness
) -> ScriptedHarness:
    """Another store of the same datasets."""
    assert {one.status for one in other_harness.sync().values()} == {"ok"}
    return other_harness


def add_files(source: ScriptedSource) -> None:
    """Add files to both datasets upstream."""
    for scripted_dataset in source.scripted_datasets.values():
        count = len(scripted_dataset.files)
        scripted_dataset.files |= files(f"more-{count}.txt", modified=at(60 * count), sha256=True)


def dataset_refs(refs: dict[str, str]) -> dict[str, str]:
    """Return the refs without superdatasets, which depend on the states between runs."""
    return {name: commit for name, commit in refs.items() if name.startswith("box--")}


@pytest.mark.parametrize("pushing", [push_commit, push_records], ids=["commit", "records"])
def test_a_push_blocks_no_other_dataset_and_repair_undoes_it(
    unprotected_harness: ScriptedHarness,
    undisturbed_harness: ScriptedHarness,
    source: ScriptedSource,
    tmp_path: Path,
    pushing: object,
) -> None:
    assert callable(pushing)
    theirs = pushing(unprotected_harness, HIT, tmp_path / "clones" / "one")
    add_files(source)
    undisturbed_harness.sync()
    for deep in (False, True):
        results = unprotected_harness.sync(deep=deep)
        assert (results[HIT].status, results[HIT].visit) == ("error", "failed")
        assert results[OTHER].status == ("notneeded" if deep else "ok")
    rebuild_index(unprotected_harness.store, unprotected_harness.store.index_path)
    minted = unprotected_harness.entries(VersionMinted)
    assert sorted(one.local_id for one in minted) == ["a", "b", "b"]
    with unprotected_harness.index() as index:
        assert [mirror.failing for mirror in index.crawl.mirrors()] == [1]
        assert len(list(index.versions.of(HIT))) == 1

    found = problems_of(unprotected_harness)
    assert {one.name for one in found} == {HIT}
    assert {one.subject for one in found} == {"refs"}
    assert any(theirs in one.message for one in found)
    assert repair_harness(unprotected_harness, dry_run=True)[HIT].status == "ok"
    assert problems_of(unprotected_harness) == found
    done_for = repair_harness(unprotected_harness)
    assert {name for name, one in done_for.items() if one.status == "ok"} == {HIT}
    assert theirs in {ref["actual"] for ref in done_for[HIT].refs}
    assert problems_of(unprotected_harness) == []
    assert {one.status for one in repair_harness(unprotected_harness).values()} == {"notneeded"}

    assert unprotected_harness.sync()[HIT].status == "ok"
    assert dataset_refs(unprotected_harness.refs()) == dataset_refs(undisturbed_harness.refs())
    assert problems_of(unprotected_harness) == []
    assert [entry.kind for entry in unprotected_harness.entries(EventRaised)] == ["repair"]
    with unprotected_harness.index() as index:
        assert [mirror.failing for mirror in index.crawl.mirrors()] == [0]

    # it is kept, and not shown
    folder = Path(done_for[HIT].folder)
    assert folder.parents[1].stat().st_mode & 0o077 == 0
    copy = tmp_path / "clones" / "copy"
    run_checked(tmp_path, "git", "clone", "-q", str(unprotected_harness.repository(HIT)), str(copy))
    assert theirs not in run_git(copy, "rev-list", "--all")
    run_git(copy, "fetch", "-q", str(folder / "foreign.bundle"), "refs/heads/*:refs/heads/lab/*")
    assert theirs in run_git(copy, "rev-list", "--all")


def test_pushes_block_no_other_mirror_of_the_store(
    empty_archive: DemoArchive, demo_files: Path, tmp_path: Path
) -> None:
    hit = {"demo:000001": push_commit, "demo:000002": push_records}
    (tmp_path / "clones").mkdir()
    with DemoArchive(tmp_path / "second", cache=demo_files, empty=True) as second_archive:
        mirror = second_archive.mirrors / "demo.toml"
        mirror.rename(empty_archive.mirrors / "second.toml")
        everywhere = [(empty_archive, "000001"), (empty_archive, "000002")]
        everywhere.append((second_archive, "000001"))
        for archive, dandiset in everywhere:
            archive.create_dandiset(Description("One"), identifier=dandiset)
            archive.add_file(dandiset, "one.txt", "one\n")
        mirror_harness = MirrorHarness(empty_archive.mirrors, tmp_path / "store")
        assert {one.exit_code for one in mirror_harness.sync().values()} == {0}
        unprotect(mirror_harness)
        theirs = {
            push(mirror_harness, name, tmp_path / "clones" / name[-1]) for name, push in hit.items()
        }
        for archive, dandiset in everywhere:
            archive.add_file(dandiset, "two.txt", "two\n")
        for deep in (False, True):
            results = mirror_harness.sync(deep=deep)
            assert {name for name, one in results.items() if one.visit == "failed"} == hit.keys()
            assert results["second:000001"].exit_code == 0
        with mirror_harness.index() as index:
            assert index.versions.resolve("second:000001").files == 2
        assert {problem.name for problem in problems_of(mirror_harness)} == hit.keys()
        repaired = repair_harness(mirror_harness)
        assert {name for name, one in repaired.items() if one.status == "ok"} == hit.keys()
        assert {one.exit_code for one in mirror_harness.sync().values()} == {0}
        assert not theirs & set(mirror_harness.refs().values())


def test_files_that_git_annex_left_in_a_repository_are_moved_out(
    unprotected_harness: ScriptedHarness, tmp_path: Path
) -> None:
    before, repository = unprotected_harness.refs(), unprotected_harness.repository(HIT)
    clone = tmp_path / "clone"
    run_checked(tmp_path, "git", "clone", "-q", str(repository), str(clone))
    (clone / "mine.dat").write_text("mine\n")
    run_checked(clone, "git", "annex", "add", "mine.dat")
    run_checked(clone, "git", "commit", "-q", "-m", "lab")
    run_checked(clone, "git", "annex", "sync")
    run_checked(clone, "git", "annex", "move", "--to", "origin", "mine.dat")
    (content,) = [one for one in (repository / "annex" / "objects").rglob("*") if one.is_file()]
    inside = content.relative_to(repository)
    assert HIT in {problem.name for problem in problems_of(unprotected_harness)}
    folder = Path(repair_harness(unprotected_harness)[HIT].folder)
    assert (folder / inside).read_text() == "mine\n"
    assert not (repository / "annex").exists()
    assert "uuid" not in (repository / "config").read_text()
    assert unprotected_harness.refs() == before
    assert problems_of(unprotected_harness) == []


def test_a_foreign_commit_that_an_older_neuromirror_recorded_is_removed(
    unprotected_harness: ScriptedHarness,
    undisturbed_harness: ScriptedHarness,
    source: ScriptedSource,
    tmp_path: Path,
) -> None:
    theirs = push_commit(unprotected_harness, HIT, tmp_path / "clones" / "one")
    (first,) = [one for one in unprotected_harness.entries(VersionMinted) if one.local_id == "a"]
    annex = unprotected_harness.refs()[f"box--a {ANNEX_BRANCH}"]
    wrong = msgspec.structs.replace(first, commit=theirs, label="lab", annex_commit=annex)
    unprotected_harness.store.journal.append(
        wrong
    )  # its records do not exist, so no index can be built from it
    assert HIT in {problem.name for problem in problems_of(unprotected_harness)}
    assert repair_harness(unprotected_harness)[HIT].versions == ["lab"]
    assert unprotected_harness.entries(VersionMinted).count(wrong) == 0
    assert problems_of(unprotected_harness) == []
    add_files(source)
    undisturbed_harness.sync()
    assert {one.status for one in unprotected_harness.sync().values()} == {"ok"}
    assert dataset_refs(unprotected_harness.refs()) == dataset_refs(undisturbed_harness.refs())


def test_a_version_on_top_of_a_foreign_git_annex_branch_is_reminted(
    unprotected_harness: ScriptedHarness,
    undisturbed_harness: ScriptedHarness,
    source: ScriptedSource,
    tmp_path: Path,
) -> None:
    repository = unprotected_harness.repository(HIT)
    old = unprotected_harness.refs()[f"box--a {ANNEX_BRANCH}"]
    theirs = push_records(unprotected_harness, HIT, tmp_path / "clones" / "one")
    # as in older versions, which accepted any commit as the parent
    run_git(repository, "update-ref", ANNEX_BRANCH, old)
    add_files(source)
    undisturbed_harness.sync()
    unprotected_harness.sync()
    content = run_git(repository, "cat-file", "commit", ANNEX_BRANCH).replace(
        f"parent {old}", f"parent {theirs}"
    )
    (tmp_path / "commit").write_text(content)
    moved = run_git(
        repository, "hash-object", "-t", "commit", "-w", str(tmp_path / "commit")
    ).strip()
    unprotect(unprotected_harness)
    run_git(repository, "update-ref", ANNEX_BRANCH, moved)
    lines = (unprotected_harness.folder / "neuromirror" / "journal.jsonl").read_text()
    last = [one for one in unprotected_harness.entries(VersionMinted) if one.local_id == "a"][-1]
    lines = lines.replace(last.annex_commit, moved)
    (unprotected_harness.folder / "neuromirror" / "journal.jsonl").write_text(lines)
    rebuild_index(unprotected_harness.store, unprotected_harness.store.index_path)

    assert repair_harness(unprotected_harness)[HIT].versions == [last.label]
    assert unprotected_harness.sync()[HIT].status == "ok"
    assert dataset_refs(unprotected_harness.refs()) == dataset_refs(undisturbed_harness.refs())
    assert problems_of(unprotected_harness) == []


MOVES = {
    "synced": (("update-ref", "refs/heads/synced/main", MAIN_BRANCH), "refs/heads/synced/main"),
    "tag": (("tag", "mine", MAIN_BRANCH), "refs/tags/mine"),
    "annotated": (("tag", "-a", "-m", "mine", "mine", MAIN_BRANCH), "refs/tags/mine"),
    "no-main": (("update-ref", "-d", MAIN_BRANCH), MAIN_BRANCH),
    "no-annex": (("update-ref", "-d", ANNEX_BRANCH), ANNEX_BRANCH),
    "main-back": (("update-ref", MAIN_BRANCH, f"{MAIN_BRANCH}~1"), MAIN_BRANCH),
    "annex-back": (("update-ref", ANNEX_BRANCH, f"{ANNEX_BRANCH}~1"), ANNEX_BRANCH),
}
"""A command of git, and the ref that it moves, by the dataset in whose repository it runs."""


def test_each_moved_ref_is_named_and_restored(
    harness: ScriptedHarness, source: ScriptedSource
) -> None:
    for local_id in (*MOVES, "other"):
        source.scripted_datasets[local_id] = ScriptedDataset(files("one.txt", sha256=True))
    harness.sync()
    add_files(source)
    harness.sync()
    before = harness.refs()
    for local_id, (command, _) in MOVES.items():
        run_git(harness.repository(f"box:{local_id}"), *command)
    found = [problem for problem in problems_of(harness) if problem.subject == "refs"]
    assert sorted(one.name for one in found) == sorted(f"box:{move}" for move in MOVES)
    for one in found:
        assert MOVES[one.name.removeprefix("box:")][1] in one.message
    add_files(source)
    expected = {**{f"box:{move}": "error" for move in MOVES}, "box:other": "ok"}
    assert {name: one.status for name, one in harness.sync().items()} == expected
    repaired = {
        name: [ref["name"] for ref in one.refs]
        for name, one in repair_harness(harness).items()
        if one.status == "ok"
    }
    assert repaired == {f"box:{one}": [name] for one, (_, name) in MOVES.items()}
    now = {
        one: sha for one, sha in dataset_refs(harness.refs()).items() if "box--other " not in one
    }
    assert now.items() <= before.items()
    assert {name: one.status for name, one in harness.sync().items()} == {
        **{f"box:{move}": "ok" for move in MOVES},
        "box:other": "notneeded",
    }
    assert problems_of(harness) == []


def test_a_foreign_commit_in_a_superdataset_is_undone(
    unprotected_harness: ScriptedHarness, tmp_path: Path
) -> None:
    before = unprotected_harness.refs()
    theirs = push_commit(unprotected_harness, "box", tmp_path / "clones" / "one", annex=False)
    rebuild_index(unprotected_harness.store, unprotected_harness.store.index_path)
    (found,) = [
        problem
        for problem in problems_of(unprotected_harness)
        if problem.subject == "refs" and theirs in problem.message
    ]
    assert found.name == "box"
    assert repair_harness(unprotected_harness)["box"].status == "ok"
    assert unprotected_harness.refs() == before
    assert problems_of(unprotected_harness) == []


def test_the_commits_of_a_killed_visit_are_not_foreign(
    unprotected_harness: ScriptedHarness,
) -> None:
    store: Store = unprotected_harness.store
    journal = (store.journal.path).read_bytes()
    add_files(unprotected_harness.source)
    unprotected_harness.sync()
    after = dataset_refs(unprotected_harness.refs())
    store.journal.path.write_bytes(journal)
    rebuilt = [problem for problem in problems_of(unprotected_harness) if problem.subject == "refs"]
    assert rebuilt == []
    assert {one.status for one in repair_harness(unprotected_harness).values()} == {"notneeded"}
    rebuild_index(store, store.index_path)
    assert len(unprotected_harness.entries(VersionMinted)) == 4
    unprotected_harness.sync()
    assert dataset_refs(unprotected_harness.refs()) == after


def test_the_journal_records_moves_of_the_git_annex_branch_without_a_version(
    unprotected_harness: ScriptedHarness,
) -> None:
    # another URL of the same bytes changes no tree
    old = unprotected_harness.datasets["a"].files["one.txt"]
    unprotected_harness.datasets["a"].files["one.txt"] = replace(
        old, host="elsewhere.example.invalid"
    )
    before = unprotected_harness.refs()[f"box--a {ANNEX_BRANCH}"]
    unprotected_harness.sync(deep=True)
    moved = unprotected_harness.refs()[f"box--a {ANNEX_BRANCH}"]
    assert moved != before
    assert [one.annex_commit for one in unprotected_harness.entries(AnnexBranchMoved)] == [moved]
    run_git(unprotected_harness.repository(HIT), "update-ref", ANNEX_BRANCH, before)
    assert [problem.subject for problem in problems_of(unprotected_harness)] == ["refs"]
    repair_harness(unprotected_harness)
    assert unprotected_harness.refs()[f"box--a {ANNEX_BRANCH}"] == moved


def test_the_commands_report_foreign_changes_and_undo_them(
    unprotected_harness: ScriptedHarness, tmp_path: Path
) -> None:
    theirs = push_commit(unprotected_harness, HIT, tmp_path / "clones" / "one")
    options = [
        "--store",
        str(unprotected_harness.folder),
        "--mirrors",
        str(unprotected_harness.mirrors),
        "--json",
    ]
    looked = CliRunner().invoke(main, [*options, "fsck"])
    assert looked.exit_code == 1
    wrong = [json.loads(line) for line in looked.stdout.splitlines()]
    assert any(one["path"] == HIT and one["subject"] == "refs" for one in wrong if "path" in one)
    undone = CliRunner().invoke(main, [*options, "repair", HIT])
    assert undone.exit_code == 0, undone.output
    (record,) = [json.loads(line) for line in undone.stdout.splitlines()]
    assert (record["dataset"], record["status"]) == (HIT, "ok")
    assert theirs in {one["actual"] for one in record["refs"]}
    assert CliRunner().invoke(main, [*options, "repair", "box:nothing"]).exit_code == 2
    # the other repositories still have no hooks
    assert CliRunner().invoke(main, [*options, "fsck"]).exit_code == 1
    assert CliRunner().invoke(main, [*options, "repair"]).exit_code == 0
    assert CliRunner().invoke(main, [*options, "fsck"]).exit_code == 0
