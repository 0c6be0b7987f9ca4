"""The worked example of a source: installed from its page, and mirrored from loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

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
    # what pip does, without its own start; dependencies are installed already
    subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta as b; b.build_wheel('..')"],
        cwd=tmp_path / "package",
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    folder = tmp_path / "work"
    folder.mkdir()
    typed = run_page(PAGE, folder, {"8900": str(neighbouring_ports(1))})
    assert "neuromirror sync shelf" in typed
