"""Who is asked for what a place has: one session for the internet, one for what is allowed here.

Addresses of this machine and of private networks are asked only where git-annex may ask them too:
``annex.security.allowed-ip-addresses`` lists them, or says ``all``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from neuromirror.model import NeuromirrorError, environment_without_secrets
from neuromirror.net import CircuitOpenError, HostCircuitBreaker, NetError, RequestLimits, Session

_ALLOWED: Final = "annex.security.allowed-ip-addresses"
VERIFY_LIMITS: Final = RequestLimits(attempts=4, wait_max=20.0, read=300.0)
"""A cut-out of a volume is made before its first byte is sent, which may take minutes."""

API_KEY_VARIABLES: Final[Mapping[str, str]] = {"https://api.dandiarchive.org": "DANDI_API_KEY"}
"""The archives whose API may be shown a token, and the environment variable that holds it.

None but these, whatever addresses a dataset names: a token that is shown to others is theirs.
"""

_MAX_FAILURES: Final = 8
"""Failures in a row after which a host is given up; each took all attempts of a session."""


class UrlSessions:
    """The sessions to ask with; shared by threads.

    ``allowed`` are the addresses that git-annex may ask besides public ones. ``token`` gives the
    token for a host of volumes (with its port), or None; ``keys`` are as
    :data:`API_KEY_VARIABLES`, and go to
    those APIs alone, never where they redirect to. ``setting`` is the command that changes the
    configuration which ``allowed`` comes from. ``breaker`` knows which hosts do not answer.
    """

    def __init__(
        self,
        allowed: tuple[str, ...],
        token: Callable[[str], str | None],
        limits: RequestLimits = VERIFY_LIMITS,
        keys: Mapping[str, str] = API_KEY_VARIABLES,
        *,
        setting: str = "git config",
        breaker: HostCircuitBreaker | None = None,
    ) -> None:
        self._allowed = allowed
        self._setting = setting
        self._public = Session(limits=limits, tokens=keys, private_hint=self._hint)
        self._private = Session(
            limits=limits, tokens=keys, is_private_allowed=self._allows, private_hint=self._hint
        )
        self.breaker = breaker or HostCircuitBreaker(failures=_MAX_FAILURES, seconds=0.0)
        self.token = token

    def close(self) -> None:
        """Closes the connections that were kept."""
        self._public.close()
        self._private.close()

    def session_for(self, url: str) -> Session:
        """The session for a URL of any scheme; names but this machine's own are not resolved."""
        with suppress(ValueError):
            parts = urlsplit(url)
            if self._allows(parts.hostname or "", parts.port):
                return self._private
        return self._public

    def record(self, url: str, failure: NeuromirrorError | None) -> None:
        """Record for the circuit breaker that a host was unreachable, or (None) that it answered.

        A refusal of the circuit breaker itself is neither.
        """
        if failure is None:
            self.breaker.record_success(url)
        elif not isinstance(failure, CircuitOpenError):
            self.breaker.record_failure(url, failure if isinstance(failure, NetError) else None)

    def _hint(self, address: str) -> str:
        addresses = " ".join([*self._allowed, address])
        return f"""to allow it, run {self._setting} {_ALLOWED} '{addresses}'"""

    def _allows(self, name: str, port: int | None) -> bool:
        if "all" in self._allowed:
            return True
        addresses = ("127.0.0.1", "::1") if name == "localhost" else (name,)
        return all(self._lists(address, port) for address in addresses)

    def _lists(self, address: str, port: int | None) -> bool:
        for one in self._allowed:
            listed, _, its_port = one.partition("]:") if one.startswith("[") else (one, "", "")
            with suppress(ValueError):
                same = ip_address(listed.strip("[]")) == ip_address(address)
                if same and its_port in ("", str(port)):
                    return True
        return False


def allowed_addresses(folder: Path) -> tuple[str, ...]:
    """What git's configuration, as it holds in a folder, lets git-annex ask."""
    done = subprocess.run(
        ["git", "-C", str(folder), "config", "--get", _ALLOWED],
        env=environment_without_secrets(),
        capture_output=True,
        text=True,
        check=False,
    )
    return tuple(done.stdout.split())


def setting_command(folder: Path) -> str:
    """Return the command that changes git's configuration as it holds in a folder."""
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--git-dir"],
        env=environment_without_secrets(),
        capture_output=True,
        check=False,
    )
    return "git config" if done.returncode == 0 else "git config --global"
