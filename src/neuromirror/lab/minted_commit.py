"""Read a minted commit from git: the keys of its files, its subdatasets, its state digest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from neuromirror.annex import find_pointer_key, key_from_file_name, link_target, record_of_key
from neuromirror.git import (
    GITLINK_MODE,
    SYMLINK_MODE,
    BatchObjectReader,
    GitError,
    ListedEntry,
    ObjectMissingError,
    ObjectReader,
    list_tree,
    start_git,
)
from neuromirror.lab.lock_manifests import ListedFile, ListedSubdataset
from neuromirror.model import (
    DESCRIPTION_PATH,
    NeuromirrorError,
    manifest_digest,
    parse_description,
    path_to_text,
)

_FILES = (b"100644", b"100755", b"100664")
_MAX_POINTER_BYTES = 80 << 10
"""Maximum size in bytes of a file that git-annex reads as a pointer."""
# number of ids that always fit into a pipe: they are written at once, then the replies are read
_BATCH = 1000


class CommitUnreadableError(NeuromirrorError):
    """A commit was not minted by a mirror, or cannot be read by git."""


@dataclass(slots=True)
class MintedCommit:
    """A minted commit in the repository ``git_dir``.

    ``description`` is its ``.neuromirror/dataset.json``.

    Raises
    ------
    CommitUnreadableError
        The commit cannot be read, or was not minted.
    """

    git_dir: Path
    commit: str
    tree: str = field(init=False)
    description: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        with ObjectReader(self.git_dir) as reader:
            try:
                self.tree = reader.read_commit_tree(self.commit).hex()
                content = reader.read(f"{self.commit}:{DESCRIPTION_PATH}")
                self.description = parse_description(content, DESCRIPTION_PATH)
            except (ObjectMissingError, ValueError) as error:
                raise CommitUnreadableError(
                    f"commit {self.commit} in {self.git_dir} was not created by neuromirror: "
                    f"{error}"
                ) from error

    @property
    def form(self) -> str:
        """Return ``files``, or ``manifest`` for a huge Zarr, most of which is not in git."""
        return str(self.description.get("form", "files"))

    @property
    def manifest_only_files(self) -> int:
        """Return the number of files that are not in git."""
        return int(self.description.get("manifest-only", {}).get("files", 0))

    def entries(self) -> Iterator[ListedFile | ListedSubdataset]:
        """Yield the annexed files, from their keys, and the subdatasets, in the order of paths.

        Pointer files (unlocked files of git-annex) are annexed files too.

        Raises
        ------
        CommitUnreadableError
            The commit cannot be read.
        """
        with ExitStack() as stack:
            objects = stack.enter_context(BatchObjectReader(self.git_dir))
            sizes = stack.enter_context(
                start_git(self.git_dir, "cat-file", "--batch-check=%(objectsize)")
            )
            entries = stack.enter_context(closing(list_tree(self.git_dir, self.commit)))
            try:
                while some := list(islice(entries, _BATCH)):
                    yield from self._read(some, objects, sizes)
            except ValueError as error:
                raise CommitUnreadableError(
                    f"commit {self.commit} in {self.git_dir} was not created by neuromirror: "
                    f"{error}"
                ) from error
            except GitError as error:
                raise CommitUnreadableError(str(error)) from error

    def _read(
        self,
        entries: list[ListedEntry],
        objects: BatchObjectReader,
        sizes: subprocess.Popen[bytes],
    ) -> Iterator[ListedFile | ListedSubdataset]:
        assert sizes.stdout is not None
        files = [sha for mode, sha, _ in entries if mode in _FILES]
        _ask(sizes, files)
        small = {sha for sha in files if _size(sizes.stdout) <= _MAX_POINTER_BYTES}

        def is_small(mode: bytes, sha: str) -> bool:
            return mode in _FILES and sha in small

        contents = objects.read(
            [
                sha.encode()
                for mode, sha, _ in entries
                if mode == SYMLINK_MODE or is_small(mode, sha)
            ]
        )
        for mode, sha, path in entries:
            if mode == SYMLINK_MODE:
                yield _file(path, _existing(next(contents)))
            elif is_small(mode, sha):
                key = find_pointer_key(_existing(next(contents)))
                if key is not None:
                    yield _listed(path, key)
            elif mode == GITLINK_MODE:
                yield self._subdataset(path, sha)

    def _subdataset(self, path: bytes, commit: str) -> ListedSubdataset:
        name = path_to_text(path)
        subdataset = self.description.get("parts", {}).get(name)
        if subdataset is None:
            raise CommitUnreadableError(
                f"the description of commit {self.commit} lacks the subdataset {name}"
            )
        mirror = self.description["dataset"].partition(":")[0]
        return ListedSubdataset(
            name,
            subdataset["id"],
            f"{mirror}:{subdataset['local-id']}",
            commit,
            subdataset["state"],
            subdataset["files"],
            subdataset["bytes"],
        )


def _ask(process: subprocess.Popen[bytes], names: list[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{name}\n" for name in names).encode())
    process.stdin.flush()


def _size(sizes: IO[bytes]) -> int:
    line = sizes.readline()
    if not line.strip().isdigit():
        raise CommitUnreadableError(f"an object of a commit is missing: {line!r}")
    return int(line)


def _existing(content: bytes | None) -> bytes:
    if content is None:
        raise CommitUnreadableError("an object of a commit is missing")
    return content


def _file(path: bytes, target: bytes) -> ListedFile:
    """Return a file from its link target.

    The target must be exactly the one that a mirror writes: a link to an object of another
    repository has the same key, but arbitrary content.
    """
    try:
        key = key_from_file_name(target.rpartition(b"/")[2])
    except ValueError as error:
        raise CommitUnreadableError(f"{path!r} was not created by a mirror: {error}") from error
    found = _listed(path, key)
    if target != link_target(key, path):
        raise CommitUnreadableError(
            f"{path!r} links to another path than the annex object of its key"
        )
    return found


def _listed(path: bytes, key: str) -> ListedFile:
    try:
        record = record_of_key(key, path)
        return ListedFile(path.decode(), key, manifest_digest(record), record.size)
    except ValueError as error:
        raise CommitUnreadableError(f"{path!r} was not created by a mirror: {error}") from error
