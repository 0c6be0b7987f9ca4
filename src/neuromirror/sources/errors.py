"""Errors that sources raise."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class UnreliableListingError(NeuromirrorError):
    """A list that may be incomplete or inconsistent, so that absence from it proves nothing.

    Unless the message already has a next step, "nothing was changed, try again" is appended.
    """

    def __init__(self, message: str) -> None:
        hint = "" if "try again" in message else "; nothing was changed, try again"
        super().__init__(message + hint)


class UnexpectedReplyError(UnreliableListingError):
    """A reply that does not follow the archive's API."""


class ComponentUnavailableError(UnreliableListingError):
    """A component that cannot be mirrored now, as the archive itself states.

    The version is mirrored without it. A refusal without such a statement is a
    :class:`ComponentRefusedError`.

    Attributes
    ----------
    reason
        ``embargoed``, or ``pending`` while the component is being written.
    """

    def __init__(self, message: str, reason: str = "embargoed") -> None:
        super().__init__(message)
        self.reason = reason


class ComponentRefusedError(UnreliableListingError):
    """A component that may not be read, without a stated reason; possibly only for now."""


class ComponentMismatchError(UnreliableListingError):
    """A component that was read completely and does not match the archive's checksum.

    Retrying does not help: the checksum or the objects are wrong upstream.
    """


class DatasetNotFoundError(NeuromirrorError):
    """The archive itself reports that a dataset does not exist, or was removed.

    Attributes
    ----------
    owner_may_delete
        Whether the archive lets owners delete a dataset without published versions.
    """

    owner_may_delete: bool = False


class MalformedIdError(ConfigurationError, ValueError):
    """A local id that no dataset of this archive can have."""
