"""The command ``neuromirror get``: output and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.web_clone import WebClone, missing

PROGRAM = Path(sys.executable).with_name("neuromirror")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments], cwd=folder, check=False, capture_output=True, text=True
    )


def test_the_current_folder_is_downloaded_and_summarized(web_clone: WebClone) -> None:
    done = run(web_clone.clone / "small", "get")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert sorted(lines)[1].split() == ["ok", "small/1.dat", "2.0", "kB", "sha256"]
    assert last.startswith("12 ")
    assert last.endswith(", 24.0 kB")
    records = run(web_clone.clone / "small", "--json", "get").stdout.splitlines()
    assert [json.loads(one)["status"] for one in records] == ["notneeded"] * 12


def test_a_failed_file_makes_it_exit_with_1(web_clone: WebClone) -> None:
    web_clone.web.faults[web_clone.url_path("small/1.dat")] = [missing]
    done = run(web_clone.clone, "--json", "get", "small/1.dat", "small/2.dat")
    assert done.returncode == 1
    records = {one["path"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert records["small/2.dat"]["status"] == "ok"
    assert records["small/2.dat"]["evidence"] == "sha256"
    assert records["small/1.dat"]["status"] == "error"
    assert "404" in records["small/1.dat"]["message"]
    assert web_clone.files["small/1.dat"].urls[0] in done.stderr


def test_outside_of_a_clone_it_exits_with_2(tmp_path: Path) -> None:
    done = run(tmp_path, "get")
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
