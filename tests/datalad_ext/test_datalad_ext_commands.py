"""The DataLad commands, in the shell and in Python."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from datalad.tests.utils_pytest import assert_result_count

from neuromirror.datalad_ext import command_suite
from neuromirror_demo import DemoArchive
from support.lock_folders import PUBLISHED
from support.mirror_harness import MirrorHarness, run_git

pytestmark = pytest.mark.slow

FOLDER = "demo--000002"
VERBS = ("pin", "get", "verify", "cite")


@dataclass(frozen=True)
class DataladFolder:
    """A user's dataset, beside a store."""

    mirror_harness: MirrorHarness
    folder: Path

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run datalad in the dataset; return its output on both streams."""
        done = subprocess.run(
            [Path(sys.executable).with_name("datalad"), *arguments],
            cwd=self.folder,
            env={**os.environ, "NEUROMIRROR_STORE": str(self.mirror_harness.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def records(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """Return the results of a command."""
        printed = self.run("-f", "json", *arguments, code=code).splitlines()
        found = [json.loads(line) for line in printed if line.startswith("{")]
        for one in found:
            assert {"action", "status", "path", "type"} <= one.keys(), one
            assert one["status"] in ("ok", "notneeded", "impossible", "error")
            assert Path(one["path"]).is_absolute()
        return found


@pytest.fixture(scope="module")
def work(shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> DataladFolder:
    folder = tmp_path_factory.mktemp("work")
    mirror_harness = MirrorHarness(shared_demo.mirrors, folder / "store")
    mirror_harness.sync(PUBLISHED)
    mine = folder / "mine"
    subprocess.run(["git", "init", "-q", str(mine)], check=True)
    run_git(folder, "clone", "-q", str(mirror_harness.repository(PUBLISHED)), str(folder / FOLDER))
    run_git(folder / FOLDER, "checkout", "-q", "published")
    return DataladFolder(mirror_harness, mine)


@pytest.fixture
def clone(work: DataladFolder, tmp_path: Path) -> DataladFolder:
    """A clone of the published dataset without content."""
    target = tmp_path / FOLDER
    shutil.copytree(work.folder.with_name(FOLDER), target, symlinks=True)
    return DataladFolder(work.mirror_harness, target)


def test_datalad_finds_the_commands_and_lists_them(work: DataladFolder) -> None:
    (found,) = entry_points(group="datalad.extensions", name="neuromirror")
    assert found.load() is command_suite
    for module, name, shell, python in command_suite[1]:
        assert hasattr(import_module(module), name)
        assert (shell, python) == (shell, shell.replace("-", "_"))
    listed = work.run("--help")
    assert all(f"\n  mirror-{verb}\n" in listed for verb in VERBS)


def test_the_extension_module_imports_nothing() -> None:
    code = (
        "import sys\nimport neuromirror.datalad_ext\n"
        "assert not {'datalad', 'requests', 'msgspec', 'neuromirror.lab'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_versions_are_pinned_in_the_dataset_and_cited(work: DataladFolder) -> None:
    lock = work.folder / "datasets.lock"
    (result,) = work.records("mirror-pin", "-d", ".", "--bundle", PUBLISHED)
    assert (result["action"], result["status"], result["type"]) == ("mirror_pin", "ok", "file")
    assert (result["path"], result["refds"]) == (str(lock), str(work.folder))
    assert result["mirror_dataset"] == PUBLISHED
    assert len(list(work.folder.glob("datasets.lock.d/*/*.bundle"))) == 1
    cited = work.run("mirror-cite", "--lock", "datasets.lock")
    assert "Retrieved as swh:1:rev:" in cited


def test_downloads_and_wrong_files_are_results(clone: DataladFolder) -> None:
    *got, missing = sorted(
        clone.records("mirror-get", "sub-201", "no-such", code=1),
        key=lambda one: one["status"] != "ok",
    )
    assert missing["status"] == "impossible"
    as_expected = {"status": "ok", "type": "file", "checked": "checked", "action": "mirror_get"}
    assert_result_count(got, 2, refds=str(clone.folder), **as_expected)
    assert all(Path(one["path"]).read_bytes() for one in got)
    wrong = Path(got[0]["path"]).resolve()
    wrong.chmod(0o644)
    wrong.write_bytes(b"x" * wrong.stat().st_size)
    # the other files are missing
    found = clone.records("mirror-verify", "--allow-missing", code=1)
    assert [one["path"] for one in found if one["status"] == "error"] == [got[0]["path"]]
    assert {one["kind"] for one in found} >= {"commit", "tree", "state", "file"}


def test_commands_are_functions_and_dataset_methods_in_python(
    clone: DataladFolder, work: DataladFolder, tmp_path: Path
) -> None:
    code = (
        "import sys, datalad.api as dl\n"
        "folder, lock, store = sys.argv[1:]\n"
        "quiet = {'result_renderer': 'disabled'}\n"
        "dataset = dl.Dataset(folder)\n"
        "got = dataset.mirror_get('sub-203', **quiet)\n"
        "assert [one['status'] for one in got] == ['ok'], got\n"
        "(cited,) = dataset.mirror_cite(format='csl', **quiet)\n"
        "assert 'swh:1:rev:' in cited['citation'], cited\n"
        "(cited,) = dataset.mirror_cite(format='bibtex', output=lock + '.bib', **quiet)\n"
        "assert (cited['path'], cited['type']) == (lock + '.bib', 'file'), cited\n"
        "(again,) = dataset.mirror_get('sub-203', **quiet)\n"
        "assert again['status'] == 'notneeded', again\n"
        f"(result,) = dl.mirror_pin({PUBLISHED!r}, lock=lock, store=store, **quiet)\n"
        "assert result['status'] == 'ok', result\n"
        "found = dl.mirror_verify(lock=lock, what='remote', **quiet)\n"
        "assert {one['status'] for one in found} == {'ok'}, found\n"
        "quiet['on_failure'] = 'ignore'\n"
        "for result in (\n"
        "    *dl.mirror_verify(lock=folder + '/none.lock', **quiet),\n"
        "    *dl.mirror_pin('demo:none.lock', lock=lock, store=store, **quiet),\n"
        "):\n"
        "    assert result['status'] == 'error', result\n"
        "    assert 'none.lock' in result['message'], result\n"
    )
    lock = tmp_path / "other.lock"
    done = subprocess.run(
        [sys.executable, "-c", code, str(clone.folder), str(lock), str(work.mirror_harness.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_received_dataset_runs_no_hook_for_results(clone: DataladFolder, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hook = f'run {{{{"cmd": "touch {marker}", "dataset": "{clone.folder}"}}}}'
    run_git(clone.folder, "config", "datalad.result-hook.x.call-json", hook)
    run_git(clone.folder, "config", "datalad.result-hook.x.match-json", '{"status": "error"}')
    code = (
        "import sys, datalad.api as dl\n"
        "for call in (dl.mirror_get, dl.mirror_verify, dl.mirror_cite, dl.mirror_pin):\n"
        "    try:\n"
        "        call(dataset=sys.argv[1], result_renderer='disabled')\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, 'git clone' in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(clone.folder)], capture_output=True, text=True, check=False
    )
    assert not marker.exists()
    assert done.stdout.splitlines() == ["RepositoryRefusedError True"] * 4, done.stderr
