"""Ref transactions are atomic, and exclude concurrent git processes."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromirror.git import InvalidRefNameError, is_ref_name, read_refs
from neuromirror.store import (
    ANNEX_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    RefsMovedError,
    Repository,
    StoreBusyError,
    update_refs,
)
from support.disk_states import disk_states
from support.store_publisher import bare_repository, commits, git, git_refs, kill_steps, read_files


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return bare_repository(tmp_path / "r")


def stale_files(repository: Path) -> list[str]:
    return [
        name
        for name in read_files(repository)
        if name.endswith(".lock") or ".new-" in name or name.startswith("info/refs_")
    ]


def test_refs_move_together_and_git_sees_them(repository: Repository) -> None:
    one, two = commits(repository.path, 2)
    label = TAG_PREFIX + "0.210831.2033"
    update_refs(
        repository.path,
        {MAIN_BRANCH: None, ANNEX_BRANCH: None},
        {MAIN_BRANCH: one, ANNEX_BRANCH: two, label: one},
    )
    assert git_refs(repository.path) == {MAIN_BRANCH: one, ANNEX_BRANCH: two, label: one}
    update_refs(repository.path, {MAIN_BRANCH: one, ANNEX_BRANCH: two}, {MAIN_BRANCH: two})
    assert git_refs(repository.path) == {MAIN_BRANCH: two, ANNEX_BRANCH: two, label: one}
    assert read_refs(repository.path) == git_refs(repository.path)
    assert stale_files(repository.path) == []


@pytest.mark.parametrize("packed", [True, False])
def test_ref_at_an_unexpected_commit_prevents_the_transaction(
    repository: Repository, packed: bool
) -> None:
    one, two = commits(repository.path, 2)
    git(repository.path, "update-ref", MAIN_BRANCH, one)
    if packed:
        git(repository.path, "pack-refs", "--all")
    before = read_files(repository.path)
    for expected in (
        {MAIN_BRANCH: two},
        {MAIN_BRANCH: None},
        {MAIN_BRANCH: one, ANNEX_BRANCH: two},
        {PUBLISHED_BRANCH: one},
    ):
        with pytest.raises(RefsMovedError, match="refs/heads/"):
            update_refs(repository.path, expected, {MAIN_BRANCH: two, ANNEX_BRANCH: two})
    assert read_files(repository.path) == before


def test_loose_refs_do_not_hide_the_new_ones(repository: Repository) -> None:
    one, two, three = commits(repository.path, 3)
    for name in (MAIN_BRANCH, TAG_PREFIX + "x", "refs/heads/theirs"):
        git(repository.path, "update-ref", name, one)
    git(repository.path, "pack-refs", "--all")
    git(repository.path, "update-ref", MAIN_BRANCH, two)
    git(repository.path, "update-ref", "refs/heads/theirs", two)
    assert read_refs(repository.path) == git_refs(repository.path)
    update_refs(
        repository.path,
        {MAIN_BRANCH: two, TAG_PREFIX + "x": one},
        {MAIN_BRANCH: three, ANNEX_BRANCH: three},
    )
    expected = {
        MAIN_BRANCH: three,
        ANNEX_BRANCH: three,
        TAG_PREFIX + "x": one,
        "refs/heads/theirs": two,
    }
    assert git_refs(repository.path) == expected
    assert read_refs(repository.path) == expected


def test_annotated_tag_of_an_operator_stays_peeled(repository: Repository) -> None:
    (one,) = commits(repository.path, 1)
    git(repository.path, "tag", "-a", "-m", "m", "packed", one)
    git(repository.path, "pack-refs", "--all")
    git(repository.path, "tag", "-a", "-m", "m", "loose", one)
    before = git(repository.path, "show-ref", "-d")
    assert before.count("^{}") == 2
    update_refs(repository.path, {}, {MAIN_BRANCH: one})
    after = git(repository.path, "show-ref", "-d")
    assert sorted(after.splitlines()) == sorted([*before.splitlines(), f"{one} {MAIN_BRANCH}"])


def test_names_in_any_encoding_are_kept(repository: Repository) -> None:
    (one,) = commits(repository.path, 1)
    with (repository.path / "packed-refs").open("ab") as file:
        file.write(b"%s refs/heads/\xff\n" % one.encode())
    update_refs(repository.path, {}, {TAG_PREFIX + "é": one})
    listed = (repository.path / "packed-refs").read_bytes()
    assert b" refs/heads/\xff\n" in listed
    assert f" {TAG_PREFIX}é\n".encode() in listed
    assert git(repository.path, "rev-parse", TAG_PREFIX + "é").strip() == one


def test_unicode_line_separators_are_part_of_ref_names(repository: Repository) -> None:
    (one,) = commits(repository.path, 1)
    names = [f"{TAG_PREFIX}a{odd}b" for odd in ("\x85", "\u2028", "\u2029")]
    update_refs(repository.path, {}, dict.fromkeys([*names, TAG_PREFIX + "c"], one))
    assert repository.refs() == dict.fromkeys([*names, TAG_PREFIX + "c"], one)


REFUSED = [
    *("HEAD", "main", "refs/", "refs/tags/", "refs/tags/a b", "refs/tags/a\nb", "refs/tags/a..b"),
    *("refs/tags/../../HEAD", "refs/tags/.a", "refs/tags/a.lock", "refs/tags/a.lock/b"),
    *("refs/tags//a", "refs/tags/a~1", "refs/tags/a^", "refs/tags/a:b", "refs/tags/a?"),
    *("refs/tags/a*", "refs/tags/a[b", "refs/tags/a\\b", "refs/tags/a@{1}", "refs/tags/a."),
    *("refs/tags/a\x7f", "refs/tags/a\x00"),
]
GOOD = [
    TAG_PREFIX + "0.210831.2033",
    TAG_PREFIX + "2022-12-13T101112Z-ab12cd34",
    TAG_PREFIX + "é",
    TAG_PREFIX + "a/b@c",
]


def test_names_that_git_refuses_are_refused_before_anything_is_written(
    repository: Repository,
) -> None:
    (one,) = commits(repository.path, 1)
    before = read_files(repository.path)
    for name in REFUSED:
        with pytest.raises(InvalidRefNameError):
            update_refs(repository.path, {}, {GOOD[0]: one, name: one})
    assert read_files(repository.path) == before
    update_refs(repository.path, {}, dict.fromkeys(GOOD, one))
    assert git_refs(repository.path) == dict.fromkeys(GOOD, one)


@pytest.mark.parametrize(
    "lock", ["packed-refs.lock", f"{MAIN_BRANCH}.lock", f"{ANNEX_BRANCH}.lock"]
)
def test_no_ref_moves_while_git_holds_a_lock(repository: Repository, lock: str) -> None:
    one, two = commits(repository.path, 2)
    update_refs(repository.path, {}, {MAIN_BRANCH: one})
    (repository.path / lock).write_text("# pack-refs with: peeled fully-peeled sorted \n")
    before = read_files(repository.path)
    with pytest.raises(StoreBusyError, match=r"\.lock exists"):
        update_refs(repository.path, {MAIN_BRANCH: one, ANNEX_BRANCH: None}, {MAIN_BRANCH: two})
    repository.remove_stale_files()
    assert read_files(repository.path) == before
    (repository.path / lock).unlink()
    update_refs(repository.path, {MAIN_BRANCH: one, ANNEX_BRANCH: None}, {MAIN_BRANCH: two})
    assert git_refs(repository.path) == {MAIN_BRANCH: two}


@pytest.mark.parametrize("loose", [(), (MAIN_BRANCH,), (MAIN_BRANCH, ANNEX_BRANCH)])
def test_killed_at_any_step_all_refs_have_moved_or_none(
    repository: Repository, loose: tuple[str, ...]
) -> None:
    one, two, three, four = commits(repository.path, 4)
    old = {MAIN_BRANCH: one, ANNEX_BRANCH: two, TAG_PREFIX + "x": one}
    new = {MAIN_BRANCH: three, ANNEX_BRANCH: four, TAG_PREFIX + "y": three}
    update_refs(repository.path, {}, old)
    for name in loose:
        git(repository.path, "update-ref", name, four)
        git(repository.path, "update-ref", name, old[name])
    assert (repository.path / MAIN_BRANCH).exists() == (MAIN_BRANCH in loose)
    seen = set()
    expected = {name: old.get(name) for name in new}
    path = repository.path
    for step in disk_states(path, lambda: update_refs(path, expected, new), at_least=10):
        found = git_refs(path)
        assert found in (old, old | new), f"step {step}"
        assert read_refs(path) == found
        seen.add(len(found))
        repository.remove_stale_files()
        assert stale_files(path) == []
        git(path, "update-ref", "refs/heads/operator", one)
        update_refs(path, {name: found.get(name) for name in new}, new)
        assert git_refs(path) == old | new | {"refs/heads/operator": one}
    assert seen == {3, 4}


def test_the_lock_of_a_killed_process_is_taken_over(repository: Repository, tmp_path: Path) -> None:
    one, two = commits(repository.path, 2)
    update_refs(repository.path, {}, {MAIN_BRANCH: one})
    locked = 0

    def prepare(step: int) -> Callable[[], object]:
        copy = tmp_path / f"killed-{step}"
        shutil.copytree(repository.path, copy)
        return lambda: update_refs(copy, {MAIN_BRANCH: one}, {MAIN_BRANCH: two})

    for step in kill_steps(prepare):
        copy = tmp_path / f"killed-{step}"
        where = git_refs(copy)[MAIN_BRANCH]
        locked += (copy / "packed-refs.lock").exists()
        update_refs(copy, {MAIN_BRANCH: where}, {ANNEX_BRANCH: two})
        assert [name for name in stale_files(copy) if name.endswith(".lock")] == []
    assert locked > 0


def test_concurrent_git_updates_are_not_lost(repository: Repository) -> None:
    chain = commits(repository.path, 30)
    update_refs(repository.path, {}, {MAIN_BRANCH: chain[0]})
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
            update_refs(repository.path, {MAIN_BRANCH: at}, {MAIN_BRANCH: following})
        except StoreBusyError:
            continue
        at = following
        moves += 1
        time.sleep(0.01)  # git waits for the lock, and needs a chance to take it
    thread.join()
    assert moves > 0
    assert len(written) == len(chain)
    assert git_refs(repository.path) == written | {MAIN_BRANCH: at}


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


@settings(max_examples=25)
@given(NAMES)
def test_ref_names_are_those_that_git_takes(name: str) -> None:
    for full in (f"refs/tags/{name}", f"refs/{name}", name):
        if "\0" in full:
            assert not is_ref_name(full)
            continue
        done = subprocess.run(["git", "check-ref-format", full], check=False)
        assert is_ref_name(full) == (done.returncode == 0 and full.startswith("refs/"))
