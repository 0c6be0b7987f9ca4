"""Pinned states as file systems of fsspec: ``neuromirror://`` and ``lock://``."""

from __future__ import annotations

import io
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from neuromirror.model import NeuromirrorError
from neuromirror.stream.errors import FileMissingError, StreamError
from neuromirror.stream.file import VerifiedFile, VerifiedObject
from neuromirror.stream.git_tree import FolderEntry, VersionTree, listed_file
from neuromirror.stream.opening import StrPath, find_dataset, missing_file, open_object, open_tree
from neuromirror.stream.pieces import Verify
from neuromirror.stream.readers import PARALLEL, Transport

_T = TypeVar("_T")

_OPEN_CONTENTS: Final = 8
"""Number of contents whose pieces are kept in memory between reads of ranges."""

_MEMORY: Final = 16 << 20
"""Maximum size in bytes of the pieces that are kept in memory per content."""


class _OpenVersions:
    """The versions and contents that a file system has open in one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.RLock()
        self.trees: dict[str, tuple[VersionTree, Transport]] = {}
        self.contents: OrderedDict[str, VerifiedObject] = OrderedDict()
        self.pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="neuromirror-fsspec")
        weakref.finalize(self, _close, self.trees, self.pool, self.process)


class NeuromirrorFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The files of versions: ``neuromirror://dandi:000027@0.210831.2033/sub-1/file.nwb``.

    Without a label, it is the version that the name of the dataset means: the newest published one.
    Read-only. Each byte is verified before it is returned.

    Parameters
    ----------
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``, else the user's.
    verify
        As for :func:`neuromirror.open`.
    cache
        Whether the cache of this machine is used.
    **options
        Options of fsspec.
    """

    protocol = ("neuromirror",)
    root_marker = ""

    def __init__(
        self,
        store: StrPath | None = None,
        verify: Verify = "require",
        cache: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.store, self.verify, self.cache = store, verify, cache
        self._own = _OpenVersions()
        self._names: dict[str, str] = {}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a folder, or return a file as its only entry.

        Parameters
        ----------
        path
            The path.
        detail
            Whether to return descriptions as :meth:`info` does, instead of paths.

        Returns
        -------
        list
            The entries, sorted by name.

        Raises
        ------
        FileNotFoundError
            There is no such file or folder.
        """
        path = self._strip_protocol(path)
        tree, inner = self._locate(path)
        entries = tree.entries(inner)
        if entries is None:
            found = [self.info(path)]
        else:
            found = [_describe_entry(path, entry) for entry in entries]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Describe a file or folder.

        Parameters
        ----------
        path
            The path.

        Returns
        -------
        dict
            ``name``, ``size`` in bytes (None if unknown) and ``type`` (``file`` or ``directory``).
            For an annexed file also ``key``; its digest, whose name is the algorithm (``sha256``,
            ``md5`` or ``etag``); and ``checked``: whether the mirror hashed the bytes itself.

        Raises
        ------
        FileNotFoundError
            There is no such file or folder.
        """
        path = self._strip_protocol(path)
        tree, inner = self._locate(path)
        file = tree.file(inner) if inner else None
        if file is not None:
            return _describe(path, file.size, file.key, file.digest) | {"checked": file.checked}
        content = tree.document(inner) if inner else None
        if content is not None:
            return {"name": path, "size": len(content), "type": "file"}
        if tree.entries(inner) is not None:
            return {"name": path, "size": 0, "type": "directory"}
        raise missing_file(tree, inner)

    def ukey(self, path: str) -> str:
        """Return the annex key of a file, which identifies its content.

        Parameters
        ----------
        path
            The path.

        Returns
        -------
        str
            The key; for a plain file in git, version and path.

        Raises
        ------
        FileNotFoundError
            There is no such file or folder.
        """
        found = self.info(path)
        return str(found.get("key") or found["name"])

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Return the verified bytes of a file, or of a range of it.

        Parameters
        ----------
        path
            The path.
        start, end
            Offsets of the first byte, and after the last byte; negative from the end. None for the
            start or the end of the file.

        Returns
        -------
        bytes
            The bytes.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        StreamError
            The bytes cannot be read or verified.
        """
        return self._read_ranges(self._strip_protocol(path), [(start, end)])[0]

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **options: Any
    ) -> bytes | dict[str, Any]:
        """Return the verified contents of files, read in parallel.

        Parameters
        ----------
        path
            A path, a pattern or a list of paths.
        recursive
            Whether to include the files of folders.
        on_error
            ``raise``, ``omit`` files with errors, or ``return`` the errors.
        **options
            Options of :meth:`cat_file`.

        Returns
        -------
        bytes or dict
            The content, if ``path`` is the path of one file; else the contents by path.
        """
        paths = self.expand_path(path, recursive=recursive)
        if len(paths) == 1 and isinstance(path, str) and paths[0] == self._strip_protocol(path):
            return self.cat_file(paths[0], **options)
        found = self._map(lambda one: self.cat_file(one, **options), paths)
        if on_error == "raise":
            _raise_first(found)
        return {
            one: content
            for one, content in zip(paths, found, strict=True)
            if on_error != "omit" or not isinstance(content, Exception)
        }

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[bytes | Exception]:
        """Return the verified bytes of ranges; those of one file are requested together.

        Parameters
        ----------
        paths
            The path of each range.
        starts, ends
            The offsets of each range, or one offset for all.
        max_gap
            Ignored: pieces are requested as a whole.
        on_error
            ``return`` errors in place of bytes, or ``raise`` the first one.

        Returns
        -------
        list
            The bytes of each range.
        """
        count = len(paths)
        begins = starts if isinstance(starts, Iterable) else [starts] * count
        stops = ends if isinstance(ends, Iterable) else [ends] * count
        by_path: dict[str, list[int]] = {}
        ranges = [*zip(begins, stops, strict=True)]
        for number, path in enumerate(paths):
            by_path.setdefault(self._strip_protocol(path), []).append(number)
        groups = [*by_path.items()]
        found = self._map(
            lambda one: self._read_ranges(one[0], [ranges[number] for number in one[1]]), groups
        )
        if on_error == "raise":
            _raise_first(found)
        result: list[bytes | Exception] = [b""] * count
        for (_path, numbers), parts in zip(groups, found, strict=True):
            for at, number in enumerate(numbers):
                result[number] = parts if isinstance(parts, Exception) else parts[at]
        return result

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any
    ) -> BufferedFile:
        if mode != "rb":
            raise OSError(f"{path}: versions are read-only")
        tree, inner = self._locate(path)
        document = None if tree.file(inner) is not None else tree.document(inner)
        if document is not None:
            return BufferedFile(self, path, io.BytesIO(document), len(document), block_size)
        file = self._open_verified(path)
        return BufferedFile(self, path, file, file.size, block_size)

    def _open_verified(self, path: str) -> VerifiedFile:
        return VerifiedFile(self._content(path), reopen=partial(self._open_verified, path))

    def _read_ranges(
        self, path: str, ranges: Sequence[tuple[int | None, int | None]]
    ) -> list[bytes]:
        tree, inner = self._locate(path)
        document = None if tree.file(inner) is not None else tree.document(inner)
        if document is not None:
            return [document[start:end] for start, end in ranges]
        opened = self._opened
        with opened.lock:
            content = opened.contents.get(path)
            if content is None:
                content = opened.contents[path] = self._content(path)
            opened.contents.move_to_end(path)
            while len(opened.contents) > _OPEN_CONTENTS:
                opened.contents.popitem(last=False)
        size = content.size
        return content.read_ranges([slice(*one).indices(size)[:2] for one in ranges])

    def _content(self, path: str) -> VerifiedObject:
        tree, inner = self._locate(path)
        file = tree.file(inner)
        if file is None:
            raise missing_file(tree, inner)
        transport = self._opened.trees[self._split(path)[0]][1]
        return open_object(tree, file, transport, self.verify, self.cache, memory=_MEMORY)

    def _locate(self, path: str) -> tuple[VersionTree, str]:
        """Return the files of the version in a path, and the path in the version."""
        address, inner = self._split(path)
        opened = self._opened
        with opened.lock:
            found = opened.trees.get(address)
            if found is None:
                tree = open_tree(address, store=self.store)
                before = self._names.setdefault(address, tree.name)
                if before != tree.name:
                    tree.close()
                    raise StreamError(
                        f"{address} was {before} in the process that opened the file system, and "
                        f"is {tree.name} now; use the label of a version"
                    )
                found = opened.trees[address] = tree, Transport(tree.access)
        return found[0], inner

    @property
    def _opened(self) -> _OpenVersions:
        """The open resources of this process: a fork has no threads and no connections."""
        if self._own.process != os.getpid():
            self._own = _OpenVersions()
        return self._own

    def _split(self, path: str) -> tuple[str, str]:
        """Return the address of the version, and the path in it."""
        # names of datasets may have slashes, labels do not
        dataset, at, rest = path.partition("@")
        if at and ":" in dataset:
            label, _, inner = rest.partition("/")
            return f"{dataset}@{label}", inner
        opened = next((one for one in self._opened.trees if f"{path}/".startswith(f"{one}/")), None)
        address = opened or find_dataset(path, store=self.store)
        if address is None:
            raise FileMissingError(
                f"'{path}' does not name a version; paths are like "
                "neuromirror://dandi:000027@0.210831.2033/sub-1/file.nwb",
                path,
            )
        return address, path[len(address) + 1 :]

    def _map(self, read: Callable[[_T], Any], items: Iterable[_T]) -> list[Any]:
        """Apply a function to items in parallel; errors are returned."""

        def attempt(item: _T) -> Any:
            try:
                return read(item)
            except (NeuromirrorError, OSError) as error:
                return error

        return list(self._opened.pool.map(attempt, items))


class LockFileSystem(NeuromirrorFileSystem):
    """The files of the pins of a lock file: ``lock://datasets.lock/sub-1/file.nwb``.

    With several pins, paths start with the name of a dataset:
    ``lock://datasets.lock/dandi:000027/sub-1/file.nwb``. Neither store nor clone is needed.

    Parameters
    ----------
    verify
        As for :func:`neuromirror.open`.
    cache
        Whether the cache of this machine is used.
    **options
        Options of fsspec.
    """

    protocol = ("lock",)

    def __init__(self, verify: Verify = "require", cache: bool = True, **options: Any) -> None:
        super().__init__(verify=verify, cache=cache, **options)

    def _split(self, path: str) -> tuple[str, str]:
        names = path.split("/")
        for count in range(1, len(names) + 1):
            lock = "/".join(names[:count])
            if lock and Path(lock).is_file():
                return lock, "/".join(names[count:])
        raise FileMissingError(
            f"'{path}' does not name a lock file; paths are like "
            "lock://datasets.lock/sub-1/file.nwb",
            path,
        )


class BufferedFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file as wrappers of fsspec need it, such as ``blockcache::``, which keeps blocks on disk.

    The verified file that it reads requests bytes ahead, so that fsspec buffers nothing by default.
    """

    def __init__(
        self,
        fs: NeuromirrorFileSystem,
        path: str,
        file: VerifiedFile | io.BytesIO,
        size: int,
        block_size: int | None,
    ) -> None:
        block_size = block_size or self.DEFAULT_BLOCK_SIZE
        super().__init__(fs, path, "rb", block_size, cache_type="none", size=size)
        self.file = file
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return repr(self.file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.fs, self.path, self.file, self.size, self.blocksize, self.loc)

    def _fetch_range(self, start: int, end: int) -> bytes:
        with self._lock:
            self.file.seek(start)
            return self.file.read(end - start)

    def close(self) -> None:
        """Close the file; requests in progress are cancelled."""
        super().close()
        self.file.close()


def _reopened(
    fs: NeuromirrorFileSystem,
    path: str,
    file: VerifiedFile | io.BytesIO,
    size: int,
    block_size: int,
    position: int,
) -> BufferedFile:
    opened = BufferedFile(fs, path, file, size, block_size)
    opened.seek(position)
    return opened


def _describe_entry(folder: str, entry: FolderEntry) -> dict[str, Any]:
    path = f"{folder}/{entry.name}"
    if entry.is_folder:
        return {"name": path, "size": 0, "type": "directory"}
    if not entry.key:
        return {"name": path, "size": entry.size, "type": "file"}
    return _describe(path, entry.size, entry.key, listed_file("", entry.key, ()).digest)


def _describe(path: str, size: int | None, key: str, digest: str) -> dict[str, Any]:
    algorithm, _, value = digest.partition(":")
    found = {"name": path, "size": size, "type": "file", "key": key}
    return found | {algorithm: value} if value else found


def _raise_first(found: Iterable[Any]) -> None:
    for one in found:
        if isinstance(one, Exception):
            raise one


def _close(
    trees: dict[str, tuple[VersionTree, Transport]], pool: ThreadPoolExecutor, process: int
) -> None:
    if process == os.getpid():
        pool.shutdown(wait=False, cancel_futures=True)
        for tree, transport in trees.values():
            transport.close()
            tree.close()
