"""Read and write commits, trees, submodules and the index of a work tree.

Write ``.gitmodules``: the submodules of a dataset and their URLs.

Format: gitmodules(5), in the syntax of git-config(1). DataLad adds ``datalad-id``.

Read git objects of a repository, through one ``git cat-file --batch`` process if necessary.

:class:`ObjectReader` reads one object at a time, by any name; :class:`BatchObjectReader` reads
thousands by id, many per system call.

Write an index file of git in one pass, with a constant amount of memory.

Format: gitformat-index(5), version 2. git itself needs about 500 bytes of memory per entry.
"""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import threading
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct

from neuromirror.git.packs import (
    BLOB,
    COMMIT,
    TREE,
    ObjectIds,
    PackedObjects,
    PackWriter,
    object_id,
)
from neuromirror.git.runner import GitError, ObjectMissingError, git_environment, start_git

_SIGNATURE: Final = re.compile(r"(.*> ?)(-?[0-9]{1,11}) [+-][0-9]{4}", re.DOTALL)
"""Name, address and date; with more digits it would be after the year 5138."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The headers and the message of a commit object.

    Attributes
    ----------
    tree
        The tree's id in hex.
    parents
        The ids of the parents in hex.
    author, committer
        Name and address, as in ``Name <address>``.
    committed_at
        The committer date in seconds since the epoch.
    message
        Subject, body and trailers.
    """

    tree: str
    parents: tuple[str, ...]
    author: str
    committer: str
    committed_at: int
    message: str

    @property
    def subject(self) -> str:
        """The first line of the message."""
        return self.message.partition("\n")[0]


def parse_commit(data: bytes) -> Commit:
    """Parse a commit object.

    Parameters
    ----------
    data
        The content of the object, without its header. Bytes that are not UTF-8 are replaced.

    Returns
    -------
    Commit
        Its headers and message; other headers, such as signatures, are ignored.

    Raises
    ------
    ValueError
        The object has no tree, author or committer, or no date.
    """
    head, _, message = data.decode("utf-8", "replace").partition("\n\n")
    headers = [line.partition(" ")[::2] for line in head.split("\n")]
    # the first one counts, as in git
    first = dict(reversed(headers))
    missing = [name for name in ("tree", "author", "committer") if not first.get(name)]
    if missing:
        raise ValueError(f"a commit has no {missing[0]}")
    committer = _SIGNATURE.fullmatch(first["committer"])
    if committer is None:
        raise ValueError(f"a commit has no valid date: {first['committer'][:200]!r}")
    author = _SIGNATURE.fullmatch(first["author"])
    return Commit(
        first["tree"],
        tuple(value for name, value in headers if name == "parent"),
        (author[1] if author else first["author"]).rstrip(" "),
        committer[1].rstrip(" "),
        int(committer[2]),
        message,
    )


_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./-]+\Z")


class Submodule(Struct, frozen=True):
    """A submodule of a superproject.

    Attributes
    ----------
    path
        The path in the superproject.
    url
        The URL, relative to the superproject's.
    dataset_id
        The DataLad dataset id.
    """

    path: str
    url: str
    dataset_id: str


def gitmodules_content(modules: Iterable[Submodule]) -> bytes:
    """Return the content of ``.gitmodules``, sorted by path.

    Parameters
    ----------
    modules
        The subdatasets.

    Returns
    -------
    bytes
        The content, with path, URL and dataset id of each.
    """
    return "".join(
        f"[submodule {_quote(module.path)}]\n\tpath = {_config_value(module.path)}\n"
        f"\turl = {_config_value(module.url)}\n\tdatalad-id = {module.dataset_id}\n"
        for module in sorted(modules, key=lambda one: one.path.encode())
    ).encode()


def _config_value(value: str) -> str:
    """Return a value in git's configuration syntax (git-config(1), "Syntax")."""
    return value if _PLAIN_VALUE.match(value) else _quote(value)


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_MODES: Final = (b"40000", b"100644", b"100755", b"120000")
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

    def find(self, commit: str, path: str) -> bytes | None:
        """Return the content of a file of a commit.

        Parameters
        ----------
        commit
            The commit id in hex, or a ref.
        path
            The path of the file.

        Returns
        -------
        bytes or None
            The content; None if the trees of the commit have no such path.

        Raises
        ------
        ObjectMissingError
            An object on the way is missing or damaged.
        """
        with suppress(ObjectMissingError):
            return self.read(f"{commit}:{path}")
        sha = self.read_commit_tree(commit)
        for name in path.encode("utf-8", "surrogateescape").split(b"/"):
            tree = self.read(sha.hex())
            # a search is faster than parsing a large tree
            marks = (b"%s %s\0" % (mode, name) for mode in _MODES)
            end = next((at + len(mark) for mark in marks if (at := tree.find(mark)) >= 0), None)
            if end is None:
                return None
            sha = tree[end : end + 20]
        return self.read(sha.hex())

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
    """

    def __init__(self, git_dir: Path) -> None:
        self._git_dir = git_dir
        self._process = subprocess.Popen(
            ["git", "cat-file", "--batch"],
            env=git_environment(git_dir),
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


SYMLINK_MODE = b"120000"
REGULAR_FILE_MODE = b"100644"
TREE_MODE = b"40000"
GITLINK_MODE = b"160000"


class ListedEntry(NamedTuple):
    """A file, symlink or gitlink of a commit.

    Attributes
    ----------
    mode
        The mode, in ASCII digits.
    id
        The object id in hex.
    path
        The full path.
    """

    mode: bytes
    id: str
    path: bytes


def list_tree(git_dir: Path, commit: str) -> Generator[ListedEntry, None, None]:
    """Yield all files, symlinks and gitlinks of a commit in the order of ``git ls-tree -r``.

    Parameters
    ----------
    git_dir
        The repository.
    commit
        The id of a commit or tree in hex.

    Yields
    ------
    ListedEntry
        Mode, id and full path of an entry.

    Raises
    ------
    GitError
        git cannot list the commit; raised after the entries that git did list.
    """
    with start_git(git_dir, "ls-tree", "-r", "-z", "--full-tree", commit) as process:
        assert process.stdout is not None
        rest = b""
        while block := process.stdout.read(1 << 16):
            lines = (rest + block).split(b"\0")
            rest = lines.pop()
            for line in lines:
                header, _, path = line.partition(b"\t")
                mode, _, sha = header.split(b" ")
                yield ListedEntry(mode, sha.decode(), path)
        if process.wait():
            raise GitError(f"git cannot list commit {commit} of {git_dir}")


def tree_sort_key(name: bytes, mode: bytes) -> bytes:
    """Return the key by which git sorts a tree's entries: a folder's name ends in a slash."""
    return name + b"/" if mode == TREE_MODE else name


def write_tree(pack: PackWriter | ObjectIds, entries: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
    """Write one tree from entries in any order: name → (mode, 20-byte id).

    Parameters
    ----------
    pack
        The pack that gets the tree object.
    entries
        Name → (mode, 20-byte id).

    Returns
    -------
    bytes
        The tree's 20-byte id.
    """
    ordered = sorted(entries.items(), key=lambda item: tree_sort_key(item[0], item[1][0]))
    return pack.add(
        TREE, b"".join(b"%s %s\0%s" % (mode, name, sha) for name, (mode, sha) in ordered)
    )


class TreeBuilder:
    """Writes the trees of many paths, which are added in order of their bytes.

    That order is git's order within each tree: the path of a file in a folder continues with a
    slash, and git sorts the folder's name as if it ended in one. A tree is written as soon as a
    path outside of it is added, so only the open folders are in memory.
    """

    def __init__(self, pack: PackWriter | ObjectIds) -> None:
        self._pack = pack
        self._folder = b""
        self._names: list[bytes] = []
        self._open_trees = [bytearray()]

    def add(self, path: bytes, mode: bytes, sha: bytes) -> None:
        """Add a path that sorts after all earlier ones.

        Parameters
        ----------
        path
            The path in git, in bytes.
        mode
            The mode of the entry, such as ``b"100644"``.
        sha
            The entry's 20-byte id.
        """
        folder, _, name = path.rpartition(b"/")
        if folder != self._folder:
            self._enter_folder(folder)
        self._open_trees[-1] += b"%s %s\0%s" % (mode, name, sha)

    def _enter_folder(self, folder: bytes) -> None:
        names = folder.split(b"/") if folder else []
        shared = 0
        for here, there in zip(self._names, names, strict=False):
            if here != there:
                break
            shared += 1
        self._close_below(shared)
        for name in names[shared:]:
            self._names.append(name)
            self._open_trees.append(bytearray())
        self._folder = folder

    def _close_below(self, depth: int) -> None:
        while len(self._names) > depth:
            sha = self._pack.add(TREE, bytes(self._open_trees.pop()))
            self._open_trees[-1] += b"%s %s\0%s" % (TREE_MODE, self._names.pop(), sha)

    def finish(self, extra_entries: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
        """Write the open trees; return the root's 20-byte id.

        Parameters
        ----------
        extra_entries
            More entries of the root, which replace those of the same name: name → (mode, id).

        Returns
        -------
        bytes
            The root's 20-byte id.
        """
        self._close_below(0)
        if not extra_entries:
            return self._pack.add(TREE, bytes(self._open_trees[0]))
        entries = {name: (mode, sha) for mode, name, sha in parse_tree(bytes(self._open_trees[0]))}
        entries.update(extra_entries)
        return write_tree(self._pack, entries)


_CACHED_FOLDERS: Final = 256
_SORTED_FOLDERS: Final = 4
_ID_DIGITS: Final = 40

TreeEntry = tuple[bytes, bytes]
"""The mode and the 20-byte object id of an entry of a git tree."""


class CommitTree:
    """The files of a commit, looked up by path; each object is hashed. Thread-safe.

    The most recently used folders are kept in memory. :meth:`find` does not read whole folders.

    Parameters
    ----------
    repository
        The repository's own directory.
    commit
        The commit id in hex.
    """

    def __init__(self, repository: Path, commit: str) -> None:
        self.repository = repository
        self.commit = commit
        self._reader = ObjectReader(repository)
        self._lock = threading.RLock()
        try:
            is_id = len(commit) == _ID_DIGITS  # what a ref points to is not pinned by anything
            content = (
                self._read(COMMIT, bytes.fromhex(commit)) if is_id else self._reader.read(commit)
            )
            self._root = bytes.fromhex(parse_commit(content).tree)
        except BaseException:
            self._reader.__exit__()
            raise
        self._folder_of = lru_cache(_CACHED_FOLDERS)(self._read_folder)
        self._sorted_names = lru_cache(_SORTED_FOLDERS)(self._sort_names)

    def folder(self, path: str) -> dict[bytes, TreeEntry] | None:
        """Return the entries of a folder by name.

        Parameters
        ----------
        path
            The path of the folder; empty for the root.

        Returns
        -------
        dict or None
            Name → (mode, 20-byte id); None if the commit has no such folder.
        """
        found = self._folder_of(self._root)
        for name in filter(None, path.split("/")):
            entry = found.get(name.encode())
            if entry is None or entry[0] != TREE_MODE:
                return None
            found = self._folder_of(entry[1])
        return found

    def entry(self, path: str) -> TreeEntry | None:
        """Return the entry at a path, from the entries of its folder.

        Parameters
        ----------
        path
            The path of a file, folder or subdataset.

        Returns
        -------
        TreeEntry or None
            Its mode and id; None if the commit has no such path.
        """
        folder, _, name = path.rpartition("/")
        found = self.folder(folder)
        return None if found is None else found.get(name.encode())

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path that starts with a text, of an entry of the folder in the text."""
        folder, _, start = prefix.rpartition("/")
        names, name = self._sorted_names(folder), start.encode()
        at = bisect_left(names, name)
        if at == len(names) or not names[at].startswith(name):
            return None
        return f"{folder}/".lstrip("/") + names[at].decode("utf-8", "surrogateescape")

    def read_blob(self, sha: bytes) -> bytes:
        """Return the content of a blob.

        Parameters
        ----------
        sha
            Its 20-byte id.

        Returns
        -------
        bytes
            The content.
        """
        return self._read(BLOB, sha)

    def find(self, path: str, commit: str | None = None) -> bytes | None:
        """Return the content of a file that git itself looks up, without hashing the folders.

        This suits a file in a folder of very many, which is read once.

        Parameters
        ----------
        path
            The path of the file.
        commit
            Another commit of the repository, such as that of the git-annex branch.

        Returns
        -------
        bytes or None
            The content; None if the commit has no such file.
        """
        with self._lock:
            return self._reader.find(commit or self.commit, path)

    def close(self) -> None:
        """Let the git process finish."""
        with self._lock:
            self._reader.__exit__()

    def _sort_names(self, folder: str) -> list[bytes]:
        return sorted(self.folder(folder) or ())

    def _read_folder(self, sha: bytes) -> dict[bytes, TreeEntry]:
        return {name: (mode, entry) for mode, name, entry in parse_tree(self._read(TREE, sha))}

    def _read(self, kind: bytes, sha: bytes) -> bytes:
        with self._lock:
            content = self._reader.read(sha.hex())
        if object_id(kind, content) != sha:
            raise ObjectMissingError(
                f"{self.repository}: the {kind.decode()} {sha.hex()} does not match its id; check "
                f"it with 'git -C {self.repository} fsck', or clone it again"
            )
        return content


_HEADER: Final = struct.Struct(">4sII")
# mode, the 20-byte id, flags; without data of a file system, as `git update-index --cacheinfo`
_ENTRY: Final = struct.Struct(">24xI12x20sH")
_MAX_NAME_BYTES: Final = 0xFFF
_BUFFER_BYTES: Final = 1 << 20


def write_index_file(git_dir: Path, commit: str, path: Path) -> None:
    """Write an index with the files of a commit, for commands that read no work tree.

    Parameters
    ----------
    git_dir
        The repository.
    commit
        The id of the commit in hex.
    path
        The new index file.

    Raises
    ------
    GitError
        git cannot list the commit.
    OSError
        The file cannot be written.
    """
    with path.open("xb", buffering=_BUFFER_BYTES) as file:
        file.seek(_HEADER.size)
        count = 0
        for entry in list_tree(git_dir, commit):
            count += 1
            flags = min(len(entry.path), _MAX_NAME_BYTES)
            line = _ENTRY.pack(int(entry.mode, 8), bytes.fromhex(entry.id), flags) + entry.path
            file.write(line.ljust(len(line) // 8 * 8 + 8, b"\0"))
        file.seek(0)
        file.write(_HEADER.pack(b"DIRC", 2, count))
    with path.open("rb") as written:
        checksum = hashlib.file_digest(written, "sha1").digest()
    with path.open("ab") as file:
        file.write(checksum)
