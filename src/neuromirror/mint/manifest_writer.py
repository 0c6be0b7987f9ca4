"""The canonical manifest of a state on its way into the store: zstd, content-addressed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import zstandard

from neuromirror.model import StateDigest


class CanonicalManifestWriter:
    """Takes manifest lines in order; digests and compresses them as they come.

    The file has a temporary name in ``directory``; leave by :meth:`finish`, else it is removed.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="tmp_manifest_", dir=directory)
        self._path = Path(name)
        self._file = os.fdopen(handle, "wb")
        # one thread and no content size: the same lines give the same bytes wherever they are made
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
                # closing writes what is still in memory, which a full disk refuses
                self._path.unlink(missing_ok=True)

    def add(self, line: bytes) -> None:
        """The next line, newline included."""
        self._digest.add(line)
        self._zstd.write(line)

    def state(self) -> str:
        """The state digest of the lines so far, ``sha256:<hex>``."""
        return self._digest.value()

    def finish(self) -> Path:
        """Completes the file and gives its temporary path."""
        self._zstd.flush(zstandard.FLUSH_FRAME)
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o444)
        os.fsync(self._file.fileno())
        self._file.close()
        self._is_finished = True
        return self._path
