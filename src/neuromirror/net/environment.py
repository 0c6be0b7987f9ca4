"""The proxies and the CA certificates that the environment configures, as requests reads them."""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit


def configured_proxies(url: str) -> dict[str, str]:
    """Return the proxies for a URL, by scheme; empty for a direct connection."""
    if sys.platform == "linux" and not _names_proxy():
        return {}
    from requests.utils import get_environ_proxies

    found = get_environ_proxies(url)
    schemes = (urlsplit(url).scheme.lower(), "all")
    return {scheme: found[scheme] for scheme in schemes if found.get(scheme)}


def _names_proxy() -> bool:
    """Return whether a variable names a proxy; looking it up with requests takes long to import."""
    return any(
        name.lower().endswith("_proxy") and name.lower() != "no_proxy" for name in os.environ
    )


def configured_ca_bundle() -> str | None:
    """Return the file or folder of CA certificates; None for those of certifi."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None
