"""Unmodified git-annex accepts minted repositories."""

from __future__ import annotations

import json
from pathlib import Path

from support.mint_oracle import MintedRepository, git, placed_files, record


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
    for one in files:
        entry = seen[one.git_path.decode()]
        assert entry["key"] == one.key
        (web,) = [remote for remote in entry["whereis"] if remote["description"] == "web"]
        expected = {at.url for at in one.record.locations}
        if one.key == files[1].key:
            expected = {
                f"https://s3.example.org/4?versionId=version-{number}" for number in (1, 2, 3)
            }
        assert set(web["urls"]) == expected
    remotes = git(clone, "remote").decode().split()
    assert "demo-api" in remotes
    assert git(clone, "status", "--porcelain") == b""
