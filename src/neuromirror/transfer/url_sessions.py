"""HTTP sessions for the URLs of annexed files: one for public hosts, one for allowed private ones.

As in git-annex, hosts on this machine and on private networks are refused unless
``annex.security.allowed-ip-addresses`` lists their addresses, or is ``all``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from neuromirror.annex import ALLOWED_ADDRESSES, is_private_host_allowed
from neuromirror.git import call_git, git_environment
from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    CredentialsError,
    HostCircuitBreaker,
    NetError,
    RequestLimits,
    Session,
    TokenSource,
)
from neuromirror.sources.api_tokens import host_token, token_scheme
from neuromirror.sources.dandi_client import INSTANCES, api_key_variable
from neuromirror.transfer.annex_settings import AnnexSettings

VERIFY_LIMITS: Final = RequestLimits(attempts=4, wait_max=20.0, read=300.0)
"""Limits for verification. A volume host may take minutes before it sends the first byte."""

API_KEY_VARIABLES: Final[Mapping[str, str]] = {
    f"https://{host}": api_key_variable(instance) for host, instance in INSTANCES.items()
}
"""Archive APIs that receive a token, with the environment variable that contains it.

The list is fixed: a dataset can name any URL, and must not be able to obtain a token by it.
"""

_MAX_FAILURES: Final = 8
"""Consecutive failures that open the circuit of a host; each is a request with all its retries."""


def no_token(host: str) -> None:
    """Return None for any host, so that no host receives a token; the default of ``token``.

    Parameters
    ----------
    host
        The name of a host.
    """
    return None


class UrlSessions:
    """The sessions and the circuit breaker for a set of URLs. Thread-safe; a context manager.

    Parameters
    ----------
    allowed
        Values of ``annex.security.allowed-ip-addresses``.
    token
        Returns the token for a volume host (with its port), or None.
    limits
        Limits per host.
    keys
        Environment variables that hold tokens, by API, as :data:`API_KEY_VARIABLES`. A token is not
        sent to the target of a redirect.
    setting
        Command for error messages that changes the configuration ``allowed`` was read from.
    host_token
        Returns the token that is sent to a host which refuses a request without it, or None.
    breaker
        Circuit breaker; by default one that opens after 8 consecutive failures.
    allowed_hosts
        Hosts, with their ports, that may be accessed whatever their addresses are.
    """

    def __init__(
        self,
        allowed: tuple[str, ...],
        token: Callable[[str], str | None] = no_token,
        limits: RequestLimits = VERIFY_LIMITS,
        keys: Mapping[str, str] = API_KEY_VARIABLES,
        *,
        setting: str = "git config",
        host_token: Callable[[str], TokenSource | None] = no_token,
        breaker: HostCircuitBreaker | None = None,
        allowed_hosts: frozenset[str] = frozenset(),
    ) -> None:
        self._allowed = allowed
        self._allowed_hosts = allowed_hosts
        self._setting = setting
        self._public = Session(limits=limits, tokens=keys, private_hint=self._hint)
        self._private = self._new_session(limits, keys)
        self._chosen: dict[str, Session] = {}
        self._host_token = host_token
        self._authorized: dict[str, Session | None] = {}
        self._lock = threading.Lock()
        self.limits = limits
        self.breaker = breaker or HostCircuitBreaker(failures=_MAX_FAILURES, seconds=0.0)
        self.token = token

    def __enter__(self) -> UrlSessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the open connections."""
        self._public.close()
        self._private.close()
        for session in self._authorized.values():
            if session is not None:
                session.close()

    def session_for(self, url: str) -> Session:
        """Return the session for a URL of any scheme. Host names are not resolved here."""
        try:
            host = urlsplit(url).netloc.rpartition("@")[2]
        except ValueError:
            return self._public
        found = self._chosen.get(host)
        if found is None:
            is_allowed = self._is_private_host_allowed(host)
            found = self._chosen[host] = self._private if is_allowed else self._public
        return found

    def authorized_session(self, url: str) -> Session | None:
        """Return a session with the token for the host of a URL; None if there is no token.

        Later requests to the host use this session, too.

        Raises
        ------
        CredentialsError
            The token cannot be read.
        """
        parts = urlsplit(url)
        host = parts.netloc
        if "@" in host or parts.scheme != token_scheme(host):
            return None
        with self._lock:
            if host not in self._authorized:
                token = self._host_token(host)
                self._authorized[host] = self._session_with(host, token)
            found = self._authorized[host]
        if found is not None:
            self._chosen[host] = found
        return found

    def authorize(self, url: str, refused: Session, *, is_required: bool) -> bool:
        """Send the token for the host of a URL with all later requests to it.

        Parameters
        ----------
        url
            A URL that was refused.
        refused
            The session of the refused request.
        is_required
            Whether the host asks for a token.

        Returns
        -------
        bool
            Whether there is a token that the refused request did not have.

        Raises
        ------
        CredentialsError
            The token cannot be read, or is required and not set.
        """
        authorized = self.authorized_session(url)
        if authorized is not None:
            return authorized is not refused
        parts = urlsplit(url)
        host = parts.netloc
        if is_required and "@" not in host and parts.scheme == token_scheme(host):
            token = self._host_token(host)
            if token is not None:
                message = f"no token for {host}: set {token.label}"
                raise CredentialsError(message, identity=token.label)
        return False

    def _session_with(self, host: str, token: TokenSource | None) -> Session | None:
        if token is None or not token.read():
            return None
        return self._new_session(self.limits, {f"{token_scheme(host)}://{host}": token})

    def _new_session(
        self, limits: RequestLimits, tokens: Mapping[str, str | TokenSource]
    ) -> Session:
        """Return a session that may request the allowed private hosts."""
        return Session(
            limits=limits,
            tokens=tokens,
            is_private_allowed=self._allows,
            private_hint=self._hint,
        )

    def record(self, url: str, failure: NeuromirrorError | None) -> None:
        """Report to the circuit breaker that a host answered (None), or how it failed.

        A refusal by the circuit breaker itself is neither: no request was made.
        """
        if failure is None:
            self.breaker.record_success(url)
        else:
            self.breaker.record_failure(url, failure if isinstance(failure, NetError) else None)

    def _hint(self, address: str) -> str:
        addresses = " ".join([*self._allowed, address])
        return f"to allow it, run {self._setting} {ALLOWED_ADDRESSES} '{addresses}'"

    def _allows(self, name: str, port: int | None) -> bool:
        host = f"[{name}]" if ":" in name else name
        return self._is_private_host_allowed(host if port is None else f"{host}:{port}")

    def _is_private_host_allowed(self, host: str) -> bool:
        return host in self._allowed_hosts or is_private_host_allowed(host, self._allowed)


def host_tokens(settings: AnnexSettings) -> Callable[[str], TokenSource]:
    """Return a function that returns the token for a host: see :func:`host_token`."""
    named = settings.subsections("neuromirror")
    return lambda host: host_token(host, named.get((host, "instance")))


def setting_command(folder: Path) -> str:
    """Return the command that an error message recommends for a setting that applies in a folder.

    It is ``git config`` in a repository, otherwise ``git config --global``.
    """
    done = call_git(git_environment(None), "-C", str(folder), "rev-parse", "--git-dir")
    return "git config" if done.returncode == 0 else "git config --global"
