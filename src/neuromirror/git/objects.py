"""Reading git objects of a bare repository, by one ``git cat-file --batch`` process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from neuromirror.model import NeuromirrorError, environment_without_secrets

# what `git rev-parse --local-env-vars` lists, and what makes git show other objects than there are
_REPOSITORY_VARIABLES = frozenset(
    f"GIT_{name}"
    for name in (
        *("ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "DIR", "GRAFT_FILE", "INDEX_FILE"),
        *("IMPLICIT_WORK_TREE", "NAMESPACE", "OBJECT_DIRECTORY", "PREFIX", "REPLACE_REF_BASE"),
        *("SHALLOW_FILE", "WORK_TREE"),
    )
)


def git_environment(
    repository: Path, *, fetch_missing: bool = False, credentials: bool = False
) -> dict[str, str]:
    """The environment for a git command on one bare repository of the store.

    A sync may be started from a git hook, whose GIT_DIR is of another repository. Named by
    GIT_DIR, a repository is used whoever owns it. Hash and ref format are what the store is
    written in, whatever git makes by default. A missing object is not fetched from a remote, whose
    program the repository's own configuration may name, unless ``fetch_missing`` says so.
    Tokens and passwords are in it only with ``credentials``, for a command that talks to a remote.
    """
    inherited = dict(os.environ) if credentials else environment_without_secrets()
    environment = {
        name: value for name, value in inherited.items() if name not in _REPOSITORY_VARIABLES
    }
    if not fetch_missing:
        environment["GIT_NO_LAZY_FETCH"] = "1"
    return environment | {
        "GIT_DIR": str(repository),
        "GIT_DEFAULT_HASH": "sha1",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }


class ObjectMissingError(NeuromirrorError):
    """The repository lacks an object it refers to: it is damaged."""


class ObjectReader:
    """Reads objects by id from one repository; a context manager."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ObjectReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def read(self, name: str) -> bytes:
        """The content of an object; raises ObjectMissingError."""
        if "\n" in name:
            raise ObjectMissingError(f"{self._repository}: no git object has the name {name!r}")
        if self._process is None:
            self._process = subprocess.Popen(
                ["git", "cat-file", "--batch"],
                env=git_environment(self._repository),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        header: list[bytes] = []
        with suppress(BrokenPipeError):  # git has ended: there is no repository, or it is damaged
            self._process.stdin.write(name.encode("utf-8", "surrogateescape") + b"\n")
            self._process.stdin.flush()
            # a name that is missing is repeated, with any number of spaces in it
            header = self._process.stdout.readline().split(b" ")
        if len(header) != 3 or not header[2].strip().isdigit():
            raise ObjectMissingError(
                f"{self._repository}: git object {name!r} cannot be read; check the repository "
                f"with 'git -C {self._repository} fsck'"
            )
        data = self._process.stdout.read(int(header[2]) + 1)
        return data[:-1]

    def read_tree(self, sha: bytes) -> dict[bytes, tuple[bytes, bytes]]:
        """A tree's entries: name → (mode, 20-byte id)."""
        return {name: (mode, entry) for mode, name, entry in parse_tree(self.read(sha.hex()))}

    def read_commit_tree(self, commit: str) -> bytes:
        """The 20-byte id of a commit's tree."""
        first = self.read(commit).split(b"\n", 1)[0]
        return bytes.fromhex(first.removeprefix(b"tree ").decode())


def parse_tree(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The entries of a tree object: (mode, name, 20-byte id); raises ValueError where it is cut."""
    at = 0
    while at < len(data):
        space = data.index(b" ", at)
        end = data.index(b"\0", space)
        if end + 21 > len(data):
            raise ValueError("a tree ends within an object id")
        yield data[at:space], data[space + 1 : end], data[end + 1 : end + 21]
        at = end + 21
