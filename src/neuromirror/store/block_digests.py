"""Files with the block digests of contents: one per annex key.

::

    <folder>/<ab>/<rest>      <ab><rest> is the sha256 of the key's text in hex

A reader who knows a key finds the file without an index. In a store, the folder is
``<store>/block-digests``, which is served; digests that were computed without a store are in a
folder of the user. See docs/reference/block-digests.md.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from neuromirror.annex import key_digest, parse_key
from neuromirror.annex.keys import S3_EMPTY_ETAG
from neuromirror.git import GitError, ObjectMissingError
from neuromirror.model import (
    BlockDigests,
    ContentsDigested,
    DatasetRef,
    DigestedContent,
    InvalidDocumentError,
    SnapshotEntry,
    VersionMinted,
    decode_block_digests,
    encode_block_digests,
    load_snapshot_entries,
)
from neuromirror.model.block_digests import MAX_ENCODED_BYTES
from neuromirror.store.durable_files import make_folder, write_atomically
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.records_from_git import read_records_from_git
from neuromirror.store.store import Store

_FOLDER: Final = "block-digests"
_OWNER_MODE: Final = 0o700
ENTRY_CONTENTS: Final = 500
"""Maximum number of contents in a journal entry."""


class BlockDigestsDamagedError(StoreDamagedError):
    """A file with block digests is damaged, or belongs to another key."""


class BlockDigestsConflictError(StoreDamagedError):
    """Two passes over the content of one key read different bytes."""


class BlockDigestsFolder:
    """A folder with the block digests of contents; safe for several processes.

    Parameters
    ----------
    root
        The folder, which may be missing.
    is_private
        Whether :meth:`write` creates the folder with access for its owner only.
    """

    def __init__(self, root: Path, *, is_private: bool = False) -> None:
        self.root = root
        self._is_private = is_private

    @classmethod
    def of_store(cls, store: Store) -> BlockDigestsFolder:
        """Return the folder of a store.

        Parameters
        ----------
        store
            The store.

        Returns
        -------
        BlockDigestsFolder
            Its folder.
        """
        return cls(store.root / _FOLDER)

    @classmethod
    def of_user(cls) -> BlockDigestsFolder:
        """Return the folder of the user, for digests that were computed without a store.

        Returns
        -------
        BlockDigestsFolder
            The folder, in the user's data folder.
        """
        from platformdirs import user_data_path

        return cls(user_data_path("neuromirror") / _FOLDER, is_private=True)

    def path(self, key: str) -> Path:
        """Return the path of the file of a key.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        Path
            The path; the file may be missing.
        """
        name = block_digests_name(key)
        return self.root / name[:2] / name[2:]

    def has(self, key: str) -> bool:
        """Return whether there is a file for a key, which may be damaged.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        bool
            Whether the file exists.
        """
        return self.path(key).exists()

    def read(self, key: str) -> BlockDigests | None:
        """Return the block digests of a key's content.

        Parameters
        ----------
        key
            The annex key.

        Returns
        -------
        BlockDigests or None
            The digests, which are consistent and agree with the key; None if there are none.

        Raises
        ------
        BlockDigestsDamagedError
            The file is damaged, or belongs to another key.
        """
        path = self.path(key)
        try:
            return read_block_digests_file(path, key)[1]
        except FileNotFoundError:
            return None

    def write(self, key: str, digests: BlockDigests) -> BlockDigests | None:
        """Write the block digests of a key's content, unless the folder has them.

        Digests of smaller pieces replace those of larger ones, because they verify smaller reads.
        Part MD5s of the old file are kept. A damaged file is replaced.

        Parameters
        ----------
        key
            The annex key.
        digests
            The digests.

        Returns
        -------
        BlockDigests or None
            The digests written; None if the file has them already.

        Raises
        ------
        BlockDigestsConflictError
            The folder has digests of other bytes for the key, or the digests contradict the key.
        """
        if problem := key_contradiction(key, digests):
            raise BlockDigestsConflictError(f"{key}: {problem}; nothing was recorded")
        try:
            known = self.read(key)
        except BlockDigestsDamagedError:
            known = None
        if known is not None:
            if (known.size, known.sha256, known.root) != (
                digests.size,
                digests.sha256,
                digests.root,
            ):
                raise BlockDigestsConflictError(
                    f"{key}: the sha256 of its bytes is {digests.sha256}, but {self.path(key)} "
                    f"records {known.sha256}: its content changed. Remove the file to record the "
                    "new content"
                )
            digests = _merged(known, digests)
            if digests == known:
                return None
        path = self.path(key)
        if self._is_private and not self.root.exists():
            make_folder(self.root)
            self.root.chmod(_OWNER_MODE)
        make_folder(path.parent)
        write_atomically(path, encode_block_digests(key, digests))
        return digests

    def paths(self) -> Iterator[Path]:
        """Yield the paths of all files, sorted.

        Yields
        ------
        Path
            The path of a file.
        """
        with suppress(FileNotFoundError):
            for folder in sorted(self.root.iterdir()):
                if folder.is_dir():
                    yield from sorted(
                        path for path in folder.iterdir() if not path.name.startswith(".")
                    )


class OwnBlockDigests:
    """Looks up block digests that were computed on this machine: in a store, then for the user.

    Parameters
    ----------
    store
        The store; None without one.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.user = BlockDigestsFolder.of_user()
        self.store = None if store is None else BlockDigestsFolder.of_store(store)
        self.folders = [one for one in (self.store, self.user) if one is not None]

    def find(self, key: str) -> BlockDigests | None:
        """Return the block digests of a key; None if there are none."""
        return next((found for one in self.folders if (found := one.read(key)) is not None), None)


def block_digests_name(key: str) -> str:
    """Return the name of the block digests of a key, which is also used in URLs.

    Parameters
    ----------
    key
        The annex key.

    Returns
    -------
    str
        The sha256 of the key's text in UTF-8, in hex.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def digested_content(key: str, digests: BlockDigests) -> DigestedContent:
    """Return what the journal records about the block digests of a key.

    Parameters
    ----------
    key
        The annex key.
    digests
        The digests.

    Returns
    -------
    DigestedContent
        The part of a journal entry.
    """
    return DigestedContent(key, digests.sha256, digests.piece_size, digests.root.hex())


def digest_entries(contents: Sequence[DigestedContent], at: str) -> Iterator[ContentsDigested]:
    """Yield journal entries for block digests that were written to the store.

    Parameters
    ----------
    contents
        The contents.
    at
        The time, as in the journal.

    Yields
    ------
    ContentsDigested
        An entry with at most 500 of the contents.
    """
    for start in range(0, len(contents), ENTRY_CONTENTS):
        yield ContentsDigested(list(contents[start : start + ENTRY_CONTENTS]), at)


def read_block_digests_file(path: Path, key: str | None = None) -> tuple[str, BlockDigests]:
    """Read and check a file with block digests.

    Parameters
    ----------
    path
        The path. Its last two components are the sha256 of the key: ``<ab>/<rest>``.
    key
        The expected annex key; None for any key with this sha256.

    Returns
    -------
    tuple of (str, BlockDigests)
        The key, and its digests, which are consistent and agree with the key.

    Raises
    ------
    BlockDigestsDamagedError
        The file is damaged, or belongs to another key.
    FileNotFoundError
        The file is missing.
    """
    advice = "remove it, and compute it again with 'neuromirror digest'"
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_ENCODED_BYTES:
            problem = "it is not a regular file of at most"
            raise BlockDigestsDamagedError(f"{path}: {problem} {MAX_ENCODED_BYTES} bytes; {advice}")
        content = file.read(MAX_ENCODED_BYTES + 1)
    try:
        return check_encoded(content, str(path), key, path.parent.name + path.name)
    except InvalidDocumentError as error:
        raise BlockDigestsDamagedError(f"{error}; {advice}") from error


def check_encoded(
    content: bytes, document: str, key: str | None = None, name: str = ""
) -> tuple[str, BlockDigests]:
    """Decode block digests, which are untrusted, and compare them with their key.

    Parameters
    ----------
    content
        The encoded digests.
    document
        The name of the document in error messages.
    key
        The expected annex key; None for any.
    name
        The expected name of the digests; empty for any.

    Returns
    -------
    tuple of (str, BlockDigests)
        The key and its digests.

    Raises
    ------
    InvalidDocumentError
        The content is not in the format, is inconsistent, belongs to another key or contradicts
        it.
    """
    found, digests = decode_block_digests(content, document)
    if key is not None and found != key:
        raise InvalidDocumentError(document, "key", key, found)
    if name and block_digests_name(found) != name:
        raise InvalidDocumentError(document, "key", f"the key with the sha256 {name}", found)
    if problem := key_contradiction(found, digests):
        raise InvalidDocumentError(document, "", "digests that agree with the key", problem)
    return found, digests


def key_contradiction(key: str, digests: BlockDigests) -> str:
    """Compare block digests with the size and the checksum in their key.

    Parameters
    ----------
    key
        The annex key.
    digests
        The digests.

    Returns
    -------
    str
        The contradiction, for an error message; empty if they agree, or the key has neither.
    """
    try:
        size, stated = parse_key(key).size, key_digest(key)
    except ValueError as error:
        return str(error)
    if size is not None and size != digests.size:
        return f"the size is {digests.size} bytes, expected {size}"
    algorithm, value = stated or ("", "")
    if algorithm == "sha256" and value != digests.sha256:
        return f"the sha256 is {digests.sha256}, expected {value}"
    if algorithm == "etag" and digests.part_size is not None:
        part_size = key.rpartition("-")[2]
        if str(digests.part_size) != part_size:
            return f"the parts have {digests.part_size} bytes, expected {part_size}"
        etag = digests.parts_etag()
        if etag != value and not (digests.size == 0 and value == S3_EMPTY_ETAG):
            return f"the ETag of the parts is {etag}, expected {value}"
    return ""


def _merged(known: BlockDigests, new: BlockDigests) -> BlockDigests:
    """Return the digests with the smaller pieces, and the part MD5s of either."""
    finer, other = (new, known) if new.piece_size < known.piece_size else (known, new)
    if finer.part_size is None:
        return replace(finer, part_size=other.part_size, part_md5s=other.part_md5s)
    return finer


class DigestedKeys(NamedTuple):
    """Keys of a dataset's files whose block digests are in a folder.

    Attributes
    ----------
    keys
        The annex keys.
    problems
        Why the files of a version are unknown, by its label.
    """

    keys: set[str]
    problems: dict[str, str]


def digested_keys(
    store: Store, dataset: DatasetRef, folder: BlockDigestsFolder | None = None
) -> DigestedKeys:
    """Return the keys of a dataset's files whose block digests are in a folder.

    The files of a version whose records are damaged are read from git.

    Parameters
    ----------
    store
        The store.
    dataset
        The dataset.
    folder
        The folder; None for that of the store.

    Returns
    -------
    DigestedKeys
        The keys, without those of versions that can be read neither from records nor from git.
    """
    folder = BlockDigestsFolder.of_store(store) if folder is None else folder
    names = {path.parent.name + path.name for path in folder.paths()}
    versions = {
        entry.commit: entry
        for _, entry in store.journal.read(0)
        if isinstance(entry, VersionMinted)
        and (entry.mirror, entry.local_id) == (dataset.mirror, dataset.local_id)
    }
    found = DigestedKeys(set(), {})
    for version in versions.values() if names else ():
        try:
            # an interrupted takedown has moved everything that is missing
            found.keys.update(keys_of_version(store, dataset, version, names) or ())
        except StoreDamagedError as error:
            found.problems[version.label] = str(error)
    return found


def keys_of_version(
    store: Store, dataset: DatasetRef, version: VersionMinted, names: Collection[str]
) -> set[str] | None:
    """Return the keys of a version's files whose block digests have one of some names.

    Parameters
    ----------
    store
        The store.
    dataset
        The dataset.
    version
        The version. If its records are missing or damaged, its files are read from git.
    names
        Names as of :func:`~neuromirror.store.block_digests.block_digests_name`.

    Returns
    -------
    set[str] or None
        The annex keys; None if neither the records nor the repository exist.

    Raises
    ------
    StoreDamagedError
        If neither the records nor git can be read.
    """
    try:
        return _keys_of_version(store, dataset, version, names)
    except (ObjectMissingError, GitError, ValueError) as error:
        raise StoreDamagedError(str(error)) from error


def _keys_of_version(
    store: Store, dataset: DatasetRef, version: VersionMinted, names: Collection[str]
) -> set[str] | None:
    damage: StoreDamagedError | None = None
    if store.records.has(dataset.dataset_id, version.commit):
        try:
            return _named_keys(store.records.read(dataset.dataset_id, version.commit), names)
        except StoreDamagedError as error:
            damage = error
    repository = store.repositories.of(dataset)
    if repository.exists():
        lines = read_records_from_git(
            repository, version.commit, version.annex_commit, version.kind
        )
        return _named_keys(load_snapshot_entries(lines), names)
    if damage is not None:
        raise damage
    return None


def _named_keys(entries: Iterable[SnapshotEntry], names: Collection[str]) -> set[str]:
    return {
        placed.key
        for placed in entries
        if placed.subdataset is None and block_digests_name(placed.key) in names
    }
