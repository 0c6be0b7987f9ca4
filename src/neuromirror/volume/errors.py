"""Errors of opening, cutting and exporting volumes."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.net import CircuitOpenError, NetError

INSTALL_COMMAND = "pip install 'neuromirror[volumes]'"


class NotAVolumeError(ConfigurationError):
    """A folder or version is not a volume in a supported format, or does not exist."""


class UnknownLevelError(ConfigurationError):
    """The volume has no level of the requested number."""


class OutsideVolumeError(ConfigurationError):
    """A requested region or time sample is not inside the volume."""


class MissingExtraError(ConfigurationError):
    """A package that volumes need is not installed."""

    def __init__(self, error: ImportError) -> None:
        super().__init__(f"volumes need the package {error.name}: {INSTALL_COMMAND}")


class BlockUnavailableError(NeuromirrorError):
    """A block of a volume cannot be read, or differs from the version.

    ``block`` is its path in the volume (``0/c/3/0/2``); ``causes`` are the errors of the URLs that
    were tried. ``closed`` is whether the volume had been closed.
    """

    def __init__(
        self,
        block: str,
        where: str,
        why: str,
        causes: tuple[NeuromirrorError, ...] = (),
        *,
        closed: bool = False,
    ) -> None:
        super().__init__(f"block {block} of {where}: {why}")
        self.block = block
        self.why = why
        self.causes = causes
        self.closed = closed


class UndecodableBlockError(BlockUnavailableError):
    """A block is the one of the version, and cannot be decoded to voxels."""


class CutoutTooLargeError(ConfigurationError):
    """A cut-out exceeds the limit of voxels or blocks."""


class UnreadableVolumeError(ConfigurationError):
    """The blocks of a volume, or of a level, are stored in an unsupported way."""


class ExportRefusedError(ConfigurationError):
    """The folder has files of another export or of the user, or the format is unsuitable."""


class ExportFailedError(NeuromirrorError):
    """A file of an export cannot be written."""


class BlockMismatchError(NeuromirrorError):
    """A URL no longer returns the content of a block's key.

    ``channel`` is the channel of the URL; ``found`` and ``expected`` are digests with their
    algorithms.
    """

    def __init__(self, url: str, channel: str, found: str, expected: str) -> None:
        super().__init__(
            f"{channel} has different voxels than when it was mirrored ({url}: {found}, not"
            f" {expected}); a clone that fetched the block earlier may still have it; "
            f"'neuromirror sync' creates a version with the current voxels"
        )
        self.channel = channel


def failure_group(host: str, error: NeuromirrorError) -> str:
    """Return a text that is equal for failures with the same cause: host, error type and status."""
    if isinstance(error, BlockMismatchError):
        return f"{type(error).__name__} {error.channel}"
    if isinstance(error, CircuitOpenError):
        return host if error.cause is None else failure_group(host, error.cause)
    status = error.status if isinstance(error, NetError) else None
    return f"{host} {type(error).__name__} {status}"
