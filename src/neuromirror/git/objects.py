"""Read git objects of a repository, through one ``git cat-file --batch`` process if necessary.

:class:`ObjectReader` reads one object at a time, by any name; :class:`BatchObjectReader` reads
thousands by id, many per system call.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from neuromirror.git.commits import parse_commit
from neuromirror.git.errors import GitError, ObjectMissingError
from neuromirror.git.packed_objects import PackedObjects
from neuromirror.git.runner import git_environment

_AT_ONCE: Final = 500
"""Requests sent before their replies are read; all of them fit into a pipe's buffer."""


class ObjectReader:
    """Reads objects of one repository by name; a context manager.

    Names are those of ``git rev-parse``: an object id in hex, ``HEAD``, ``<commit>:<path>``.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._packed = PackedObjects(repository)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ObjectReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._packed.close()
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def read(self, name: str) -> bytes:
        """Return the content of an object.

        Parameters
        ----------
        name
            An object name as git accepts it: an id in hex, a ref, or ``<commit>:<path>``.

        Returns
        -------
        bytes
            The content, without a header.

        Raises
        ------
        ObjectMissingError
            The repository has no such object, or git cannot read it.
        """
        if "\n" in name:
            raise ObjectMissingError(f"{self._repository}: no git object has the name {name!r}")
        if self._process is None:
            # starting git takes ten times as long as reading a few objects
            found = self._packed.read(name)
            if found is not None:
                return found
            self._process = subprocess.Popen(
                ["git", "cat-file", "--batch"],
                env=git_environment(self._repository),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        header: list[bytes] = []
        data = b""
        with suppress(BrokenPipeError):  # git has exited: no repository, or a damaged one
            self._process.stdin.write(name.encode("utf-8", "surrogateescape") + b"\n")
            self._process.stdin.flush()
            # for a missing object git repeats the name, which may contain spaces
            header = self._process.stdout.readline().split(b" ")
        is_found = len(header) == 3 and header[2].strip().isdigit()
        if is_found:
            data = self._process.stdout.read(int(header[2]) + 1)
        # git prints the header of a damaged object too
        if not is_found or len(data) != int(header[2]) + 1:
            raise ObjectMissingError(
                f"{self._repository}: git object {name!r} cannot be read; check the repository "
                f"with 'git -C {self._repository} fsck'"
            )
        return data[:-1]

    def read_tree(self, sha: bytes) -> dict[bytes, tuple[bytes, bytes]]:
        """Return a tree's entries.

        Parameters
        ----------
        sha
            The tree's 20-byte id.

        Returns
        -------
        dict
            Name → (mode, 20-byte id).
        """
        return {name: (mode, entry) for mode, name, entry in parse_tree(self.read(sha.hex()))}

    def read_commit_tree(self, commit: str) -> bytes:
        """Return the id of a commit's tree.

        Parameters
        ----------
        commit
            The commit id in hex, or a ref that points to a commit.

        Returns
        -------
        bytes
            The tree's 20-byte id.
        """
        return bytes.fromhex(parse_commit(self.read(commit)).tree)


class BatchObjectReader:
    """Reads many objects of one repository by id; a context manager.

    Parameters
    ----------
    git_dir
        The repository's own directory.
    fetch_missing
        As for :func:`git_environment`.
    """

    def __init__(self, git_dir: Path, *, fetch_missing: bool = False) -> None:
        self._git_dir = git_dir
        self._process = subprocess.Popen(
            ["git", "cat-file", "--batch"],
            env=git_environment(git_dir, fetch_missing=fetch_missing),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=1 << 18,
        )

    def __enter__(self) -> BatchObjectReader:
        return self

    def __exit__(self, *_: object) -> None:
        # a reader that stops early leaves replies unread, which git must not wait for
        self._process.kill()
        self._process.communicate()

    def read(self, names: Sequence[bytes]) -> Iterator[bytes | None]:
        """Yield the contents of objects in order.

        The iterator must be exhausted before the next call.

        Parameters
        ----------
        names
            Object names, such as ids in hex, without newlines.

        Yields
        ------
        bytes or None
            The content without a header; None for an object that does not exist.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        requests, replies = self._process.stdin, self._process.stdout
        for first in range(0, len(names), _AT_ONCE):
            some = names[first : first + _AT_ONCE]
            try:
                requests.write(b"\n".join(some) + b"\n")
                requests.flush()
            except BrokenPipeError as error:
                raise self._ended_early() from error
            for _ in some:
                fields = replies.readline().split()
                if not fields:
                    raise self._ended_early()
                yield replies.read(int(fields[2]) + 1)[:-1] if len(fields) == 3 else None

    def _ended_early(self) -> GitError:
        return GitError(
            f"{self._git_dir}: 'git cat-file --batch' ended early; check the repository with "
            f"'git -C {self._git_dir} fsck'"
        )


def parse_tree(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the entries of a tree object.

    Parameters
    ----------
    data
        The content of the object, without its header.

    Yields
    ------
    tuple[bytes, bytes, bytes]
        Mode, name and 20-byte id.

    Raises
    ------
    ValueError
        The object is truncated.
    """
    start = 0
    while start < len(data):
        space = data.index(b" ", start)
        end = data.index(b"\0", space)
        if end + 21 > len(data):
            raise ValueError("a tree ends within an object id")
        yield data[start:space], data[space + 1 : end], data[end + 1 : end + 21]
        start = end + 21
