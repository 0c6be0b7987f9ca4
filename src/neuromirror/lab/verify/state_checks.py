"""Recomputation of the state digest from git, or from the manifest beside a lock file."""

from __future__ import annotations

from pathlib import Path

from neuromirror.annex import record_of_key
from neuromirror.lab.lock_manifests import (
    ListedFile,
    LockManifestDamagedError,
    LockManifestMissingError,
    LockManifestReader,
    canonical_line,
)
from neuromirror.model import StateDigest, manifest_digest, manifest_line, path_to_text
from neuromirror.transfer.findings import Finding


def annexed_file_line(path: bytes, key: str) -> bytes:
    """Return the line of the canonical manifest for an annexed file.

    Parameters
    ----------
    path
        The path in git.
    key
        The annex key, which contains the digest and the size.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    record = record_of_key(key, path)
    return manifest_line(path, manifest_digest(record), record.size)


class GitStateCheck:
    """Computes the state digest of a dataset whose files are all in git, and compares it."""

    def __init__(self, expected: str) -> None:
        self._expected = expected
        self._digest = StateDigest()

    def add(self, path: bytes, line: bytes) -> None:
        """Add the line of the next file or subdataset."""
        self._digest.add(line)

    def finding(self) -> Finding:
        """Return whether the digest is the expected one."""
        found = self._digest.value()
        if found == self._expected:
            return Finding(kind="state", message=found, checked="checked")
        message = f"the files in git have state {found}, expected {self._expected}"
        return Finding(status="error", kind="state", message=message)


class ManifestStateCheck:
    """Checks the state of a dataset of which git has only a part of the files.

    The manifest beside the lock file must have the expected state, and git must contain exactly the
    files that the manifest lists as in git.
    """

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
        """Add the line of the next file or subdataset."""
        if self._next() != line:
            self._mismatched.append(path)

    def _next(self) -> bytes | None:
        if self._error or self._mismatched:
            return None  # after the first mismatch the sequences are not aligned
        try:
            return next(self._expected_lines, None)
        except (LockManifestDamagedError, LockManifestMissingError) as error:
            self._error = str(error)
            return None

    def finding(self) -> Finding:
        """Return whether the manifest has the expected state, and git the files that it lists."""
        message = ""
        if not self._mismatched and self._next() is not None:
            message = "git lacks files that the manifest has"
        if self._mismatched:
            message = f"{path_to_text(self._mismatched[0])} differs between git and the manifest"
        if self._state != self._expected:
            message = f"the manifest has state {self._state}, expected {self._expected}"
        message = self._error or message
        if message:
            return Finding(status="error", kind="state", message=message)
        return Finding(kind="state", message=self._state, checked="checked")


StateCheck = GitStateCheck | ManifestStateCheck
"""Compares the files of a dataset with its expected state, in the order of their paths."""
