"""Read the files of a state from its git tree and the git-annex branch, in batches.

Memory is constant except for the upper trees of the branch (30 MB for a million files). Files of a
huge Zarr outside git and files in subdatasets are not included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from typing import Final

from msgspec import Struct

from neuromirror.annex import (
    hash_lower,
    key_digest,
    key_file_name,
    key_from_file_name,
    parse_key,
    parse_log,
    strip_claim_prefix,
)
from neuromirror.git import (
    GITLINK_MODE,
    SYMLINK_MODE,
    BatchObjectReader,
    Commit,
    GitError,
    ListedEntry,
    list_tree,
    parse_commit,
    parse_tree,
)
from neuromirror.lab.cite.errors import NotCitableError
from neuromirror.lab.cite.works import CitedState

_BATCH: Final = 1000
"""Number of entries that are read at once."""
_OWN_FOLDERS: Final = (b".datalad/", b".neuromirror/")
_UNSAFE: Final = re.compile(rb"(?:\A|/)(?:\.\.?)?(?:/|\Z)")
_OWN_FILES: Final = frozenset((b".gitattributes", b".gitmodules"))


class CitedFile(Struct, frozen=True):
    """A file: its path in git, size, digest and URLs, best first.

    ``digest`` is (algorithm, value): sha256, md5, or etag (multipart).
    """

    path: str
    size: int | None
    digest: tuple[str, str] | None
    urls: tuple[str, ...]

    def hex(self, algorithm: str) -> str | None:
        """Return the digest if it has this algorithm."""
        return self.digest[1] if self.digest and self.digest[0] == algorithm else None

    @property
    def web_urls(self) -> tuple[str, ...]:
        """Return the http and https URLs."""
        return tuple(url for url in self.urls if url.startswith(("https://", "http://")))


class CitedDocument(Struct, frozen=True):
    """A document of upstream in a version, which is a plain file in git (not annexed)."""

    path: str
    content: bytes


class CitedSubdataset(Struct, frozen=True):
    """A subdataset and its commit."""

    path: str
    commit: str


CitedEntry = CitedFile | CitedDocument | CitedSubdataset


def cited_files(state: CitedState) -> Iterator[CitedEntry]:
    """Yield the files, documents and subdatasets of a state, sorted by path.

    Raises
    ------
    NotCitableError, StoreDamagedError
        The state cannot be read.
    """
    with ExitStack() as stack:
        objects = _ObjectReader(stack, state)
        logs = _Logs(objects, state)
        entries = _entries(stack, state)
        while some := list(islice(entries, _BATCH)):
            yield from _read(some, objects, logs)


def _read(entries: list[ListedEntry], objects: _ObjectReader, logs: _Logs) -> Iterator[CitedEntry]:
    contents = iter(objects.read([sha for mode, sha, _ in entries if mode != GITLINK_MODE]))
    read = [
        (mode, path.decode(), sha.encode() if mode == GITLINK_MODE else next(contents))
        for mode, sha, path in entries
    ]
    keys = [_key(path, one) for mode, path, one in read if mode == SYMLINK_MODE]
    urls = logs.urls([key for key, _, _ in keys])
    parsed_keys = iter(keys)
    for mode, path, content in read:
        if mode == SYMLINK_MODE:
            _, size, digest = next(parsed_keys)
            yield CitedFile(path, size, digest, next(urls))
        elif mode == GITLINK_MODE:
            yield CitedSubdataset(path, content.decode())
        else:
            yield CitedDocument(path, content)


def _key(path: str, target: bytes) -> tuple[str, int | None, tuple[str, str] | None]:
    """Return the key of a symlink, its size and its digest."""
    try:
        key = key_from_file_name(target.rpartition(b"/")[2])
        return key, parse_key(key).size, key_digest(key)
    except ValueError as error:
        raise NotCitableError(f"{path!r} is a symlink, but not to a file of git-annex") from error


def _entries(stack: ExitStack, state: CitedState) -> Iterator[ListedEntry]:
    """Yield the cited entries of upstream, in the order of paths."""
    parents: list[bytes] = []
    entries = stack.enter_context(closing(list_tree(state.git_dir, state.commit)))
    try:
        for entry in entries:
            path = entry.path
            if _UNSAFE.search(path):
                raise NotCitableError(
                    f"commit {state.commit} has a file {path!r}, which no mirror writes"
                )
            if _collides(parents, path):
                raise NotCitableError(
                    f"commit {state.commit} has {path!r} twice, or as a file and as a folder, "
                    "which no mirror writes; clone the dataset again from its mirror"
                )
            is_own = path in _OWN_FILES or path.startswith(_OWN_FOLDERS)
            if not is_own and (state.is_cited is None or state.is_cited(path)):
                yield entry
    except GitError as error:
        raise NotCitableError(str(error)) from error


class _ObjectReader:
    """Reads objects by id; all of them must exist."""

    def __init__(self, stack: ExitStack, state: CitedState) -> None:
        self._objects = stack.enter_context(BatchObjectReader(state.git_dir))
        self._git_dir = state.git_dir

    def read(self, names: list[str]) -> Iterator[bytes]:
        """Yield the contents of objects; the iterator must be exhausted."""
        contents = self._objects.read([name.encode() for name in names])
        for name, content in zip(names, contents, strict=True):
            if content is None:
                raise NotCitableError(
                    f"{self._git_dir}: git object {name} cannot be read; check the repository with "
                    f"'git -C {self._git_dir} fsck'"
                )
            yield content

    def read_commit(self, commit: str) -> Commit:
        """Return a commit."""
        (content,) = self.read([commit])
        try:
            return parse_commit(content)
        except ValueError as error:
            raise NotCitableError(f"{self._git_dir}: commit {commit}: {error}") from error


class _Logs:
    """The URL logs of the git-annex branch, as they were when the version was minted.

    The branch changes with every version and in clones. Log lines have the date of their version,
    so that later lines are ignored and a citation does not change. If all lines of a key are later,
    all of them are used.
    """

    def __init__(self, objects: _ObjectReader, state: CitedState) -> None:
        self._objects = objects
        self._until = objects.read_commit(state.commit).committed_at
        self._folders: dict[bytes, bytes] = {}
        self._tops: dict[bytes, str] = {}
        if state.annex is not None:
            (content,) = objects.read([objects.read_commit(state.annex).tree])
            self._tops = {name: sha.hex() for _, name, sha in parse_tree(content)}

    def urls(self, keys: list[str]) -> Iterator[tuple[str, ...]]:
        """Yield the URLs of at most 1000 keys, best first."""
        folders = [hash_lower(key) for key in keys]
        missing = {folder[:3] for folder in folders} - self._folders.keys()
        new = sorted(top for top in missing if top in self._tops)
        contents = self._objects.read([self._tops[top] for top in new])
        self._folders.update(zip(new, contents, strict=True))
        leaves = [_folder(self._folders.get(one[:3], b""), one[4:]) for one in folders]
        trees = iter(list(self._objects.read([leaf for leaf in leaves if leaf])))
        logs = [
            _child(next(trees), key_file_name(key) + b".log.web") if leaf else ""
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        found = iter(list(self._objects.read([log for log in logs if log])))
        return (self._current_urls(next(found)) if log else () for log in logs)

    def _current_urls(self, log: bytes) -> tuple[str, ...]:
        newest = {
            line.value: line for line in sorted(parse_log(log), key=lambda one: one.timestamp)
        }
        present = [line for line in newest.values() if line.status == "1"]
        cited = [line for line in present if line.timestamp <= self._until] or present
        urls = [strip_claim_prefix(line.value) for line in cited]
        return tuple(sorted(urls, key=_rank)) if len(urls) > 1 else tuple(urls)


def _rank(url: str) -> tuple[bool, bool, str]:
    """Return a sort key: object versions of a bucket first, download URLs of an API last."""
    return "versionId=" not in url.partition("?")[2], url.endswith("/"), url


def _collides(before: list[bytes], path: bytes) -> bool:
    """Return whether a path is a duplicate or below the path of a file.

    ``before`` has the previous path and those that are prefixes of it, in order.
    """
    repeated = bool(before) and path <= before[-1]
    while before and not path.startswith(before[-1]):
        before.pop()
    inside = any(path.startswith(one + b"/") for one in before)
    before.append(path)
    return repeated or inside


def _folder(tree: bytes, name: bytes) -> str:
    """Return the id of a folder in a tree, or an empty text."""
    before = b"40000 %s\0" % name
    at = tree.find(before)
    return "" if at < 0 else tree[at + len(before) : at + len(before) + 20].hex()


def _child(tree: bytes, name: bytes) -> str:
    """Return the id of an entry of a tree, or an empty text."""
    return next((sha.hex() for _, found, sha in parse_tree(tree) if found == name), "")
