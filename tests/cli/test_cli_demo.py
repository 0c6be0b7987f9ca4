"""The demo runs completely and leaves an intact store."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror_demo.bucket_contents import SORTED_1
from neuromirror_demo.walkthrough import run_catalogue
from support.command_shell import INTERRUPTIBLE, Shell


@contextmanager
def served_demo(folder: Path, temporary: Path) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Run ``demo --serve``; yield its records up to the end of the demo, and the catalogue's URL.

    At the end of the block it is interrupted, and must exit with 0.
    """
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            INTERRUPTIBLE,
            "--json",
            "demo",
            "--no-input",
            "--serve",
            "--keep",
            str(folder),
        ],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # as in a terminal, Ctrl-C is sent to the process group
        start_new_session=True,
    ) as process:
        documents: list[dict[str, Any]] = []
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            while not documents or "serving" not in documents[-1]:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                documents.append(json.loads(line))
            yield documents, documents[-1]["serving"]["catalogue"]
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(600) == 0
            assert process.stderr.read() == ""
        finally:
            if process.poll() is None:
                process.terminate()


def test_the_demo_ends_with_a_clone_that_git_annex_finds_right(
    tmp_path: Path, demo_files: Path
) -> None:
    kept = tmp_path / "kept"
    # the folder of a demo that was only served
    shutil.copytree(demo_files, kept / "cache")
    (kept / ".neuromirror-demo").touch()
    shell = Shell(tmp_path / "none", kept / "store")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with served_demo(kept, temporary) as (steps, address):
        assert {(step["action"], step["status"]) for step in steps} == {("demo", "ok")}
        # one address for pages of all the archives, and for clones
        assert steps[-1]["serving"]["store"] == address
        for name in (
            "demo:000008",
            f"demo-aind:{SORTED_1}",
            "demo:000005",
            "demo-boss:demo_cortex/sections/em",
            "demo-precomputed:demo_cortex/sections/em",
        ):
            page = requests.get(f"{address}/dataset/{name}", timeout=300)
            assert (page.status_code, f"{address}/#~" in unescape(page.text)) == (200, True), name
        cloned = subprocess.run(
            ["git", "ls-remote", f"{address}/alias/demo--000002", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert cloned.stdout.endswith("\tHEAD\n")
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=5)
    commands = [step["command"] for step in steps[:-1]]
    assert commands[0] == "neuromirror sync"
    for program in ("datalad clone", "datalad -C dataset get", "git -C dataset annex fsck"):
        assert any(command.startswith(program) for command in commands)
    assert "ok         demo:000008" in next(
        step["output"] for step in steps[1:-1] if step["command"] == "neuromirror sync"
    )
    fsck = next(one for one in steps[:-1] if one["command"].startswith("git -C dataset annex fsck"))
    assert "(checksum...) ok" in fsck["output"]
    assert "demo:000008" in shell.run("list").out
    assert os.listdir(temporary) == []

    rerun = shell.run("demo", "--no-input", "--keep", str(kept), code=2)
    assert "holds an earlier demonstration" in rerun.error_line
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("It was a dark and stormy night.\n")
    other = shell.run("demo", "--no-input", "--keep", str(tmp_path / "thesis"), code=2)
    assert "holds something else than a demo" in other.error_line


def test_without_what_pages_need_it_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['starlette'] = None\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with run_catalogue(tmp_path, {**os.environ, "PYTHONPATH": path}) as found:
        assert found.address == ""
        assert "pip install 'neuromirror[web]'" in found.error
