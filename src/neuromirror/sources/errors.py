"""Errors that sources raise."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class UnreliableListingError(NeuromirrorError):
    """A list from the archive may be incomplete or inconsistent: absence from it proves nothing.

    Unless the message contains "try again", "; nothing was changed, try again" is appended.
    """

    def __init__(self, message: str) -> None:
        hint = "" if "try again" in message else "; nothing was changed, try again"
        super().__init__(message + hint)


class UpstreamChangingError(UnreliableListingError):
    """Upstream changed while a list was read, so that no single state of it is known.

    The next visit reads it again; this is no failure.
    """


class UnexpectedReplyError(UnreliableListingError):
    """A reply that does not follow the archive's API."""


class ComponentUnavailableError(UnreliableListingError):
    """The archive itself states that a component is not available now.

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
    """The archive refuses to return a component without a reason, perhaps only temporarily."""


class ComponentMismatchError(UnreliableListingError):
    """A component was read completely, and its files do not match the archive's checksum of it.

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
    """The requested local id has a form that no dataset of this archive can have."""
