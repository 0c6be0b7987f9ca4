"""Prefixes as local ids of datasets, and back.

A local id is the prefix without its last slash. Names go into aliases (``:`` and ``/`` become
``--`` there), file names and addresses, so a component keeps only ``A-Z a-z 0-9 . _ + ,`` and
single hyphens inside; everything else is written ``=XX`` (upper-case hex), an empty component
``=_``. Ids that begin with ``==`` are notices about a mirror, never datasets.
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
    """The local id of a prefix in its components; None where it would be too long for a name."""
    made = "/".join(_encode_segment(one) for one in segments)
    return made if len(made) <= _LONGEST else None


def segments_of(local: str) -> tuple[bytes, ...]:
    """The components of the prefix with this local id; raises ValueError for what is none."""
    segments = tuple(_decode_segment(one) for one in local.split("/"))
    if local_id(segments) != local:
        raise ValueError(f"no prefix is called {local!r}")
    return segments


def prefix_of(segments: Sequence[bytes]) -> bytes:
    """The prefix, with its last slash; empty for the whole bucket."""
    return b"".join(one + b"/" for one in segments)


def split_prefix(prefix: bytes) -> tuple[bytes, ...]:
    """The components of a prefix that is empty or ends in a slash."""
    return tuple(prefix.split(b"/")[:-1])


def uri_path(prefix: bytes) -> str:
    """A prefix as it stands in a URI; ordinary names as they are."""
    return quote(prefix, safe="/-._~+,=@")


def display_key(key: bytes) -> str:
    """A key or prefix for people."""
    return key.decode("utf-8", "backslashreplace")


def _encode_segment(name: bytes) -> str:
    text = name.decode("latin-1")
    return _ESCAPED.sub(lambda found: f"={ord(found.group()):02X}", text) if text else _EMPTY


def _decode_segment(name: str) -> bytes:
    if name == _EMPTY:
        return b""
    if not name.isascii():
        raise ValueError(f"no prefix is called {name!r}")
    return _TOKEN.sub(lambda found: chr(int(found[1], 16)), name).encode("latin-1")
