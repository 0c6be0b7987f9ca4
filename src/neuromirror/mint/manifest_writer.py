"""Write the canonical manifest of a state, compressed with zstd."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import zstandard

from neuromirror.model import StateDigest


class CanonicalManifestWriter:
    """Digests and compresses manifest lines in one pass; a context manager.

    The file has a temporary name in ``directory``. Without a call of :meth:`finish` it is removed
    at the end of the block.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="tmp_manifest_", dir=directory)
        self._path = Path(name)
        self._file = os.fdopen(handle, "wb")
        # one thread and no content size: equal lines give equal bytes on every machine
        self._zstd = zstandard.ZstdCompressor(level=3).stream_writer(self._file, closefd=False)
        self._digest = StateDigest()
        self._is_finished = False

    def __enter__(self) -> CanonicalManifestWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_finished:
            try:
                self._file.close()
            finally:
                # close() flushes the buffer, which fails on a full disk
                self._path.unlink(missing_ok=True)

    def add(self, line: bytes) -> None:
        """Add the next line, newline included."""
        self._digest.add(line)
        self._zstd.write(line)

    def state(self) -> str:
        """Return the state digest of the lines so far, ``sha256:<hex>``."""
        return self._digest.value()

    def finish(self) -> Path:
        """Complete the file; return its temporary path."""
        self._zstd.flush(zstandard.FLUSH_FRAME)
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o444)
        os.fsync(self._file.fileno())
        self._file.close()
        self._is_finished = True
        return self._path
