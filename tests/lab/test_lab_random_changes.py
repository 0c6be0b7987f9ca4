"""Random changes of lock files, manifests and datasets never cause a traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromirror.cli import main
from support.crafted_repositories import deep_tree
from support.lab_store import LabStore
from support.lock_folders import PUBLISHED, ZARR, LockFolder, run

EXAMPLES = int(os.environ.get("NEUROMIRROR_MUTATIONS", "6"))
COMMIT, STATE = "a" * 40, f"sha256:{'b' * 64}"
JUNK: Sequence[Any] = (
    *(None, True, 0, -1, 10**30, 1.5, "", "x", "\n", "\0", "../x", "-x", "--all", "\u2028"),
    *([], {}, [[]], {"": ""}, ["x"], "9" * 5000, "\ud7ff", COMMIT, STATE, "\x1b[2J", 1 << 63),
    *([{}], {"x": {}}, "a:b", "refs/heads/x", "2024-01-01", "{", "*" * 50),
)
LETTERS = ("\n", "\0", "\x1b", "/", "..", "-", "'", "", "\u00e9", "9", ":")


@pytest.fixture(scope="module")
def lock_folder(still_lab: LabStore, tmp_path_factory: pytest.TempPathFactory) -> LockFolder:
    """A lock file with manifests and bundles of a dataset with subdatasets."""
    made = LockFolder(still_lab.mirror_harness, tmp_path_factory.mktemp("valid") / "paper")
    made.pin(ZARR, bundle=True)
    return made


@pytest.fixture(scope="module")
def clone(lock_folder: LockFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone without content."""
    folder = tmp_path_factory.mktemp("clone") / "clone"
    run(Path(), "git", "clone", "-q", str(lock_folder.mirror_harness.repository(ZARR)), str(folder))
    run(folder, "git", "branch", "-q", "git-annex", "origin/git-annex")
    return folder


def randomly_changed(value: Any, rng: random.Random) -> Any:
    """Return a parsed document with one member changed, removed, renamed or replaced."""
    if isinstance(value, dict) and value:
        name = rng.choice(sorted(value))
        how = rng.randrange(6)
        if how == 0:
            return {key: one for key, one in value.items() if key != name}
        if how == 1:
            return {**value, name: rng.choice(JUNK)}
        if how == 2:
            return {**value, f"{name}x": value[name]}
        return {**value, name: randomly_changed(value[name], rng)}
    if isinstance(value, list) and value and rng.randrange(4):
        at = rng.randrange(len(value))
        return [*value[:at], randomly_changed(value[at], rng), *value[at + 1 :]]
    if isinstance(value, str) and value and rng.randrange(2):
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(LETTERS) + value[at + 1 :]
    return rng.choice(JUNK)


def with_flipped_bits(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one of them changed, some removed, or some repeated."""
    at, size = rng.randrange(len(content)), rng.randrange(1, 9)
    how = rng.randrange(3)
    if how == 0:
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    if how == 1:
        return content[:at] + content[at + size :]
    return content[:at] + content[at : at + size] * 3 + content[at + size :]


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def change_lock(paper: LockFolder, rng: random.Random) -> None:
    content = paper.file.read_bytes()
    if rng.randrange(3) == 0:
        paper.file.write_bytes(with_flipped_bits(content, rng))
        return
    table = randomly_changed(tomllib.loads(content.decode()), rng)
    lines = [f"{json.dumps(key)} = {toml(one)}\n" for key, one in table.items()]
    paper.file.write_bytes("".join(lines).encode("utf-8", "surrogatepass"))


def change_manifest(paper: LockFolder, rng: random.Random) -> None:
    path = rng.choice(sorted(paper.folder.rglob("*.jsonl.zst")))
    content = path.read_bytes()
    if rng.randrange(4) == 0:
        path.write_bytes(with_flipped_bits(content, rng))
        return
    lines = zstandard.decompress(content, 1 << 24).split(b"\n")[:-1]
    at = rng.choice([0, rng.randrange(len(lines))])
    if rng.randrange(4) == 0:
        lines[at] = with_flipped_bits(lines[at], rng)
    else:
        lines[at] = json.dumps(randomly_changed(json.loads(lines[at]), rng)).encode()
    path.write_bytes(zstandard.compress(b"".join(one + b"\n" for one in lines)))


def assert_no_traceback(folder: Path, *command: str) -> None:
    with chdir(folder):
        done = CliRunner().invoke(main, [*command])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"{command}: {done.exception!r}") from done.exception
    assert done.exit_code in (0, 1, 2), (command, done.output)
    assert "Traceback" not in done.output
    if done.exit_code:
        assert done.output.strip(), command


@settings(max_examples=EXAMPLES, derandomize=EXAMPLES < 10)
@given(seed=st.integers(0, 1 << 40), of_lock=st.booleans())
def test_no_change_of_a_lock_or_its_manifests_is_a_traceback(
    lock_folder: LockFolder, seed: int, of_lock: bool
) -> None:
    rng = random.Random(seed)
    with TemporaryDirectory() as scratch:
        copy = lock_folder.copy(Path(scratch, "paper"))
        (change_lock if of_lock else change_manifest)(copy, rng)
        if not of_lock:
            copy.delete_files(".bundle")
        store = ("--store", str(lock_folder.mirror_harness.folder))
        lock, folder = str(copy.file), Path(scratch)
        assert_no_traceback(folder, "restore", lock, "--into", "data", "--offline")
        assert_no_traceback(folder, "verify", lock, "--in", "data")
        assert_no_traceback(folder, "cite", lock)
        assert_no_traceback(folder, *store, "outdated", lock)
        assert_no_traceback(folder, *store, "verify", lock, "--in", "data")
        assert_no_traceback(folder, *store, "cite", lock)
        assert_no_traceback(folder, *store, "pin", PUBLISHED, "-o", lock)


def commit_description(clone: Path, content: bytes) -> None:
    """Replace the checked-out commit by one with another description."""
    (clone / ".neuromirror" / "dataset.json").write_bytes(content)
    run(clone, "git", "add", ".neuromirror")
    tree = run(clone, "git", "write-tree").strip()
    commit = subprocess.run(
        ["git", "cat-file", "commit", "HEAD"], cwd=clone, capture_output=True, check=True
    ).stdout
    new = b"tree " + tree.encode() + commit[commit.index(b"\n") :]
    made = subprocess.run(
        ["git", "hash-object", "-w", "-t", "commit", "--stdin"],
        cwd=clone,
        input=new,
        capture_output=True,
        check=True,
    ).stdout.decode()
    run(clone, "git", "update-ref", "HEAD", made.strip())


@settings(max_examples=EXAMPLES, derandomize=EXAMPLES < 10)
@given(seed=st.integers(0, 1 << 40))
def test_no_description_of_a_clone_is_a_traceback(
    lock_folder: LockFolder, clone: Path, seed: int
) -> None:
    rng = random.Random(seed)
    with TemporaryDirectory() as scratch:
        copy = Path(scratch, "clone")
        shutil.copytree(clone, copy, symlinks=True)
        content = (copy / ".neuromirror" / "dataset.json").read_bytes()
        if rng.randrange(4) == 0:
            commit_description(copy, with_flipped_bits(content, rng))
        else:
            commit_description(
                copy, json.dumps(randomly_changed(json.loads(content), rng)).encode()
            )
        store = ("--store", str(lock_folder.mirror_harness.folder))
        folder = Path(scratch)
        assert_no_traceback(folder, "verify", "clone", "--allow-missing")
        assert_no_traceback(folder, "cite", "clone")
        assert_no_traceback(folder, *store, "diff", "clone", ZARR)
        assert_no_traceback(folder, *store, "pin", "clone", "-o", "new.lock")


def test_no_deep_tree_is_a_traceback(clone: Path, tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    shutil.copytree(clone, copy, symlinks=True)
    tree = run(copy, "git", "rev-parse", "HEAD^{tree}").strip()
    deep = deep_tree(copy / ".git", tree, 1100)
    commit = run(copy, "git", "commit-tree", "-m", "deep", deep).strip()
    run(copy, "git", "update-ref", "HEAD", commit)
    for verb in (("verify", "clone", "--allow-missing"), ("diff", "clone", "clone")):
        assert_no_traceback(tmp_path, *verb)
