"""The state digest, made again of what is in git, or of the manifest beside a lock."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from neuromirror.annex import key_digest, parse_key
from neuromirror.lab.manifests import (
    ListedFile,
    ManifestDamaged,
    ManifestMissing,
    ManifestReader,
    canonical_line,
)
from neuromirror.lab.verify.findings import Finding
from neuromirror.model import StateDigest, manifest_line, text


class Recomputed(Protocol):
    """A state that is made again while what is in git goes by."""

    def add(self, path: bytes, line: bytes) -> None:
        """The next file or sub-dataset, in order of path: its canonical line."""
        ...

    def finding(self) -> Finding:
        """What came of it, once everything has gone by."""
        ...


def file_line(path: bytes, key: str) -> bytes:
    """The canonical line of an annexed file, as its key tells it; raises ValueError for no key."""
    parts, digest = parse_key(key), key_digest(key)
    if digest is None:
        return manifest_line(path, "none", parts.size)
    algorithm, value = digest
    part_size = f"-{parts.name.rpartition('-')[2]}" if algorithm == "etag" else ""
    return manifest_line(path, f"{algorithm}:{value}{part_size}", parts.size)


class OfGit:
    """The state of a dataset all of whose files are in git; ``wanted`` is what it is to be."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._digest = StateDigest()

    def add(self, path: bytes, line: bytes) -> None:
        """The next file or sub-dataset."""
        self._digest.add(line)

    def finding(self) -> Finding:
        """Whether the digest is the one that was wanted."""
        found = self._digest.value()
        if found == self._wanted:
            return Finding(what="state", message=found, checked="checked")
        message = f"the files in git give another state: {found}, not {self._wanted}"
        return Finding(status="error", what="state", message=message)


class OfManifest:
    """The state that a manifest tells of, and whether just what it says is in git."""

    def __init__(self, wanted: str, manifest: Path) -> None:
        self._wanted = wanted
        self._broken = ""
        self._strange: list[bytes] = []
        self._state = ""
        try:
            reader = ManifestReader(manifest)
            self._state = reader.head.state
            self._rest = (
                canonical_line(one)
                for one in reader.listed()
                if not isinstance(one, ListedFile) or one.in_git
            )
        except (ManifestDamaged, ManifestMissing) as error:
            self._broken = str(error)

    def add(self, path: bytes, line: bytes) -> None:
        """The next file or sub-dataset."""
        if self._next() != line:
            self._strange.append(path)

    def _next(self) -> bytes | None:
        if self._broken or self._strange:
            return None  # one is enough: nothing after it is in its place
        try:
            return next(self._rest, None)
        except (ManifestDamaged, ManifestMissing) as error:
            self._broken = str(error)
            return None

    def finding(self) -> Finding:
        """Whether the manifest is of the state that was wanted, and git as it says."""
        message = ""
        if not self._strange and self._next() is not None:
            message = "git lacks files that the manifest has"
        if self._strange:
            message = f"{text(self._strange[0])} is in git otherwise than in the manifest"
        if self._state != self._wanted:
            message = f"the manifest is of another state: {self._state}, not {self._wanted}"
        message = self._broken or message
        if message:
            return Finding(status="error", what="state", message=message)
        return Finding(what="state", message=self._state, checked="checked")
