"""Check the digests and locations of a listed record against the rules of its types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from neuromirror.model import Digest, FileRecord, Location, VersionRef, path_to_text
from neuromirror.net import redact
from neuromirror.sources import UnexpectedReplyError

_OPAQUE_DIGESTS: Final = {
    "sha256": re.compile(r"[0-9a-f]{64}").fullmatch,
    "md5": re.compile(r"[0-9a-f]{32}").fullmatch,
    "etag": re.compile(r".+", re.DOTALL).fullmatch,
}
"""The allowed values by algorithm; without a part size, an ETag is an opaque identifier."""
_MULTIPART_DIGESTS: Final = {
    **_OPAQUE_DIGESTS,
    "etag": re.compile(r"[0-9a-f]{32}-[0-9]+").fullmatch,
}
"""The allowed values in a record with a part size."""
_RULES: Final = {
    "sha256": "64 lower-case hexadecimal digits",
    "md5": "32 lower-case hexadecimal digits",
    "etag": "<32 lower-case hexadecimal digits>-<parts>, or without a part size any other text",
}
_WEB: Final = ("https://", "http://")
_URL_STARTS: Final = {
    "s3": _WEB,
    "s3-private": ("s3://",),
    "api": _WEB,
    "api-private": _WEB,
    "boss": ("boss://",),
    "ndstore": ("ndstore://",),
}
_SHOWN: Final = 300


def check_record(record: FileRecord, version: VersionRef) -> None:
    """Check the digests and locations of a record.

    Parameters
    ----------
    record
        The record, as its source returned it.
    version
        The version of the listing, for the message.

    Raises
    ------
    UnexpectedReplyError
        If a value breaks a rule of :class:`Digest` or :class:`Location`.
    """
    # once per listed file: only lookups and C calls
    allowed = _OPAQUE_DIGESTS if record.part_size is None else _MULTIPART_DIGESTS
    try:
        for digest in record.digests:
            if allowed[digest.algorithm](digest.value) is None:
                break
        else:
            for location in record.locations:
                if not location.url.startswith(_URL_STARTS[location.kind]):
                    break
            else:
                return
    except (AttributeError, KeyError, TypeError):
        pass  # an unknown name, or a value of another type
    fault = next(_faults(record), "the digests or locations are malformed")
    raise UnexpectedReplyError(
        f"{version.dataset.name} {version.upstream}: {path_to_text(record.path)!r}: {redact(fault)}"
    )


def _faults(record: FileRecord) -> Iterator[str]:
    """Yield the broken rules, as text for a message."""
    allowed = _OPAQUE_DIGESTS if record.part_size is None else _MULTIPART_DIGESTS
    for digest in record.digests:
        if not isinstance(digest, Digest):
            yield f"the digest {_show(digest)} is not a Digest"
        elif digest.algorithm not in _RULES:
            names = ", ".join(_RULES)
            yield f"the digest algorithm {_show(digest.algorithm)} is not one of {names}"
        elif not isinstance(digest.value, str) or not allowed[digest.algorithm](digest.value):
            rule = _RULES[digest.algorithm]
            yield f"the {digest.algorithm} {_show(digest.value)} is not {rule}"
    for location in record.locations:
        if not isinstance(location, Location):
            yield f"the location {_show(location)} is not a Location"
        elif location.kind not in _URL_STARTS:
            names = ", ".join(_URL_STARTS)
            yield f"the location kind {_show(location.kind)} is not one of {names}"
        elif not isinstance(location.url, str) or not location.url.startswith(
            _URL_STARTS[location.kind]
        ):
            starts = " or ".join(_URL_STARTS[location.kind])
            yield (
                f"the URL {_show(location.url)} of the kind {location.kind!r} does not start "
                f"with {starts}"
            )


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
