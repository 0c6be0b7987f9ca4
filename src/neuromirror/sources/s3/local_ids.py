"""The mapping between prefixes and local ids of datasets.

A local id is the prefix without its final slash. Ids are used in aliases (where ``:`` and ``/``
become ``--``), file names and URLs, so a segment keeps only ``A-Z a-z 0-9 . _ + ,`` and single
inner hyphens. Every other byte is written as ``=XX`` (upper-case hex), and an empty segment as
``=_``. Ids that start with ``==`` are hints that report a problem, never datasets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

NOTICE: Final = "=="
_EMPTY: Final = "=_"
_LONGEST: Final = 200
_ESCAPED: Final = re.compile(r"[^A-Za-z0-9._+,-]|^[.-]|(?<=-)-", re.ASCII)
_TOKEN: Final = re.compile(r"=([0-9A-F]{2})")


def local_id(segments: Sequence[bytes]) -> str | None:
    """Return the local id of a prefix in segments; None if it would be too long."""
    made = "/".join(map(_encode_segment, segments))
    return made if len(made) <= _LONGEST else None


def segments_of(local: str) -> tuple[bytes, ...]:
    """Return the segments of the prefix with this local id; raise ValueError if malformed."""
    segments = tuple(map(_decode_segment, local.split("/")))
    if local_id(segments) != local:
        raise ValueError(f"no prefix is called {local!r}")
    return segments


def prefix_of(segments: Sequence[bytes]) -> bytes:
    """Return the prefix with its final slash; empty for the whole bucket."""
    return b"".join(segment + b"/" for segment in segments)


def split_prefix(prefix: bytes) -> tuple[bytes, ...]:
    """Return the segments of a prefix that is empty or ends with a slash."""
    return tuple(prefix.split(b"/")[:-1])


def uri_path(prefix: bytes) -> str:
    """Return a prefix quoted for a URI."""
    return quote(prefix, safe="/-._~+,=@")


def display_key(key: bytes) -> str:
    """Return an object key or prefix as text for messages; bytes that are not UTF-8 are escaped."""
    return key.decode("utf-8", "backslashreplace")


def _encode_segment(name: bytes) -> str:
    text = name.decode("latin-1")
    return _ESCAPED.sub(lambda sign: f"={ord(sign[0]):02X}", text) if text else _EMPTY


def _decode_segment(name: str) -> bytes:
    if name == _EMPTY:
        return b""
    if not name.isascii():
        raise ValueError(f"no prefix is called {name!r}")
    return _TOKEN.sub(lambda token: chr(int(token[1], 16)), name).encode("latin-1")
