"""Why something cannot be cited."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class NotCitableError(NeuromirrorError):
    """A commit that no mirror made, or that git cannot read."""


class NothingToCiteError(ConfigurationError):
    """The name is not that of a version, a lock or a clone."""


class StateUnavailableError(NeuromirrorError):
    """A pinned state that neither the store nor what stands beside the lock has."""


class FormatUnsuitableError(ConfigurationError):
    """A format was asked for something that it cannot do."""


class OutputUnsuitableError(ConfigurationError):
    """A citation cannot be written where it shall be."""
