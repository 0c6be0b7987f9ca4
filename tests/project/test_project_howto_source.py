"""The worked example of a source: installed from its page, and mirrored from loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.documented_commands import blocks, not_run, run_page
from support.terminal import neighbouring_ports

PAGE = "source.md"


def test_the_example_package_is_installed_and_mirrors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in blocks(f"howto/{PAGE}"):
        if block.mark.startswith("file: shelf/"):
            path = tmp_path / "package" / block.mark.removeprefix("file: shelf/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.body, "utf-8")
    assert not_run(PAGE) == [["pip", "install", "./shelf"]]
    # its dependencies are installed already, and no registry is contacted
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet"),
            *("--no-deps", "--no-index", "--no-build-isolation"),
            *("--target", tmp_path / "installed", tmp_path / "package"),
        ],
        check=True,
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    folder = tmp_path / "work"
    folder.mkdir()
    typed = run_page(PAGE, folder, {"8900": str(neighbouring_ports(1))})
    assert "neuromirror sync shelf" in typed
