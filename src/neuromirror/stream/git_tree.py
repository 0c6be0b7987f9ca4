"""The files of a commit in a repository: of a store, or of a clone."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.annex import (
    VaultAddress,
    find_local_copy,
    hash_lower,
    hash_mixed,
    key_file_name,
    parse_key,
    parse_link_target,
    parse_pointer,
    strip_claim_prefix,
    url_log_path,
    urls_with_copies,
)
from neuromirror.git import (
    GITLINK_MODE,
    SYMLINK_MODE,
    TREE_MODE,
    CommitTree,
    GitError,
    ObjectMissingError,
    read_refs,
)
from neuromirror.lab.lock_manifests import ListedFile, manifest_entry
from neuromirror.model import DESCRIPTION_PATH, ZARR_METADATA, BlockDigests, parse_json
from neuromirror.model.records import url_rank
from neuromirror.store import Store, StoreDamagedError
from neuromirror.store.block_digests import OwnBlockDigests
from neuromirror.store.records import RecordLookup
from neuromirror.stream.errors import StreamError
from neuromirror.transfer.annex_branch import (
    AnnexSettings,
    PublishedCopies,
    local_hosts,
    present_values,
)
from neuromirror.transfer.content_bodies import KeyChecksum, key_checksum
from neuromirror.transfer.repository_check import common_dir
from neuromirror.transfer.verified_repository import NotADatasetError, VerifiedRepository


class FolderEntry(Struct, frozen=True):
    """An entry of a folder.

    Attributes
    ----------
    name
        The name in the folder.
    is_folder
        Whether it is a folder or subdataset.
    size
        Size of a file in bytes; None if unknown.
    key
        The annex key of a file; empty for a document in git and for a folder.
    """

    name: str
    is_folder: bool
    size: int | None = None
    key: str = ""


class AccessRules(Struct, frozen=True):
    """The rules for requests to the locations of a state.

    Attributes
    ----------
    settings
        What git is configured with: allowed addresses, headers, and the settings of buckets.
    allowed_hosts
        Hosts, with their ports, to which requests are allowed even if they are in a private
        network.
    vaults
        The vaults of the user, which configure the requests for the copies in them.
    """

    settings: AnnexSettings
    allowed_hosts: frozenset[str] = frozenset()
    vaults: tuple[VaultAddress, ...] = ()

    def is_local(self, url: str) -> bool:
        """Return whether only the settings of this machine say on which server an object is.

        Parameters
        ----------
        url
            The URL of a content.

        Returns
        -------
        bool
            Whether it is in a vault with an endpoint.
        """
        return any(
            vault.access is not None and vault.access.endpoint and url.startswith(vault.base)
            for vault in self.vaults
        )


@runtime_checkable
class VersionTree(Protocol):
    """The files of one state. Thread-safe."""

    @property
    def name(self) -> str:
        """The name of the state, for messages and addresses."""

    @property
    def access(self) -> AccessRules:
        """The rules for requests to the locations of its files."""

    def file(self, path: str) -> ListedFile | None:
        """Return an annexed file; None if there is no such annexed file.

        Parameters
        ----------
        path
            The path in the version, through subdatasets.
        """

    def document(self, path: str) -> bytes | None:
        """Return the content of a plain file in git; None if there is no such file.

        Parameters
        ----------
        path
            The path in the version, through subdatasets.
        """

    def entries(self, folder: str) -> Iterator[FolderEntry] | None:
        """Return the entries of a folder, sorted by name; None if there is no such folder.

        Parameters
        ----------
        folder
            The path of the folder; empty for the top.
        """

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path that starts with a text, of a file; None without one.

        Parameters
        ----------
        prefix
            The start of a path, of which at least the folder exists.
        """

    def block_digests(self, file: ListedFile) -> BlockDigests | None:
        """Return the block digests of a file; None if there are none.

        Parameters
        ----------
        file
            A file of this state.
        """

    def local_content(self, file: ListedFile) -> Path | None:
        """Return the path of a local copy, whose bytes are not trusted; None without a copy.

        Parameters
        ----------
        file
            A file of this state.
        """

    def close(self) -> None:
        """Release processes and files."""


def listed_file(path: str, key: str, urls: tuple[str, ...]) -> ListedFile:
    """Return a file with the digest that its annex key states.

    Parameters
    ----------
    path
        The path in the version.
    key
        The annex key.
    urls
        Its URLs, best first.

    Returns
    -------
    ListedFile
        The file. Its digest is ``none`` for a key without sha256, MD5 or ETag.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    checksum = key_checksum(key)
    digest = "none"
    if checksum.algorithm == "etag":
        digest = f"etag:{checksum.value}-{checksum.part_size}"
    elif checksum.algorithm in ("sha256", "md5"):
        digest = f"{checksum.algorithm}:{checksum.value}"
    return ListedFile(path, key, digest, checksum.size, urls)


def content_checksum(file: ListedFile) -> KeyChecksum:
    """Return the checksum of a file: that of its line in the manifest, else that of its key.

    The state digest of a version covers the former only.

    Parameters
    ----------
    file
        The file.

    Returns
    -------
    KeyChecksum
        The checksum; without algorithm if none is known.
    """
    algorithm, _, value = file.digest.partition(":")
    if algorithm == "etag":
        etag, _, part_size = value.rpartition("-")
        return KeyChecksum("etag", etag, file.size, int(part_size))
    if algorithm != "none":
        return KeyChecksum(algorithm, value, file.size)
    if file.key and parse_key(file.key).backend not in ("URL", "VURL"):
        return key_checksum(file.key)
    return KeyChecksum("", "", file.size)


_MAX_LOCATIONS: Final = 5
"""Maximum number of URLs per file; identical contents share their URLs."""


class GitTree:
    """The files of a commit, including those of its subdatasets. Thread-safe.

    Parameters
    ----------
    repository
        The directory of the repository with the objects: a bare one, or ``.git``.
    commit
        The commit id in hex.
    annex_commit
        The commit of the git-annex branch in hex; None if there is no such branch.
    name
        The name of the version, for messages.
    source_host
        The host of the archive, with its port, to which requests are allowed even if it is in a
        private network, because the operator of the store named it; empty for none. The same holds
        for the hosts of vaults that the store names.
    store
        The store that has the subdatasets and block digests; None without a store.
    """

    def __init__(
        self,
        repository: Path,
        commit: str,
        annex_commit: str | None,
        name: str,
        source_host: str = "",
        store: Store | None = None,
    ) -> None:
        self._name = name
        self._annex_commit = annex_commit
        self._tree = CommitTree(repository, commit)
        self._store = store
        self._source_host = source_host
        self._subdatasets: dict[str, GitTree] = {}
        self._subdatasets_lock = threading.Lock()
        try:
            self._settings = AnnexSettings.load(repository)
            settings = None if store else self._settings
            self._copies = PublishedCopies(self._tree, annex_commit, settings)
            self._digests = OwnBlockDigests(store)
            description = self._description()
            self._has_subdatasets = bool(_subdataset_ids(description))
            self._is_manifest = description.get("form") == "manifest"
            self._records = self._open_records(repository, commit)
        except BaseException:
            self._tree.close()
            raise

    @property
    def name(self) -> str:
        """The name of the version."""
        return self._name

    @property
    def access(self) -> AccessRules:
        """The rules for requests: the configuration of the repository."""
        vaults = set() if self._store is None else self._copies.hosts()
        return AccessRules(self._settings, local_hosts({self._source_host, *vaults}))

    def file(self, path: str) -> ListedFile | None:
        """Return an annexed file with its URLs; None if there is no such annexed file."""
        tree, inner = self._locate(path)
        if tree._records is not None:
            # one look-up instead of several in git; their URLs are those of the version
            found = tree._records.file(path, inner)
            if found is not None and (tree._is_manifest or found.urls):
                return tree._with_copies(found)
            if found is None:
                return None
        content = tree._annexed_pointer(inner)
        if content is None:
            name = inner.rpartition("/")[2].encode("utf-8", "surrogateescape")
            # the metadata of its Zarrs are in git
            if tree._is_manifest and name not in ZARR_METADATA:
                raise tree._no_manifest_error(path)
            return None
        key = _annex_key(content)
        return None if key is None else tree._with_copies(listed_file(path, key, tree._urls(key)))

    def document(self, path: str) -> bytes | None:
        """Return the content of a plain file in git; None if there is no such file."""
        tree, inner = self._locate(path)
        entry = tree._tree.entry(inner)
        if entry is None or entry[0] in (TREE_MODE, SYMLINK_MODE, GITLINK_MODE):
            return None
        content = tree._tree.read_blob(entry[1])
        return None if _annex_key(content) is not None else content

    def entries(self, folder: str) -> Iterator[FolderEntry] | None:
        """Return the entries of a folder, sorted by name; None if there is no such folder."""
        tree, inner = self._locate(folder)
        found = tree._tree.folder(inner)
        outside: Iterator[FolderEntry] = iter(())
        if tree._is_manifest:
            if tree._records is None:
                raise tree._no_manifest_error(folder)
            outside = tree._records.entries(inner)
        first = next(outside, None)
        if found is None and first is None:
            return None
        in_git = [
            tree._folder_entry(name, mode, sha) for name, (mode, sha) in (found or {}).items()
        ]
        if first is None:
            return iter(sorted(in_git, key=lambda one: one.name))
        return _merge_entries(in_git, chain((first,), outside))

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path that starts with a text, of a file; None without one."""
        tree, inner = self._locate(prefix)
        if tree._records is not None:
            found = tree._records.first_with_prefix(inner)
        else:
            found = tree._tree.first_with_prefix(inner)
        return None if found is None else prefix + found[len(inner) :]

    def names(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder, each with whether it is a folder; no content is read.

        Parameters
        ----------
        folder
            The path of the folder; empty for the top.
        """
        tree, inner = self._locate(folder)
        if tree._is_manifest:
            yield from ((entry.name, entry.is_folder) for entry in tree.entries(inner) or ())
            return
        for name, (mode, _) in (tree._tree.folder(inner) or {}).items():
            yield name.decode("utf-8", "surrogateescape"), mode in (TREE_MODE, GITLINK_MODE)

    def has(self, path: str) -> bool:
        """Return whether the git tree has a file or folder at a path.

        Parameters
        ----------
        path
            The path in the version, through subdatasets.
        """
        tree, inner = self._locate(path)
        return tree._tree.entry(inner) is not None

    def block_digests(self, file: ListedFile) -> BlockDigests | None:
        """Return the block digests of a file, from the store or those of the user."""
        return self._digests.find(file.key) if file.key else None

    def local_content(self, file: ListedFile) -> Path | None:
        """Return the path of a copy in a vault on this machine; None without one."""
        return find_local_copy(file.key, self._locate(file.path)[0]._copies.vaults(file.key))

    def vaults(self, file: ListedFile) -> list[VaultAddress]:
        """Return the vaults that have a copy of a file, the preferred ones first.

        Parameters
        ----------
        file
            A file of this state.

        Returns
        -------
        list of VaultAddress
            The vaults.
        """
        return self._locate(file.path)[0]._copies.vaults(file.key)

    def close(self) -> None:
        """Let the git processes finish."""
        with self._subdatasets_lock:
            for tree in self._subdatasets.values():
                tree.close()
            if self._records is not None:
                self._records.close()
            self._tree.close()

    def _with_copies(self, file: ListedFile) -> ListedFile:
        """Return a file with the URLs of its copies in vaults."""
        vaults = [vault for vault in self._copies.vaults(file.key) if vault.is_url]
        if not vaults:
            return file
        return replace(file, urls=urls_with_copies(file.key, file.urls, vaults))

    # --- entries

    def _folder_entry(self, name: bytes, mode: bytes, sha: bytes) -> FolderEntry:
        text = name.decode("utf-8", "surrogateescape")
        if mode in (TREE_MODE, GITLINK_MODE):
            return FolderEntry(text, True)
        content = self._tree.read_blob(sha)
        key = _annex_key(content)
        if key is None:
            return FolderEntry(text, False, len(content))
        return FolderEntry(text, False, parse_key(key).size, key)

    def _annexed_pointer(self, path: str) -> bytes | None:
        """Return the target of a link or the content of a possible pointer file."""
        entry = self._tree.entry(path)
        if entry is None or entry[0] in (TREE_MODE, GITLINK_MODE):
            return None
        return self._tree.read_blob(entry[1])

    def _urls(self, key: str) -> tuple[str, ...]:
        """Return the URLs that git-annex knows for a key, those of an object version first."""
        if self._annex_commit is None:
            return ()
        log = self._tree.find(url_log_path(key).decode(), self._annex_commit)
        found = [strip_claim_prefix(value) for value in present_values(log or b"")]
        found.sort(key=url_rank)
        return tuple(found[:_MAX_LOCATIONS])

    # --- subdatasets

    def _locate(self, path: str) -> tuple[GitTree, str]:
        """Return the innermost dataset that has a path, and the path in it."""
        tree, above, names = self, "", path.strip("/").split("/")
        if self._store is not None and not self._has_subdatasets:
            return tree, path.strip("/")
        for number, name in enumerate(names):
            above = f"{above}/{name}" if above else name
            entry = tree._tree.entry(above)
            if entry is None or entry[0] not in (TREE_MODE, GITLINK_MODE):
                break
            if entry[0] == GITLINK_MODE:
                tree = tree._subdataset(above, entry[1].hex())
                inner, rest = tree._locate("/".join(names[number + 1 :]))
                return inner, rest
        return tree, path.strip("/")

    def _subdataset(self, path: str, commit: str) -> GitTree:
        with self._subdatasets_lock:
            found = self._subdatasets.get(path)
            if found is None:
                found = self._subdatasets[path] = self._open_subdataset(path, commit)
            return found

    def _open_subdataset(self, path: str, commit: str) -> GitTree:
        """Open a subdataset; the store has one repository per dataset id."""
        dataset_id = _subdataset_ids(self._description()).get(path)
        name = f"{self._name}/{path}"
        if self._store is None or dataset_id is None:
            raise StreamError(f"{name}: the subdataset is not available here", path)
        repository = self._store.root / dataset_id[:3] / dataset_id[3:]
        try:
            annex_commit = read_refs(repository).get("refs/heads/git-annex")
            return GitTree(repository, commit, annex_commit, name, self._source_host, self._store)
        except (GitError, ObjectMissingError, OSError) as error:
            raise StreamError(f"{name}: the subdataset cannot be read: {error}", path) from error

    def _description(self) -> dict[str, Any]:
        """Return the description of the dataset; empty for one that was not minted here."""
        entry = self._tree.entry(DESCRIPTION_PATH)
        content = None if entry is None else self._tree.read_blob(entry[1])
        document = parse_json(content, DESCRIPTION_PATH) if content else None
        return document if isinstance(document, dict) else {}

    def _open_records(self, repository: Path, commit: str) -> ManifestFiles | None:
        """Return the records of the version, if the store has them."""
        dataset_id = repository.parent.name + repository.name
        if self._store is None or not self._store.records.has(dataset_id, commit):
            return None
        try:
            newest = self._store.records.newest(dataset_id, commit)
            return ManifestFiles(self._store.records.lookup(dataset_id, newest))
        except StoreDamagedError:
            if self._is_manifest:
                raise
            return None  # git has these files, too

    def _no_manifest_error(self, path: str) -> StreamError:
        return StreamError(
            f"{self._name}: {path} may be one of the files that are listed in the manifest and not "
            "in git, which only the mirror's store and lock files have; open the version in the "
            "store, or its lock file",
            path,
        )


def _subdataset_ids(description: dict[str, Any]) -> dict[str, str]:
    """Return the dataset ids of the subdatasets by path."""
    parts = description.get("parts")
    if not isinstance(parts, dict):
        return {}
    return {
        path: part["id"]
        for path, part in parts.items()
        if isinstance(part, dict) and isinstance(part.get("id"), str)
    }


def _merge_entries(
    in_git: list[FolderEntry], outside: Iterator[FolderEntry]
) -> Iterator[FolderEntry]:
    """Yield the entries of both in the order of paths; of an entry in both only the first."""
    last = ""
    for entry in merge(sorted(in_git, key=_path_order), outside, key=_path_order):
        if entry.name != last:
            yield entry
        last = entry.name


def _path_order(entry: FolderEntry) -> bytes:
    """Return a key by which entries are in the order of the paths in or below them."""
    return (
        f"{entry.name}/".encode("utf-8", "surrogateescape")
        if entry.is_folder
        else (entry.name.encode("utf-8", "surrogateescape"))
    )


def _annex_key(content: bytes) -> str | None:
    """Return the key that a link or a pointer file names."""
    return parse_link_target(content) or parse_pointer(content)


# --- the files of a version in the records of the store, which have each file with its URLs


class ManifestFiles:
    """The files of a version, from its records. Thread-safe.

    Parameters
    ----------
    records
        The records, which are closed with the object.
    """

    def __init__(self, records: RecordLookup) -> None:
        self._records = records

    def file(self, path: str, inner: str) -> ListedFile | None:
        """Return a file with its URLs, best first; None if the version has no such file.

        Parameters
        ----------
        path
            The path of the file in the outermost dataset, for the result.
        inner
            The path of the file in this dataset, which is looked up.

        Returns
        -------
        ListedFile or None
            The file.
        """
        entry = self._records.find(inner.encode("utf-8", "surrogateescape"))
        if entry is None or entry.subdataset is not None:
            return None
        found = manifest_entry(entry, "", "manifest")
        assert isinstance(found, ListedFile)
        urls = sorted(map(strip_claim_prefix, found.urls), key=url_rank)
        return ListedFile(
            path, found.key, found.digest, found.size, tuple(urls), found.checked, False
        )

    def entries(self, folder: str) -> Iterator[FolderEntry]:
        """Yield the entries of a folder in the order of paths; none for a missing folder.

        Parameters
        ----------
        folder
            The path of the folder in the dataset; empty for the top.

        Yields
        ------
        FolderEntry
            An entry.
        """
        for name, entry in self._records.entries(folder.encode("utf-8", "surrogateescape")):
            text = name.decode("utf-8", "surrogateescape")
            if entry is None or entry.subdataset is not None:
                yield FolderEntry(text, True)
            else:
                yield FolderEntry(text, False, entry.record.size, entry.key)

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path that starts with a text; None without one."""
        found = self._records.first_with_prefix(prefix.encode("utf-8", "surrogateescape"))
        return None if found is None else found.decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Close the records."""
        self._records.close()


# --- the checked-out files of a clone: contents that it has are read there, others at their URLs


class CloneTree(GitTree):
    """The files of the commit that is checked out in a clone. Thread-safe.

    Parameters
    ----------
    folder
        The top folder of the work tree.
    commit
        Another commit; by default the one that is checked out.

    Raises
    ------
    NotADatasetError
        The folder is not a clone, or has no commit yet.
    """

    def __init__(self, folder: Path, commit: str | None = None) -> None:
        with VerifiedRepository.at(folder) as repository:
            git_dir = common_dir(repository.git_dir)
            commit = commit or repository.head()
        self._folder = folder
        self._objects = git_dir / "annex" / "objects"
        super().__init__(git_dir, commit, _annex_commit(git_dir), str(folder))

    def local_content(self, file: ListedFile) -> Path | None:
        """Return the path of the content in the clone or in a vault; None without one."""
        tree, _ = self._locate(file.path)
        if not isinstance(tree, CloneTree) or not file.key:
            return None
        name = key_file_name(file.key).decode()
        for folder in (hash_mixed(file.key), hash_lower(file.key)):
            path = tree._objects / folder.decode() / name / name
            if path.exists():
                return path
        return super().local_content(file)

    def _open_subdataset(self, path: str, commit: str) -> GitTree:
        try:
            return CloneTree(self._folder / path, commit)
        except NotADatasetError as error:
            raise StreamError(
                f"{self._folder / path}: the subdataset is not installed; run 'datalad get -n "
                f"{path}' in {self._folder}",
                path,
            ) from error


def _annex_commit(git_dir: Path) -> str | None:
    """Return the git-annex branch; before ``git annex init``, the one of a remote."""
    refs = read_refs(git_dir)
    ref = refs.get("refs/heads/git-annex")
    others = (
        commit
        for name, commit in sorted(refs.items())
        # not custody/git-annex of a remote, which has no URLs
        if re.fullmatch(r"refs/remotes/[^/]+/git-annex", name)
    )
    return ref or next(others, None)
