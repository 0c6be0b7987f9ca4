"""Where downloads are written: the object directory of a repository, or a vault."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class ObjectFolder(Protocol):
    """A repository with an object directory: a clone or a directory vault."""

    annex_dir: Path

    @property
    def disk_reserve(self) -> int:
        """Bytes to leave free on the disk."""
        ...

    def object_paths(self, key: str) -> Sequence[bytes]:
        """Return the possible paths of a key's object, the one to write to first."""
        ...

    def find_object(self, key: str) -> bytes | None:
        """Return the path of a key's object, None if its content is not here."""
        ...


class ObjectSink(Protocol):
    """Stores verified content. Thread-safe."""

    @property
    def bypasses_page_cache(self) -> bool:
        """Whether large content is written directly to the disk; it is not read again soon."""
        ...

    def reserve_space(self, size: int | None, there: int = 0) -> AbstractContextManager[None]:
        """Reserve disk space for content while it is downloaded; ``there`` bytes are on disk."""
        ...

    def check_space(self, more: int = 0) -> None:
        """Raise InsufficientSpaceError if ``more`` bytes do not fit."""
        ...

    def put(self, key: str, content: memoryview) -> None:
        """Store verified content that is completely in memory."""
        ...

    def open_partial(self, key: str) -> AbstractContextManager[int]:
        """Yield the file descriptor of a key's partial content."""
        ...

    def finish_partial(self, key: str, file: int) -> None:
        """Store partial content that is complete and verified."""
        ...

    def discard_partial(self, key: str) -> None:
        """Delete partial content."""
        ...
