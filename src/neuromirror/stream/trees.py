"""The files of a pinned state, wherever its listing is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from msgspec import Struct

from neuromirror.annex import VaultAddress, parse_key
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import BlockDigests
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.content_checks import KeyChecksum, key_checksum


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
            one.access is not None and one.access.endpoint and url.startswith(one.base)
            for one in self.vaults
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
