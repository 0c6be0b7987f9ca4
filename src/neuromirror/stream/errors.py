"""Errors of reading contents over the network. Wrong bytes are an error, never data."""

from __future__ import annotations

from collections.abc import Sequence

from neuromirror.model import NeuromirrorError


class StreamError(NeuromirrorError):
    """A content that cannot be read.

    Attributes
    ----------
    path
        The path of the file in its version.
    causes
        The error of each location that was tried.
    """

    def __init__(
        self, message: str, path: str = "", causes: Sequence[NeuromirrorError] = ()
    ) -> None:
        super().__init__(message)
        self.path = path
        self.causes = tuple(causes)


class WrongBytesError(StreamError):
    """A location has other bytes than the version, and no other location has the right ones.

    Attributes
    ----------
    url
        The location.
    start, stop
        Offsets of the first byte, and after the last byte, of the piece that does not match.
    """

    def __init__(
        self,
        message: str,
        path: str,
        url: str,
        start: int,
        stop: int,
        causes: Sequence[NeuromirrorError] = (),
    ) -> None:
        super().__init__(message, path, causes)
        self.url, self.start, self.stop = url, start, stop


class UnverifiableError(StreamError):
    """No digest is known with which a part of the content could be verified."""


class ContentGoneError(StreamError):
    """All locations report that the content does not exist (HTTP 404 or 410), or none is known."""


class LocationsFailedError(StreamError):
    """No location returned the content: network, server or permissions."""


class CopyUnreadableError(NeuromirrorError):
    """A copy in a vault cannot be read."""


class DamagedCopyError(CopyUnreadableError):
    """A copy in a vault differs from its key."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path}: the copy in the vault is damaged; run 'neuromirror vault check --full'"
        )


class FileMissingError(StreamError, FileNotFoundError):
    """The version has no such file."""


class ExcludedFileError(StreamError):
    """The version excludes the file, so that nothing is known about its content."""


class NotAFileError(StreamError, IsADirectoryError):
    """The path is a folder of the version."""


class AddressUnresolvedError(StreamError):
    """No version can be opened at the address."""

    exit_code = 2
