"""Targets: git trees, commits, pack indexes, bundles and ``.gitmodules``, compared with git."""

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from fuzz_core import check_agreement, target

from neuromirror.git import (
    ObjectMissingError,
    ObjectReader,
    git_environment,
    parse_commit,
    parse_tree,
    read_bundle_refs,
)
from neuromirror.model import NeuromirrorError


@cache
def scratch() -> Path:
    """A folder for the process's files, in memory where Linux has such a place."""
    shared = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if shared.is_dir() else None))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def repository() -> Path:
    """A bare repository with a commit of two files and a folder, packed."""
    made = scratch() / "repository.git"
    _git("init", "-q", "--bare", str(made))
    blob = _git("hash-object", "-w", "--stdin", data=b"content").decode().strip()
    inner = _git("mktree", data=f"100644 blob {blob}\tb\n".encode()).decode().strip()
    listed = f"100644 blob {blob}\ta\n040000 tree {inner}\tfolder\n120000 blob {blob}\tlink\n"
    tree = _git("mktree", data=listed.encode()).decode().strip()
    written = ["-c", "user.name=A", "-c", "user.email=a@example.invalid"]
    commit = _git(*written, "commit-tree", "-m", "x", tree).decode().strip()
    _git("update-ref", "refs/heads/main", commit)
    _git("symbolic-ref", "HEAD", "refs/heads/main")
    _git("repack", "-qad", "--write-midx")
    return made


def _git(*arguments: str, data: bytes = b"", check: bool = True) -> bytes:
    environment = git_environment(scratch() / "repository.git")
    done = subprocess.run(
        ["git", *arguments], env=environment, input=data, capture_output=True, check=check
    )
    return done.stdout if done.returncode == 0 else b""


def _objects(kind: str) -> Sequence[bytes]:
    repository()
    return [_git("cat-file", kind, f"main^{{{kind}}}")]


@target("git-tree", ValueError, seeds=lambda: _objects("tree"), slow=True)
def git_tree(data: bytes) -> None:
    """Tree objects, compared with ``git ls-tree``."""
    found = list(parse_tree(data))
    check_agreement(all(len(sha) == 20 for _, _, sha in found), "a short id", found)
    repository()
    written = _git("hash-object", "-t", "tree", "-w", "--stdin", data=data, check=False)
    if not written:  # git itself refuses it
        return
    listed = _git("ls-tree", "-z", "--full-tree", written.decode().strip()).split(b"\0")[:-1]
    names = [entry.partition(b"\t")[2] for entry in listed]
    check_agreement(names == [name for _, name, _ in found], "names", names, found)
    ids = [entry.partition(b"\t")[0].split(b" ")[2] for entry in listed]
    check_agreement(ids == [sha.hex().encode() for _, _, sha in found], "ids")


def _bundles() -> Sequence[bytes]:
    repository()
    return [_git("bundle", "create", "-q", "-", "HEAD", "main")]


@target("bundle", NeuromirrorError, seeds=_bundles, slow=True)
def bundle(data: bytes) -> None:
    """Heads of bundles."""
    file = scratch() / "x.bundle"
    file.write_bytes(data)
    for commit in read_bundle_refs(file).values():
        check_agreement(len(commit) == 40, commit)


class _FixedObjectReader(ObjectReader):
    content = b""

    def read(self, name: str) -> bytes:
        return self.content


_commits = partial(_objects, "commit")


@target("git-commit", ObjectMissingError, ValueError, seeds=_commits, kind="text", slow=True)
def git_commit(data: bytes) -> None:
    """The tree of a commit object, compared with git."""
    reader = _FixedObjectReader(repository())
    reader.content = data
    tree = reader.read_commit_tree("HEAD")
    with suppress(ValueError):
        parse_commit(data)
    written = _git("hash-object", "-t", "commit", "-w", "--stdin", data=data, check=False)
    if written:
        line = _git("cat-file", "commit", written.decode().strip()).split(b"\n")[0]
        # git accepts upper-case digits
        check_agreement(line.lower() == b"tree " + tree.hex().encode(), line, tree.hex())
