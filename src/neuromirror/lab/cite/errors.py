"""The errors of citations."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class NotCitableError(NeuromirrorError):
    """A commit was not created by a mirror, or cannot be read."""


class NothingToCiteError(ConfigurationError):
    """The argument is not a version, a lock file or a clone."""


class StateUnavailableError(NeuromirrorError):
    """A pinned state cannot be cited.

    Neither the store nor the files beside the lock file have it.
    """
