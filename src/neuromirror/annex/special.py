"""Special remotes that claim URLs of a scheme of their own (git-annex: internals, remote.log).

A URL that another remote than the web claims stands in ``.log.web`` with a colon before it, and the
location log names that remote.
"""

from __future__ import annotations

from neuromirror.annex.logs import remote_log

CLAIMED_KINDS = frozenset({"boss", "ndstore"})
"""The kinds of places (model.Location.kind) that a special remote gets, not the web."""

CLAIMED = ":"
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


def uuid_line(name: str, uuid: str, timestamp: int) -> bytes:
    """The line of ``uuid.log`` that gives a remote its name."""
    return f"{uuid} {name} timestamp={timestamp}s\n".encode()


def unclaimed(value: str) -> str:
    """A value of a URL log as the URL that it is."""
    return value.removeprefix(CLAIMED)
