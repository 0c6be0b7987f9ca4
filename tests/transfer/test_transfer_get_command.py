"""The command ``neuromirror get``: output and exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_refused_address_is_named_once_with_a_command_that_allows_it(
    web_clone: WebClone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "empty-gitconfig"
    config.touch()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    done = run(web_clone.clone, "get", "small/1.dat", "small/2.dat")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error      127.0.0.1 is on this machine or a private network")
    assert (first.count("127.0.0.1"), "ADDRESS" in first) == (2, False)
    assert "failed 2 times in total" in second
    command = first.partition("to allow that: ")[2]
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
    assert run(web_clone.clone, "get", "small/1.dat", "small/2.dat").returncode == 0
    # addresses that are allowed already stay so
    setting = ("git", "config", "--file", str(config), "annex.security.allowed-ip-addresses")
    subprocess.run([*setting, "192.0.2.1"], check=True)
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
    assert subprocess.check_output(setting, text=True).split() == ["192.0.2.1", "127.0.0.1"]


def test_outside_of_a_clone_it_exits_with_2(tmp_path: Path) -> None:
    done = run(tmp_path, "get")
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr


def test_a_missing_path_with_a_colon_below_a_folder_of_a_clone_is_no_address(
    web_clone: WebClone,
) -> None:
    (web_clone.clone / "there").mkdir()  # as git clone creates it for a subdataset
    for folder, above in ((web_clone.clone, ""), (web_clone.folder, "clone/")):
        done = run(folder, "--json", "get", f"{above}small/1.dat", f"{above}there/task:rest.nwb")
        records = {one["path"]: one for one in map(json.loads, done.stdout.splitlines())}
        assert (done.returncode, len(records)) == (1, 2)
        assert records["small/1.dat"]["status"] in ("ok", "notneeded")
        shutil.rmtree(web_clone.clone / ".git" / "annex" / "tmp", ignore_errors=True)
    mixed = run(web_clone.clone, "get", "small/1.dat", "demo:000001")
    assert mixed.returncode == 2


def test_a_clone_without_vaults_loads_neither_index_nor_mirror_files(web_clone: WebClone) -> None:
    code = (
        "import atexit, sys\n"
        "from neuromirror.cli import main\n"
        "names = ('neuromirror.index', 'pydantic')\n"
        "atexit.register(lambda: print([name for name in names if name in sys.modules]))\n"
        "main(['get', 'small'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=web_clone.clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
