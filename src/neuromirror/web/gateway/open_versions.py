"""The versions that the gateway reads: open trees, connections, and verified contents."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from neuromirror.index import VersionRow
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.net import RequestLimits
from neuromirror.store import Store
from neuromirror.stream import (
    AccessRules,
    Transport,
    VerifiedObject,
    open_object,
    tree_of_version,
)

MAX_OPEN: Final = 8
"""Maximum number of versions that stay open; each has a git process."""
WINDOW: Final = 8 << 20
"""Bytes of a content that are requested ahead and kept in memory, if its pieces are not larger."""
ENCODINGS: Final = {"br": ".br", "gzip": ".gz", "zstd": ".zstd"}
"""Encodings of HTTP, with the ending of the names of files of a precomputed layer."""
_ENCODINGS_DOCUMENT: Final = ".precomputed/encodings.json"
_MAX_MEMORY: Final = 32 << 20
"""Maximum size in bytes of the pieces of the contents of one version that are kept."""


_ContentName = tuple[str, tuple[str, ...]]
"""The key of a content and its locations, which change when a copy is made."""


class OpenVersion:
    """A version with the connections to its locations. Thread-safe.

    No token, header or signature of this machine is sent, because content that
    needs them is not public.
    """

    def __init__(self, store: Store, row: VersionRow, limits: RequestLimits) -> None:
        self.tree = tree_of_version(store, row)
        self._limits = limits
        self._lock = threading.Lock()
        self._access: AccessRules | None = None
        self._transports: list[Transport] = []
        self._contents: OrderedDict[_ContentName, VerifiedObject] = OrderedDict()
        try:
            self.has_encodings = self.tree.document(_ENCODINGS_DOCUMENT) is not None
            """Whether names of files have the encoding of the stored object at their ends."""
        except BaseException:
            self.tree.close()
            raise

    def content(self, file: ListedFile) -> VerifiedObject:
        """Open the content of a file, of which nothing is requested yet.

        The most recently used contents stay open, with their pieces in memory.

        Raises
        ------
        UnverifiableError
            No digest is known with which parts of the file could be verified.
        """
        name = _content_name(file)
        with self._lock:
            found = self._contents.get(name)
            if found is not None:
                self._contents.move_to_end(name)
                return found
        access = self.tree.access
        with self._lock:
            if access != self._access:  # a vault has been added, whose host may be private
                self._access = access
                self._transports.append(
                    Transport(access, limits=self._limits, has_credentials=False)
                )
            transport = self._transports[-1]
        # the cache of the machine: what one visitor reads, the next one need not wait for
        found = open_object(self.tree, file, transport, memory=WINDOW)
        with self._lock:
            self._contents[name] = found
            held = sum(max(WINDOW, one.check.piece_size) for one in self._contents.values())
            while held > _MAX_MEMORY and len(self._contents) > 1:
                _, dropped = self._contents.popitem(last=False)
                held -= max(WINDOW, dropped.check.piece_size)
        return found

    def forget(self, file: ListedFile) -> None:
        """Close a content that could not be read: it may have other copies by the next request."""
        with self._lock:
            self._contents.pop(_content_name(file), None)

    def close(self) -> None:
        """Cancel requests in progress, and end the git processes."""
        with self._lock:
            for one in self._transports:
                one.close()
        self.tree.close()


def _content_name(file: ListedFile) -> _ContentName:
    return file.key or file.path, file.urls


class _Slot:
    """A version that is open, or is opened by its first user."""

    def __init__(self) -> None:
        self.opening = threading.Lock()
        self.version: OpenVersion | None = None
        self.users = 0


class OpenVersions:
    """Keeps the most recently used versions open, at most :data:`MAX_OPEN`. Thread-safe."""

    def __init__(self, store: Store, limits: RequestLimits) -> None:
        self._store, self._limits = store, limits
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, str, str], _Slot] = OrderedDict()

    @contextmanager
    def use(self, row: VersionRow) -> Iterator[OpenVersion]:
        """Provide a version; it stays open at least until the end of the block."""
        name = row.dataset_name, row.records, row.annex_commit
        with self._lock:
            slot = self._slots.pop(name, None) or _Slot()
            self._slots[name] = slot
            slot.users += 1
            idle = [one for one, other in self._slots.items() if not other.users]
            surplus = max(0, len(self._slots) - MAX_OPEN)
            closing = [self._slots.pop(one) for one in idle[:surplus]]
        _close(closing)
        try:
            # beside the lock, so that others need not wait
            with slot.opening:
                if slot.version is None:
                    slot.version = OpenVersion(self._store, row, self._limits)
            yield slot.version
        finally:
            with self._lock:
                slot.users -= 1

    def close(self) -> None:
        """Close all versions."""
        with self._lock:
            slots = list(self._slots.values())
            self._slots.clear()
        _close(slots)


def _close(slots: Iterable[_Slot]) -> None:
    for one in slots:
        with one.opening:
            if one.version is not None:
                one.version.close()
