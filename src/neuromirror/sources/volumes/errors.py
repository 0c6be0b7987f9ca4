"""What can go wrong with the blocks of a volume."""

from __future__ import annotations

from typing import Final

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.net import HttpError

_LIKELY_CAUSES: Final = {
    ("boss", 400): "the range may lie outside of the channel, or the token be wrong",
    ("boss", 404): "the channel may be gone, or marked as deleted",
    ("boss", 413): "the block is larger than one request may be; set a smaller block",
    ("boss", 500): "this may also mean that the token is wrong",
    ("ndstore", 404): "the project or channel may be gone, or the range lie outside of it",
}
"""What a status means here beside what it means everywhere."""


class MalformedUrlError(NeuromirrorError, ValueError):
    """A text that names no block of a volume."""


class WrongVoxelsError(NeuromirrorError):
    """A reply that is not the voxels that were asked for: another shape or type, cut, too long.

    ``passing`` says that another attempt may help (the body may have been cut on the way).
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class CutoutRefusedError(HttpError):
    """A service's answer that is no cut-out; status, detail and ``passing`` are of its reply."""

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
    """A service refused a token; ``name`` says where it comes from, ``host`` has its port.

    It is an environment variable, mostly.
    """

    def __init__(self, host: str, name: str, error: HttpError) -> None:
        detail = f" ({error.detail})" if error.detail else ""
        super().__init__(
            f"the token in {name} was refused by {host} (HTTP {error.status}){detail}: it may be"
            " wrong, have expired, or lack the right; set another, or unset it to read what is"
            " public",
            url=error.url,
            status=error.status,
            detail=error.detail,
        )
        self.host = host
        self.name = name


class BlockReadError(NeuromirrorError):
    """A block that could not be read, so that nothing is known of the volume as a whole."""


class TooManyFilesError(ConfigurationError):
    """A volume that would make more files than the mirror's file allows."""
