"""The archives that the ``dandi`` client knows, and the API keys that it keeps for a user.

The public archives are in a table here. With the extra ``[dandi-cli]``, addresses of all archives
that the installed ``dandi`` knows are understood. ``dandi`` reads a key from a variable that is
named after the archive (``DANDI_API_KEY``), or else from the user's keyring, where it stores a key
that was typed in (dandi: DandiAPIClient).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from neuromirror.net import CredentialsError, TokenSource


class Instance(NamedTuple):
    """An archive that runs DANDI's software: its name in ``dandi``, its API and its web pages."""

    name: str
    api: str
    gui: str


PUBLIC: Final = (
    Instance("dandi", "https://api.dandiarchive.org/api", "https://dandiarchive.org"),
    Instance(
        "dandi-sandbox",
        "https://api.sandbox.dandiarchive.org/api",
        "https://sandbox.dandiarchive.org",
    ),
    Instance(
        "ember-dandi", "https://api-dandi.emberarchive.org/api", "https://dandi.emberarchive.org"
    ),
    Instance(
        "ember-dandi-sandbox",
        "https://api-dandi.sandbox.emberarchive.org/api",
        "https://dandi.sandbox.emberarchive.org",
    ),
    Instance("linc", "https://api.lincbrain.org/api", "https://lincbrain.org"),
    Instance(
        "linc-staging", "https://staging-api.lincbrain.org/api", "https://staging.lincbrain.org"
    ),
)

INSTANCES: Final[Mapping[str, str]] = {
    urlsplit(instance.api).netloc: instance.name for instance in PUBLIC
}
"""The names of the public archives, by the host of the API.

A dataset can name any URL, and must not be able to obtain a key by it: no host is added later.
"""

_USER: Final = "key"


def archive_at(api: str) -> Instance | None:
    """Return the archive whose API has this URL; None if it is unknown."""
    for instance in PUBLIC:
        if instance.api == api:
            return instance
    try:
        from dandi.consts import known_instances  # type: ignore[import-untyped]
    except ImportError:
        return None
    for theirs in known_instances.values():
        if theirs.api == api:
            return Instance(theirs.name, theirs.api, theirs.gui or "")
    return None


def api_key_variable(instance: str) -> str:
    """Return the environment variable from which ``dandi`` reads the API key of an instance."""
    return f"{instance.upper().replace('-', '_')}_API_KEY"


def instance_at(api: str) -> str | None:
    """Return the name of the public archive whose API has this URL; None for any other.

    A URL without TLS belongs to no instance, because others could read the key in transit.
    """
    parts = urlsplit(api)
    return INSTANCES.get(parts.netloc.lower()) if parts.scheme == "https" else None


def is_key_for(instance: str, api: str) -> bool:
    """Return whether the API key of a DANDI instance may be sent to the API at a URL.

    The key of an instance that ``dandi`` knows is sent only to the instance's own host, whatever a
    configuration file states. The key of any other instance may be sent to any API.
    """
    return instance not in INSTANCES.values() or instance_at(api) == instance


class DandiKey(TokenSource):
    """The API key of a DANDI instance, from an environment variable or the keyring. Thread-safe.

    The keyring is read only once, because each access may ask the user for a password.

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

    @property
    def label(self) -> str:
        """Where the key is, or where to put it."""
        if self._stored and not super().read():
            return f"the keyring entry {self.service}"
        return super().label

    def read(self) -> str:
        """Return the key; empty if missing.

        Raises
        ------
        CredentialsError
            If the keyring cannot be read, for example because it is locked.
        """
        key = super().read()
        if key:
            return key
        with self._lock:
            if self._stored is None:
                self._stored = self._read_keyring()
            return self._stored

    def known(self) -> str:
        """Return the key if it was read before; else empty."""
        return super().known() or self._stored or ""

    def _read_keyring(self) -> str:
        import keyring
        from keyring.errors import NoKeyringError

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
