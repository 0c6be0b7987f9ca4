"""Whole files and parts of files of a version, verified, for Zarrs and precomputed layers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache, partial
from typing import Final

from neuromirror.annex import is_all_zeros
from neuromirror.cache import open_cache
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import LEAF_SIZE
from neuromirror.stream.errors import UnverifiableError
from neuromirror.stream.file import VerifiedObject
from neuromirror.stream.git_tree import VersionTree, content_checksum
from neuromirror.stream.opening import (
    digest_command,
    excluded_file,
    open_object,
    read_excluded_paths,
)
from neuromirror.stream.pieces import NoCheck, Verify, WholeCheck
from neuromirror.stream.readers import Transport

_MAX_HELD: Final = 1 << 30
"""Maximum size in bytes of a file without block digests of which a part is read."""

_OPEN_OBJECTS: Final = 4
"""Number of files whose parts are kept in memory."""

_SMALL: Final = 1 << 20
"""Size up to which a whole file is verified as one piece."""

_CACHED_DATASETS: Final = 4096


class TreeObjects:
    """Reads files below a folder of a version, each verified by its own digest. Thread-safe.

    Parameters
    ----------
    tree
        The files of the version.
    folder
        The folder; empty for the whole version.
    transport
        Sends the requests.
    verify
        ``require``: a file without a digest is an error; if it has no block digests, it is
        downloaded and verified as a whole, even if only a part is read. ``off``: nothing is
        verified.
    """

    def __init__(
        self, tree: VersionTree, folder: str, transport: Transport, verify: Verify = "require"
    ) -> None:
        self._tree = tree
        self._prefix = f"{folder}/" if folder else ""
        self._transport = transport
        self._verify = verify
        self._cache = open_cache()
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, VerifiedObject] = OrderedDict()
        self._excluded_paths = lru_cache(_CACHED_DATASETS)(partial(read_excluded_paths, tree))

    @property
    def where(self) -> str:
        """The name of the version and the folder."""
        return f"{self._tree.name}/{self._prefix}".rstrip("/")

    def file(self, path: str) -> ListedFile | bytes | None:
        """Return a file, or the content of a document; None if the state has no such file.

        Parameters
        ----------
        path
            The path below the folder.

        Returns
        -------
        ListedFile or bytes or None
            The description of an annexed file; the content of a document.

        Raises
        ------
        ExcludedFileError
            The archive has the file, but the version excludes it.
        """
        whole = self._prefix + path
        found = self._tree.file(whole) or self._tree.document(whole)
        if found is None:
            error = excluded_file(self._tree, whole, self._excluded_paths)
            if error is not None:
                raise error
        return found

    def read_whole(self, path: str) -> bytes | None:
        """Return the content of a file; None if the state has no such file.

        Parameters
        ----------
        path
            The path below the folder.

        Returns
        -------
        bytes or None
            The verified content.

        Raises
        ------
        StreamError
            The file cannot be read or verified, or is excluded from the version.
        """
        found = self.file(path)
        if found is None or isinstance(found, bytes):
            return found
        if is_all_zeros(found.key) and found.size is not None:
            return bytes(found.size)  # the key is the digest of zeros
        opened = self._open(found, _SMALL)
        return opened.read_ranges([(0, opened.size)])[0]

    def open_part(self, path: str) -> VerifiedObject | bytes | None:
        """Open a file to read parts of it; None if the state has no such file.

        Parameters
        ----------
        path
            The path below the folder.

        Returns
        -------
        VerifiedObject or bytes or None
            The file, or the content of a document. The most recently used files stay open.

        Raises
        ------
        StreamError
            The file cannot be verified, or is excluded from the version.
        """
        with self._lock:
            if (kept := self._opened.get(path)) is not None:
                self._opened.move_to_end(path)
                return kept
        found = self.file(path)
        if found is None or isinstance(found, bytes):
            return found
        opened = self._open(found, LEAF_SIZE)
        # of the latter, a part is read from a copy of the whole content
        if opened.size > _MAX_HELD and (
            opened.check.piece_size > _MAX_HELD
            or (isinstance(opened.check, NoCheck) and opened.check.is_verified)
        ):
            raise UnverifiableError(
                f"{self._tree.name}: {found.path}: only the digest of the whole content of "
                f"{opened.size} bytes is known, which is too large to verify a part of it; run: "
                f"{digest_command(self._tree, found.path)}",
                found.path,
            )
        with self._lock:
            opened = self._opened.setdefault(path, opened)
            while len(self._opened) > _OPEN_OBJECTS:
                self._opened.popitem(last=False)
        return opened

    # --- as the objects of a volume

    def git_document(self, path: str) -> bytes | None:
        """Return the content of a document below the folder; None for other files."""
        return self._tree.document(self._prefix + path)

    def has(self, path: str) -> bool:
        """Return whether there is a folder at a path below the folder."""
        return self._tree.entries(self._prefix + path) is not None

    def read_object(self, path: str, max_bytes: int) -> bytes | None:
        """Return the verified content of a small file; None if the state has no such file.

        Parameters
        ----------
        path
            The path below the folder.
        max_bytes
            Maximum size in bytes.

        Returns
        -------
        bytes or None
            The content.

        Raises
        ------
        StreamError
            As :meth:`read_whole`, or the file is larger.
        """
        content = self.read_whole(path)
        if content is not None and len(content) > max_bytes:
            raise UnverifiableError(
                f"{self.where}/{path} has {len(content)} bytes, expected at most {max_bytes}", path
            )
        return content

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        """Return verified bytes of a file; None if the state has no such file.

        Parameters
        ----------
        path
            The path below the folder.
        start, stop
            Offsets of the first byte, and after the last byte.

        Returns
        -------
        bytes or None
            The bytes.

        Raises
        ------
        StreamError
            The bytes cannot be read or verified, or the file is excluded from the version.
        """
        opened = self.open_part(path)
        if opened is None or isinstance(opened, bytes):
            return None if opened is None else opened[start:stop]
        return opened.read_ranges([(start, stop)])[0]

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path below the folder that starts with a text; None without one."""
        found = self._tree.first_with_prefix(self._prefix + prefix)
        return None if found is None else found[len(self._prefix) :]

    def close(self) -> None:
        """Cancel the requests in progress."""
        self._transport.close()

    def _open(self, file: ListedFile, small: int) -> VerifiedObject:
        """Open a file; block digests are looked up for one of more than ``small`` bytes."""
        cache = self._cache or False
        if self._verify == "off":
            return open_object(self._tree, file, self._transport, "off", cache)
        size, checksum = file.size, content_checksum(file)
        if size is None or size > small or not checksum.algorithm:
            return open_object(self._tree, file, self._transport, "whole-objects", cache)
        check, local = WholeCheck(checksum, size), self._tree.local_content(file)
        return VerifiedObject(
            file, check, self._transport, self._tree.name, cache=self._cache, local=local
        )
