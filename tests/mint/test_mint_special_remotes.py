"""git-annex accepts minted repositories, and claimed URLs are logged exactly as it logs them."""

import json
import os
import re
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace
from test_mint_snapshot_writer import ids

from neuromirror.annex import log_path, url_key, url_log_path
from neuromirror.mint import state_writers
from neuromirror.model import (
    Digest,
    FileRecord,
    Location,
    SnapshotEntry,
    SnapshotHeader,
    SpecialRemote,
)
from support.mint_oracle import (
    DATASET_ID,
    REMOTE,
    REMOTE_ID,
    MintedRepository,
    git,
    header,
    placed_files,
    record,
    timestamp,
)

UUID = "5bd2ed5f-9a5c-5a2e-9d6d-2c8d4a3b9f10"
SPECIAL = SpecialRemote("blocks", "blocks", UUID)

PROGRAM = """#!{python}
import sys
def say(words): print(words, flush=True)
say("VERSION 1")
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "INITREMOTE": say("INITREMOTE-SUCCESS")
    elif word == "PREPARE": say("PREPARE-SUCCESS")
    elif word == "CLAIMURL":
        say("CLAIMURL-SUCCESS" if rest.startswith("boss:") else "CLAIMURL-FAILURE")
    elif word == "CHECKURL": say("CHECKURL-CONTENTS 128")
    elif word == "TRANSFER":
        direction, key, target = rest.split(" ", 2)
        open(target, "wb").write(b"x" * 128)
        say(f"TRANSFER-SUCCESS RETRIEVE {{key}}")
    else: say("UNSUPPORTED-REQUEST")
"""


@pytest.fixture
def special_remote_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A special remote that claims ``boss:`` URLs and returns 128 times the letter x."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "git-annex-remote-blocks"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def special_header(number: int) -> SnapshotHeader:
    return replace(header(number), special_remotes=(SPECIAL,))


def block(number: int, urls: Iterable[str], digest: bool = False) -> FileRecord:
    path = b"0/c/0/0/%d" % number
    claims = (Digest("md5", f"{number:032x}", "neuromirror", True),) if digest else ()
    locations = tuple(Location(url, "boss" if url.startswith("boss:") else "api") for url in urls)
    return FileRecord(path, 128, claims, locations)


def boss_url(number: int) -> str:
    return f"boss://boss.example.org/c/e/ch/0/{64 * number}:{64 * number + 64}/0:64/0:16"


def state(*blocks: FileRecord) -> list[SnapshotEntry]:
    return placed_files({one.path: one for one in blocks})


FIRST = state(
    block(0, [boss_url(0)]),
    block(1, ["https://example.org/1?versionId=version-1", boss_url(1)], digest=True),
    block(2, ["https://example.org/2?versionId=version-1"], digest=True),
)
SECOND = state(
    block(0, [boss_url(0)]),
    block(1, ["https://example.org/1?versionId=version-1", boss_url(1)], digest=True),
    block(2, ["https://example.org/2?versionId=version-1", boss_url(2)], digest=True),
    block(3, [boss_url(3)]),
    block(4, ["https://example.org/4"], digest=True),
)


def test_branch_equals_that_of_git_annex_for_claimed_urls(
    tmp_path: Path, special_remote_program: None
) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    minting.mint(0, state(block(0, [boss_url(0)])), special_header(0))
    own = tmp_path / "own"
    git(tmp_path, "init", "-q", str(own))
    git(own, "annex", "init", "-q")
    kind = ("type=external", "externaltype=blocks", "encryption=none", "autoenable=true")
    git(own, "annex", "initremote", "blocks", *kind)
    git(own, "annex", "addurl", "--fast", "--file=b", boss_url(0))
    key = git(own, "annex", "lookupkey", "b").decode().strip()
    assert key == url_key(boss_url(0), 128)
    uuid = git(own, "config", "remote.blocks.annex-uuid").decode().strip()
    for path in (log_path(key), url_log_path(key), b"uuid.log", b"remote.log"):
        ours = git(minting.repository, "show", f"git-annex:{path.decode()}").decode()
        theirs = git(own, "show", f"git-annex:{path.decode()}").decode()
        for line in strip_timestamps(ours):
            # git-annex logs its own repository, and we log a web remote
            assert REMOTE_ID in line or line.replace(UUID, uuid) in strip_timestamps(theirs)


def strip_timestamps(log: str) -> list[str]:
    lines = [re.sub(r" timestamp=[0-9.]+s", "", line) for line in log.splitlines()]
    return [re.sub(r"^[0-9.]+s ", "", line) for line in lines]


def test_clone_enables_the_special_remote_and_gets_content_from_it(
    tmp_path: Path, special_remote_program: None
) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    minting.mint(0, FIRST, special_header(0))
    git(tmp_path, "clone", "-q", str(minting.repository), "clone")
    clone = tmp_path / "clone"
    git(clone, "annex", "init", "-q")
    lines = git(clone, "annex", "whereis", "--json").decode().splitlines()
    seen = {one["file"]: one for one in map(json.loads, lines)}
    holders = {
        name: sorted(remote["uuid"] for remote in one["whereis"]) for name, one in seen.items()
    }
    web = "00000000-0000-0000-0000-000000000001"
    assert holders == {"0/c/0/0/0": [UUID], "0/c/0/0/1": [web, UUID], "0/c/0/0/2": [web]}
    assert seen["0/c/0/0/0"]["whereis"][0]["description"] == "[blocks]"
    git(clone, "annex", "get", "0/c/0/0/0")
    assert (clone / "0/c/0/0/0").read_bytes() == b"x" * 128


def test_all_writers_agree_on_claimed_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (MintedRepository.create(tmp_path / name) for name in ("one", "two", "three"))
    expected = [
        one.mint(0, FIRST, special_header(0)),
        one.mint(1, SECOND, special_header(1)),
        one.mint(2, [], special_header(2)),
    ]
    two.mint(0, FIRST, special_header(0))
    deltas = [
        two.mint_delta(1, SECOND, special_header(1)),
        two.mint_delta(2, [], special_header(2)),
    ]
    assert [ids(minted) for minted in deltas] == [ids(minted) for minted in expected[1:]]
    monkeypatch.setattr(state_writers, "_MIN_WORKER_BYTES", 0)
    apart = [
        three.mint_records(0, FIRST, special_header(0)),
        three.mint_records(1, SECOND, special_header(1)),
    ]
    assert [ids(minted) for minted in apart] == [ids(minted) for minted in expected[:2]]
    assert [len(minted.packs) for minted in apart] == [2, 2]


def test_location_added_later_adds_its_remote_to_the_location_log(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    minting.mint(0, FIRST, special_header(0))
    minting.mint(1, SECOND, special_header(1))
    path = log_path(SECOND[2].key).decode()
    assert git(minting.repository, "show", f"git-annex:{path}").decode().splitlines() == [
        f"{timestamp(0)}s 1 00000000-0000-0000-0000-000000000001",
        f"{timestamp(1)}s 1 {UUID}",
    ]
    settings = git(minting.repository, "show", "git-annex:remote.log").decode().splitlines()
    names = git(minting.repository, "show", "git-annex:uuid.log").decode().splitlines()
    added = [
        uuid.uuid5(uuid.UUID(DATASET_ID), f"remote {name}") for name in (REMOTE.name, "unversioned")
    ]
    expected = {
        UUID: ("blocks", 0),
        str(added[0]): (REMOTE.name, 0),
        str(added[1]): ("unversioned", 1),
    }
    assert {line.split()[0] for line in settings} == set(expected)
    assert sorted(names) == sorted(
        f"{one} {name} timestamp={timestamp(number)}s" for one, (name, number) in expected.items()
    )
    trust = git(minting.repository, "show", "git-annex:trust.log").decode().splitlines()
    assert sorted(trust) == sorted(
        f"{one} 0 timestamp={timestamp(number)}s"
        for one, (_, number) in expected.items()
        if one != UUID
    )


def test_url_that_no_remote_claims_cannot_be_minted(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    with pytest.raises(ValueError, match="special remote"):
        minting.mint(0, FIRST, header(0))


def test_git_annex_sees_files_urls_and_the_second_remote(tmp_path: Path) -> None:
    minting = MintedRepository.create(tmp_path / "m")
    first = {b"sub-1/a.nwb": record(b"sub-1/a.nwb", 4, (1, 2)), b"\xff.nwb": record(b"\xff.nwb", 8)}
    minting.mint(0, placed_files(first))
    second = first | {b"copy.nwb": record(b"copy.nwb", 4, (3,)), b".git/x": record(b".git/x", 2)}
    del second[b"\xff.nwb"]
    files = placed_files(second)
    minting.mint(1, files)
    git(tmp_path, "clone", "-q", str(minting.repository), "clone")
    clone = tmp_path / "clone"
    git(clone, "annex", "init", "-q")
    found = git(clone, "annex", "find", "--in", "web").decode().splitlines()
    assert (
        found == [one.git_path.decode() for one in files] == ["%2Egit/x", "copy.nwb", "sub-1/a.nwb"]
    )
    lines = git(clone, "annex", "whereis", "--json").decode().splitlines()
    seen = {one["file"]: one for one in map(json.loads, lines)}
    for file in files:
        entry = seen[file.git_path.decode()]
        assert entry["key"] == file.key
        (web,) = [remote for remote in entry["whereis"] if remote["description"] == "web"]
        expected = {at.url for at in file.record.locations}
        if file.key == files[1].key:
            expected = {
                f"https://s3.example.org/4?versionId=version-{number}" for number in (1, 2, 3)
            }
        assert set(web["urls"]) == expected
    remotes = git(clone, "remote").decode().split()
    assert "demo-api" in remotes
    assert git(clone, "status", "--porcelain") == b""
