"""Where a request may go: the addresses that are allowed, the proxies and certificates to use."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from neuromirror.net.errors import UnsafeAddressError
from neuromirror.net.urls import address_refusal, host_name_refusal, is_local_name, literal_address


def allow_private_hint(address: str) -> str:
    """Return the end of an error message: which setting allows a refused private address."""
    return (
        "if this archive is on your own network, set allow_private = true in the mirror's "
        "configuration file"
    )


def resolve_allowed_addresses(
    host: str,
    port: int,
    *,
    allow_private: bool,
    private_hint: Callable[[str], str] = allow_private_hint,
) -> list[str]:
    """Resolve a host name and check its addresses.

    Parameters
    ----------
    host, port
        The host to connect to.
    allow_private
        Whether loopback and private addresses are allowed.
    private_hint
        Returns, for a refused private address, the setting that would allow it.

    Returns
    -------
    list of str
        The addresses, all of them allowed.

    Raises
    ------
    socket.gaierror
        If the name cannot be resolved.
    UnsafeAddressError
        If at least one address is refused: a name with both allowed and refused addresses is
        an attack or a misconfiguration.
    """
    found: list[str] = []
    if (why := host_name_refusal(host)) is not None:
        raise UnsafeAddressError(f"{host}: refused ({why})", always_refused=True)
    literal = literal_address(host)
    try:
        address_infos = socket.getaddrinfo(
            host if literal is None else str(literal), port, type=socket.SOCK_STREAM
        )
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "not a valid DNS name") from error
    for *_, sockaddr in address_infos:
        text = str(sockaddr[0])
        address = ipaddress.ip_address(text.partition("%")[0])
        why = address_refusal(address, allow_private=allow_private)
        if why is not None:
            never = address_refusal(address, allow_private=True) is not None
            hint = "" if never else f"; {private_hint(text)}"
            raise UnsafeAddressError(
                f"{host}: refused, because it resolves to {text} ({why}){hint}",
                always_refused=never,
            )
        if text not in found:
            found.append(text)
    return found


def refuse_behind_proxy(host: str, redacted_url: str, *, allow_private: bool) -> None:
    """Raise UnsafeAddressError if a host must not be requested through a proxy.

    The proxy resolves names, so only IP address literals and known names can be checked here.

    Parameters
    ----------
    host
        The host.
    redacted_url
        The URL for the message.
    allow_private
        Whether private addresses are allowed.
    """
    address = literal_address(host)
    why = host_name_refusal(host)
    never = why is not None
    if address is not None:
        why = address_refusal(address, allow_private=allow_private)
        never = address_refusal(address, allow_private=True) is not None
    elif is_local_name(host) and not allow_private:
        why = "this machine itself"
    if why is not None:
        raise UnsafeAddressError(
            f"{redacted_url}: refused ({why})", url=redacted_url, always_refused=never
        )


_PROXY_VARIABLES: Final = tuple(
    written
    for name in ("http_proxy", "https_proxy", "all_proxy")
    for written in (name, name.upper())
)


def configured_proxy(url: str) -> str:
    """Return the proxy that the environment names for a URL; empty for a direct connection."""
    if sys.platform == "linux" and not any(name in os.environ for name in _PROXY_VARIABLES):
        return ""
    # reads no_proxy as other programs do, with networks and ports; long to import
    from requests.utils import get_environ_proxies

    proxies = get_environ_proxies(url)
    return proxies.get(urlsplit(url).scheme.lower()) or proxies.get("all") or ""


def configured_ca_bundle() -> str | None:
    """Return the file or folder of CA certificates; None for those of certifi."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None
