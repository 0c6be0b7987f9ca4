"""``neuromirror export`` as a person types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result
from volume_boss import Annex
from volume_store import EM, Held

import neuromirror.volume
from neuromirror.cli import main

VERSION = f"held:{EM}"
STEM = "demo_cortex_sections_em"


def run(held: Held, *arguments: str, code: int = 0) -> Result:
    given = ["export", *arguments]
    done = CliRunner().invoke(main, given, env={"NEUROMIRROR_STORE": str(held.store)})
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def record(held: Held, *arguments: str, code: int = 0) -> dict[str, Any]:
    (line,) = run(held, "--json", *arguments, code=code).stdout.splitlines()
    told: dict[str, Any] = json.loads(line)
    assert told["action"] == "export"
    return told


def test_a_box_is_written_and_told(held: Held, tmp_path: Path) -> None:
    asked = [VERSION, "--box", "0:20, 5:30, 12:15", "-o", str(tmp_path / "out")]
    told = record(held, *asked)
    assert told["status"] == "ok"
    assert told["path"] == str(tmp_path / "out")
    assert (told["files"], told["kept"], told["bytes"]) == (3, 0, 20 * 25 * 3)
    assert told["box"] == [[0, 20], [5, 30], [12, 15]]
    assert (tmp_path / "out" / f"{STEM}_x0-20_y5-30_z14.tif").exists()
    again = run(held, *asked)
    assert again.stdout.startswith(f"notneeded  {VERSION}@")
    assert "3 files, 1.5 kB of voxels" in again.stdout


def test_without_a_box_all_of_the_level_is_written(held: Held, tmp_path: Path) -> None:
    told = record(held, VERSION, "--level", "2", "--format", "npy", "-o", str(tmp_path))
    assert told["box"] == [[0, 75], [0, 65], [12, 82]]
    assert told["bytes"] == 75 * 65 * 70


def test_the_command_offers_the_formats_that_there_are() -> None:
    (option,) = [one for one in main.commands["export"].params if one.name == "format"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == neuromirror.volume.FORMATS


def test_a_clone_is_named_by_its_folder(held: Held, clone: Annex, tmp_path: Path) -> None:
    box = ["--box", "0:2,0:2,12:13"]
    told = record(held, str(clone.path), *box, "-o", str(tmp_path / "out"))
    assert told["state"] == record(held, VERSION, *box, "-o", str(tmp_path / "two"))["state"]


def test_what_is_asked_wrongly_ends_with_2(held: Held, tmp_path: Path) -> None:
    for box in ("0:10", "0:10,0:10,12:13,0:1", "0:x,0:10,12:13", "-1:10,0:10,12:13"):
        done = run(held, VERSION, f"--box={box}", "-o", str(tmp_path), code=2)
        assert "write x0:x1,y0:y1,z0:z1" in done.stderr
    told = record(held, VERSION, "--box", "0:10,0:10,0:13", "-o", str(tmp_path), code=2)
    assert told["status"] == "error"
    assert "level 0 has 0:300,0:260,12:82" in told["message"]
    run(held, VERSION, "--format", "png", "-o", str(tmp_path), code=2)
    run(held, VERSION, "--level", "9", "-o", str(tmp_path), code=2)


def test_a_block_that_cannot_be_had_ends_with_1(held: Held, tmp_path: Path) -> None:
    held.boss.fault("status", status=404, path="/cutout/")
    done = run(held, VERSION, "--box", "0:9,0:9,12:13", "-o", str(tmp_path), code=1)
    assert f"neuromirror: block 0/c/0/0/0 of {VERSION}@" in done.stderr


def test_a_full_disk_is_told_and_what_was_finished_is_kept(
    held: Held, tmp_path: Path, disk_of: Callable[[str], Path]
) -> None:
    disk = disk_of("4m")
    asked = [VERSION, "-o", str(disk / "out")]
    done = run(held, *asked, code=1)
    assert "cannot be written: No space left on device; free some space there" in done.stderr
    finished = list((disk / "out").glob("*.tif"))
    assert len(finished) == 32
    subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
    assert record(held, *asked)["kept"] == 32


def test_a_killed_export_goes_on(held: Held, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "neuromirror", "--store", str(held.store), "export", VERSION]
    out = tmp_path / "out"
    held.boss.fault("hang", path="/cutout/.*/44:76/", seconds=3600)
    with subprocess.Popen([*program, "-o", str(out)], stderr=subprocess.PIPE) as process:
        while not held.boss.count_requests("/cutout/.*/44:76/"):
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    held.boss.clear_faults()
    finished = list(out.glob("*.tif"))
    assert len(finished) == 32
    told = record(held, VERSION, "-o", str(out))
    assert (told["kept"], told["files"]) == (32, 70)
    assert sorted(path.name for path in out.iterdir() if path.name.endswith(".part")) == []
