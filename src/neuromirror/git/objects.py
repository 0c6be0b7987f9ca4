"""Read git objects of a repository through one ``git cat-file --batch`` process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from neuromirror.git.errors import ObjectMissingError
from neuromirror.git.runner import git_environment


class ObjectReader:
    """Reads objects of one repository by name; a context manager.

    Names are those of ``git rev-parse``: an object id in hex, ``HEAD``, ``<commit>:<path>``.
    """

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
        """Return the content of an object; raise ObjectMissingError where git has none."""
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
        with suppress(BrokenPipeError):  # git has exited: no repository, or a damaged one
            self._process.stdin.write(name.encode("utf-8", "surrogateescape") + b"\n")
            self._process.stdin.flush()
            # for a missing object git repeats the name, which may contain spaces
            header = self._process.stdout.readline().split(b" ")
        if len(header) != 3 or not header[2].strip().isdigit():
            raise ObjectMissingError(
                f"{self._repository}: git object {name!r} cannot be read; check the repository "
                f"with 'git -C {self._repository} fsck'"
            )
        data = self._process.stdout.read(int(header[2]) + 1)
        return data[:-1]

    def read_tree(self, sha: bytes) -> dict[bytes, tuple[bytes, bytes]]:
        """Return a tree's entries: name → (mode, 20-byte id)."""
        return {name: (mode, entry) for mode, name, entry in parse_tree(self.read(sha.hex()))}

    def read_commit_tree(self, commit: str) -> bytes:
        """Return the 20-byte id of a commit's tree."""
        first = self.read(commit).split(b"\n", 1)[0]
        return bytes.fromhex(first.removeprefix(b"tree ").decode())


def parse_tree(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the entries of a tree object: mode, name, 20-byte id.

    Raises ValueError where the object is truncated.
    """
    start = 0
    while start < len(data):
        space = data.index(b" ", start)
        end = data.index(b"\0", space)
        if end + 21 > len(data):
            raise ValueError("a tree ends within an object id")
        yield data[start:space], data[space + 1 : end], data[end + 1 : end + 21]
        start = end + 21
