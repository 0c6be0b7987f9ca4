"""Refs move all together or not at all, and never under git's feet."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import bare, commits, files_of, git, git_refs, kill_steps

from neuromirror.store import (
    ANNEX,
    MAIN,
    PUBLISHED,
    TAGS,
    RefRefused,
    RefsMoved,
    Repository,
    StoreBusy,
    is_ref_name,
    move_refs,
    read_refs,
)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return bare(tmp_path / "r")


def leftovers(repository: Path) -> list[str]:
    return [
        name
        for name in files_of(repository)
        if name.endswith(".lock") or ".new-" in name or name.startswith("info/refs_")
    ]


def test_refs_move_together_and_git_sees_them(repository: Repository) -> None:
    one, two = commits(repository.path, 2)
    label = TAGS + "0.210831.2033"
    move_refs(repository.path, {MAIN: None, ANNEX: None}, {MAIN: one, ANNEX: two, label: one})
    assert git_refs(repository.path) == {MAIN: one, ANNEX: two, label: one}
    move_refs(repository.path, {MAIN: one, ANNEX: two}, {MAIN: two})
    assert git_refs(repository.path) == {MAIN: two, ANNEX: two, label: one}
    assert read_refs(repository.path) == git_refs(repository.path)
    assert leftovers(repository.path) == []


@pytest.mark.parametrize("packed", [True, False])
def test_a_ref_that_is_elsewhere_stops_the_move_and_nothing_changes(
    repository: Repository, packed: bool
) -> None:
    one, two = commits(repository.path, 2)
    git(repository.path, "update-ref", MAIN, one)
    if packed:
        git(repository.path, "pack-refs", "--all")
    before = files_of(repository.path)
    for expected in ({MAIN: two}, {MAIN: None}, {MAIN: one, ANNEX: two}, {PUBLISHED: one}):
        with pytest.raises(RefsMoved, match="run the sync again"):
            move_refs(repository.path, expected, {MAIN: two, ANNEX: two})
    assert files_of(repository.path) == before


def test_loose_refs_do_not_hide_the_new_ones(repository: Repository) -> None:
    one, two, three = commits(repository.path, 3)
    for name in (MAIN, TAGS + "x", "refs/heads/theirs"):
        git(repository.path, "update-ref", name, one)
    git(repository.path, "pack-refs", "--all")
    git(repository.path, "update-ref", MAIN, two)
    git(repository.path, "update-ref", "refs/heads/theirs", two)
    assert read_refs(repository.path) == git_refs(repository.path)
    move_refs(repository.path, {MAIN: two, TAGS + "x": one}, {MAIN: three, ANNEX: three})
    wanted = {MAIN: three, ANNEX: three, TAGS + "x": one, "refs/heads/theirs": two}
    assert git_refs(repository.path) == wanted
    assert read_refs(repository.path) == wanted


def test_an_annotated_tag_of_an_operator_keeps_what_it_is_of(repository: Repository) -> None:
    (one,) = commits(repository.path, 1)
    git(repository.path, "tag", "-a", "-m", "m", "packed", one)
    git(repository.path, "pack-refs", "--all")
    git(repository.path, "tag", "-a", "-m", "m", "loose", one)
    before = git(repository.path, "show-ref", "-d")
    assert before.count("^{}") == 2
    move_refs(repository.path, {}, {MAIN: one})
    after = git(repository.path, "show-ref", "-d")
    assert sorted(after.splitlines()) == sorted([*before.splitlines(), f"{one} {MAIN}"])


def test_names_in_any_encoding_are_kept(repository: Repository) -> None:
    (one,) = commits(repository.path, 1)
    with (repository.path / "packed-refs").open("ab") as file:
        file.write(b"%s refs/heads/\xff\n" % one.encode())
    move_refs(repository.path, {}, {TAGS + "é": one})
    listed = (repository.path / "packed-refs").read_bytes()
    assert b" refs/heads/\xff\n" in listed
    assert f" {TAGS}é\n".encode() in listed
    assert git(repository.path, "rev-parse", TAGS + "é").strip() == one


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\u2029"])
def test_what_unicode_calls_the_end_of_a_line_ends_no_name(
    repository: Repository, odd: str
) -> None:
    (one,) = commits(repository.path, 1)
    move_refs(repository.path, {}, {f"{TAGS}a{odd}b": one, TAGS + "c": one})
    assert repository.refs() == {f"{TAGS}a{odd}b": one, TAGS + "c": one}


REFUSED = [
    *("HEAD", "main", "refs/", "refs/tags/", "refs/tags/a b", "refs/tags/a\nb", "refs/tags/a..b"),
    *("refs/tags/../../HEAD", "refs/tags/.a", "refs/tags/a.lock", "refs/tags/a.lock/b"),
    *("refs/tags//a", "refs/tags/a~1", "refs/tags/a^", "refs/tags/a:b", "refs/tags/a?"),
    *("refs/tags/a*", "refs/tags/a[b", "refs/tags/a\\b", "refs/tags/a@{1}", "refs/tags/a."),
    *("refs/tags/a\x7f", "refs/tags/a\x00"),
]
GOOD = [TAGS + "0.210831.2033", TAGS + "2022-12-13T101112Z-ab12cd34", TAGS + "é", TAGS + "a/b@c"]


@pytest.mark.parametrize("name", [*REFUSED, *GOOD])
def test_names_that_git_refuses_are_refused_before_anything_is_written(
    repository: Repository, name: str
) -> None:
    (one,) = commits(repository.path, 1)
    before = files_of(repository.path)
    if name in GOOD:
        git(repository.path, "check-ref-format", name)
        move_refs(repository.path, {}, {name: one})
        assert git_refs(repository.path) == {name: one}
        return
    if "\0" not in name and name != "HEAD":
        command = ["git", "check-ref-format", name]
        assert subprocess.run(command, check=False).returncode == 1
    with pytest.raises(RefRefused):
        move_refs(repository.path, {}, {name: one})
    assert files_of(repository.path) == before


@pytest.mark.parametrize("lock", ["packed-refs.lock", f"{MAIN}.lock", f"{ANNEX}.lock"])
def test_while_git_holds_a_lock_nothing_is_moved(repository: Repository, lock: str) -> None:
    one, two = commits(repository.path, 2)
    move_refs(repository.path, {}, {MAIN: one})
    (repository.path / lock).write_text("# pack-refs with: peeled fully-peeled sorted \n")
    before = files_of(repository.path)
    with pytest.raises(StoreBusy, match=r"\.lock exists"):
        move_refs(repository.path, {MAIN: one, ANNEX: None}, {MAIN: two})
    repository.clean()
    assert files_of(repository.path) == before
    (repository.path / lock).unlink()
    move_refs(repository.path, {MAIN: one, ANNEX: None}, {MAIN: two})
    assert git_refs(repository.path) == {MAIN: two}


@pytest.mark.parametrize("loose", [(), (MAIN,), (ANNEX,), (MAIN, ANNEX)])
def test_killed_at_any_step_all_refs_have_moved_or_none(
    repository: Repository, tmp_path: Path, loose: tuple[str, ...]
) -> None:
    one, two, three, four = commits(repository.path, 4)
    old = {MAIN: one, ANNEX: two, TAGS + "x": one}
    new = {MAIN: three, ANNEX: four, TAGS + "y": three}
    move_refs(repository.path, {}, old)
    for name in loose:
        git(repository.path, "update-ref", name, four)
        git(repository.path, "update-ref", name, old[name])
    assert (repository.path / MAIN).exists() == (MAIN in loose)
    seen = set()

    def prepare(step: int) -> Callable[[], object]:
        copy = tmp_path / f"killed-{step}"
        shutil.copytree(repository.path, copy)
        return lambda: move_refs(copy, {name: old.get(name) for name in new}, new)

    for step in kill_steps(prepare):
        copy = tmp_path / f"killed-{step}"
        found = git_refs(copy)
        assert found in (old, old | new), f"step {step}"
        assert read_refs(copy) == found
        seen.add(len(found))
        Repository(copy).clean()
        assert leftovers(copy) == []
        git(copy, "update-ref", "refs/heads/operator", one)
        move_refs(copy, {name: found.get(name) for name in new}, new)
        assert git_refs(copy) == old | new | {"refs/heads/operator": one}
        shutil.rmtree(copy)
    assert seen == {3, 4}
    assert step > 10


def test_the_lock_of_a_killed_process_is_taken_over(repository: Repository, tmp_path: Path) -> None:
    one, two = commits(repository.path, 2)
    move_refs(repository.path, {}, {MAIN: one})
    locked = 0

    def prepare(step: int) -> Callable[[], object]:
        copy = tmp_path / f"killed-{step}"
        shutil.copytree(repository.path, copy)
        return lambda: move_refs(copy, {MAIN: one}, {MAIN: two})

    for step in kill_steps(prepare):
        copy = tmp_path / f"killed-{step}"
        where = git_refs(copy)[MAIN]
        locked += (copy / "packed-refs.lock").exists()
        move_refs(copy, {MAIN: where}, {ANNEX: two})
        assert [name for name in leftovers(copy) if name.endswith(".lock")] == []
    assert locked > 0


def test_what_git_writes_at_the_same_time_is_not_lost(repository: Repository) -> None:
    chain = commits(repository.path, 30)
    move_refs(repository.path, {}, {MAIN: chain[0]})
    written: dict[str, str] = {}
    done = threading.Event()

    def operator() -> None:
        for number, commit in enumerate(chain):
            name = f"refs/tags/operator-{number}"
            git(repository.path, "update-ref", name, commit)
            git(repository.path, "-c", "core.packedRefsTimeout=10000", "pack-refs", "--all")
            written[name] = commit
        done.set()

    thread = threading.Thread(target=operator)
    thread.start()
    at = chain[0]
    moves = 0
    while not done.is_set():
        following = chain[(chain.index(at) + 1) % len(chain)]
        try:
            move_refs(repository.path, {MAIN: at}, {MAIN: following})
        except StoreBusy:
            continue
        at = following
        moves += 1
        time.sleep(0.01)  # git waits for the lock, but must get it now and then
    thread.join()
    assert moves > 0
    assert len(written) == len(chain)
    assert git_refs(repository.path) == written | {MAIN: at}


NAMES = st.lists(
    st.sampled_from(
        [
            *"ab/.@{~^:?*[\\- \t\n\x7f\x00\x1f",
            "..",
            ".lock",
            "@{",
            "\u00e9",
            "\U0001f600",
            "//",
            "lock",
        ]
    ),
    max_size=6,
).map("".join)


@settings(max_examples=60)
@given(NAMES)
def test_ref_names_are_those_that_git_takes(name: str) -> None:
    for full in (f"refs/tags/{name}", f"refs/{name}", name):
        if "\0" in full:
            assert not is_ref_name(full)
            continue
        done = subprocess.run(["git", "check-ref-format", full], check=False)
        assert is_ref_name(full) == (done.returncode == 0 and full.startswith("refs/"))
