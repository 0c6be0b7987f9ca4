"""Errors about the blocks of a volume."""

from __future__ import annotations

from typing import Final

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.net import HttpError

_LIKELY_CAUSES: Final = {
    ("boss", 400): "the range may be outside of the channel, or the token wrong",
    ("boss", 404): "the channel may have been removed or marked for deletion",
    ("boss", 413): "the block exceeds the size limit of a request; set a smaller block",
    ("boss", 500): "this may also mean that the token is wrong",
    ("ndstore", 404): "the project or channel may have been removed, or the range be outside",
}
"""Additional meanings of HTTP statuses, by scheme."""


class MalformedUrlError(NeuromirrorError, ValueError):
    """The text is not a valid URL of a block."""


class WrongVoxelsError(NeuromirrorError):
    """A service's reply does not consist of the requested voxels.

    It has another shape or type, is truncated or too long. ``transient`` is whether another attempt
    may help, for example after a truncated body.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class CutoutRefusedError(HttpError):
    """A service replied to a request for a block with an HTTP error.

    The message has the status and the detail of the reply, and its likely cause.
    """

    def __init__(self, scheme: str, block: str, error: HttpError, likely: str = "") -> None:
        likely = likely or _LIKELY_CAUSES.get((scheme, error.status or 0), "")
        super().__init__(
            f"{block}: {error}{f' ({likely})' if likely else ''}",
            url=error.url,
            status=error.status,
            detail=error.detail,
            fields=error.fields,
        )
        self.transient = error.transient


class TokenRefusedError(HttpError):
    """A service refused a token.

    Attributes
    ----------
    host
        The service's host, with its port.
    name
        The origin of the token, usually an environment variable.
    """

    def __init__(self, host: str, name: str, error: HttpError) -> None:
        detail = f" ({error.detail})" if error.detail else ""
        super().__init__(
            f"the token in {name} was refused by {host} (HTTP {error.status}){detail}: it may be"
            " wrong or expired, or lack the permission; set another, or unset it to read public"
            " channels",
            url=error.url,
            status=error.status,
            detail=error.detail,
        )
        self.host = host
        self.name = name


class BlockReadError(NeuromirrorError):
    """A block could not be read, so the volume cannot be listed."""


class TooManyFilesError(ConfigurationError):
    """A volume has more blocks than the mirror's options allow."""
