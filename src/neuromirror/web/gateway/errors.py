"""Errors of the gateway."""

from __future__ import annotations

from neuromirror.model import NeuromirrorError


class ContentUnavailableError(NeuromirrorError):
    """The content of a file cannot be delivered; ``status`` is the HTTP status to return.

    The message is sent to the client, so it must not have secrets. ``is_changed`` is whether the
    archive returned other bytes than those of the version.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.is_changed = False


class UnknownEntryError(NeuromirrorError):
    """A folder has no entry of the name after which a page of its entries should start."""
