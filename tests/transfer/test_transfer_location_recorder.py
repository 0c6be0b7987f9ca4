"""``get`` records downloaded content in git-annex, in every configuration and after every
interruption.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from neuromirror.git import GitError
from neuromirror.transfer import get
from neuromirror.transfer.annex_branch import KeyLogs
from neuromirror.transfer.annex_clone import AnnexClone
from neuromirror.transfer.key_locations import LocationRecorder, PendingKeys
from support.forked_commands import fork_command
from support.web_clone import (
    ATTIC,
    WebClone,
    branch_logs,
    delay,
    git,
    object_modes,
    temporary_files,
)

SMALL = [f"small/{number}.dat" for number in range(12)]


def uuid(world: WebClone) -> str:
    return git(world.clone, "config", "annex.uuid").strip()


def is_known_here(world: WebClone, *paths: str) -> bool:
    return set(paths) <= world.recorded_files()


def configure(world: WebClone, name: str, value: str) -> None:
    git(world.clone, "config", name, value)


def test_the_branch_gets_one_commit_with_location_lines_only(web_clone: WebClone) -> None:
    before = branch_logs(web_clone.clone)
    commit = git(web_clone.clone, "rev-parse", "git-annex").strip()
    for _ in range(2):  # the second run downloads nothing
        web_clone.get("small")
        assert git(web_clone.clone, "rev-parse", "git-annex^").strip() == commit
    after = branch_logs(web_clone.clone)
    changed = {name for name in after if after[name] != before.get(name)}
    assert len(changed) == len(SMALL)
    assert all(after[name] == sorted([*before[name], f"1 {uuid(web_clone)}"]) for name in changed)
    git(web_clone.clone, "fsck", "--strict")


def test_locations_are_recorded_without_a_git_identity(
    web_clone: WebClone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (web_clone.folder / "config").write_text(
        '[user]\n\tuseConfigOnly = true\n[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(web_clone.folder / "config"))
    assert web_clone.get(SMALL[0])[SMALL[0]].status == "ok"
    assert "neuromirror" in git(web_clone.clone, "log", "-n1", "--format=%cn", "git-annex")


def test_a_private_clone_records_locations_in_its_private_journal(web_clone: WebClone) -> None:
    configure(web_clone, "annex.private", "true")
    commit = git(web_clone.clone, "rev-parse", "git-annex")
    web_clone.get("small")
    assert git(web_clone.clone, "rev-parse", "git-annex") == commit
    assert len(temporary_files(web_clone.clone)) == len(SMALL)
    assert is_known_here(web_clone, *SMALL)
    assert web_clone.annex("fsck", "small").count("fixing") == 0
    log_lines = [line for lines in branch_logs(web_clone.clone).values() for line in lines]
    assert f"1 {uuid(web_clone)}" not in log_lines


def test_private_locations_of_other_remotes_stay_private(web_clone: WebClone) -> None:
    key = web_clone.files[SMALL[0]].key
    configure(web_clone, "remote.x.url", "/nowhere")
    configure(web_clone, "remote.x.annex-uuid", ATTIC)
    configure(web_clone, "remote.x.annex-private", "true")
    web_clone.annex("setpresentkey", key, ATTIC, "1")
    configure(web_clone, "remote.x.annex-ignore", "true")
    assert temporary_files(web_clone.clone) != []
    web_clone.get(SMALL[0])
    log_lines = [
        lines for name, lines in branch_logs(web_clone.clone).items() if name.endswith(f"{key}.log")
    ]
    assert f"1 {uuid(web_clone)}" in log_lines[0]
    assert f"1 {ATTIC}" not in log_lines[0]


def test_without_alwayscommit_locations_go_to_the_journal(web_clone: WebClone) -> None:
    configure(web_clone, "annex.alwayscommit", "false")
    commit = git(web_clone.clone, "rev-parse", "git-annex")
    web_clone.get("small", "kinds/vurl")
    assert git(web_clone.clone, "rev-parse", "git-annex") == commit
    assert is_known_here(web_clone, *SMALL)
    configure(web_clone, "annex.alwayscommit", "true")
    web_clone.annex("wanted", "here")
    assert temporary_files(web_clone.clone) == []
    assert any(name.endswith(".ek") for name in branch_logs(web_clone.clone))
    assert is_known_here(web_clone, *SMALL)


def test_existing_journal_lines_are_kept(web_clone: WebClone) -> None:
    key = web_clone.files[SMALL[0]].key
    configure(web_clone, "annex.alwayscommit", "false")
    web_clone.annex("setpresentkey", key, ATTIC, "1")
    configure(web_clone, "annex.alwayscommit", "true")
    web_clone.get(*SMALL[:2])
    known = web_clone.annex("whereis", SMALL[0])
    assert ATTIC in known
    assert "[here]" in known
    assert "[here]" in web_clone.annex("whereis", SMALL[1])


def test_concurrent_changes_of_the_branch_are_not_lost(web_clone: WebClone) -> None:
    key = web_clone.files[SMALL[0]].key
    web_clone.web.faults[web_clone.url_path(SMALL[11])] = [delay(3.0)]
    outcomes = get(web_clone.clone, ["small"])
    next(outcomes)
    commit = git(web_clone.clone, "rev-parse", "git-annex")
    web_clone.annex("setpresentkey", key, ATTIC, "1")
    web_clone.annex("wanted", "here")
    assert git(web_clone.clone, "rev-parse", "git-annex") != commit
    rest = list(outcomes)
    assert {one.status for one in rest} == {"ok"}
    assert ATTIC in web_clone.annex("whereis", SMALL[0])
    assert is_known_here(web_clone, *SMALL)


def test_diskreserve_stays_free(web_clone: WebClone) -> None:
    configure(web_clone, "annex.diskreserve", "900 petabytes")
    got = web_clone.get(SMALL[0], "large/1.dat")
    assert {one.status for one in got.values()} == {"error"}
    assert all("not enough free space" in one.message for one in got.values())
    assert web_clone.web.requests == []
    configure(web_clone, "annex.diskreserve", "1 MB")
    assert web_clone.get(SMALL[0])[SMALL[0]].status == "ok"


def test_a_file_locked_by_another_process_is_skipped(web_clone: WebClone) -> None:
    path = "large/1.dat"
    name = f".git/annex/transfer/download/lck/lck.{web_clone.files[path].key}"
    lock = web_clone.clone / name
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
        got = web_clone.get(path, SMALL[0])
        holder.stdin.close()
    assert got[SMALL[0]].status == "ok"
    assert "another process" in got[path].message
    assert web_clone.get(path)[path].status == "ok"


def test_an_unwritable_branch_is_updated_by_the_next_run(web_clone: WebClone) -> None:
    lock = web_clone.clone / ".git/refs/heads/git-annex.lock"
    lock.touch()
    with pytest.raises(GitError, match="git-annex"):
        web_clone.get("small")
    assert all(web_clone.has_content(path) for path in SMALL)
    lock.unlink()
    web_clone.get("kinds/MD5")
    assert is_known_here(web_clone, *SMALL, "kinds/MD5")


def start_get(world: WebClone) -> BaseProcess:
    with open(os.devnull, "wb") as out:
        first = f"import os; os.chdir({str(world.clone)!r})"
        return fork_command(["get", "-J4"], out.fileno(), out.fileno(), first=first)


def test_a_killed_run_leaves_a_consistent_clone_and_the_next_resumes(web_clone: WebClone) -> None:
    for path in web_clone.files:
        if path != "nowhere.dat":
            web_clone.web.faults[web_clone.url_path(path)] = [delay(0.05)]
    for count in (1, 6, 20):
        run = start_get(web_clone)
        until = time.monotonic() + 600
        while len(_contents(web_clone)) < count and time.monotonic() < until:
            time.sleep(0.005)
        run.kill()
        run.join()
        assert all(
            web_clone.has_content(path)
            for path in web_clone.files
            if (web_clone.clone / path).exists()
        )
        git(web_clone.clone, "fsck", "--strict")
    before = len(_contents(web_clone))
    run = start_get(web_clone)
    run.join(600)
    assert len(_contents(web_clone)) > before >= 20
    paths = set(web_clone.files) - {"nowhere.dat"}
    assert all(web_clone.has_content(path) for path in paths)
    assert web_clone.recorded_files() == paths
    assert "fixing" not in web_clone.annex("fsck", *paths)
    assert temporary_files(web_clone.clone) == []
    assert not (web_clone.clone / ".git" / "neuromirror").exists()


VERBOSE = """#!/bin/sh
case "$*" in fast-import*) head -c 1000000 /dev/zero >&2 ;; esac
exec '{git}' "$@"
"""


def test_a_verbose_git_does_not_block_the_run(
    web_clone: WebClone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "verbose" / "git"
    program.parent.mkdir()
    program.write_text(VERBOSE.format(git=shutil.which("git")))
    program.chmod(0o755)
    clone = AnnexClone.at(web_clone.clone)
    before = clone.annex_branch_commit()
    assert before is not None
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with PendingKeys(clone) as intentions:
        recorder = LocationRecorder(clone, before, intentions)
        for number in range(3_000):
            recorder.add(f"MD5E-s1--{number:032x}.dat", KeyLogs())
        recording = threading.Thread(target=recorder.flush, daemon=True)
        recording.start()
        recording.join(600)
        assert not recording.is_alive()
    assert clone.annex_branch_commit() != before


def _contents(world: WebClone) -> list[str]:
    return [path for path, mode in object_modes(world.clone).items() if mode == 0o444]
