"""Tokens for hosts that datasets name, and tokens of BOSS where ``intern`` has them.

``intern`` reads the token of a BOSS from ``~/.intern/intern.cfg`` (intern: Remote).
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from neuromirror.model import declare_secrets
from neuromirror.net import CredentialsError, TokenSource
from neuromirror.sources.dandi_client import DandiKey, instance_at, is_key_for
from neuromirror.sources.volumes.urls import token_variable

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_INTERN_FILE: Final = "~/.intern/intern.cfg"
_PUBLIC: Final = "public"
"""The token of anonymous requests."""


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
