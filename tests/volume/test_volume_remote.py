"""The special remote, under real git-annex, against a BOSS on loopback."""

import hashlib
import re
from pathlib import Path
from threading import Barrier

import pytest
from annexremote import RemoteError
from werkzeug.wrappers import Response

from neuromirror.cache import ContentName, open_cache
from neuromirror.sources.volumes.urls import token_variable
from neuromirror_demo.boss import DemoBoss
from neuromirror_demo.faults import Exchange
from support.annex_with_boss import AnnexRepository, RemoteInProcess, chunk, url

EM, CELLS = "demo_cortex/sections/em", "demo_cortex/sections/cells"
Box = tuple[tuple[int, int], ...]

BOX = ((0, 64), (64, 128), (12, 28))
OTHER = ((64, 128), (64, 128), (12, 28))
EDGE = ((256, 300), (256, 260), (76, 82))


def put_block(annex: AnnexRepository, boss: DemoBoss, name: str, box: Box = BOX) -> Path:
    """Add a block of EM without its content."""
    return annex.put(name, chunk(boss, EM, box), url(boss, EM, box))


def test_blocks_are_retrieved_checked_and_dropped(boss: DemoBoss, annex: AnnexRepository) -> None:
    link = put_block(annex, boss, "block")
    # at the end of the volume, padded with zeros
    edge = chunk(boss, CELLS, EDGE, shape=(64, 64, 16))
    annex.put("edge", edge, url(boss, CELLS, EDGE) + "?chunk=64,64,16")
    # the first URL gives other voxels
    box = ((128, 192), (64, 128), (12, 28))
    annex.put("other", chunk(boss, EM, box), url(boss, EM, OTHER), url(boss, EM, box))
    annex.run("get")
    assert link.read_bytes() == chunk(boss, EM, BOX)
    assert (annex.path / "edge").read_bytes() == edge
    assert (annex.path / "other").read_bytes() == chunk(boss, EM, box)
    annex.run("fsck")
    assert "tests passed" in annex.run("testremote", "--test-readonly=block", "neuromirror")
    annex.run("drop", "block")
    assert not link.exists()
    # nothing can be stored or removed
    (annex.path / "own").write_text("own")
    annex.run("add", "own")
    annex.run("copy", "--to", "neuromirror", "own", ok=False)
    annex.run("drop", "--from", "neuromirror", "--force", "edge", ok=False)


def test_voxels_that_were_changed_upstream_are_refused_and_the_last_copy_stays(
    boss: DemoBoss, annex: AnnexRepository
) -> None:
    link, cached = put_block(annex, boss, "block"), put_block(annex, boss, "cached", OTHER)
    # a URL is added without its bytes; without a checksum
    block = url(boss, EM, BOX)
    lines = f"{block} unsized\n{block}?dtype=int8 sized\n"
    annex.run("addurl", "--fast", "--batch", "--with-files", lines=lines)
    assert f"VURL-s{64 * 64 * 16}--" in annex.run("lookupkey", "sized")
    annex.run("get", "block", "unsized", "sized")
    content = chunk(boss, EM, BOX)
    assert (annex.path / "unsized").read_bytes() == content
    cache, bytes_there = open_cache(), chunk(boss, EM, OTHER)
    assert cache is not None
    name = ContentName("sha256", hashlib.sha256(bytes_there).hexdigest(), len(bytes_there))
    with cache.new_content(name) as file:
        file.write(bytes_there)
    for (x, _), (y, _), (z, _) in (BOX, OTHER):
        boss.edit(EM, ((x + 5, x + 6), (y + 6, y + 7), (z + 1, z + 2)))
    output = annex.run("drop", "block", "sized", ok=False)
    assert output.count("unsafe") == 2
    assert link.read_bytes() == (annex.path / "sized").read_bytes() == content
    annex.run("drop", "--force", "block")
    assert "neuromirror sync" in annex.run("get", "block", "cached", ok=False)
    assert not link.exists()
    # a block in the cache of this machine needs no request
    assert cached.read_bytes() == bytes_there


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("lying", [False, True])
def test_always_truncated_body_is_reported(
    boss: DemoBoss, remote: RemoteInProcess, lying: bool
) -> None:
    boss.fault("cut", path="/cutout/", lying=lying)
    with pytest.raises(RemoteError, match=f"{EM}/0/0:64/64:128/12:28"):
        remote.get(chunk(boss, EM, BOX), url(boss, EM, BOX))


def test_token_is_sent_only_to_its_host_and_not_shown(
    boss: DemoBoss, annex: AnnexRepository, remote: RemoteInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, content = put_block(annex, boss, "block"), chunk(boss, EM, BOX)
    boss.set_public(EM, False)
    monkeypatch.setenv("NEUROMIRROR_TOKEN_API_BOSSDB_IO", boss.token)
    with pytest.raises(RemoteError):
        remote.get(content, url(boss, EM, BOX))
    monkeypatch.setenv(token_variable(boss.host), "0123456789abcdef-secret")
    output = annex.run("get", "block", ok=False)
    assert "token" in output
    assert "0123456789abcdef" not in output
    monkeypatch.setenv(token_variable(boss.host), boss.token)
    annex.run("get", "block")
    assert link.exists()
    written = [one for one in annex.path.rglob("*") if one.is_file() and not one.is_symlink()]
    assert not [one for one in written if boss.token.encode() in one.read_bytes()]
    boss.soft_delete(EM)
    with pytest.raises(RemoteError, match="marked for deletion"):
        RemoteInProcess(remote.folder).get(content, url(boss, EM, BOX))


def test_loopback_needs_git_annex_permission(boss: DemoBoss, remote: RemoteInProcess) -> None:
    content, git = chunk(boss, EM, BOX), remote.repository.git
    git("config", "--global", "annex.security.allowed-ip-addresses", "10.0.0.7 [127.0.0.1]:1")
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1") as refused:
        remote.get(content, url(boss, EM, BOX))
    assert "git config --global annex.security.allowed-ip-addresses" in str(refused.value)
    assert "allow_private" not in str(refused.value)  # which is an operator's, of a mirror
    assert boss.count_requests("/cutout/") == 0
    allowed = RemoteInProcess(remote.folder)
    port = boss.host.rpartition(":")[2]
    git("config", "--global", "annex.security.allowed-ip-addresses", f"[127.0.0.1]:{port}")
    assert allowed.get(content, url(boss, EM, BOX)) == content


@pytest.mark.usefixtures("no_waits")
def test_temporary_failures_are_retried(boss: DemoBoss, remote: RemoteInProcess) -> None:
    busy = boss.fault("status", status=429, path="/cutout/.*/0:64/64:128/", times=2, retry_after=1)
    once = boss.fault("cut", path="/cutout/.*/64:128/64:128/", times=1)
    for box in (BOX, OTHER):
        content = chunk(boss, EM, box)
        assert remote.get(content, url(boss, EM, box)) == content
    assert (busy.struck, once.struck) == (2, 1)


def test_an_outage_is_explained_once_for_all_files(boss: DemoBoss, annex: AnnexRepository) -> None:
    for number, box in enumerate((BOX, OTHER, ((128, 192), (64, 128), (12, 28)))):
        put_block(annex, boss, f"block{number}", box)
    boss.fault("status", status=429, path="/cutout/")
    output = annex.run("get", "-J1", ok=False)
    assert output.count("run again later") == 1
    assert output.count("as before") == 2


def test_one_process_serves_all_jobs_at_the_same_time(
    boss: DemoBoss, annex: AnnexRepository
) -> None:
    links = [put_block(annex, boss, *block) for block in (("block", BOX), ("other", OTHER))]
    both = Barrier(2)

    def meet(exchange: Exchange) -> Response:
        both.wait(60)
        return exchange.respond()

    boss.fault(meet, path="/cutout/")
    output = annex.run("get", "-J2", "--debug")
    sent = re.findall(r"git-annex-remote-neuromirror\[(\d+)\] <-- (J \d )?TRANSFER", output)
    assert sorted(sent) == [("1", "J 1 "), ("1", "J 2 ")]
    assert [link.read_bytes() for link in links] == [chunk(boss, EM, one) for one in (BOX, OTHER)]
