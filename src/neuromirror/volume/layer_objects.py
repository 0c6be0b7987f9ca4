"""The objects of a precomputed layer, in a version of the store or in a clone.

Each object is fetched and verified as a whole, also for a part of it.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from neuromirror.volume.errors import BlockUnavailableError

if TYPE_CHECKING:
    from neuromirror.volume.clone_files import CloneFiles
    from neuromirror.volume.version_files import VersionFiles

_MAX_SHARD: Final = 1 << 30
"""Maximum size of a shard in bytes."""


class VersionObjects(Struct, frozen=True):
    """The objects of a layer in a version of the store."""

    files: VersionFiles

    @property
    def where(self) -> str:
        """The name of the version."""
        return self.files.where

    def read_object(self, path: str, max_bytes: int) -> memoryview | None:
        """Return an object; None if the version lacks it; raises BlockUnavailableError."""
        content = self.files.read_object(path, max_bytes)
        return None if content is None else memoryview(content)

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        """Return a part of an object; None if the version lacks it."""
        content = self.files.read_object(path, _MAX_SHARD)
        return None if content is None else _part(content, path, start, stop, self.where)

    def close(self) -> None:
        """Abort running requests."""
        self.files.close()


class CloneObjects(Struct, frozen=True):
    """The objects of a layer in a clone."""

    files: CloneFiles

    @property
    def where(self) -> str:
        """The folder of the clone."""
        return self.files.where

    def read_object(self, path: str, max_bytes: int) -> memoryview | None:
        """Return an object; None if the clone lacks it; raises BlockUnavailableError."""
        return memoryview(self.files.block(path)) if self._is_there(path) else None

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        """Return a part of an object; None if the clone lacks it."""
        if not self._is_there(path):
            return None
        return _part(self.files.block(path), path, start, stop, self.where)

    def _is_there(self, path: str) -> bool:
        # a tracked file that the work tree lacks is no missing chunk: block() raises an error
        return self.files.has(path) or self.files.is_tracked(path)

    def close(self) -> None:
        """Let git-annex finish and exit."""
        self.files.close()


def _part(content: mmap.mmap, path: str, start: int, stop: int, where: str) -> bytes:
    if not 0 <= start <= stop <= len(content):
        why = f"it ends before byte {stop}, which its index names"
        raise BlockUnavailableError(path, where, why)
    return content[start:stop]
