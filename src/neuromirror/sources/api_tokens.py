"""Tokens of archives, where their own clients have them: ``dandi`` and ``intern``.

``dandi`` reads the key from a variable that is named after the instance (``DANDI_API_KEY``), or
else from the user's keyring, where it stores a key that was typed in (dandi: DandiAPIClient).
``intern`` reads the token of a BOSS from ``~/.intern/intern.cfg`` (intern: Remote).
"""

from __future__ import annotations

import configparser
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from neuromirror.model import declare_secrets
from neuromirror.net import CredentialsError, TokenSource
from neuromirror.sources.volumes.tokens import token_variable

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

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_USER: Final = "key"
_INTERN_FILE: Final = "~/.intern/intern.cfg"
_PUBLIC: Final = "public"
"""The token of anonymous requests."""


def api_key_variable(instance: str) -> str:
    """Return the environment variable from which ``dandi`` reads the API key of an instance."""
    return f"{instance.upper().replace('-', '_')}_API_KEY"


def instance_at(api: str) -> str | None:
    """Return the name of the DANDI instance whose API has this URL; None if unknown to ``dandi``.

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


def host_token(host: str, instance: str | None = None) -> TokenSource:
    """Return the API token for a host that an untrusted dataset names.

    Parameters
    ----------
    host
        The host, with its port if there is one.
    instance
        The instance name from git's configuration, which is untrusted: it may choose a keyring
        entry of ``dandi``, but never an environment variable.

    Returns
    -------
    TokenSource
        The token in the environment variable named after the host, or where ``dandi`` stores it.

    Raises
    ------
    CredentialsError
        If the instance is another archive than the host.
    """
    variable = token_variable(host)
    api = f"{token_scheme(host)}://{host}"
    known = instance_at(api)
    if instance is not None and not is_key_for(instance, api):
        raise CredentialsError(
            f"neuromirror.{host}.instance is '{instance}', which is another archive; its API key "
            f"is not sent to {host}",
            identity=instance,
        )
    if os.environ.get(variable, "").strip() or (instance or known) is None:
        return TokenSource(variable)
    return DandiKey(known) if known is not None else DandiKey(str(instance), variable)


def token_scheme(host: str) -> str:
    """Return the scheme over which a token is sent: https, and http for a host on this machine.

    Parameters
    ----------
    host
        The host, with its port if there is one.

    Returns
    -------
    str
        The scheme.
    """
    name = urlsplit(f"//{host}").hostname or ""
    return "http" if name in _LOOPBACK else "https"


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
        self._lacks_keyring = False

    @property
    def label(self) -> str:
        """Where the key is, or where to put it."""
        if self._stored and not super().read():
            return f"the keyring entry {self.service}"
        missing = " (the package keyring is not installed)" if self._lacks_keyring else ""
        return super().label + missing

    def read(self) -> str:
        """Return the key; empty if missing.

        Raises
        ------
        CredentialsError
            If the keyring cannot be read, for example because it is locked.
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


class InternToken(TokenSource):
    """The token of a BOSS, from an environment variable or the configuration file of ``intern``.

    Parameters
    ----------
    host
        The host of the BOSS, with its port. A token for another host is not used.
    variables
        The variables that are used before those of ``intern``.
    """

    def __init__(self, host: str, *variables: str) -> None:
        super().__init__(*variables)
        declare_secrets(["INTERN_TOKEN"])
        self.host = host

    @property
    def label(self) -> str:
        """Where the token is, or where to put it."""
        return f"{super().label} or {_INTERN_FILE}"

    def read(self) -> str:
        """Return the token; empty if missing.

        Raises
        ------
        CredentialsError
            If the file of ``intern`` cannot be read.
        """
        found = super().read()
        if not found and os.environ.get("INTERN_HOST", "") == self.host:
            found = os.environ.get("INTERN_TOKEN", "").strip()
        return found or self._read_file()

    def known(self) -> str:
        """Return the token; empty if it cannot be read."""
        try:
            return self.read()
        except CredentialsError:
            return ""

    def _read_file(self) -> str:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            path = Path(_INTERN_FILE).expanduser()
            if not path.is_file():
                return ""
            parser.read_string(path.read_text("utf-8"))
        # RuntimeError: there is no home folder
        except (OSError, RuntimeError, UnicodeDecodeError, configparser.Error) as error:
            kind = type(error).__name__
            raise CredentialsError(
                f"{_INTERN_FILE} cannot be read ({kind}); correct it, or set the variable"
                f" {self.variables[0]}",
                identity=_INTERN_FILE,
                cause_name=kind,
            ) from None
        for name in parser.sections():
            section = parser[name]
            token = section.get("token", "").strip()
            if section.get("host", "").strip() == self.host and token not in ("", _PUBLIC):
                return token
        return ""
