"""Targets: git trees, commits, pack indexes, bundles and ``.gitmodules``, compared with git."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fuzz_core import check_agreement, fixed_seeds, target

from neuromirror.annex import git_path
from neuromirror.git import (
    ObjectMissingError,
    ObjectReader,
    Submodule,
    git_environment,
    gitmodules_content,
    parse_tree,
    read_bundle_refs,
)
from neuromirror.git.errors import PackIndexError
from neuromirror.git.pack_indexes import PackIndex, multi_pack_index_names, pack_size
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


def _pack(suffix: str) -> bytes:
    (found,) = (repository() / "objects" / "pack").glob(f"*{suffix}")
    return found.read_bytes()


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


class _FixedObjectReader(ObjectReader):
    """A reader of one object, whatever it is asked for."""

    content = b""

    def read(self, name: str) -> bytes:
        """Return the object."""
        return self.content


@target(
    "git-commit",
    ObjectMissingError,
    ValueError,
    seeds=lambda: _objects("commit"),
    kind="text",
    slow=True,
)
def git_commit(data: bytes) -> None:
    """The tree of a commit object, compared with ``git rev-parse``."""
    reader = _FixedObjectReader(repository())
    reader.content = data
    tree = reader.read_commit_tree("HEAD")
    written = _git("hash-object", "-t", "commit", "-w", "--stdin", data=data, check=False)
    if written:
        tree_line = _git("cat-file", "commit", written.decode().strip()).split(b"\n")[0]
        # git accepts upper-case digits
        is_equal = tree_line.lower() == b"tree " + tree.hex().encode()
        check_agreement(is_equal, tree_line, tree.hex())


@target("pack-index", PackIndexError, seeds=lambda: [_pack(".idx")], slow=True)
def pack_index(data: bytes) -> None:
    """Indexes of packs, compared with ``git show-index``."""
    folder = scratch() / "objects" / "pack"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pack-x.pack").write_bytes(b"")
    (folder / "pack-x.idx").write_bytes(data)
    size = pack_size(folder, "pack-x")
    with PackIndex(folder / "pack-x.idx") as ids:
        found = set[bytes]().union(*(ids.ids_starting_with(first) for first in range(256)))
    shown = _git("show-index", data=data, check=False)
    if shown:
        check_agreement(
            {bytes.fromhex(line.split()[1].decode()) for line in shown.splitlines()} == found, "ids"
        )
        check_agreement(size.objects == len(shown.splitlines()), "objects", size.objects)


@target("multi-pack-index", seeds=lambda: [_midx()])
def multi_pack_index(data: bytes) -> None:
    """Multi-pack indexes; one that cannot be read names a pack that is nowhere."""
    file = scratch() / "multi-pack-index"
    file.write_bytes(data)
    check_agreement(isinstance(multi_pack_index_names(file), set), "no set")


def _midx() -> bytes:
    return (repository() / "objects" / "pack" / "multi-pack-index").read_bytes()


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


@target("gitmodules", seeds=fixed_seeds("a/b.zarr\ncé\x01\n.git\\config"), kind="text", slow=True)
def gitmodules(data: bytes) -> None:
    """``.gitmodules`` for any upstream names, read back by ``git config``."""
    names = {git_path(name).decode() for name in data.split(b"\n")[:20]}
    made = [
        Submodule(name, f"../../000/{number}", "0" * 36)
        for number, name in enumerate(sorted(names))
    ]
    file = scratch() / "gitmodules"
    file.write_bytes(gitmodules_content(made))
    listed = _git("config", "-z", "-f", str(file), "--get-regexp", r"^submodule\..*\.path$").split(
        b"\0"
    )[:-1]
    check_agreement({one.partition(b"\n")[2].decode() for one in listed} == names, listed, names)
