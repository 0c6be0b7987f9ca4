"""The demonstration goes its whole way, and what it leaves behind is in order."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from cli_shell import Shell


def test_the_demo_ends_with_a_clone_that_git_annex_finds_right(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shell = Shell(tmp_path / "none", kept / "store")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    ended = shell.program(
        "--json", "demo", "--no-input", "--keep", str(kept), env={"TMPDIR": str(temporary)}
    )
    assert ended.err == ""
    steps = [json.loads(line) for line in ended.lines]
    assert {(one["action"], one["status"]) for one in steps} == {("demo", "ok")}
    commands = [one["command"] for one in steps]
    assert commands[0] == "neuromirror sync"
    for program in ("datalad clone", "datalad -C dataset get", "git -C dataset annex fsck"):
        assert any(command.startswith(program) for command in commands)
    assert "ok         demo:000008" in next(
        one["output"] for one in steps[1:] if one["command"] == "neuromirror sync"
    )
    checked = subprocess.run(
        ["git", "-C", str(kept / "dataset"), "annex", "fsck"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "(checksum...) ok" in checked.stdout
    assert "demo:000008" in shell.run("list").out
    assert os.listdir(temporary) == []

    again = shell.run("demo", "--no-input", "--keep", str(kept), code=2)
    assert "holds an earlier demonstration" in again.complaint
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("It was a dark and stormy night.\n")
    other = shell.program("demo", "--no-input", "--keep", str(tmp_path / "thesis"), code=2)
    assert "holds something else than a demo" in other.complaint
