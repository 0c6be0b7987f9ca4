"""Single objects of packs, read without git and equal to what git reads."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from neuromirror.git import ObjectMissingError, ObjectReader
from neuromirror.git.packs import PackedObjects


def read_packed(repository: Path, name: str) -> bytes | None:
    with closing(PackedObjects(repository)) as packs:
        return packs.read(name)


def git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one pack of whole objects and deltas."""
    git(tmp_path, "init", "-q", ".")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "é.txt").write_text("small")
    text = "".join(f"{number} {number * 7919 % 104729}\n" for number in range(3000))
    (tmp_path / "long").write_text(text)
    (tmp_path / "longer").write_text(text + "end\n")
    (tmp_path / "empty").touch()
    git(tmp_path, "add", ".")
    identity = ("-c", "user.name=x", "-c", "user.email=x@y")
    git(tmp_path, *identity, "commit", "-qm", "first")
    git(tmp_path, "repack", "-adfq", "--depth=10")
    return tmp_path / ".git"


def objects(repository: Path) -> list[str]:
    listed = git(repository, "cat-file", "--batch-all-objects", "--batch-check")
    return [line.split()[0] for line in listed.decode().splitlines()]


def test_every_object_is_the_one_that_git_reads(repository: Path) -> None:
    whole = 0
    for name in objects(repository):
        kind = git(repository, "cat-file", "-t", name).decode().strip()
        expected = git(repository, "cat-file", kind, name)
        found = read_packed(repository, name)
        whole += found is not None
        assert found in (None, expected)
        with ObjectReader(repository) as reader:
            assert reader.read(name) == expected
    assert 0 < whole < len(objects(repository))  # deltas are left to git


def test_a_path_of_a_commit(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD").decode().strip()
    assert read_packed(repository, f"{commit}:a/b/é.txt") == b"small"
    assert read_packed(repository, f"{commit}:empty") == b""
    for other in ("a", "a/b", "nothing", "a/b/é.txt/x", "", "../x"):
        assert read_packed(repository, f"{commit}:{other}") is None
    for name in ("HEAD", f"{commit}^", "0" * 40, f"{'0' * 40}:a", "x\n"):
        assert read_packed(repository, name) is None


def test_a_damaged_pack_is_left_to_git(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD").decode().strip()
    (pack,) = repository.glob("objects/pack/*.pack")
    data = bytearray(pack.read_bytes())
    pack.chmod(0o644)
    for position in range(12, len(data) - 20, 7):
        data[position] ^= 0x55
    pack.write_bytes(data)
    assert read_packed(repository, commit) is None
    with ObjectReader(repository) as reader, pytest.raises(ObjectMissingError):
        reader.read(commit)
    pack.write_bytes(b"PACK")
    assert read_packed(repository, commit) is None
    index = pack.with_suffix(".idx")
    index.chmod(0o644)
    index.write_bytes(b"\xfftOc")
    assert read_packed(repository, commit) is None


def test_large_offsets_are_read(repository: Path) -> None:
    (pack,) = repository.glob("objects/pack/*.pack")
    expected = {name: read_packed(repository, name) for name in objects(repository)}
    # each offset above 100 goes into the table of large offsets
    git(repository, "index-pack", "--index-version=2,100", "-o", "new.idx", str(pack))
    index = pack.with_suffix(".idx")
    assert (repository / "new.idx").stat().st_size > index.stat().st_size
    (repository / "new.idx").replace(index)
    assert {name: read_packed(repository, name) for name in expected} == expected
