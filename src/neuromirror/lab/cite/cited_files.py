"""The files of a state, read from its git tree and the git-annex branch, a thousand at a time.

Memory stays flat but for the branch's upper trees (30 MB for a million files). What a huge Zarr has
outside git, and what is in sub-datasets, is not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import IO, Final

from neuromirror.annex import (
    hash_lower,
    key_digest,
    key_file_name,
    key_from_file_name,
    parse_key,
    parse_log,
    strip_claim_prefix,
)
from neuromirror.git import GITLINK_MODE, SYMLINK_MODE, GitError, ListedEntry, list_tree, start_git
from neuromirror.lab.cite.errors import NotCitableError
from neuromirror.lab.cite.works import CitedState
from neuromirror.store import run_git

_AT_ONCE: Final = 1000
"""Ids that a pipe takes whole: git is told as many, and then its answers are read."""
_OWN_FOLDERS: Final = (b".datalad/", b".neuromirror/")
_UNSAFE: Final = re.compile(rb"(?:\A|/)(?:\.\.?)?(?:/|\Z)")
_OWN_FILES: Final = frozenset((b".gitattributes", b".gitmodules"))


@dataclass(frozen=True, slots=True)
class CitedFile:
    """A file: its path in git, what is known of its bytes, and where they can be had, best first.

    ``digest`` is (algorithm, value): sha256, md5, or etag (multipart).
    """

    path: str
    size: int | None
    digest: tuple[str, str] | None
    urls: tuple[str, ...]

    def hex(self, algorithm: str) -> str | None:
        """The digest, if it is of this algorithm."""
        return self.digest[1] if self.digest and self.digest[0] == algorithm else None

    @property
    def web_urls(self) -> tuple[str, ...]:
        """The places that every program can get."""
        return tuple(url for url in self.urls if url.startswith(("https://", "http://")))


@dataclass(frozen=True, slots=True)
class CitedDocument:
    """One of upstream's documents, which git holds itself."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class CitedSubdataset:
    """A sub-dataset at one of its commits."""

    path: str
    commit: str


CitedEntry = CitedFile | CitedDocument | CitedSubdataset


def cited_files(state: CitedState) -> Iterator[CitedEntry]:
    """Yields what a state holds of upstream, sorted by path; raises NotCitableError or
    StoreDamagedError."""
    with ExitStack() as stack:
        objects = _ObjectReader(stack, state)
        logs = _Logs(objects, state)
        entries = _entries(stack, state)
        while some := list(islice(entries, _AT_ONCE)):
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
    """The key that a symlink stands for, its size and its digest."""
    try:
        key = key_from_file_name(target.rpartition(b"/")[2])
        return key, parse_key(key).size, key_digest(key)
    except ValueError as error:
        raise NotCitableError(f"{path!r} is a symlink, and not to a file of git-annex") from error


def _entries(stack: ExitStack, state: CitedState) -> Iterator[ListedEntry]:
    """Mode, object id and path of what is upstream's, and chosen, in order of path."""
    parents: list[bytes] = []
    entries = stack.enter_context(closing(list_tree(state.git_dir, state.commit)))
    try:
        for entry in entries:
            path = entry.path
            if _UNSAFE.search(path):
                raise NotCitableError(
                    f"commit {state.commit} has a file {path!r}, which no mirror makes"
                )
            if _collides(parents, path):
                raise NotCitableError(
                    f"commit {state.commit} has {path!r} twice, or as a file and as a folder, "
                    "which no mirror makes; clone the dataset again, from its mirror"
                )
            is_own = path in _OWN_FILES or path.startswith(_OWN_FOLDERS)
            if not is_own and (state.is_cited is None or state.is_cited(path)):
                yield entry
    except GitError as error:
        raise NotCitableError(str(error)) from error


class _ObjectReader:
    """Objects of the repository by id, through one ``git cat-file``."""

    def __init__(self, stack: ExitStack, state: CitedState) -> None:
        self._process = stack.enter_context(start_git(state.git_dir, "cat-file", "--batch"))
        self._where = state.git_dir

    def read(self, names: list[str]) -> Iterator[bytes]:
        """The contents of at most a thousand objects; they are to be read to the end."""
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None
        assert answers is not None
        questions.write("".join(f"{name}\n" for name in names).encode())
        questions.flush()
        for name in names:
            yield self._answer(answers, name)

    def _answer(self, answers: IO[bytes], name: str) -> bytes:
        header = answers.readline().split()
        if len(header) != 3:
            raise NotCitableError(
                f"{self._where}: git object {name} cannot be read; check the repository with "
                f"'git -C {self._where} fsck'"
            )
        return answers.read(int(header[2]) + 1)[:-1]


class _Logs:
    """The URL logs of the git-annex branch.

    The branch grows with every version, and with whatever somebody does in a clone. Told is what
    it knew when the version was made, so that a citation stays the same: log lines have the date of
    the version that brought them. Where a key has no line so old, all its lines count.
    """

    def __init__(self, objects: _ObjectReader, state: CitedState) -> None:
        self._objects = objects
        # a configuration could name the program that looks at signatures
        shown = ("-c", "log.showSignature=false", "show", "-s")
        self._until = int(run_git(state.git_dir, *shown, "--format=%ct", state.commit))
        self._folders: dict[bytes, bytes] = {}
        self._tops: dict[bytes, str] = {}
        if state.annex is not None:
            tree = run_git(state.git_dir, "rev-parse", f"{state.annex}^{{tree}}").strip()
            (content,) = objects.read([tree])
            self._tops = dict(_children(content))

    def urls(self, keys: list[str]) -> Iterator[tuple[str, ...]]:
        """The places of at most a thousand keys, each best first."""
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
        there = [line for line in newest.values() if line.status == "1"]
        then = [line for line in there if line.timestamp <= self._until] or there
        urls = [strip_claim_prefix(line.value) for line in then]
        return tuple(sorted(urls, key=_rank)) if len(urls) > 1 else tuple(urls)


def _rank(url: str) -> tuple[bool, bool, str]:
    """An exact object of a bucket first, an API's download address last."""
    return "versionId=" not in url.partition("?")[2], url.endswith("/"), url


def _children(tree: bytes) -> Iterator[tuple[bytes, str]]:
    at = 0
    while at < len(tree):
        end = tree.index(b"\0", at)
        yield tree[tree.index(b" ", at) + 1 : end], tree[end + 1 : end + 21].hex()
        at = end + 21


def _collides(before: list[bytes], path: bytes) -> bool:
    """Whether a tree that has the paths before this one cannot have it as well.

    ``before`` are those that this path begins with, and the one before it, in order.
    """
    repeated = bool(before) and path <= before[-1]
    while before and not path.startswith(before[-1]):
        before.pop()
    inside = any(path.startswith(one + b"/") for one in before)
    before.append(path)
    return repeated or inside


def _folder(tree: bytes, name: bytes) -> str:
    """The id of a folder in a tree; empty where there is none of this name."""
    before = b"40000 %s\0" % name
    at = tree.find(before)
    return "" if at < 0 else tree[at + len(before) : at + len(before) + 20].hex()


def _child(tree: bytes, name: bytes) -> str:
    """The id of an entry of a tree; empty where there is none of this name."""
    return next((sha for found, sha in _children(tree) if found == name), "")
