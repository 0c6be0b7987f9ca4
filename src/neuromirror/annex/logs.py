"""The files of the git-annex branch: location, URL and remote logs, as bytes.

Formats: git-annex's internals page. A line of a presence log is ``<seconds>s <status> <value>``;
of several lines with one value the newest counts. git-annex appends a new value's line, and sorts
by the bytes of the values when it changes a line; here they are always sorted. It also *tries* a
key's URLs in sorted order: the order of the lines says nothing about which is preferred.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

WEB_UUID = "00000000-0000-0000-0000-000000000001"

PRESENT = "1"
MISSING = "0"
DEAD = "X"

_ESCAPED = re.compile(r"&(\d{1,7});")
_SECONDS = re.compile(rb"-?[0-9]{1,18}(?:\.[0-9]{1,18})?s?")
"""A time as git-annex writes it; with an exponent it could have more digits than memory holds."""


class LogLine(NamedTuple):
    """A line of a presence log: seconds since 1970, ``1`` | ``0`` | ``X``, and a UUID or URL."""

    timestamp: Decimal
    status: str
    value: str


def location_log(timestamp: int, uuid: str = WEB_UUID) -> bytes:
    """The location log of a key that one repository holds."""
    return b"%ds 1 %s\n" % (timestamp, uuid.encode("ascii"))


def url_log(urls: Iterable[str], timestamp: int) -> bytes:
    """The URL log of a key, in git-annex's own order.

    A URL that another remote than the web claims stands with a colon before it.
    """
    return url_lines({_value(url) for url in urls}, b"%ds 1 " % timestamp)


def url_lines(urls: Iterable[bytes], present: bytes) -> bytes:
    """The URL log of a key, for URLs in bytes; ``present`` is ``b"<seconds>s 1 "``."""
    return b"".join([b"%s%s\n" % (present, url) for url in sorted(set(urls))])


def parse_log(content: bytes) -> list[LogLine]:
    """The lines of a location or URL log, as they stand; what is not a line is left out.

    Timestamps may be whole or fractional, and ``s`` may be missing (old logs).
    """
    lines = (_parse(raw) for raw in content.replace(b"\r", b"\n").split(b"\n"))
    return [line for line in lines if line is not None]


def merge_location_log(existing: bytes, timestamp: int, uuid: str = WEB_UUID) -> bytes:
    """A location log with the repository in it; ``existing`` itself where it is there already."""
    return _merge(existing, [uuid.encode("ascii")], timestamp)


def merge_url_log(existing: bytes, urls: Iterable[str], timestamp: int) -> bytes:
    """A URL log with these URLs too; ``existing`` itself where all are there already.

    Lines of other URLs are kept as they are. A URL that was taken out comes back with a time
    after that, whatever ``timestamp`` says, or the line would not count.
    """
    return _merge(existing, [_value(url) for url in urls], timestamp)


def remote_log(remote: str, config: dict[str, str], timestamp: int | None = None) -> bytes:
    """The line of ``remote.log`` that configures a special remote.

    ``remote`` is its UUID. Without a timestamp it is the line's beginning only, neither time nor
    newline at its end.
    """
    fields = " ".join(f"{name}={_escape(value)}" for name, value in sorted(config.items()))
    end = "" if timestamp is None else f" timestamp={timestamp}s\n"
    return f"{remote} {fields}{end}".encode()


def parse_remote_log(content: bytes) -> dict[str, dict[str, str]]:
    """Return the configuration of each remote in ``remote.log``: of several lines the newest."""
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
        raise ValueError(f"a URL must not have a line break: {url!r}")
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


def _merge(existing: bytes, values: list[bytes], timestamp: int) -> bytes:
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
        if known is not None and known.status == PRESENT:
            continue
        after = timestamp if known is None else max(timestamp, int(known.timestamp) + 1)
        new[value] = b"%ds 1 %s" % (after, value)
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
