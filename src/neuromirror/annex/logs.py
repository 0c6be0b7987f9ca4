"""Read and write the logs on the git-annex branch: location, URL and remote logs.

Formats: git-annex's internals page. A line of a presence log is ``<seconds>s <status> <value>``;
of several lines with the same value the newest counts. git-annex appends the line of a new value,
and sorts lines by the bytes of their values when it changes one; here they are always sorted.
git-annex tries the URLs of a key in sorted order, so the order of lines expresses no preference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

WEB_UUID = "00000000-0000-0000-0000-000000000001"

PRESENT = "1"
MISSING = "0"

_ESCAPED = re.compile(r"&(\d{1,7});")
_SECONDS = re.compile(rb"-?[0-9]{1,18}(?:\.[0-9]{1,18})?s?")
"""A time as git-annex writes it. Exponents are refused, since they allow unlimited digits."""


class LogLine(NamedTuple):
    """A line of a presence log.

    Attributes
    ----------
    timestamp
        Seconds since 1970.
    status
        ``1`` (present), ``0`` (absent) or ``X`` (dead).
    value
        A UUID or URL.
    """

    timestamp: Decimal
    status: str
    value: str


def location_log(timestamp: int, uuid: str = WEB_UUID) -> bytes:
    """Return the location log of a key that one repository has.

    Parameters
    ----------
    timestamp
        Seconds since 1970.
    uuid
        The repository or remote that has the content.

    Returns
    -------
    bytes
        The content of the log.
    """
    return b"%ds 1 %s\n" % (timestamp, uuid.encode("ascii"))


def url_log(urls: Iterable[str], timestamp: int) -> bytes:
    """Return the URL log of a key, in git-annex's order.

    Parameters
    ----------
    urls
        The URLs; the caller prefixes those that a special remote claims with a colon.
    timestamp
        Seconds since 1970.

    Returns
    -------
    bytes
        The content of the log.
    """
    return url_lines({_value(url) for url in urls}, b"%ds 1 " % timestamp)


def url_lines(urls: Iterable[bytes], present: bytes) -> bytes:
    """Return the URL log of a key, for URLs in bytes; ``present`` is ``b"<seconds>s 1 "``.

    Parameters
    ----------
    urls
        The URLs.
    present
        The start of each line, ``b"<seconds>s 1 "``.

    Returns
    -------
    bytes
        The content of the log.
    """
    return b"".join([b"%s%s\n" % (present, url) for url in sorted(set(urls))])


def parse_log(content: bytes) -> list[LogLine]:
    """Parse a location or URL log, and skip invalid lines.

    Timestamps may be whole or fractional, and in old logs ``s`` may be missing.

    Parameters
    ----------
    content
        The content of the log.

    Returns
    -------
    list[LogLine]
        The valid lines, in the order of the log.
    """
    lines = (_parse(raw) for raw in content.replace(b"\r", b"\n").split(b"\n"))
    return [line for line in lines if line is not None]


def merge_location_log(
    existing: bytes, timestamp: int, uuid: str = WEB_UUID, *, status: str = PRESENT
) -> bytes:
    """Record in a location log that a repository has a content, or lacks it.

    ``existing`` is returned if the log has this status already, or if it has no line of a
    repository that lacks the content.

    Parameters
    ----------
    existing
        The content of the log.
    timestamp
        Seconds since 1970.
    uuid
        The repository or remote.
    status
        :data:`PRESENT` or :data:`MISSING`.

    Returns
    -------
    bytes
        The new content of the log.
    """
    return _merge(existing, [uuid.encode("ascii")], timestamp, status)


def merge_url_log(existing: bytes, urls: Iterable[str], timestamp: int) -> bytes:
    """Add URLs to a URL log; return ``existing`` if all are already present.

    Lines of other URLs are unchanged. A URL that was removed is added with a later time than its
    removal, even if ``timestamp`` is earlier, because the newest line counts.

    Parameters
    ----------
    existing
        The content of the log.
    urls
        The URLs to add.
    timestamp
        Seconds since 1970.

    Returns
    -------
    bytes
        The new content of the log.
    """
    return _merge(existing, [_value(url) for url in urls], timestamp, PRESENT)


def remote_log(remote: str, config: dict[str, str], timestamp: int | None = None) -> bytes:
    """Return the line of ``remote.log`` that configures a special remote.

    Parameters
    ----------
    remote
        The UUID.
    config
        The configuration.
    timestamp
        Seconds since 1970; None to omit the timestamp and the newline.

    Returns
    -------
    bytes
        The line.
    """
    fields = " ".join(f"{name}={_escape(value)}" for name, value in sorted(config.items()))
    end = "" if timestamp is None else f" timestamp={timestamp}s\n"
    return f"{remote} {fields}{end}".encode()


def parse_remote_log(content: bytes) -> dict[str, dict[str, str]]:
    """Return the configuration of each remote in ``remote.log``, from its newest line.

    Parameters
    ----------
    content
        The content of the log.

    Returns
    -------
    dict[str, dict[str, str]]
        UUID → settings of the remote.
    """
    found: dict[str, tuple[float, dict[str, str]]] = {}
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        uuid, *tokens = line.split(" ")
        fields = dict(token.partition("=")[::2] for token in tokens)
        try:
            when = float(fields.pop("timestamp", "").removesuffix("s"))
        except ValueError:
            when = 0.0
        config = {name: _unescape(value) for name, value in fields.items()}
        if uuid not in found or when >= found[uuid][0]:
            found[uuid] = (when, config)
    return {uuid: config for uuid, (_, config) in found.items()}


def _value(url: str) -> bytes:
    raw = url.encode("utf-8")
    if b"\n" in raw or b"\r" in raw:
        raise ValueError(f"URL with a line break: {url!r}")
    return raw


def _parse(raw: bytes) -> LogLine | None:
    fields = raw.split(b" ", 2)
    if len(fields) != 3:
        return None
    seconds, status, value = fields
    if status not in (b"1", b"0", b"X"):
        return None
    if not _SECONDS.fullmatch(seconds):
        return None
    timestamp = Decimal(seconds.removesuffix(b"s").decode("ascii"))
    return LogLine(timestamp, status.decode("ascii"), value.decode("utf-8", "surrogateescape"))


def _merge(existing: bytes, values: list[bytes], timestamp: int, status: str) -> bytes:
    current: dict[bytes, LogLine] = {}
    kept: list[tuple[bytes, bytes]] = []
    unread: list[bytes] = []
    for raw in existing.replace(b"\r", b"\n").split(b"\n"):
        line = _parse(raw)
        if line is None:
            unread += [raw] if raw else []
            continue
        value = raw.split(b" ", 2)[2]
        kept.append((value, raw))
        known = current.get(value)
        if known is None or line.timestamp > known.timestamp:
            current[value] = line
    new: dict[bytes, bytes] = {}
    for value in values:
        known = current.get(value)
        if (MISSING if known is None else known.status) == status:
            continue
        after = timestamp if known is None else max(timestamp, int(known.timestamp) + 1)
        new[value] = b"%ds %s %s" % (after, status.encode("ascii"), value)
    if not new:
        return existing
    kept = [(value, raw) for value, raw in kept if value not in new]
    kept += new.items()
    # Only the values are compared: lines of one value stay in the order they had.
    kept.sort(key=lambda entry: entry[0])
    return b"".join([raw + b"\n" for raw in [*unread, *(raw for _, raw in kept)]])


def _unescape(value: str) -> str:
    return _ESCAPED.sub(lambda code: chr(int(code[1])) if int(code[1]) < 0x110000 else "", value)


def _escape(value: str) -> str:
    return "".join(f"&{ord(char)};" if char.isspace() or char == "&" else char for char in value)
