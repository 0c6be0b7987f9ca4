"""Errors of a store."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class NotAStoreError(ConfigurationError):
    """The folder is neither a neuromirror store nor an empty folder for a new one."""


class StoreBusyError(NeuromirrorError):
    """Another process holds the lock of a dataset, a file or a ref."""


class RefsMovedError(NeuromirrorError):
    """A ref of a repository moved since the start of the visit: another program wrote to it."""


class StoreDamagedError(NeuromirrorError):
    """A file or object of the store is missing or unreadable."""
