"""The command ``neuromirror get``: output and exit codes."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import main
from support.web_clone import WebClone, missing


@dataclass
class Command:
    """Runs ``neuromirror`` in this process, in a folder."""

    patch: pytest.MonkeyPatch

    def __call__(self, folder: Path, *arguments: str) -> Result:
        self.patch.chdir(folder)
        return CliRunner().invoke(main, arguments, prog_name="neuromirror")

    def records(self, folder: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """Return the exit code and the records of the output, by path."""
        done = self(folder, "--json", *arguments)
        records = map(json.loads, done.stdout.splitlines())
        return done.exit_code, {record["path"]: record for record in records}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(monkeypatch)


def test_the_current_folder_is_downloaded_and_summarized(web_clone: WebClone, run: Command) -> None:
    done = run(web_clone.clone / "small", "get")
    assert (done.exit_code, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert sorted(lines)[1].split() == ["ok", "small/1.dat", "2.0", "kB", "sha256"]
    assert last.startswith("12 ")
    assert last.endswith(", 24.0 kB")
    _, records = run.records(web_clone.clone / "small", "get")
    assert [record["status"] for record in records.values()] == ["notneeded"] * 12


def test_a_failed_file_makes_it_exit_with_1_and_a_folder_that_is_no_clone_with_2(
    web_clone: WebClone, tmp_path: Path, run: Command
) -> None:
    web_clone.web.faults[web_clone.url_path("small/1.dat")] = [missing]
    code, records = run.records(web_clone.clone, "get", "small/1.dat", "small/2.dat")
    assert code == 1
    assert (records["small/2.dat"]["status"], records["small/2.dat"]["evidence"]) == (
        *("ok", "sha256"),
    )
    assert records["small/1.dat"]["status"] == "error"
    assert "404" in records["small/1.dat"]["message"]
    shown = run(web_clone.clone, "get", "small/1.dat")
    assert web_clone.files["small/1.dat"].urls[0] in shown.stderr
    outside = run(tmp_path, "get")
    assert outside.exit_code == 2
    assert str(tmp_path) in outside.stderr


def test_a_missing_path_with_a_colon_below_a_folder_of_a_clone_is_no_address(
    web_clone: WebClone, run: Command
) -> None:
    (web_clone.clone / "there").mkdir()  # as git clone creates it for a subdataset
    for folder, above in ((web_clone.clone, ""), (web_clone.folder, "clone/")):
        names = (f"{above}small/1.dat", f"{above}there/task:rest.nwb")
        code, records = run.records(folder, "get", *names)
        assert (code, len(records)) == (1, 2)
        assert records["small/1.dat"]["status"] in ("ok", "notneeded")
    assert run(web_clone.clone, "get", "small/1.dat", "demo:000001").exit_code == 2


def test_a_refused_address_is_named_once_with_a_command_that_allows_it(
    web_clone: WebClone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Command
) -> None:
    config = tmp_path / "empty-gitconfig"
    config.touch()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    done = run(web_clone.clone, "get", "small/1.dat", "small/2.dat")
    assert done.exit_code == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error      127.0.0.1 is on this machine or a private network")
    assert (first.count("127.0.0.1"), "ADDRESS" in first) == (2, False)
    assert "failed 2 times in total" in second
    command = first.partition("to allow that: ")[2]
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
    assert run(web_clone.clone, "get", "small/1.dat", "small/2.dat").exit_code == 0
    # addresses that are allowed already stay so
    setting = ("git", "config", "--file", str(config), "annex.security.allowed-ip-addresses")
    subprocess.run([*setting, "192.0.2.1"], check=True)
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
    assert subprocess.check_output(setting, text=True).split() == ["192.0.2.1", "127.0.0.1"]


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
