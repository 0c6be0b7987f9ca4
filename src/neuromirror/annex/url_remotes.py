"""Remotes other than the default web remote, and their URLs (git-annex: internals).

In ``.log.web``, a URL that an external special remote claims is prefixed with a colon. Additional
web remotes select their URLs by globs, and the default web remote skips these. In both cases the
location log contains the UUID of the remote that downloads the URL.
"""

from __future__ import annotations

import fnmatch
import re

from msgspec import Struct, field

from neuromirror.annex.logs import WEB_UUID, remote_log

CLAIMED_LOCATION_KINDS = frozenset({"boss", "ndstore", "s3-private", "api-private"})
"""The kinds of locations (``Location.kind``) that a special remote downloads."""

LONGEST_GLOB = 4096

CLAIM_PREFIX = ":"
"""The prefix of a claimed URL in a URL log."""


def special_remote(name: str, externaltype: str, uuid: str, timestamp: int) -> bytes:
    """Return the line of ``remote.log`` for an external special remote that every clone enables.

    ``git annex initremote NAME type=external externaltype=TYPE encryption=none autoenable=true``
    writes the same line.

    Parameters
    ----------
    name
        The name of the remote.
    externaltype
        The type: the program is ``git-annex-remote-<type>``.
    uuid
        The UUID of the remote.
    timestamp
        Seconds since 1970.

    Returns
    -------
    bytes
        The line with its newline.
    """
    config = {
        "autoenable": "true",
        "encryption": "none",
        "externaltype": externaltype,
        "name": name,
        "type": "external",
    }
    return remote_log(uuid, config, timestamp)


def web_remote(
    name: str,
    cost: int,
    timestamp: int | None = None,
    *,
    uuid: str,
    urlinclude: str,
    urlexclude: str | None = None,
) -> bytes:
    """Return the line of ``remote.log`` for an additional web remote.

    ``git annex initremote NAME type=web urlinclude=GLOB urlexclude=GLOB cost=N autoenable=true``
    writes the same line. The default web remote (cost 200) skips URLs that match ``urlinclude``.

    Parameters
    ----------
    name
        The name of the remote.
    cost
        The cost; git-annex uses cheaper remotes first.
    timestamp
        Seconds since 1970; None to omit the timestamp and the newline.
    uuid
        The UUID of the remote.
    urlinclude
        A glob of the URLs that the remote serves.
    urlexclude
        A glob of exceptions to ``urlinclude``.

    Returns
    -------
    bytes
        The line.
    """
    config = {
        "autoenable": "true",
        "cost": str(cost),
        "name": name,
        "type": "web",
        "urlinclude": urlinclude,
    }
    if urlexclude is not None:
        config["urlexclude"] = urlexclude
    return remote_log(uuid, config, timestamp)


def untrusted_line(uuid: str, timestamp: int) -> bytes:
    """Return the line of ``trust.log`` that ``git annex untrust`` writes.

    Parameters
    ----------
    uuid
        The UUID of the remote.
    timestamp
        Seconds since 1970.

    Returns
    -------
    bytes
        The line with its newline.
    """
    return f"{uuid} 0 timestamp={timestamp}s\n".encode()


def url_glob(pattern: str) -> re.Pattern[str]:
    """Compile a glob of ``urlinclude`` or ``urlexclude`` with git-annex's semantics.

    Matching does not backtrack, because ``fnmatch`` uses atomic groups. A glob of more than
    :data:`LONGEST_GLOB` characters matches nothing, since ``remote.log`` may be untrusted.

    Parameters
    ----------
    pattern
        The glob.

    Returns
    -------
    re.Pattern[str]
        A pattern to be used with ``fullmatch``.
    """
    if len(pattern) > LONGEST_GLOB:
        return re.compile(r"(?!)")
    return re.compile(fnmatch.translate(pattern), re.IGNORECASE)


class UrlRemote(Struct, frozen=True):
    """A remote other than the default web remote.

    Attributes
    ----------
    uuid
        The UUID.
    claims
        Whether the remote is a special remote that downloads the claimed URLs.
    urlinclude, urlexclude
        The globs of a web remote's URLs.
    declared
        Whether ``lines`` are written even if the remote has no content.
    lines
        Lines for files at the top of the git-annex branch, by file name.
    """

    uuid: str
    claims: bool = False
    urlinclude: str | None = None
    urlexclude: str | None = None
    declared: bool = False
    lines: dict[str, str] = field(default_factory=dict)


class UrlRemotes:
    """Determines which remotes hold a file's content, from the URLs in its URL log.

    ``remotes`` are the remotes besides git-annex's default web remote.
    """

    def __init__(self, remotes: tuple[UrlRemote, ...]) -> None:
        self._claiming_uuid = next((one.uuid for one in remotes if one.claims), None)
        self._web_remotes = [
            (
                one.uuid,
                None if one.urlinclude is None else url_glob(one.urlinclude),
                None if one.urlexclude is None else url_glob(one.urlexclude),
            )
            for one in remotes
            if not one.claims
        ]

    def uuids_for(self, urls: list[bytes]) -> tuple[str, ...]:
        """Return the sorted UUIDs of all remotes that download one of the URLs.

        Parameters
        ----------
        urls
            The URLs of one key.

        Returns
        -------
        tuple of str
            The UUIDs, each once.

        Raises
        ------
        ValueError
            If a URL is claimed, but no remote claims URLs.
        """
        return tuple(sorted({self._uuid_for(url) for url in urls}))

    def _uuid_for(self, url: bytes) -> str:
        if url[:1] == b":":
            if self._claiming_uuid is None:
                raise ValueError("claimed URL in a snapshot without a special remote")
            return self._claiming_uuid
        text = url.decode()
        for uuid, include, exclude in self._web_remotes:
            if (include is None or include.match(text)) and not (exclude and exclude.match(text)):
                return uuid
        return WEB_UUID


def uuid_line(name: str, uuid: str, timestamp: int) -> bytes:
    """Return the line of ``uuid.log`` that names a remote.

    Parameters
    ----------
    name
        The name of the remote.
    uuid
        The UUID of the remote.
    timestamp
        Seconds since 1970.

    Returns
    -------
    bytes
        The line with its newline.
    """
    return f"{uuid} {name} timestamp={timestamp}s\n".encode()


def strip_claim_prefix(value: str) -> str:
    """Return the URL in a value of a URL log.

    Parameters
    ----------
    value
        The value, with a leading colon if a special remote claims the URL.

    Returns
    -------
    str
        The URL.
    """
    return value.removeprefix(CLAIM_PREFIX)
