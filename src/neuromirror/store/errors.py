"""What can be wrong with a store."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class NotAStoreError(ConfigurationError):
    """The folder is not a neuromirror store, and not an empty place for one."""


class StoreBusyError(NeuromirrorError):
    """Another process is at work on the same thing."""


class RefsMovedError(NeuromirrorError):
    """A ref is not where this visit found it: somebody else wrote to the repository."""


class StoreDamagedError(NeuromirrorError):
    """Something in the store that ought to be there is not, or cannot be read."""
