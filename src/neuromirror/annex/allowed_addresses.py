"""Which private addresses git-annex may ask: ``annex.security.allowed-ip-addresses``.

The setting is ``all``, or addresses with spaces between them, each with a port or without
(``127.0.0.1 [::1]:8080``); see git-annex's man page.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address

ALLOWED_ADDRESSES = "annex.security.allowed-ip-addresses"


def is_private_host_allowed(host: str, allowed: Sequence[str]) -> bool:
    """Whether a host may be asked although it is this machine, or on a private network.

    ``host`` has its port, if there is one; ``allowed`` are the words of the setting. Names are
    not resolved here, since they might lead elsewhere the next time; but for this machine's own.
    """
    if "all" in allowed:
        return True
    bare = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    addresses = {"127.0.0.1", "::1"} if bare == "localhost" else {bare}
    return all(_is_listed(one, host, allowed) for one in addresses)


def _is_listed(address: str, host: str, allowed: Sequence[str]) -> bool:
    port = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else ""
    for one in allowed:
        listed, _, listed_port = one.partition("]:") if one.startswith("[") else (one, "", "")
        with suppress(ValueError):
            same = ip_address(listed.strip("[]")) == ip_address(address)
            if same and listed_port in ("", port):
                return True
    return False
