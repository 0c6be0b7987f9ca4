"""The setting that commands need for archives on this machine or on a private network."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from neuromirror.annex import allow_command, host_without_port
from neuromirror.index import Index, VersionRow
from neuromirror.net import is_local_name


def allow_command_for(index: Index, versions: Iterable[VersionRow]) -> str:
    """Return the command that allows the addresses of some versions' files.

    Parameters
    ----------
    index
        The index.
    versions
        The versions; a file of each stands for the others.

    Returns
    -------
    str
        One line for a shell; empty if all files are at public addresses.
    """
    hosts = {_host(url) for one in versions for url in index.sample_urls(one)}
    private = sorted(host for host in hosts if is_local_name(host_without_port(host)))
    return allow_command(private) if private else ""


def _host(url: str) -> str:
    """Return the host of a URL; empty if the URL is malformed."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""
