"""The special remote, under real git-annex, against a BOSS on loopback."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuromirror.cache import ContentName, open_cache
from neuromirror.sources.volumes.tokens import token_variable
from neuromirror_demo.boss import DemoBoss
from support.annex_with_boss import AnnexRepository, chunk, url

EM, CELLS = "demo_cortex/sections/em", "demo_cortex/sections/cells"
BOX = ((0, 64), (64, 128), (12, 28))
EDGE = ((256, 300), (256, 260), (76, 82))


def test_block_is_retrieved_checked_and_dropped(boss: DemoBoss, annex: AnnexRepository) -> None:
    link = annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    assert not link.exists()
    annex.run("get", "block")
    assert link.read_bytes() == chunk(boss, EM, BOX)
    annex.run("fsck", "block")
    annex.run("drop", "block")
    assert not link.exists()


def test_block_in_the_cache_needs_no_request(boss: DemoBoss, annex: AnnexRepository) -> None:
    content = chunk(boss, EM, BOX)
    link = annex.put("block", content, url(boss, EM, BOX))
    cache = open_cache()
    assert cache is not None
    name = ContentName("sha256", hashlib.sha256(content).hexdigest(), len(content))
    with cache.new_content(name) as file:
        file.write(content)
    boss.edit(EM, ((5, 6), (70, 71), (13, 14)))  # the service has other voxels now
    annex.run("get", "block")
    assert link.read_bytes() == content


def test_what_git_annex_asks_at_the_start_needs_no_network_code() -> None:
    """git-annex starts the program several times for one file; all but one transfer nothing."""
    questions = "EXTENSIONS INFO\nLISTCONFIGS\nEXPORTSUPPORTED\nPREPARE\nGETCOST\nVALUE\n"
    code = (
        "import sys; from neuromirror.volume.remote import main; main();"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=questions, capture_output=True, text=True, check=True
    )
    *answers, modules = done.stdout.splitlines()
    assert "PREPARE-SUCCESS" in answers
    assert "COST 250" in answers
    assert not {"requests", "urllib3", "numpy", "msgspec"} & set(modules.split())


def test_blocks_at_the_edge_are_padded_with_zeros(boss: DemoBoss, annex: AnnexRepository) -> None:
    shape = (64, 64, 16)
    content = chunk(boss, CELLS, EDGE, shape=shape)
    link = annex.put("edge", content, url(boss, CELLS, EDGE) + "?chunk=64,64,16")
    annex.run("get", "edge")
    assert link.read_bytes() == content
    assert len(content) == 64 * 64 * 16 * 8


def test_many_jobs_get_many_blocks(boss: DemoBoss, annex: AnnexRepository) -> None:
    boxes = [((x, x + 64), (y, y + 64), (12, 28)) for x in (0, 64) for y in (0, 64)]
    links = [
        annex.put(f"b{number}", chunk(boss, EM, box), url(boss, EM, box))
        for number, box in enumerate(boxes)
    ]
    annex.run("get", "-J4")
    assert [link.read_bytes() for link in links] == [chunk(boss, EM, box) for box in boxes]


def test_a_url_can_be_added_without_its_bytes_and_its_size_is_learnt(
    boss: DemoBoss, annex: AnnexRepository
) -> None:
    annex.run("addurl", "--fast", "--file=later", url(boss, EM, BOX))
    annex.run("get", "later")
    assert (annex.path / "later").read_bytes() == chunk(boss, EM, BOX)
    annex.run("addurl", "--fast", "--file=sized", url(boss, EM, BOX) + "?dtype=int8")
    assert f"VURL-s{64 * 64 * 16}--" in annex.run("lookupkey", "sized")


def test_git_annex_itself_finds_the_remote_right(boss: DemoBoss, annex: AnnexRepository) -> None:
    annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    annex.run("get", "block")
    output = annex.run("testremote", "--test-readonly=block", "neuromirror")
    assert "tests passed" in output


def test_voxels_that_were_changed_upstream_are_refused(
    boss: DemoBoss, annex: AnnexRepository
) -> None:
    link = annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    annex.run("get", "block")
    boss.edit(EM, ((5, 6), (70, 71), (13, 14)))
    # our copy is the last one there is
    output = annex.run("drop", "block", ok=False)
    assert link.exists()
    assert "unsafe" in output
    annex.run("drop", "--force", "block")
    output = annex.run("get", "block", ok=False)
    assert "neuromirror sync" in output
    assert not link.exists()


def test_the_last_copy_of_a_block_without_checksum_stays(
    boss: DemoBoss, annex: AnnexRepository
) -> None:
    annex.run("addurl", "--fast", "--file=block", url(boss, EM, BOX) + "?dtype=int8")
    annex.run("get", "block")
    content = (annex.path / "block").read_bytes()
    boss.edit(EM, ((5, 6), (70, 71), (13, 14)))
    assert "unsafe" in annex.run("drop", "block", ok=False)
    assert (annex.path / "block").read_bytes() == content


def test_another_url_is_tried_where_the_first_gives_other_voxels(
    boss: DemoBoss, annex: AnnexRepository
) -> None:
    other = ((128, 192), (64, 128), (12, 28))
    link = annex.put("block", chunk(boss, EM, BOX), url(boss, EM, other), url(boss, EM, BOX))
    annex.run("get", "block")
    assert link.read_bytes() == chunk(boss, EM, BOX)


@pytest.mark.parametrize("status", [429, 503])
def test_temporary_failures_are_retried(
    boss: DemoBoss, annex: AnnexRepository, status: int
) -> None:
    link = annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    fault = boss.fault("status", status=status, path="/cutout/", times=2, retry_after=1)
    annex.run("get", "block")
    assert fault.struck == 2
    assert link.exists()


def test_truncated_body_is_retried(boss: DemoBoss, annex: AnnexRepository) -> None:
    link = annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    fault = boss.fault("cut", path="/cutout/", times=1)
    annex.run("get", "block")
    assert fault.struck == 1
    assert link.exists()


@pytest.mark.parametrize("lying", [False, True])
def test_always_truncated_body_is_reported_and_leaves_nothing(
    boss: DemoBoss, annex: AnnexRepository, lying: bool
) -> None:
    link = annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    boss.fault("cut", path="/cutout/", lying=lying)
    output = annex.run("get", "block", ok=False)
    assert f"{EM}/0/0:64/64:128/12:28" in output
    assert not link.exists()


def test_a_channel_that_is_gone_is_named(boss: DemoBoss, annex: AnnexRepository) -> None:
    annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    boss.soft_delete(EM)
    output = annex.run("get", "block", ok=False)
    assert "marked for deletion" in output


def test_token_is_sent_only_to_its_host(
    boss: DemoBoss, annex: AnnexRepository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    link = annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    boss.set_public(EM, False)
    annex.run("get", "block", ok=False)
    monkeypatch.setenv("NEUROMIRROR_TOKEN_API_BOSSDB_IO", boss.token)
    annex.run("get", "block", ok=False)
    monkeypatch.setenv(token_variable(boss.host), boss.token)
    annex.run("get", "block")
    assert link.exists()
    written = [one for one in annex.path.rglob("*") if one.is_file() and not one.is_symlink()]
    assert not [one for one in written if boss.token.encode() in one.read_bytes()]


def test_a_wrong_token_is_not_shown(
    boss: DemoBoss, annex: AnnexRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    monkeypatch.setenv(token_variable(boss.host), "0123456789abcdef-secret")
    output = annex.run("get", "block", ok=False)
    assert "token" in output
    assert "0123456789abcdef" not in output


def test_loopback_needs_git_annex_permission(boss: DemoBoss, annex: AnnexRepository) -> None:
    annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    annex.git("config", "annex.security.allowed-ip-addresses", "10.0.0.7 [127.0.0.1]:1")
    output = annex.run("get", "block", ok=False)
    assert "127.0.0.1" in output
    assert boss.count_requests("/cutout/") == 0
    port = boss.host.rpartition(":")[2]
    annex.git("config", "annex.security.allowed-ip-addresses", f"[127.0.0.1]:{port}")
    annex.run("get", "block")


def test_nothing_can_be_stored_or_removed(boss: DemoBoss, annex: AnnexRepository) -> None:
    (annex.path / "own").write_text("own")
    annex.run("add", "own")
    annex.run("copy", "--to", "neuromirror", "own", ok=False)
    annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    annex.run("get", "block")
    annex.run("drop", "--from", "neuromirror", "--force", "block", ok=False)


def test_without_the_program_git_annex_says_which_one_it_lacks(
    boss: DemoBoss, annex: AnnexRepository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    annex.put("block", chunk(boss, EM, BOX), url(boss, EM, BOX))
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in reversed(os.environ["PATH"].split(os.pathsep)):
        for one in Path(folder).glob("git*"):
            if one.name != "git-annex-remote-neuromirror":
                (programs / one.name).unlink(missing_ok=True)
                (programs / one.name).symlink_to(one)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    output = annex.run("get", "block", ok=False)
    assert "git-annex-remote-neuromirror" in output
