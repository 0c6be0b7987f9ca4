"""What can go wrong with volumes that are opened or exported."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError

EXTRA = "pip install 'neuromirror[volumes]'"


class NotAVolume(ConfigurationError):
    """A folder or version that is no OME-Zarr as volumes are mirrored, or is not there at all."""


class NoSuchLevel(ConfigurationError):
    """A level that the volume does not have."""


class OutsideVolume(ConfigurationError):
    """A region that is not wholly in the volume, or in time where the volume has none."""


class ExtraMissing(ConfigurationError):
    """A package that only volumes need, and that is not installed."""

    def __init__(self, error: ImportError) -> None:
        super().__init__(f"volumes need the package {error.name}: {EXTRA}")


class BlockMissing(NeuromirrorError):
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


class TooMuch(ConfigurationError):
    """A cut-out of more voxels, or from more blocks, than is given at once."""


class NotReadable(ConfigurationError):
    """A volume, or a level of one, whose blocks are stored in a way that is not read here."""


class ExportRefused(ConfigurationError):
    """A folder that holds what another export, or a person, put there; or a format that cannot."""


class ExportFailed(NeuromirrorError):
    """A file of an export that could not be written."""
