"""What others wrote to a store: found by fsck, never recorded, kept and undone by repair."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from crawl_place import git
from pushed import broken, done, push_commit, push_records, repaired, unprotect
from scripted import Box, Scripted, Thing, at, files

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index
from neuromirror.model import AnnexMoved, EventRaised, VersionMinted
from neuromirror.store import ANNEX, MAIN
from neuromirror.store.store import Store

HIT, OTHER = "box:a", "box:b"


@pytest.fixture
def pushed(box: Box, another_box: Box, source: Scripted, tmp_path: Path) -> Box:
    """A store of two datasets without protection, and another that nobody disturbs."""
    source.things["a"] = Thing(files("one.txt", sha256=True))
    source.things["b"] = Thing(files("two.txt", sha256=True))
    for one in (box, another_box):
        assert {result.status for result in one.sync().values()} == {"ok"}
    unprotect(box)
    (tmp_path / "clones").mkdir()
    return box


def go_on(source: Scripted) -> None:
    """A new state of both datasets upstream."""
    for thing in source.things.values():
        count = len(thing.files)
        thing.files |= files(f"more-{count}.txt", modified=at(60 * count), sha256=True)


def of_datasets(refs: dict[str, str]) -> dict[str, str]:
    """Without super-datasets, which step through what was there at the end of each run."""
    return {name: commit for name, commit in refs.items() if name.startswith("box--")}


@pytest.mark.parametrize("pushing", [push_commit, push_records], ids=["commit", "records"])
def test_a_push_blocks_no_other_dataset_and_repair_undoes_it(
    pushed: Box, another_box: Box, source: Scripted, tmp_path: Path, pushing: object
) -> None:
    assert callable(pushing)
    theirs = pushing(pushed, HIT, tmp_path / "clones" / "one")
    go_on(source)
    another_box.sync()
    for deep in (False, True):
        results = pushed.sync(deep=deep)
        assert (results[HIT].status, results[HIT].visit) == ("error", "failed")
        assert results[OTHER].status == ("notneeded" if deep else "ok")
    rebuild_index(pushed.store, pushed.store.index_path)
    minted = pushed.entries(VersionMinted)
    assert sorted(one.local_id for one in minted) == ["a", "b", "b"]
    with pushed.index() as index:
        assert [one.failing for one in index.mirror_status()] == [1]
        assert len(list(index.versions(HIT))) == 1

    found = broken(pushed)
    assert {one.name for one in found} == {HIT}
    assert {one.what for one in found} == {"refs"}
    assert any(theirs in one.message for one in found)
    assert repaired(pushed, dry_run=True)[HIT].status == "ok"
    assert broken(pushed) == found
    done_for = repaired(pushed)
    assert {name for name, one in done_for.items() if one.status == "ok"} == {HIT}
    assert theirs in {ref["found"] for ref in done_for[HIT].refs}
    assert broken(pushed) == []
    assert {one.status for one in repaired(pushed).values()} == {"notneeded"}

    assert pushed.sync()[HIT].status == "ok"
    assert of_datasets(pushed.refs()) == of_datasets(another_box.refs())
    assert broken(pushed) == []
    assert [one.kind for one in pushed.entries(EventRaised)] == ["repair"]
    with pushed.index() as index:
        assert [one.failing for one in index.mirror_status()] == [0]

    # nothing of it is lost, and nothing of it is shown
    folder = Path(done_for[HIT].folder)
    assert folder.parents[1].stat().st_mode & 0o077 == 0
    copy = tmp_path / "clones" / "copy"
    done(tmp_path, "git", "clone", "-q", str(pushed.repository(HIT)), str(copy))
    assert theirs not in git(copy, "rev-list", "--all")
    git(copy, "fetch", "-q", str(folder / "foreign.bundle"), "refs/heads/*:refs/heads/lab/*")
    assert theirs in git(copy, "rev-list", "--all")


def test_what_git_annex_left_in_a_repository_is_moved_out(pushed: Box, tmp_path: Path) -> None:
    before, repository = pushed.refs(), pushed.repository(HIT)
    done(tmp_path, "datalad", "clone", str(repository), str(tmp_path / "clone"))
    (tmp_path / "clone" / "mine.dat").write_text("mine\n")
    done(tmp_path / "clone", "datalad", "save", "-m", "lab")
    done(tmp_path / "clone", "git", "annex", "sync")
    done(tmp_path / "clone", "git", "annex", "move", "--to", "origin", "mine.dat")
    (content,) = [one for one in (repository / "annex" / "objects").rglob("*") if one.is_file()]
    inside = content.relative_to(repository)
    assert HIT in {one.name for one in broken(pushed)}
    folder = Path(repaired(pushed)[HIT].folder)
    assert (folder / inside).read_text() == "mine\n"
    assert not (repository / "annex").exists()
    assert "uuid" not in (repository / "config").read_text()
    assert pushed.refs() == before
    assert broken(pushed) == []


def test_a_foreign_commit_that_an_older_neuromirror_recorded_is_taken_out(
    pushed: Box, another_box: Box, source: Scripted, tmp_path: Path
) -> None:
    theirs = push_commit(pushed, HIT, tmp_path / "clones" / "one")
    (first,) = [one for one in pushed.entries(VersionMinted) if one.local_id == "a"]
    annex = pushed.refs()[f"box--a {ANNEX}"]
    wrong = replace(first, commit=theirs, label="lab", annex_commit=annex)
    pushed.store.append(wrong)  # its records are nowhere: no index can be made of it
    assert HIT in {one.name for one in broken(pushed)}
    assert repaired(pushed)[HIT].versions == ["lab"]
    assert pushed.entries(VersionMinted).count(wrong) == 0
    assert broken(pushed) == []
    go_on(source)
    another_box.sync()
    assert {one.status for one in pushed.sync().values()} == {"ok"}
    assert of_datasets(pushed.refs()) == of_datasets(another_box.refs())


def test_a_version_on_top_of_a_foreign_git_annex_branch_is_minted_again(
    pushed: Box, another_box: Box, source: Scripted, tmp_path: Path
) -> None:
    repository = pushed.repository(HIT)
    old = pushed.refs()[f"box--a {ANNEX}"]
    theirs = push_records(pushed, HIT, tmp_path / "clones" / "one")
    # as before, when whatever was there became the parent
    git(repository, "update-ref", ANNEX, old)
    go_on(source)
    another_box.sync()
    pushed.sync()
    content = git(repository, "cat-file", "commit", ANNEX).replace(
        f"parent {old}", f"parent {theirs}"
    )
    (tmp_path / "commit").write_text(content)
    moved = git(repository, "hash-object", "-t", "commit", "-w", str(tmp_path / "commit")).strip()
    unprotect(pushed)
    git(repository, "update-ref", ANNEX, moved)
    lines = (pushed.folder / "neuromirror" / "journal.jsonl").read_text()
    last = [one for one in pushed.entries(VersionMinted) if one.local_id == "a"][-1]
    lines = lines.replace(last.annex_commit, moved)
    (pushed.folder / "neuromirror" / "journal.jsonl").write_text(lines)
    rebuild_index(pushed.store, pushed.store.index_path)

    assert repaired(pushed)[HIT].versions == [last.label]
    assert pushed.sync()[HIT].status == "ok"
    assert of_datasets(pushed.refs()) == of_datasets(another_box.refs())
    assert broken(pushed) == []


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("update-ref", "refs/heads/synced/main", MAIN), "refs/heads/synced/main"),
        (("tag", "mine", MAIN), "refs/tags/mine"),
        (("tag", "-a", "-m", "mine", "mine", MAIN), "refs/tags/mine"),
        (("update-ref", "-d", MAIN), MAIN),
        (("update-ref", "-d", ANNEX), ANNEX),
        (("update-ref", MAIN, f"{MAIN}~1"), MAIN),
        (("update-ref", ANNEX, f"{ANNEX}~1"), ANNEX),
    ],
    ids=["synced", "tag", "annotated", "no-main", "no-annex", "main-back", "annex-back"],
)
def test_each_ref_that_was_moved_is_named_and_put_back(
    pushed: Box, source: Scripted, command: tuple[str, ...], name: str
) -> None:
    go_on(source)
    pushed.sync()
    before = pushed.refs()
    git(pushed.repository(HIT), *command)
    (found,) = [one for one in broken(pushed) if one.what == "refs"]
    assert found.name == HIT
    assert name in found.message
    go_on(source)
    results = pushed.sync()
    assert (results[HIT].status, results[OTHER].status) == ("error", "ok")
    (ref,) = repaired(pushed)[HIT].refs
    assert ref["name"] == name
    now = {one: sha for one, sha in pushed.refs().items() if one.startswith("box--a ")}
    assert now.items() <= before.items()
    assert pushed.sync()[HIT].status == "ok"
    assert broken(pushed) == []


def test_a_foreign_commit_in_a_superdataset_is_undone(pushed: Box, tmp_path: Path) -> None:
    before = pushed.refs()
    theirs = push_commit(pushed, "box", tmp_path / "clones" / "one", annex=False)
    rebuild_index(pushed.store, pushed.store.index_path)
    (found,) = [one for one in broken(pushed) if one.what == "refs" and theirs in one.message]
    assert found.name == "box"
    assert repaired(pushed)["box"].status == "ok"
    assert pushed.refs() == before
    assert broken(pushed) == []


def test_a_killed_visit_s_commits_are_own(pushed: Box, source: Scripted) -> None:
    store: Store = pushed.store
    journal = (store.journal_path).read_bytes()
    go_on(source)
    pushed.sync()
    after = of_datasets(pushed.refs())
    store.journal_path.write_bytes(journal)
    rebuilt = [one for one in broken(pushed) if one.what == "refs"]
    assert rebuilt == []
    assert {one.status for one in repaired(pushed).values()} == {"notneeded"}
    rebuild_index(store, store.index_path)
    assert len(pushed.entries(VersionMinted)) == 4
    pushed.sync()
    assert of_datasets(pushed.refs()) == after


def test_the_journal_knows_where_a_git_annex_branch_went_without_a_version(
    pushed: Box, source: Scripted
) -> None:
    # another address of the same bytes changes no tree
    old = source.things["a"].files["one.txt"]
    source.things["a"].files["one.txt"] = replace(old, host="elsewhere.example.invalid")
    before = pushed.refs()[f"box--a {ANNEX}"]
    pushed.sync(deep=True)
    moved = pushed.refs()[f"box--a {ANNEX}"]
    assert moved != before
    assert [one.annex_commit for one in pushed.entries(AnnexMoved)] == [moved]
    git(pushed.repository(HIT), "update-ref", ANNEX, before)
    assert [one.what for one in broken(pushed)] == ["refs"]
    repaired(pushed)
    assert pushed.refs()[f"box--a {ANNEX}"] == moved


def test_the_commands_say_what_is_foreign_and_undo_it(pushed: Box, tmp_path: Path) -> None:
    theirs = push_commit(pushed, HIT, tmp_path / "clones" / "one")
    place = ["--store", str(pushed.folder), "--mirrors", str(pushed.mirrors), "--json"]
    looked = CliRunner().invoke(main, [*place, "fsck"])
    assert looked.exit_code == 1
    wrong = [json.loads(line) for line in looked.stdout.splitlines()]
    assert any(one["path"] == HIT and one["what"] == "refs" for one in wrong if "path" in one)
    undone = CliRunner().invoke(main, [*place, "repair", HIT])
    assert undone.exit_code == 0, undone.output
    (record,) = [json.loads(line) for line in undone.stdout.splitlines()]
    assert (record["dataset"], record["status"]) == (HIT, "ok")
    assert theirs in {one["found"] for one in record["refs"]}
    assert CliRunner().invoke(main, [*place, "repair", "box:nothing"]).exit_code == 2
    # the other repositories are as of before, without hooks
    assert CliRunner().invoke(main, [*place, "fsck"]).exit_code == 1
    assert CliRunner().invoke(main, [*place, "repair"]).exit_code == 0
    assert CliRunner().invoke(main, [*place, "fsck"]).exit_code == 0
