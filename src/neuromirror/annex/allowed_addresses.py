"""The private addresses that git-annex may access: ``annex.security.allowed-ip-addresses``.

The setting is ``all``, or a list of addresses separated by spaces, each with or without a port
(``127.0.0.1 [::1]:8080``); see git-annex's man page.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

ALLOWED_ADDRESSES = "annex.security.allowed-ip-addresses"


def is_private_host_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Return whether a host may be accessed even if it is this machine or on a private network.

    Parameters
    ----------
    host
        The host as in a URL, with its port if there is one.
    allowed
        The words of the setting.
    """
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return is_address_allowed(name, port.removeprefix(":"), allowed)
    name, _, port = host.partition(":")
    return is_address_allowed(name, port, allowed)


def is_address_allowed(name: str, port: int | str, allowed: Sequence[str]) -> bool:
    """Return whether a host and port may be accessed even on a private network.

    Names other than ``localhost`` are not resolved, since they might resolve to another address
    the next time.
    """
    if "all" in allowed:
        return True
    addresses = {"127.0.0.1", "::1"} if name == "localhost" else {name}
    return all(_is_listed(one, str(port), allowed) for one in addresses)


def _is_listed(address: str, port: str, allowed: Sequence[str]) -> bool:
    for one in allowed:
        listed, _, listed_port = one.partition("]:") if one.startswith("[") else (one, "", "")
        with suppress(ValueError):
            same = ip_address(listed.strip("[]")) == ip_address(address)
            if same and listed_port in ("", port):
                return True
    return False
