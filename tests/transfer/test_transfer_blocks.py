"""``get`` of blocks of volumes, which it downloads itself."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import pytest
from werkzeug.wrappers import Response

from neuromirror.lab import get
from neuromirror.model import Evidence
from neuromirror.net import RequestLimits
from neuromirror.transfer.content_bodies import ContentBodies
from neuromirror.transfer.outcomes import Outcome
from neuromirror_demo.faults import Exchange
from support.annex_with_boss import AnnexRepository
from support.volume_mirror import (
    EM,
    SKETCH,
    BossMirror,
    boss_mirror,
    clone,
    clone_template,
    count_contents,
    open_boss_mirror,
)

__all__ = ["boss_mirror", "clone", "clone_template"]

BLOCKS = [f"0/c/0/{y}/{x}" for y in (0, 1) for x in (0, 1)]


@pytest.fixture(scope="session")
def shared_boss_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BossMirror]:
    """A BOSS of which two channels were mirrored."""
    with open_boss_mirror(tmp_path_factory.mktemp("mirrored"), [EM, SKETCH], []) as mirrored:
        yield mirrored


def outcomes(folder: Path, *paths: str) -> dict[str, Outcome]:
    return {one.path: one for one in get(folder, paths or None)}


def test_blocks_are_got_without_git_annex(boss_mirror: BossMirror, clone: AnnexRepository) -> None:
    found = outcomes(clone.path, *BLOCKS)
    assert {(one.status, one.checked, one.evidence) for one in found.values()} == {
        ("ok", "checked", Evidence.SHA256)
    }
    assert {(one.url or "").partition("://")[0] for one in found.values()} == {"boss"}
    assert boss_mirror.boss.count_requests("/cutout/") == len(BLOCKS)
    assert clone.run("find", "--in", "here").split() == BLOCKS
    clone.run("fsck", *BLOCKS)
    assert {outcome.status for outcome in outcomes(clone.path, *BLOCKS).values()} == {"notneeded"}


def test_twelve_small_blocks_are_requested_at_the_same_time(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    twelve = Barrier(12)

    def meet(exchange: Exchange) -> Response:
        twelve.wait(20)
        return exchange.respond()

    # a host that has not answered yet gets one request only
    boss_mirror.boss.fault(meet, path="/cutout/", skip=1, times=12)
    assert {outcome.status for outcome in outcomes(clone.path, "0").values()} == {"ok"}
    assert not twelve.broken


def test_blocks_of_zeros_need_no_request(boss_mirror: BossMirror, tmp_path: Path) -> None:
    made = AnnexRepository(tmp_path / "sketch")
    subprocess.run(["git", "clone", "-q", boss_mirror.alias(SKETCH), made.path], check=True)
    made.run("init", "-q")
    path = "0/c/1/1/1"
    assert outcomes(made.path, path)[path].status == "ok"
    assert not any((made.path / path).read_bytes())
    assert boss_mirror.boss.count_requests("/cutout/") == 0
    made.run("fsck", path)


def test_other_voxels_than_mirrored_are_refused(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    box = ((5, 6), (70, 71), (13, 14))
    boss_mirror.boss.edit(EM, box)
    try:
        found = outcomes(clone.path, *BLOCKS[:2])
    finally:
        boss_mirror.boss.edit(EM, box)  # flips the bits back
    assert [found[path].status for path in BLOCKS[:2]] == ["error", "ok"]
    assert not (clone.path / BLOCKS[0]).exists()
    assert outcomes(clone.path, BLOCKS[0])[BLOCKS[0]].status == "ok"


def test_a_host_that_fails_is_not_requested_for_each_block(
    boss_mirror: BossMirror, clone: AnnexRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = RequestLimits(attempts=2, wait=0.01, wait_max=0.01)
    monkeypatch.setattr(ContentBodies.__init__, "__defaults__", (limits,))
    boss_mirror.boss.fault("status", path="/cutout/", status=503)
    had = count_contents(clone)
    found = outcomes(clone.path, "0")
    assert {one.status for one in found.values()} == {"error"}
    assert len(found) > 20
    # a few blocks are requested at the same time
    assert boss_mirror.boss.count_requests("/cutout/") <= 12
    assert count_contents(clone) == had


def test_a_block_that_is_refused_is_left_to_the_special_remote(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    """It may have credentials that this package does not read."""
    fault = boss_mirror.boss.fault("status", path="/cutout/", status=403, times=1)
    found = outcomes(clone.path, BLOCKS[0])[BLOCKS[0]]
    assert fault.struck == 1
    assert (found.status, found.message) == ("ok", "by git-annex")
