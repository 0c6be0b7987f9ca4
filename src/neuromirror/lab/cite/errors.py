"""The errors of citations."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class NotCitableError(NeuromirrorError):
    """A commit was not made by a mirror, or cannot be read."""


class NothingToCiteError(ConfigurationError):
    """The argument is not a version, a lock file or a clone."""


class StateUnavailableError(NeuromirrorError):
    """Neither the store nor the files beside the lock file have a pinned state."""


class FormatUnsuitableError(ConfigurationError):
    """A format does not support the request."""
