"""``neuromirror export`` on the command line."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from neuromirror.cli import main
from support.volume_mirror import EM, BossMirror

VERSION = f"held:{EM}"
STEM = "demo_cortex_sections_em"


def run(held: BossMirror, *arguments: str, code: int = 0) -> Result:
    given = ["export", *arguments]
    done = CliRunner().invoke(main, given, env={"NEUROMIRROR_STORE": str(held.store)})
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def json_record(held: BossMirror, *arguments: str, code: int = 0) -> dict[str, Any]:
    (line,) = run(held, "--json", *arguments, code=code).stdout.splitlines()
    document: dict[str, Any] = json.loads(line)
    assert document["action"] == "export"
    return document


def test_box_is_written_and_reported(boss_mirror: BossMirror, tmp_path: Path) -> None:
    argv = [VERSION, "--box", "0:20, 5:30, 12:15", "-o", str(tmp_path / "out")]
    document = json_record(boss_mirror, *argv)
    assert document["status"] == "ok"
    assert document["path"] == str(tmp_path / "out")
    assert (document["files"], document["unchanged"], document["bytes"]) == (3, 0, 20 * 25 * 3)
    assert document["box"] == [[0, 20], [5, 30], [12, 15]]
    assert (tmp_path / "out" / f"{STEM}_x0-20_y5-30_z14.tif").exists()
    second = run(boss_mirror, *argv)
    assert second.stdout.startswith(f"notneeded  {VERSION}@")
    assert "3 files, 1.5 kB of voxels" in second.stdout


def test_usage_error_exits_with_2(boss_mirror: BossMirror, tmp_path: Path) -> None:
    for box in ("0:10", "0:10,0:10,12:13,0:1", "0:x,0:10,12:13"):
        done = run(boss_mirror, VERSION, f"--box={box}", "-o", str(tmp_path), code=2)
        assert "write x0:x1,y0:y1,z0:z1" in done.stderr
    document = json_record(
        boss_mirror, VERSION, "--box", "0:10,0:10,0:13", "-o", str(tmp_path), code=2
    )
    assert document["status"] == "error"
    assert "level 0 has 0:300,0:260,12:82" in document["message"]
    run(boss_mirror, VERSION, "--format", "png", "-o", str(tmp_path), code=2)
    run(boss_mirror, VERSION, "--level", "9", "-o", str(tmp_path), code=2)


def test_full_disk_is_reported_and_finished_files_stay(
    boss_mirror: BossMirror, tmp_path: Path, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("4m")
    argv = [VERSION, "-o", str(disk / "out")]
    done = run(boss_mirror, *argv, code=1)
    assert os.strerror(errno.ENOSPC) in done.stderr
    finished = list((disk / "out").glob("*.tif"))
    assert len(finished) == 32
    subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
    assert json_record(boss_mirror, *argv)["unchanged"] == 32


def test_a_killed_export_goes_on(boss_mirror: BossMirror, tmp_path: Path) -> None:
    program = [
        sys.executable,
        "-m",
        "neuromirror",
        "--store",
        str(boss_mirror.store),
        "export",
        VERSION,
    ]
    out = tmp_path / "out"
    boss_mirror.boss.fault("hang", path="/cutout/.*/44:76/", seconds=3600)
    with subprocess.Popen([*program, "-o", str(out)], stderr=subprocess.PIPE) as process:
        while not boss_mirror.boss.count_requests("/cutout/.*/44:76/"):
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    boss_mirror.boss.clear_faults()
    finished = list(out.glob("*.tif"))
    assert len(finished) == 32
    document = json_record(boss_mirror, VERSION, "-o", str(out))
    assert (document["unchanged"], document["files"]) == (32, 70)
    assert sorted(path.name for path in out.iterdir() if path.name.endswith(".part")) == []
