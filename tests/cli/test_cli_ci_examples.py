"""The shell parts of the example in the how-to guide ``watch`` work."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuromirror_demo import DemoArchive
from support.command_shell import Shell

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "watch.md"
NAME = "demo:000002"
GH = """\
#!/bin/sh
printf '%s\\n' "$*" >> gh.log
case "$2" in list) printf '%s' "$OPEN" ;; esac
"""


def example(path: str) -> Any:
    (text,) = re.findall(
        rf"<!-- file: {re.escape(path)} -->\n```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.S
    )
    return yaml.safe_load(text)


@pytest.fixture
def folder(shell: Shell, demo: DemoArchive, tmp_path: Path) -> Path:
    """A repository of a paper with a pin of the first of two published versions."""
    labels = [one.label for one in demo.dandisets["000002"].published]
    made = tmp_path / "repository"
    made.mkdir()
    shell.run("sync", NAME)
    shell.run("pin", f"{NAME}@{labels[0]}", "-o", str(made / "datasets.lock"))
    (made / "bin").mkdir()
    (made / "bin" / "gh").write_text(GH)
    (made / "bin" / "gh").chmod(0o755)
    return made


def run_script(
    folder: Path, demo: DemoArchive, script: str, *, code: int = 0, **variables: str
) -> None:
    """Run a script as runners do, with the programs of this environment."""
    programs = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env={
            "HOME": str(folder),
            "PATH": f"{folder}/bin:{programs}:/usr/bin:/bin",
            "NEUROMIRROR_MIRRORS": str(demo.mirrors),
            "GITHUB_OUTPUT": str(folder / "output"),
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr


def pin_newest(shell: Shell, folder: Path) -> None:
    (folder / "datasets.lock").unlink()
    shell.run("pin", NAME, "-o", str(folder / "datasets.lock"))


def test_the_example_for_github_opens_one_issue(
    shell: Shell, demo: DemoArchive, folder: Path
) -> None:
    steps = example(".github/workflows/data.yml")["jobs"]["outdated"]["steps"]
    compare, report = (step["run"] for step in steps if "\n" in step.get("run", ""))
    run_script(folder, demo, compare)
    assert (folder / "output").read_text() == "code=4\n"
    assert NAME in (folder / "news.txt").read_text()
    # the sync of a later run finds nothing new
    sync, later_compare = compare.split("\n", 1)
    assert "neuromirror --store store sync" in sync
    run_script(folder, demo, report, OPEN="")
    run_script(folder, demo, report, OPEN="7")
    calls = (folder / "gh.log").read_text().splitlines()
    assert [" ".join(call.split()[:3]) for call in calls] == [
        *("issue list --state", "issue create --title"),
        *("issue list --state", "issue edit 7"),
    ]
    pin_newest(shell, folder)
    run_script(folder, demo, later_compare)
    assert (folder / "output").read_text().splitlines()[-1] == "code=0"
    demo.clear_requests()
    run_script(folder, demo, compare.replace("datasets.lock", "missing.lock"), code=2)
    assert demo.requests == []  # without a name, sync would mirror everything
