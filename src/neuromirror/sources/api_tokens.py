"""API keys of DANDI archives, where the ``dandi`` client has them.

``dandi`` reads the key from a variable that is named after the instance (``DANDI_API_KEY``), or
else from the user's keyring, where it stores a key that was typed in (dandi: DandiAPIClient).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from neuromirror.net import CredentialsError, TokenSource

INSTANCES: Final[Mapping[str, str]] = {
    "api.dandiarchive.org": "dandi",
    "api.sandbox.dandiarchive.org": "dandi-sandbox",
    "api-dandi.emberarchive.org": "ember-dandi",
    "api-dandi.sandbox.emberarchive.org": "ember-dandi-sandbox",
    "api.lincbrain.org": "linc",
    "staging-api.lincbrain.org": "linc-staging",
}
"""The instances that ``dandi`` knows, by the host of the API; importing it takes seconds.

A dataset can name any URL, and must not be able to obtain a key by it: no host is added later.
"""

_USER: Final = "key"


def api_key_variable(instance: str) -> str:
    """Return the variable from which ``dandi`` reads the key of an instance."""
    return f"{instance.upper().replace('-', '_')}_API_KEY"


def instance_at(api: str) -> str | None:
    """Return the instance with an API at a URL; None if ``dandi`` does not know it."""
    return INSTANCES.get(urlsplit(api).netloc.lower())


class DandiKey(TokenSource):
    """The key of an instance: in a variable, else in the keyring. Thread-safe.

    The keyring is asked once, because each question may ask the user for a password.

    Parameters
    ----------
    instance
        The name of the instance in ``dandi``.
    variable
        A variable that is used instead of the one that ``dandi`` reads.
    """

    def __init__(self, instance: str, variable: str | None = None) -> None:
        super().__init__(variable or api_key_variable(instance))
        self.service = f"dandi-api-{instance}"
        self._lock = threading.Lock()
        self._stored: str | None = None
        self._lacks_keyring = False

    @property
    def label(self) -> str:
        """Where the key is, or where to put it."""
        if self._stored and not super().read():
            return f"the keyring entry {self.service}"
        missing = " (the package keyring is not installed)" if self._lacks_keyring else ""
        return super().label + missing

    def read(self) -> str:
        """Return the key; empty if there is none.

        Raises
        ------
        CredentialsError
            If the keyring cannot be asked: it is locked, or fails.
        """
        found = super().read()
        if found:
            return found
        with self._lock:
            if self._stored is None:
                self._stored = self._read_keyring()
            return self._stored

    def known(self) -> str:
        """Return the key if it was read before; else empty."""
        return super().known() or self._stored or ""

    def _read_keyring(self) -> str:
        try:
            import keyring
            from keyring.errors import NoKeyringError
        except ImportError:
            self._lacks_keyring = True
            return ""
        try:
            return (keyring.get_password(self.service, _USER) or "").strip()
        except NoKeyringError:
            return ""
        except Exception as error:  # noqa: BLE001 - backends raise errors of their own
            kind = type(error).__name__
            raise CredentialsError(
                f"the keyring entry {self.service} cannot be read ({kind}); unlock the keyring, or"
                f" set the environment variable {self.variables[0]}",
                identity=self.service,
                cause_name=kind,
            ) from None
