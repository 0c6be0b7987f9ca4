"""What can go wrong with volumes that are opened or exported."""

from __future__ import annotations

from collections.abc import Sequence

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.net import CircuitOpenError, NetError

INSTALL_COMMAND = "pip install 'neuromirror[volumes]'"


class NotAVolumeError(ConfigurationError):
    """A folder or version that is no OME-Zarr as volumes are mirrored, or is not there at all."""


class UnknownLevelError(ConfigurationError):
    """A level that the volume does not have."""


class OutsideVolumeError(ConfigurationError):
    """A region that is not wholly in the volume, or in time where the volume has none."""


class MissingExtraError(ConfigurationError):
    """A package that only volumes need, and that is not installed."""

    def __init__(self, error: ImportError) -> None:
        super().__init__(f"volumes need the package {error.name}: {INSTALL_COMMAND}")


class BlockUnavailableError(NeuromirrorError):
    """A block that cannot be had, or has other bytes than the version says.

    ``block`` is its path in the volume (``0/c/3/0/2``); ``causes`` are the errors of the places
    that were asked, where there were any. ``closed`` says that somebody closed the volume before.
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
        self.causes = causes
        self.closed = closed


class CutoutTooLargeError(ConfigurationError):
    """A cut-out of more voxels, or from more blocks, than is given at once."""


class UnreadableVolumeError(ConfigurationError):
    """A volume, or a level of one, whose blocks are stored in a way that is not read here."""


class ExportRefusedError(ConfigurationError):
    """A folder that holds what another export, or a person, put there; or a format that cannot."""


class ExportFailedError(NeuromirrorError):
    """A file of an export that could not be written."""


class BlockMismatchError(NeuromirrorError):
    """An address that no longer gives what the key stands for; ``channel`` is what it belongs to.

    ``found`` and ``expected`` are digests, each with its algorithm.
    """

    def __init__(self, url: str, channel: str, found: str, expected: str) -> None:
        super().__init__(
            f"{channel} now gives other voxels than when it was mirrored ({url}: {found}, not"
            f" {expected}); whoever got the block before may still have it, and 'neuromirror sync'"
            " makes a version of what is there now"
        )
        self.channel = channel


def summarize_failures(failures: Sequence[tuple[str, str]]) -> str:
    """Return one message for many failed addresses, each given as a group and a message.

    Of each group the first message is shown, with the number of addresses that failed alike.
    """
    groups: dict[str, list[str]] = {}
    for group, message in failures:
        groups.setdefault(group, []).append(message)
    return " | ".join(
        found[0] if len(found) == 1 else f"{found[0]} (so do {len(found) - 1} more addresses)"
        for found in groups.values()
    )


def failure_group(host: str, error: NeuromirrorError) -> str:
    """Return what makes failures of several addresses the same one."""
    if isinstance(error, BlockMismatchError):
        return f"{type(error).__name__} {error.channel}"
    if isinstance(error, CircuitOpenError):
        return host if error.cause is None else failure_group(host, error.cause)
    status = error.status if isinstance(error, NetError) else None
    return f"{host} {type(error).__name__} {status}"
