"""Getting files: what comes of it is what git-annex itself would have left, only sooner."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from lab_get import LARGE, GetWorld, git, held_until, left_over, logs, objects

from neuromirror.lab.get import NotAClone, get
from neuromirror.model import ConfigurationError, Evidence

NOWHERE = "nowhere.dat"


def fsck(world: GetWorld, *paths: str) -> list[str]:
    """What git-annex finds fault with."""
    said = world.annex("fsck", *paths, clone=world.clone).splitlines()
    return [line for line in said if "fixing" in line or "**" in line or "failed" in line]


def test_what_is_got_lies_as_git_annex_would_have_left_it(world: GetWorld) -> None:
    theirs = world.copy("theirs")
    git(theirs, "annex", "get", "-q", *(set(world.files) - {NOWHERE}))
    got = world.get()
    assert {path: one.status for path, one in got.items()} == dict.fromkeys(world.files, "ok") | {
        NOWHERE: "impossible"
    }
    assert all(world.is_right(path) for path in world.files if path != NOWHERE)
    assert objects(world.clone) == objects(theirs)
    assert left_over(world.clone) == []
    assert logs(world.clone) == logs(theirs)
    assert git(world.clone, "status", "--porcelain") == ""


def test_git_annex_finds_no_fault_with_what_was_got_and_knows_it_here(world: GetWorld) -> None:
    world.get()
    assert fsck(world, *(set(world.files) - {NOWHERE})) == []
    assert world.known() == set(world.files) - {NOWHERE}


def test_what_is_here_is_not_asked_for_again(world: GetWorld) -> None:
    world.get("small")
    world.web.asked.clear()
    again = world.get("small")
    assert {one.status for one in again.values()} == {"notneeded"}
    assert world.web.asked == []


def test_only_what_is_named_is_got(world: GetWorld) -> None:
    got = world.get("small/3.dat", str(world.clone / "kinds"))
    assert set(got) == {path for path in world.files if path.startswith("kinds/")} | {"small/3.dat"}
    assert not world.is_right("small/4.dat")


def test_a_path_is_understood_wherever_one_stands(world: GetWorld) -> None:
    link = world.folder / "link"
    link.symlink_to(world.clone / "small")
    got = list(get(world.clone / "kinds", [link / "1.dat", world.clone / "small" / "2.dat"]))
    assert {one.path for one in got} == {"small/1.dat", "small/2.dat"}


def test_two_paths_of_one_content_cost_one_request(world: GetWorld) -> None:
    got = world.get("small/0.dat", "twice.dat")
    assert [one.status for one in got.values()] == ["ok", "ok"]
    assert world.web.paths() == [world.address("twice.dat")]


def test_each_file_says_what_it_was_proved_by(world: GetWorld) -> None:
    got = world.get("small/1.dat", "kinds")
    proved = {path.rpartition("/")[2]: (one.evidence, one.checked) for path, one in got.items()}
    assert proved["1.dat"] == (Evidence.SHA256, "checked")
    assert proved["md5e.tar.gz"] == (Evidence.MD5, "checked")
    assert proved["etag"] == (Evidence.ETAG, "checked")
    assert proved["url"] == (Evidence.SIZE, "checked")
    assert proved["url-no-size"] == (Evidence.NONE, None)
    assert proved["SHA512"] == (None, "checked")
    assert got["kinds/etag"].size == LARGE
    assert got["small/1.dat"].url == world.files["small/1.dat"].urls[0]


def test_a_name_that_git_does_not_know_is_told_and_the_rest_is_got(world: GetWorld) -> None:
    got = world.get("small/1.dat", "small/none.dat", "README")
    assert got["small/none.dat"].status == "impossible"
    assert got["small/1.dat"].status == "ok"
    assert "README" not in got


def test_a_file_without_a_place_says_who_may_have_it(world: GetWorld) -> None:
    got = world.get(NOWHERE)
    assert got[NOWHERE].status == "impossible"
    assert "attic" in got[NOWHERE].message


def test_a_path_outside_is_wrong_usage(world: GetWorld) -> None:
    with pytest.raises(ConfigurationError, match="not in the dataset"):
        world.get("../elsewhere")


def test_where_there_is_no_clone_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotAClone, match="not in the work tree"):
        list(get(tmp_path))
    git(tmp_path, "init", "-q")
    with pytest.raises(NotAClone, match="no git-annex branch"):
        list(get(tmp_path))


def test_a_clone_that_git_annex_has_not_seen_yet_is_made_ready(world: GetWorld) -> None:
    fresh = world.folder / "fresh"
    git(
        world.folder,
        "clone",
        "-q",
        git(world.clone, "config", "remote.origin.url").strip(),
        str(fresh),
    )
    got = list(get(fresh, ["small/1.dat"]))
    assert [one.status for one in got] == ["ok"]
    assert git(fresh, "config", "annex.uuid").strip() in git(fresh, "annex", "whereis", "small")


def test_what_was_fetched_of_the_git_annex_branch_since_counts(world: GetWorld) -> None:
    origin = Path(git(world.clone, "config", "remote.origin.url").strip())
    other = world.folder / "other"
    git(world.folder, "clone", "-q", str(origin), str(other))
    git(other, "annex", "init", "-q", "other")
    url = f"{world.web.url}/late"
    world.web.contents["/late"] = world.files[NOWHERE].content
    git(
        other,
        "-c",
        "annex.security.allowed-ip-addresses=all",
        "annex",
        "registerurl",
        world.files[NOWHERE].key,
        url,
    )
    git(world.clone, "fetch", "-q", str(other), "+git-annex:refs/remotes/other/git-annex")
    assert world.get(NOWHERE)[NOWHERE].status == "ok"


def test_a_link_that_leads_out_of_the_annex_writes_nothing_there(world: GetWorld) -> None:
    for name, target in {
        "out": ".git/annex/objects/aa/bb/../../../../../../out/SHA256E-s1--x",
        "up": ".git/annex/objects/..",
        "strange": ".git/annex/objects/aa/bb/SHA256E-s5--a\nb/SHA256E-s5--a\nb",
    }.items():
        (world.clone / name).symlink_to(target)
    git(world.clone, "add", ".")
    before = sorted(world.folder.iterdir())
    got = world.get("out", "up", "strange")
    assert {one.status for one in got.values()} == {"impossible"}
    assert "not one that is understood" in got["strange"].message
    assert sorted(world.folder.iterdir()) == before
    assert objects(world.clone) == {}


def test_breaking_off_keeps_and_tells_what_was_had(world: GetWorld) -> None:
    over = threading.Event()
    for number in (10, 11):
        world.web.faults[world.address(f"small/{number}.dat")] = [held_until(over)]
    outcomes = get(world.clone, ["small"], jobs=3)
    next(outcomes)
    had = {f"small/{number}.dat" for number in range(10)}
    until = time.monotonic() + 600
    while not all(map(world.is_right, had)) and time.monotonic() < until:
        time.sleep(0.01)
    outcomes.close()  # type: ignore[attr-defined]
    over.set()
    assert world.known() == had | {"twice.dat"}
    assert left_over(world.clone) == []
