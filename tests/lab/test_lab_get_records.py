"""What git-annex is told of what was got, whatever happens, and however it wants to be told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lab_get import ATTIC, GetWorld, git, left_over, logs, objects, slowly

from neuromirror.lab.get import GitFailed, get
from neuromirror.lab.get.clone import Clone
from neuromirror.lab.get.logs import KeyLogs
from neuromirror.lab.get.records import Intentions, Recorder

SMALL = [f"small/{number}.dat" for number in range(12)]


def uuid(world: GetWorld) -> str:
    return git(world.clone, "config", "annex.uuid").strip()


def is_known_here(world: GetWorld, *paths: str) -> bool:
    return set(paths) <= world.known()


def set_up(world: GetWorld, name: str, value: str) -> None:
    git(world.clone, "config", name, value)


def test_the_branch_gets_one_commit_and_its_files_nothing_else(world: GetWorld) -> None:
    before = logs(world.clone)
    commit = git(world.clone, "rev-parse", "git-annex").strip()
    world.get("small")
    after = logs(world.clone)
    assert git(world.clone, "rev-parse", "git-annex^").strip() == commit
    changed = {name for name in after if after[name] != before.get(name)}
    assert len(changed) == len(SMALL)
    assert all(after[name] == sorted([*before[name], f"1 {uuid(world)}"]) for name in changed)
    git(world.clone, "fsck", "--strict")


def test_it_is_told_where_git_knows_nobody_too(
    world: GetWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.folder / "config").write_text(
        '[user]\n\tuseConfigOnly = true\n[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(world.folder / "config"))
    assert world.get(SMALL[0])[SMALL[0]].status == "ok"
    assert "neuromirror" in git(world.clone, "log", "-n1", "--format=%cn", "git-annex")


def test_nothing_is_committed_where_nothing_was_got(world: GetWorld) -> None:
    world.get("small")
    commit = git(world.clone, "rev-parse", "git-annex")
    world.get("small")
    assert git(world.clone, "rev-parse", "git-annex") == commit


def test_a_private_clone_keeps_it_to_itself(world: GetWorld) -> None:
    set_up(world, "annex.private", "true")
    commit = git(world.clone, "rev-parse", "git-annex")
    world.get("small")
    assert git(world.clone, "rev-parse", "git-annex") == commit
    assert len(left_over(world.clone)) == len(SMALL)
    assert is_known_here(world, *SMALL)
    assert world.annex("fsck", "small").count("fixing") == 0
    told = [line for lines in logs(world.clone).values() for line in lines]
    assert f"1 {uuid(world)}" not in told


def test_what_is_private_about_others_stays_private(world: GetWorld) -> None:
    key = world.files[SMALL[0]].key
    set_up(world, "remote.x.url", "/nowhere")
    set_up(world, "remote.x.annex-uuid", ATTIC)
    set_up(world, "remote.x.annex-private", "true")
    world.annex("setpresentkey", key, ATTIC, "1")
    set_up(world, "remote.x.annex-ignore", "true")
    assert left_over(world.clone) != []
    world.get(SMALL[0])
    told = [lines for name, lines in logs(world.clone).items() if name.endswith(f"{key}.log")]
    assert f"1 {uuid(world)}" in told[0]
    assert f"1 {ATTIC}" not in told[0]


def test_a_clone_that_commits_later_finds_it_in_its_journal(world: GetWorld) -> None:
    set_up(world, "annex.alwayscommit", "false")
    commit = git(world.clone, "rev-parse", "git-annex")
    world.get("small", "kinds/vurl")
    assert git(world.clone, "rev-parse", "git-annex") == commit
    assert is_known_here(world, *SMALL)
    set_up(world, "annex.alwayscommit", "true")
    world.annex("wanted", "here")
    assert left_over(world.clone) == []
    assert any(name.endswith(".ek") for name in logs(world.clone))
    assert is_known_here(world, *SMALL)


def test_a_hook_that_waits_for_the_branch_is_run(world: GetWorld) -> None:
    hook = world.clone / ".git" / "hooks" / "post-update-annex"
    hook.write_text(f"#!/bin/sh\ntouch {world.folder}/ran\n")
    hook.chmod(0o755)
    world.get("small", trust_config=True)
    assert (world.folder / "ran").exists()
    assert left_over(world.clone) == []
    assert is_known_here(world, *SMALL)


def test_what_the_journal_holds_already_is_not_lost(world: GetWorld) -> None:
    key = world.files[SMALL[0]].key
    set_up(world, "annex.alwayscommit", "false")
    world.annex("setpresentkey", key, ATTIC, "1")
    set_up(world, "annex.alwayscommit", "true")
    world.get(*SMALL[:2])
    known = world.annex("whereis", SMALL[0])
    assert ATTIC in known
    assert "[here]" in known
    assert "[here]" in world.annex("whereis", SMALL[1])


def test_what_others_tell_the_branch_meanwhile_is_not_lost(world: GetWorld) -> None:
    key = world.files[SMALL[0]].key
    world.web.faults[world.address(SMALL[11])] = [slowly(3.0)]
    outcomes = get(world.clone, ["small"])
    next(outcomes)
    commit = git(world.clone, "rev-parse", "git-annex")
    world.annex("setpresentkey", key, ATTIC, "1")
    world.annex("wanted", "here")
    assert git(world.clone, "rev-parse", "git-annex") != commit
    rest = list(outcomes)
    assert {one.status for one in rest} == {"ok"}
    assert ATTIC in world.annex("whereis", SMALL[0])
    assert is_known_here(world, *SMALL)


def test_the_disk_keeps_what_it_has_to_keep_free(world: GetWorld) -> None:
    set_up(world, "annex.diskreserve", "900 petabytes")
    got = world.get(SMALL[0], "large/1.dat")
    assert {one.status for one in got.values()} == {"error"}
    assert all("not enough free space" in one.message for one in got.values())
    assert world.web.asked == []
    set_up(world, "annex.diskreserve", "1 MB")
    assert world.get(SMALL[0])[SMALL[0]].status == "ok"


def test_a_file_that_another_process_gets_is_left_to_it(world: GetWorld) -> None:
    path = "large/1.dat"
    name = f".git/annex/transfer/download/lck/lck.{world.files[path].key}"
    lock = world.clone / name
    lock.parent.mkdir(parents=True)
    hold = (
        "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f,2); print(1,flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        got = world.get(path, SMALL[0])
        holder.stdin.close()
    assert got[SMALL[0]].status == "ok"
    assert "another process" in got[path].message
    assert world.get(path)[path].status == "ok"


def test_a_branch_that_cannot_be_written_is_told_of_by_the_next_run(world: GetWorld) -> None:
    lock = world.clone / ".git/refs/heads/git-annex.lock"
    lock.touch()
    with pytest.raises(GitFailed, match="could not be brought up to date"):
        world.get("small")
    assert all(world.is_right(path) for path in SMALL)
    lock.unlink()
    world.get("kinds/MD5")
    assert is_known_here(world, *SMALL, "kinds/MD5")


def start(world: GetWorld) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("neuromirror")
    quiet = subprocess.DEVNULL
    return subprocess.Popen([program, "get", "-J4"], cwd=world.clone, stdout=quiet, stderr=quiet)


def test_a_run_that_is_killed_leaves_all_whole_and_the_next_goes_on(world: GetWorld) -> None:
    for path in world.files:
        if path != "nowhere.dat":
            world.web.faults[world.address(path)] = [slowly(0.05)]
    for wanted in (1, 6, 20):
        with start(world) as run:
            until = time.monotonic() + 600
            while len(_contents(world)) < wanted and time.monotonic() < until:
                time.sleep(0.005)
            os.kill(run.pid, signal.SIGKILL)
        assert all(world.is_right(path) for path in world.files if (world.clone / path).exists())
        git(world.clone, "fsck", "--strict")
    before = len(_contents(world))
    with start(world) as run:
        run.wait(600)
    assert len(_contents(world)) > before >= 20
    paths = set(world.files) - {"nowhere.dat"}
    assert all(world.is_right(path) for path in paths)
    assert world.known() == paths
    said = world.annex("fsck", *paths)
    assert "fixing" not in said
    assert left_over(world.clone) == []
    assert not (world.clone / ".git" / "neuromirror").exists()


VERBOSE = """#!/bin/sh
case "$*" in fast-import*) head -c 1000000 /dev/zero >&2 ;; esac
exec '{git}' "$@"
"""


def test_a_git_that_writes_many_messages_keeps_nobody_waiting(
    world: GetWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "verbose" / "git"
    program.parent.mkdir()
    program.write_text(VERBOSE.format(git=shutil.which("git")))
    program.chmod(0o755)
    clone = Clone.at(world.clone)
    before = clone.branch()
    assert before is not None
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with Intentions(clone) as intentions:
        recorder = Recorder(clone, before, intentions)
        for number in range(20_000):
            recorder.add(f"MD5E-s1--{number:032x}.dat", KeyLogs())
        recording = threading.Thread(target=recorder.tell, daemon=True)
        recording.start()
        recording.join(600)
        assert not recording.is_alive()
    assert clone.branch() != before


def _contents(world: GetWorld) -> list[str]:
    return [path for path, mode in objects(world.clone).items() if mode == 0o444]
