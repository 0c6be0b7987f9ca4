"""What a minted commit holds, read from git alone: its files' keys, its parts, its state digest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from neuromirror.annex import find_pointer_key, key_from_file_name, link_target, parse_key
from neuromirror.git import (
    GITLINK_MODE,
    SYMLINK_MODE,
    GitError,
    ListedEntry,
    ObjectMissingError,
    ObjectReader,
    list_tree,
    start_git,
)
from neuromirror.lab.lock_manifests import (
    ListedFile,
    ListedSubdataset,
    canonical_line,
)
from neuromirror.model import (
    DESCRIPTION_PATH,
    NeuromirrorError,
    StateDigest,
    parse_description,
    path_to_text,
)

_ALGORITHMS = {
    "SHA256E": "sha256",
    "SHA256": "sha256",
    "MD5E": "md5",
    "MD5": "md5",
    "XS3ETAG": "etag",
}
_FILES = (b"100644", b"100755", b"100664")
_LONGEST_POINTER = 80 << 10
"""Bytes of a file that git-annex looks into for a pointer."""
# as many ids as a pipe always takes: git is asked for that many at once, and then read
_AT_ONCE = 1000


class CommitUnreadableError(NeuromirrorError):
    """A commit that no mirror minted, or one that git cannot read."""


@dataclass(slots=True)
class MintedCommit:
    """A minted commit in a repository, whose own folder ``git_dir`` is.

    ``described`` is what its ``.neuromirror/dataset.json`` says. Raises CommitUnreadableError.
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
                    f"commit {self.commit} in {self.git_dir} was not made by neuromirror: {error}"
                ) from error

    @property
    def form(self) -> str:
        """``files``, or ``manifest`` for a huge Zarr, most of which has no place in git."""
        return str(self.description.get("form", "files"))

    @property
    def manifest_only_files(self) -> int:
        """How many of its files have no place in git."""
        return int(self.description.get("manifest-only", {}).get("files", 0))

    def compute_state(self) -> str:
        """The state digest of what is in git; of form ``manifest`` the one that it tells.

        Raises CommitUnreadableError.
        """
        if self.form != "files":
            return str(self.description["state"])
        digest = StateDigest()
        for one in self.entries():
            digest.add(canonical_line(one))
        return digest.value()

    def entries(self) -> Iterator[ListedFile | ListedSubdataset]:
        """Its annexed files, as their keys tell of them, and its parts, in order of path.

        A mirror makes links alone; a file that git-annex takes for a pointer (an unlocked file) is
        annexed as well. Raises CommitUnreadableError.
        """
        with ExitStack() as stack:
            objects = stack.enter_context(start_git(self.git_dir, "cat-file", "--batch"))
            sizes = stack.enter_context(
                start_git(self.git_dir, "cat-file", "--batch-check=%(objectsize)")
            )
            entries = stack.enter_context(closing(list_tree(self.git_dir, self.commit)))
            try:
                while some := list(islice(entries, _AT_ONCE)):
                    yield from self._read(some, objects, sizes)
            except ValueError as error:
                raise CommitUnreadableError(
                    f"commit {self.commit} in {self.git_dir} was not made by neuromirror: {error}"
                ) from error
            except GitError as error:
                raise CommitUnreadableError(str(error)) from error

    def _read(
        self,
        entries: list[ListedEntry],
        objects: subprocess.Popen[bytes],
        sizes: subprocess.Popen[bytes],
    ) -> Iterator[ListedFile | ListedSubdataset]:
        assert objects.stdout is not None
        assert sizes.stdout is not None
        files = [sha for mode, sha, _ in entries if mode in _FILES]
        _ask(sizes, files)
        small = {sha for sha in files if _size(sizes.stdout) <= _LONGEST_POINTER}

        def is_small(mode: bytes, sha: str) -> bool:
            return mode in _FILES and sha in small

        _ask(
            objects,
            [sha for mode, sha, _ in entries if mode == SYMLINK_MODE or is_small(mode, sha)],
        )
        for mode, sha, path in entries:
            if mode == SYMLINK_MODE:
                yield _file(path, _answer(objects.stdout))
            elif is_small(mode, sha):
                key = find_pointer_key(_answer(objects.stdout))
                if key is not None:
                    yield _listed(path, key)
            elif mode == GITLINK_MODE:
                yield self._subdataset(path, sha)

    def _subdataset(self, path: bytes, commit: str) -> ListedSubdataset:
        name = path_to_text(path)
        subdataset = self.description.get("parts", {}).get(name)
        if subdataset is None:
            raise CommitUnreadableError(
                f"commit {self.commit} does not say what the sub-dataset {name} is"
            )
        mirror = self.description["dataset"].partition(":")[0]
        return ListedSubdataset(
            name,
            f"{mirror}:{subdataset['local-id']}",
            subdataset["id"],
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
        raise CommitUnreadableError(f"git lacks an object of a commit: {line!r}")
    return int(line)


def _answer(objects: IO[bytes]) -> bytes:
    header = objects.readline().split()
    if len(header) != 3:
        raise CommitUnreadableError(f"git lacks an object of a commit: {header!r}")
    return objects.read(int(header[2]) + 1)[:-1]


def _file(path: bytes, target: bytes) -> ListedFile:
    """A file as its key tells of it.

    Its link must be just the one that a mirror makes: one to an object of another repository names
    the same key, and gives whatever bytes lie there.
    """
    try:
        key = key_from_file_name(target.rpartition(b"/")[2])
    except ValueError as error:
        raise CommitUnreadableError(f"{path!r} is no file that a mirror makes: {error}") from error
    found = _listed(path, key)
    if target != link_target(key, path):
        raise CommitUnreadableError(
            f"{path!r} is a link to elsewhere than git-annex keeps its content"
        )
    return found


def _listed(path: bytes, key: str) -> ListedFile:
    try:
        return ListedFile(path.decode(), key, manifest_digest_of_key(key), parse_key(key).size)
    except ValueError as error:
        raise CommitUnreadableError(f"{path!r} is no file that a mirror makes: {error}") from error


def manifest_digest_of_key(key: str) -> str:
    """The digest that a key proves, as the canonical manifest spells it; ``none`` without one."""
    backend, _, name = parse_key(key)
    algorithm = _ALGORITHMS.get(backend)
    if algorithm is None:
        return "none"
    return f"{algorithm}:{name if algorithm == 'etag' else name.partition('.')[0]}"
