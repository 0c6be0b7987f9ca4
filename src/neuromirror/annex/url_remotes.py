"""Remotes beside the plain web remote, and which of them holds a URL (git-annex: internals).

A URL that an external special remote claims stands in ``.log.web`` with a colon before it. Further
web remotes choose their URLs by globs, and the plain one leaves these to them. In both cases the
location log names the remote that gets the URL.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field

from neuromirror.annex.logs import WEB_UUID, remote_log

CLAIMED_LOCATION_KINDS = frozenset({"boss", "ndstore"})
"""The kinds of places (model.Location.kind) that a special remote gets, not the web."""

LONGEST_GLOB = 4096

CLAIM_PREFIX = ":"
"""What stands before a claimed URL in a URL log."""


def special_remote(name: str, externaltype: str, uuid: str, timestamp: int) -> bytes:
    """The line of ``remote.log`` for an external special remote that every clone enables.

    It is what ``git annex initremote NAME type=external externaltype=TYPE encryption=none
    autoenable=true`` writes.
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
    """Return the line of ``remote.log`` for a further web remote, with URLs and a cost of its own.

    It is what ``git annex initremote NAME type=web urlinclude=GLOB urlexclude=GLOB cost=N
    autoenable=true`` writes. The plain web remote (cost 200) leaves its URLs to it.
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
    """Return the line of ``trust.log`` that ``git annex untrust`` writes."""
    return f"{uuid} 0 timestamp={timestamp}s\n".encode()


def url_glob(pattern: str) -> re.Pattern[str]:
    """Return a glob of ``urlinclude`` or ``urlexclude`` as git-annex matches it.

    Matching does not backtrack (``fnmatch`` writes atomic groups). A glob of more than
    :data:`LONGEST_GLOB` characters matches nothing: a clone's ``remote.log`` may be anybody's.
    """
    if len(pattern) > LONGEST_GLOB:
        return re.compile(r"(?!)")
    return re.compile(fnmatch.translate(pattern), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UrlRemote:
    """A remote beside the plain web one: its UUID, the URLs it takes, its lines in log files.

    With ``claims`` it takes the claimed URLs, else those that fit the globs. ``lines`` are by the
    name of a file at the top of the git-annex branch; they are written in any case if it is
    ``declared``, else once it holds something.
    """

    uuid: str
    claims: bool = False
    urlinclude: str | None = None
    urlexclude: str | None = None
    declared: bool = False
    lines: dict[str, str] = field(default_factory=dict)


class UrlRemotes:
    """Decides which remotes hold a content, by its URLs as URL logs spell them."""

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
        """Return the UUIDs of all remotes that get one of the URLs, sorted.

        Raises ValueError for a claimed URL where no remote claims any.
        """
        return tuple(sorted({self._uuid_for(url) for url in urls}))

    def _uuid_for(self, url: bytes) -> str:
        if url[:1] == b":":
            if self._claiming_uuid is None:
                raise ValueError("a URL is claimed, and the snapshot names no special remote")
            return self._claiming_uuid
        text = url.decode()
        for uuid, include, exclude in self._web_remotes:
            if (include is None or include.match(text)) and not (exclude and exclude.match(text)):
                return uuid
        return WEB_UUID


def uuid_line(name: str, uuid: str, timestamp: int) -> bytes:
    """The line of ``uuid.log`` that gives a remote its name."""
    return f"{uuid} {name} timestamp={timestamp}s\n".encode()


def strip_claim_prefix(value: str) -> str:
    """A value of a URL log as the URL that it is."""
    return value.removeprefix(CLAIM_PREFIX)
