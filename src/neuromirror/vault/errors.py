"""Errors of vaults, one class per cause."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError


class VaultError(NeuromirrorError):
    """A vault cannot be read or written as a whole."""


class VaultUnavailableError(VaultError):
    """A vault does not respond, or its folder is missing."""


class VaultCredentialsError(VaultError):
    """The credentials for a vault are missing, expired or not sufficient."""


class VaultFullError(VaultError):
    """A vault has no space for the content."""


class VaultReadOnlyError(ConfigurationError):
    """The configuration of a vault forbids to change it."""


class CopyRefusedError(NeuromirrorError):
    """A vault did not store one content, or stored other bytes; nothing was recorded."""


class CopyMissingError(NeuromirrorError):
    """A vault does not have a content."""
