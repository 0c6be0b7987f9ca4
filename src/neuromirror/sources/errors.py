"""What can go wrong with what a source says."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class UnreliableListingError(NeuromirrorError):
    """A list that cannot be trusted to be whole: absence from it means nothing.

    The message ends by saying that nothing was changed, unless it already tells what to do.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what if "try again" in what else f"{what}; nothing was changed, try again")


class UnexpectedReplyError(UnreliableListingError):
    """A reply that is JSON, but not what the archive's API promises."""


class ComponentUnavailableError(UnreliableListingError):
    """A part that the archive itself states cannot be mirrored now; the state goes without it.

    ``reason`` is the archive's reason in a word: ``embargoed``, or ``pending`` while it is being
    written. A refusal without such a statement (:class:`ComponentRefusedError`) is another thing.
    """

    def __init__(self, what: str, reason: str = "embargoed") -> None:
        super().__init__(what)
        self.reason = reason


class ComponentRefusedError(UnreliableListingError):
    """A part that may not be read, where the archive states no reason; that may pass."""


class ComponentMismatchError(UnreliableListingError):
    """A part that was read whole and is not what the archive states that it is.

    Another attempt reads the same: the statement or the objects are wrong upstream.
    """


class DatasetNotFoundError(NeuromirrorError):
    """The archive itself says that it has no such dataset (any more).

    ``owner_may_delete`` says that it lets owners delete a dataset of which nothing is published.
    """

    owner_may_delete: bool = False


class MalformedIdError(ConfigurationError, ValueError):
    """A local id that no dataset of this archive can have."""
