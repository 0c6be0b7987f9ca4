"""A full disk gives an error, and leaves no file and no truncated pack behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from neuromirror.mint import ParentCommits, Snapshot, mint
from support.mint_oracle import bare_repository, git, header, placed_files, record

DRIVER = Path(__file__).with_name("mint_under_limit.py")


# two files per key give duplicate objects, so the pack is rewritten at its end
@pytest.mark.parametrize("shared", [1, 2])
def test_a_file_that_cannot_grow_fails_the_mint_and_leaves_nothing(
    tmp_path: Path, shared: int
) -> None:
    repository = bare_repository(tmp_path / "r")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(repository), str(tmp_path / "s"), str(shared)],
        env=os.environ | {"PYTHONPATH": str(DRIVER.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    enough = max(got["whole"]["sizes"])
    failed = [one for one in got["tries"] if "error" in one]
    passed = [one for one in got["tries"] if "error" not in one]
    assert [one for one in passed if one["limit"] < enough] == []
    assert [one for one in failed if one["left"] or one["error"] != "OSError"] == []
    assert passed
    for one in passed:
        assert (one["name"], one["sizes"]) == (got["whole"]["name"], got["whole"]["sizes"])


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of 256 KiB."""
    return mount_disk("256k")


def test_mint_on_a_full_disk_leaves_nothing_and_succeeds_once_there_is_space(
    tmp_path: Path, small_disk: Path
) -> None:
    repository, other = bare_repository(tmp_path / "r"), bare_repository(tmp_path / "other")
    files = placed_files({b"f%03d" % n: record(b"f%03d" % n, n // 2, (0, 1)) for n in range(200)})
    snapshot = Snapshot(header(), lambda: iter(files))
    scratch = small_disk / "scratch"
    ballast = small_disk / "ballast"
    outcomes = []
    for pages in range(62, -1, -2):
        ballast.write_bytes(bytes(4096 * pages))
        try:
            minted = mint(snapshot, repository, ParentCommits(), lambda state: "x", scratch)
        except OSError:
            outcomes.append("full")
            assert list(scratch.iterdir()) == []
            continue
        outcomes.append("minted")
        (pack,) = minted.packs
        git(other, "index-pack", "--stdin", stdin=pack.pack.read_bytes())
        last = minted
        if pages:
            minted.discard()
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {"full", "minted"}
    ballast.unlink()
    for path in (pack.index, pack.pack, last.manifest):
        assert path.stat().st_mode & 0o777 == 0o444
    last.discard()
    assert list(scratch.iterdir()) == []
