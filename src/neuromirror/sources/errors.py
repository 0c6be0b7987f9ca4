"""What can go wrong with what a source says."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class ListingNotProven(NeuromirrorError):
    """A list that cannot be trusted to be whole: absence from it means nothing.

    The message ends by saying that nothing was changed, unless it already tells what to do.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what if "try again" in what else f"{what}; nothing was changed, try again")


class UnexpectedReply(ListingNotProven):
    """A reply that is JSON, but not what the archive's API promises."""


class PartUnavailable(ListingNotProven):
    """A part whose entries may not be read, as under embargo; ``reason`` says why in a word."""

    reason: str = "embargoed"


class DatasetNotFound(NeuromirrorError):
    """The archive itself says that it has no such dataset (any more)."""


class MalformedId(ConfigurationError, ValueError):
    """A local id that no dataset of this archive can have."""
