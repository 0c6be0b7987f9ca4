"""The URLs of a file that may be given to a visitor's browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from neuromirror.annex import host_without_port, is_private_host_allowed
from neuromirror.index import LocationRow, VersionRow
from neuromirror.net import clean_url, is_local_name, permanent_refusal


def visitor_urls(row: VersionRow, urls: Iterable[str], allowed: Sequence[str]) -> list[str]:
    """Return the URLs that need no credentials and do not lead into a visitor's network.

    A URL in a private network is left out, unless the archive is in one, or the setting allows its
    host. Names are not resolved.

    Parameters
    ----------
    row
        The version of the file.
    urls
        The URLs that the archive states.
    allowed
        The words of the setting ``annex.security.allowed-ip-addresses``.
    """
    source = urlsplit(row.source_uri).netloc
    is_private_archive = is_local_name(host_without_port(source))

    def may_be_visited(url: str) -> bool:
        try:
            if not url.startswith(("https://", "http://")) or clean_url(url) != url:
                return False
            host = urlsplit(url).netloc
        except ValueError:
            return False
        if permanent_refusal(url) is not None:
            return False
        is_public = not is_local_name(host_without_port(host))
        return is_public or is_private_archive or is_private_host_allowed(host, allowed)

    return list(filter(may_be_visited, urls))


def reachable_urls(locations: Iterable[LocationRow]) -> list[str]:
    """Return the URLs whose last probe did not fail."""
    return [one.url for one in locations if one.result in (None, "ok")]
