"""Read a commit with its trees and git-annex branch, each object hashed."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from msgspec import Struct, field

from neuromirror import git
from neuromirror.annex import (
    VaultAddress,
    log_path,
    parse_remote_log,
    strip_claim_prefix,
    url_log_path,
    vault_addresses,
)
from neuromirror.model import DESCRIPTION_PATH, NeuromirrorError, parse_description, path_to_text
from neuromirror.model.records import url_rank
from neuromirror.transfer.annex_branch import present_values
from neuromirror.transfer.outcomes import Finding, Status
from neuromirror.transfer.repository_check import check_repository, is_repository

_ADJUSTED: Final = re.compile(r"refs/heads/adjusted/(.+)\([^()]*\)")
_MAX_DEPTH: Final = 500


class NotADatasetError(NeuromirrorError):
    """The folder is not a git repository with a commit."""

    exit_code = 2


class ObjectDamagedError(NeuromirrorError):
    """A git object is missing, or its content does not match its id."""


class VerifiedEntry(NamedTuple):
    """An entry of a commit: mode, git path, object id in hexadecimal."""

    mode: bytes
    path: bytes
    sha: str


class CommitDescription(Struct, frozen=True):
    """A commit and its ``.neuromirror/dataset.json``, which describes the version.

    Attributes
    ----------
    commit, tree
        Object ids, in hexadecimal.
    label, dataset, state
        Version label, dataset and state digest; empty if the commit was not minted.
    form
        ``files``, or ``manifest`` for a dataset of which most files are not in git.
    manifest_only_files
        Number of files that are in the manifest but not in git.
    subdatasets
        ``id``, ``state``, ``files`` and ``bytes`` of the subdatasets, by git path.
    document
        The whole content of ``.neuromirror/dataset.json``; empty if the commit was not minted.
    """

    commit: str
    tree: str
    label: str = ""
    dataset: str = ""
    state: str = ""
    form: str = "files"
    manifest_only_files: int = 0
    subdatasets: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)


class VerifiedRepository:
    """Reads a git repository and hashes every object. Thread-safe; a context manager.

    An object whose content does not match its id raises :class:`ObjectDamagedError`.

    Parameters
    ----------
    git_dir
        The git folder of the repository, regardless of its owner.
    work_tree
        Top folder of its work tree, None for a bare repository.
    """

    def __init__(self, git_dir: Path, work_tree: Path | None) -> None:
        self.git_dir = git_dir
        self.work_tree = work_tree
        self._reader = git.ObjectReader(git_dir)
        self._lock = threading.Lock()
        self._annex = ""
        self._vaults: dict[str, VaultAddress] | None = None

    @classmethod
    def at(cls, folder: Path) -> VerifiedRepository:
        """Open the repository whose work tree, or own folder, is ``folder``.

        Parameters
        ----------
        folder
            The top folder of the work tree, or the git folder of a bare repository.

        Returns
        -------
        VerifiedRepository
            The repository; close it after use.

        Raises
        ------
        NotADatasetError
            The folder is neither.
        RepositoryRefusedError
            See :func:`check_repository`.
        """
        if not is_repository(folder):
            raise NotADatasetError(
                f"{folder} is not a dataset: it is not the top folder of a git repository"
            )
        checked = check_repository(folder)
        return cls(checked.git_dir, None if checked.git_dir == checked.top else folder)

    @cached_property
    def left_out(self) -> frozenset[bytes]:
        """The paths that a sparse checkout leaves out of the work tree (skip-worktree)."""
        listed = git.call_git(git.git_environment(self.git_dir), "ls-files", "-t", "-z").stdout
        return frozenset(line[2:] for line in listed.split(b"\0") if line.startswith(b"S "))

    def __enter__(self) -> VerifiedRepository:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._reader.__exit__()

    def head(self) -> str:
        """Return the checked-out commit; for an adjusted branch, that of the original branch.

        Returns
        -------
        str
            The commit id in hex.

        Raises
        ------
        NotADatasetError
            There is no commit yet.
        """
        branch = self._git("symbolic-ref", "-q", "HEAD")
        adjusted = _ADJUSTED.fullmatch(branch)
        name = f"refs/heads/{adjusted[1]}" if adjusted else "HEAD"
        found = self._git("rev-parse", "-q", "--verify", name)
        if not found:
            raise NotADatasetError(f"{self.work_tree or self.git_dir} has no commit checked out")
        return found

    def newest_minted(self, commit: str) -> str | None:
        """Return the newest minted commit in the history of ``commit``, or None.

        It may be ``commit`` itself.

        Parameters
        ----------
        commit
            The commit id in hex.

        Returns
        -------
        str or None
            The id of the minted commit, or None.
        """
        found = self._git(
            *("rev-list", "--topo-order", "--max-count=1", "-E", "--grep=^Mirror-Spec: [0-9]+$"),
            "--committer=@neuromirror[.]invalid>",
            commit,
            "--",
        )
        return found or None

    def changed_paths(self, old: str, new: str) -> dict[str, str]:
        """Return the paths that differ between commits, with A (added in ``new``), D, M or T.

        Parameters
        ----------
        old
            The old commit, in hex.
        new
            The new commit, in hex.

        Returns
        -------
        dict[str, str]
            The letter of the change, by path.

        Raises
        ------
        ObjectDamagedError
            git cannot compare the commits.
        """
        options = ("-r", "-z", "--no-renames", "--name-status")
        done = git.call_git(git.git_environment(self.git_dir), "diff-tree", *options, old, new)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            raise ObjectDamagedError(
                f"{self.git_dir}: commits {old} and {new} cannot be compared: {reason}"
            )
        fields = done.stdout.split(b"\0")[:-1]
        return {
            path_to_text(path): kind.decode()
            for kind, path in zip(fields[::2], fields[1::2], strict=True)
        }

    def has_commit(self, commit: str) -> bool:
        """Return whether the repository has a commit.

        Parameters
        ----------
        commit
            The commit id in hex.

        Returns
        -------
        bool
            Whether the commit exists.
        """
        return self._git("cat-file", "-t", commit) == "commit"

    def read(self, kind: str, sha: str) -> bytes:
        """Return the content of an object after hashing it.

        Parameters
        ----------
        kind
            The type of the object: ``blob``, ``tree`` or ``commit``.
        sha
            The object id in hex.

        Returns
        -------
        bytes
            The content.

        Raises
        ------
        ObjectDamagedError
            The object is missing, or its content does not match its id.
        """
        try:
            with self._lock:
                content = self._reader.read(sha)
        except git.ObjectMissingError as error:
            raise ObjectDamagedError(str(error)) from error
        if object_id(kind, content) != sha:
            raise ObjectDamagedError(
                f"{self.git_dir}: the {kind} {sha} does not match its id; check it with "
                f"'git -C {self.git_dir} fsck', or clone it again"
            )
        return content

    def describe(self, commit: str) -> CommitDescription:
        """Return a commit and its description.

        Parameters
        ----------
        commit
            The commit id in hex.

        Returns
        -------
        CommitDescription
            The commit and its description.

        Raises
        ------
        ObjectDamagedError
            If the commit cannot be parsed.
        """
        try:
            parsed = git.parse_commit(self.read("commit", commit))
        except ValueError as error:
            raise ObjectDamagedError(f"{self.git_dir}: commit {commit}: {error}") from error
        plain = CommitDescription(commit, parsed.tree)
        try:
            with self._lock:
                content = self._reader.read(f"{commit}:{DESCRIPTION_PATH}")
            document = parse_description(content, DESCRIPTION_PATH)
            return CommitDescription(
                commit,
                parsed.tree,
                label=parsed.subject.removeprefix(f"{document['dataset']} ").partition(" ")[0],
                dataset=document["dataset"],
                state=document["state"],
                form=document.get("form", "files"),
                manifest_only_files=document.get("manifest-only", {}).get("files", 0),
                subdatasets=document.get("parts", {}),
                document=document,
            )
        except (git.ObjectMissingError, ValueError, TypeError, KeyError, AttributeError):
            return plain  # not a minted commit

    def entries(self, tree: str, below: bytes = b"") -> Iterator[VerifiedEntry]:
        """Yield all files of a tree, in order of path; every tree is hashed.

        Parameters
        ----------
        tree
            The tree id in hex.
        below
            The path of the tree, with a final slash; empty for the top.

        Yields
        ------
        VerifiedEntry
            An entry of the tree or of a tree in it.

        Raises
        ------
        ObjectDamagedError
            A tree is malformed, or too deep.
        """
        if below.count(b"/") > _MAX_DEPTH:
            raise ObjectDamagedError(
                f"{self.git_dir}: the tree {tree} is more than {_MAX_DEPTH} folders deep"
            )
        try:
            found = list(git.parse_tree(self.read("tree", tree)))
        except ValueError as error:
            raise ObjectDamagedError(f"{self.git_dir}: tree {tree} is malformed") from error
        for mode, name, sha in found:
            if name in (b"", b".", b"..") or b"/" in name or name.lower() == b".git":
                raise ObjectDamagedError(
                    f"{self.git_dir}: tree {tree} has an entry with the forbidden name {name!r}"
                )
            if mode == git.TREE_MODE:
                yield from self.entries(sha.hex(), below + name + b"/")
            else:
                yield VerifiedEntry(mode, below + name, sha.hex())

    def use_annex_commit(self, commit: str) -> None:
        """Read logs from this commit of the git-annex branch from now on, if it exists.

        Parameters
        ----------
        commit
            The commit id in hex.
        """
        if self.has_commit(commit):
            self._annex = commit

    def urls(self, key: str) -> list[str]:
        """Return the URLs of a key's content from the git-annex branch, the most exact first.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        list[str]
            The URLs.
        """
        found = [strip_claim_prefix(value) for value in self._log_values(url_log_path(key))]
        return sorted(found, key=url_rank)

    def copies(self, key: str) -> list[str]:
        """Return the URLs of copies in vaults at web servers, from the git-annex branch.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        list[str]
            The URLs.
        """
        if self._vaults is None:
            found = vault_addresses(parse_remote_log(self._log(b"remote.log")))
            self._vaults = {uuid: one for uuid, one in found.items() if one.is_web}
        if not self._vaults:
            return []
        present = self._log_values(log_path(key))
        return [self._vaults[uuid].copy_url(key) for uuid in present if uuid in self._vaults]

    def equivalent_keys(self, key: str) -> list[str]:
        """Return the keys recorded for a VURL key when it was first downloaded.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        list[str]
            The keys.
        """
        try:
            return self._log_values(log_path(key) + b".ek")
        except NotADatasetError:
            return []

    def _log_values(self, path: bytes) -> list[str]:
        """Return the values that a log of the git-annex branch marks as present."""
        return present_values(self._log(path))

    def _log(self, path: bytes) -> bytes:
        """Return a file of the git-annex branch; empty if it is missing."""
        if not self._annex:
            # before "git annex init", the branch of a remote
            refs = ("refs/heads/git-annex", "refs/remotes/*/git-annex")
            listed = self._git("for-each-ref", "--format=%(objectname)", *refs)
            if not listed:
                where = self.work_tree or self.git_dir
                raise NotADatasetError(f"{where} has no git-annex branch, so no URLs are known")
            self._annex = listed.split()[0]
        with self._lock:
            return self._reader.find(self._annex, path.decode()) or b""

    def _git(self, *arguments: str) -> str:
        """Return the output of a git command, empty if it failed."""
        done = git.try_git(self.git_dir, *arguments, environment=git.MEMORY_LIMIT)
        return "" if done.returncode else done.stdout.strip()


def object_id(kind: str, content: bytes) -> str:
    """Return the id of a git object in hex: the sha1 of its type, length and content."""
    return git.packs.object_id(kind.encode(), content).hex()


class MultipartEtag(NamedTuple):
    """A multipart ETag that the archive states: ``<md5>-<parts>``, and the part size in bytes."""

    etag: str
    part_size: int


class PinnedFile(NamedTuple):
    """A file to be checked at its URLs: git path, annex key, and URLs, the most exact first.

    ``web_urls`` are the URLs that need no special remote; they are known for files of a manifest.
    ``parts`` is an ETag that the archive states beside the checksum in the key. ``copies`` are URLs
    in vaults, which are requested only if none of ``urls`` returns the file.
    """

    path: bytes
    key: str
    urls: tuple[str, ...]
    web_urls: tuple[str, ...] = ()
    parts: MultipartEtag | None = None
    copies: tuple[str, ...] = ()


Item = Finding | PinnedFile
"""A finished finding, or a file whose URLs are still to be checked."""


class InspectedEntry(Struct, frozen=True):
    """An entry of a commit, its annex key (None unless it is an annexed file), and its items."""

    entry: VerifiedEntry
    key: str | None
    items: tuple[Item, ...] = ()


def unreadable_entry(entry: VerifiedEntry, path: str, error: ObjectDamagedError) -> InspectedEntry:
    """Return the entry with an error as its only finding, because its git object cannot be read.

    ``path`` is the path in the outermost dataset.
    """
    finding = Finding(status="error", path=path, kind="document", message=str(error))
    return InspectedEntry(entry, None, (finding,))


def select_all(path: bytes) -> bool:
    """Return True for every path: the selection of a whole dataset."""
    return True


class VerifyScope(Struct, frozen=True):
    """The part of a dataset to verify; paths are relative to the outermost dataset.

    Attributes
    ----------
    is_selected
        Whether a file is to be verified.
    reaches
        Whether a subdataset may contain selected files.
    missing_status
        Status of content and subdatasets that are not on this machine.
    vaults
        Vaults that may have copies, in addition to those that a clone knows.
    """

    is_selected: Callable[[bytes], bool] = select_all
    reaches: Callable[[bytes], bool] = select_all
    missing_status: Status = "impossible"
    vaults: tuple[VaultAddress, ...] = ()

    def copies(self, key: str) -> tuple[str, ...]:
        """Return the URLs at which the vaults may have a content."""
        return tuple(vault.copy_url(key) for vault in self.vaults if vault.is_web)


class EntryInspector(Protocol):
    """A strategy for inspecting the entries of a commit: in a work tree, or by URL."""

    def inspect(
        self, clone: VerifiedRepository, below: bytes, entries: Iterable[VerifiedEntry]
    ) -> Iterator[InspectedEntry]:
        """Yield the result for each entry, in order; ``below`` is the folder of the clone."""
        ...
