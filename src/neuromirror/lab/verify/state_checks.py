"""The state digest, made again of what is in git, or of the manifest beside a lock."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from neuromirror.annex import key_digest, parse_key
from neuromirror.lab.lock_manifests import (
    ListedFile,
    LockManifestDamagedError,
    LockManifestMissingError,
    LockManifestReader,
    canonical_line,
)
from neuromirror.model import StateDigest, manifest_line, path_to_text
from neuromirror.transfer.findings import Finding


class StateCheck(Protocol):
    """A state that is made again while what is in git goes by."""

    def add(self, path: bytes, line: bytes) -> None:
        """The next file or sub-dataset, in order of path: its canonical line."""
        ...

    def finding(self) -> Finding:
        """What came of it, once everything has gone by."""
        ...


def annexed_file_line(path: bytes, key: str) -> bytes:
    """The canonical line of an annexed file, as its key tells it; raises ValueError for no key."""
    parts, digest = parse_key(key), key_digest(key)
    if digest is None:
        return manifest_line(path, "none", parts.size)
    algorithm, value = digest
    part_size = f"-{parts.name.rpartition('-')[2]}" if algorithm == "etag" else ""
    return manifest_line(path, f"{algorithm}:{value}{part_size}", parts.size)


class GitStateCheck:
    """The state of a dataset all of whose files are in git; ``wanted`` is what it is to be."""

    def __init__(self, expected: str) -> None:
        self._expected = expected
        self._digest = StateDigest()

    def add(self, path: bytes, line: bytes) -> None:
        """The next file or sub-dataset."""
        self._digest.add(line)

    def finding(self) -> Finding:
        """Whether the digest is the one that was wanted."""
        found = self._digest.value()
        if found == self._expected:
            return Finding(kind="state", message=found, checked="checked")
        message = f"the files in git give another state: {found}, not {self._expected}"
        return Finding(status="error", kind="state", message=message)


class ManifestStateCheck:
    """The state that a manifest tells of, and whether just what it says is in git."""

    def __init__(self, expected: str, manifest: Path) -> None:
        self._expected = expected
        self._error = ""
        self._mismatched: list[bytes] = []
        self._state = ""
        try:
            reader = LockManifestReader(manifest)
            self._state = reader.head.state
            self._expected_lines = (
                canonical_line(one)
                for one in reader.entries()
                if not isinstance(one, ListedFile) or one.in_git
            )
        except (LockManifestDamagedError, LockManifestMissingError) as error:
            self._error = str(error)

    def add(self, path: bytes, line: bytes) -> None:
        """The next file or sub-dataset."""
        if self._next() != line:
            self._mismatched.append(path)

    def _next(self) -> bytes | None:
        if self._error or self._mismatched:
            return None  # one is enough: nothing after it is in its place
        try:
            return next(self._expected_lines, None)
        except (LockManifestDamagedError, LockManifestMissingError) as error:
            self._error = str(error)
            return None

    def finding(self) -> Finding:
        """Whether the manifest is of the state that was wanted, and git as it says."""
        message = ""
        if not self._mismatched and self._next() is not None:
            message = "git lacks files that the manifest has"
        if self._mismatched:
            message = (
                f"{path_to_text(self._mismatched[0])} is in git otherwise than in the manifest"
            )
        if self._state != self._expected:
            message = f"the manifest is of another state: {self._state}, not {self._expected}"
        message = self._error or message
        if message:
            return Finding(status="error", kind="state", message=message)
        return Finding(kind="state", message=self._state, checked="checked")
