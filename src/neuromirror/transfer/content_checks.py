"""Checks of downloaded content against its key, while the bytes arrive.

A VURL key stands for the keys recorded for it in the ``.log.ek`` log. Without recorded keys, a VURL
or URL key can be checked for its size only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from neuromirror.annex import parse_key
from neuromirror.model import Evidence
from neuromirror.transfer.key_checksums import Chunk, KeyChecksum, key_checksum

if TYPE_CHECKING:
    from neuromirror.transfer.block_digest_recorder import ContentDigester


class ContentCheck:
    """Compares the bytes of one key, fed in order, with its size and checksums.

    Parameters
    ----------
    checksums
        Accepted checksums: the content is right if one of them matches. Empty if only the size is
        known.
    size
        Expected size in bytes, None if unknown.
    algorithm
        Name of the algorithm for messages.
    evidence
        Evidence that a match gives; None for an algorithm without a category.

    Attributes
    ----------
    digester
        Receives the same bytes to compute their block digests; None not to.
    """

    def __init__(
        self,
        checksums: Sequence[KeyChecksum],
        size: int | None,
        algorithm: str,
        evidence: Evidence | None,
    ) -> None:
        self._hashers = [(one, hasher) for one in checksums if (hasher := one.hasher()) is not None]
        self.size = size
        self.algorithm = algorithm
        self.evidence = evidence
        self.bytes_seen = 0
        self.digester: ContentDigester | None = None

    @property
    def has_digest(self) -> bool:
        """Whether wrong content of the right size would be detected."""
        return bool(self._hashers)

    @property
    def is_too_long(self) -> bool:
        """Whether there are more bytes than the content has; there may be any number of others."""
        return self.size is not None and self.bytes_seen > self.size

    def update(self, chunk: Chunk) -> None:
        """Add the next bytes.

        Parameters
        ----------
        chunk
            The bytes that follow those of the last call.
        """
        self.bytes_seen += len(chunk)
        for _, hasher in self._hashers:
            hasher.update(chunk)
        if self.digester is not None:
            self.digester.update(chunk)

    def record_digests(self) -> None:
        """Record the block digests of the bytes, which match the key.

        A failure, such as a full disk, is ignored: the content itself is right.
        """
        if self.digester is not None:
            self.digester.finish(self._hashers[0][1].hexdigest() if self._hashers else "")

    def mismatch(self) -> str | None:
        """Return why the bytes so far are not the key's content, None if they are.

        Returns
        -------
        str | None
            The reason, for an error message.
        """
        if self.size is not None and self.bytes_seen != self.size:
            return f"received {self.bytes_seen} bytes, expected {self.size}"
        if not self._hashers:
            return None
        found = [(checksum, hasher.hexdigest()) for checksum, hasher in self._hashers]
        if any(checksum.matches(value, self.bytes_seen) for checksum, value in found):
            return None
        return f"received different bytes: {self.algorithm} {found[0][1]}"


class EquivalentKeyCheck(ContentCheck):
    """Checks the size of a VURL key's content, and computes the key to record for the content.

    A VURL key names a URL and no checksum. After its first download git-annex records the key with
    the checksum, to verify later downloads.
    """

    def __init__(self, size: int | None) -> None:
        super().__init__((), size, "size", Evidence.NONE if size is None else Evidence.SIZE)
        self._sha256 = hashlib.sha256()

    def update(self, chunk: Chunk) -> None:
        """Add the next bytes."""
        super().update(chunk)
        self._sha256.update(chunk)

    def equivalent_key(self) -> str:
        """Return the key of the bytes, in the form git-annex records for a VURL key."""
        return f"SHA256E-s{self.bytes_seen}--{self._sha256.hexdigest()}"


def check_for(key: str, recorded: Sequence[str] = ()) -> ContentCheck | None:
    """Return the check for a key's content, None if its backend is not supported.

    Parameters
    ----------
    key
        Annex key.
    recorded
        For a VURL key, which has no checksum, the keys with checksums that git-annex recorded for
        it. Content that matches one of them is right.

    Returns
    -------
    ContentCheck | None
        The check, to be fed with the content.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    checksum = key_checksum(key)
    backend = parse_key(key).backend
    if backend == "VURL":
        return _recorded_check(checksum.size, [key_checksum(one) for one in recorded])
    if backend == "URL":
        return ContentCheck((), checksum.size, "size", checksum.evidence)
    if not checksum.algorithm:
        return None
    return ContentCheck([checksum], checksum.size, checksum.algorithm, checksum.evidence)


def _recorded_check(size: int | None, recorded: Sequence[KeyChecksum]) -> ContentCheck | None:
    if not recorded:
        return EquivalentKeyCheck(size)
    algorithms = {one.algorithm for one in recorded}
    if "" in algorithms:
        return None
    if len(algorithms) > 1:
        return ContentCheck(recorded, size, "hash", None)
    return ContentCheck(recorded, size, recorded[0].algorithm, recorded[0].evidence)
