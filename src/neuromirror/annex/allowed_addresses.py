"""The private addresses that git-annex may access: ``annex.security.allowed-ip-addresses``.

The setting is ``all``, or a list of addresses separated by spaces, each with or without a port
(``127.0.0.1 [::1]:8080``); see git-annex's man page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address

ALLOWED_ADDRESSES = "annex.security.allowed-ip-addresses"


def is_private_host_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Return whether a host may be accessed even if it is this machine or on a private network.

    Names other than ``localhost`` are not resolved, since they might resolve to another address
    the next time.

    Parameters
    ----------
    host
        The host as in a URL, with its port if there is one.
    allowed
        The words of the setting.

    Returns
    -------
    bool
        Whether the setting allows the host.
    """
    if "all" in allowed:
        return True
    name = host_without_port(host)
    addresses = {"127.0.0.1", "::1"} if name == "localhost" else {name}
    return all(_is_listed(one, host, allowed) for one in addresses)


def host_without_port(host: str) -> str:
    """Return a name or address without port and brackets.

    Parameters
    ----------
    host
        The host as in a URL.

    Returns
    -------
    str
        The name, or the address.
    """
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def allow_command(hosts: Iterable[str]) -> str:
    """Return the command that allows git-annex and neuromirror to access further hosts.

    Parameters
    ----------
    hosts
        Hosts as in URLs. The address of a name other than ``localhost`` is left to the reader.

    Returns
    -------
    str
        One line for a shell.
    """
    named: dict[str, None] = {}
    for name in map(host_without_port, hosts):
        try:
            found = ("127.0.0.1", "::1") if name == "localhost" else (str(ip_address(name)),)
        except ValueError:
            found = ("ADDRESS",)
        named.update(dict.fromkeys(found))
    setting = f"git config --global {ALLOWED_ADDRESSES}"
    return f'{setting} "$({setting}) {" ".join(named)}"'


def _is_listed(address: str, host: str, allowed: Sequence[str]) -> bool:
    port = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else ""
    for one in allowed:
        listed, _, listed_port = one.partition("]:") if one.startswith("[") else (one, "", "")
        with suppress(ValueError):
            same = ip_address(listed.strip("[]")) == ip_address(address)
            if same and listed_port in ("", port):
                return True
    return False
