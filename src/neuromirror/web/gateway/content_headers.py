"""Headers of files from archives: type, file name, caching, CORS, and a sandbox.

The content may be hostile: HTML and SVG of an archive must not run with the origin of the
catalogue, its pages must not load a script of an archive, and no browser may guess another type
than the stated one.
"""

from __future__ import annotations

import mimetypes
import re
from base64 import b64encode
from typing import Final
from urllib.parse import quote

CORS_HEADERS: Final = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": (
        "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Link, Location, "
        "Neuromirror-Digest, Neuromirror-Key, Neuromirror-Verified, Neuromirror-Version, "
        "Repr-Digest, Retry-After"
    ),
    "cross-origin-resource-policy": "cross-origin",
}
PREFLIGHT_HEADERS: Final = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, HEAD, OPTIONS",
    "access-control-allow-headers": (
        "Accept, Cache-Control, If-Match, If-Modified-Since, If-None-Match, If-Range, Range"
    ),
    "access-control-max-age": "86400",
    "allow": "GET, HEAD, OPTIONS",
    "content-length": "0",
}
SANDBOX: Final = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of content: it has an origin of its own, and runs and loads nothing."""

PINNED: Final = "public, max-age=31536000, immutable, no-transform"
"""Cache-Control for content of a version whose name always means the same state."""
MOVING: Final = "public, max-age=60, must-revalidate, no-transform"
"""Cache-Control for names that move, such as ``@draft``."""
REDIRECTED: Final = "public, max-age=300, no-transform"
"""Cache-Control of a redirect of a pinned version: the location of a content may change."""

_TYPES: Final = mimetypes.MimeTypes(filenames=())  # the same on every machine
_OTHER_TYPES: Final = {
    ".css": "text/plain",
    ".csv": "text/csv",
    ".dat": "application/octet-stream",
    ".h5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".js": "text/plain",  # a script of the catalogue's origin otherwise, which its policy allows
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".mjs": "text/plain",
    ".mkv": "video/x-matroska",
    ".nwb": "application/x-hdf5",
    ".py": "text/plain",
    ".toml": "application/toml",
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_JSON_NAMES: Final = frozenset(
    {".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json", "info", "attributes.json"}
)
"""Metadata files of Zarr, precomputed layers and N5."""
_ENCODINGS: Final = {"gzip": "gzip", "bzip2": "x-bzip2", "xz": "x-xz"}
_SHOWN: Final = re.compile(
    r"image/(?:png|jpeg|gif|webp|avif)|text/(?:plain|csv|markdown|tab-separated-values)"
    r"|application/(?:json|jsonl|yaml|toml)|video/(?:mp4|webm)|audio/.+"
)
"""Types that browsers may show; all others are saved."""
_OPENED: Final = re.compile(
    r"(?:audio|image|text|video)/.+|application/(?:json|pdf|xml|xhtml\+xml)"
)
"""Types that browsers open if an archive sends them."""
_UNSAFE: Final = re.compile(r"[^\w.+ -]", re.ASCII)


def media_type(path: str) -> str:
    """Return the media type of a file by its name, without a character set."""
    name = path.rpartition("/")[2]
    if name in _JSON_NAMES:
        return "application/json"
    ending = name[name.rindex(".") :].lower() if "." in name else ""
    if ending in _OTHER_TYPES:
        return _OTHER_TYPES[ending]
    found, encoding = _TYPES.guess_type(f"x{ending}" if ending else name)
    if encoding is not None:  # a compressed file is delivered as it is, not as an encoding
        return f"application/{_ENCODINGS.get(encoding, 'octet-stream')}"
    return found or "application/octet-stream"


def may_open_in_browser(path: str) -> bool:
    """Return whether a browser may open a file of an archive instead of saving it.

    The name of the file decides, because the type that the archive states is not known.
    """
    return bool(_OPENED.fullmatch(media_type(path)))


def content_disposition(path: str, kind: str, *, is_saved: bool = False) -> str:
    """Return the value of ``Content-Disposition`` for a file (RFC 6266).

    Parameters
    ----------
    path
        The path of the file, whose name the value contains.
    kind
        The media type, which decides whether a browser shows the file or saves it.
    is_saved
        Whether a browser is to save the file also if it could show it.
    """
    name = path.rpartition("/")[2]
    shown = "inline" if _SHOWN.fullmatch(kind) and not is_saved else "attachment"
    plain = _UNSAFE.sub("_", name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'{shown}; filename="{plain}"{extended}'


def representation_digest(digest: str) -> dict[str, str]:
    """Return the header ``Repr-Digest`` (RFC 9530) for ``<algorithm>:<hex>``.

    No header for algorithms other than sha256 and md5.
    """
    algorithm, _, value = digest.partition(":")
    name = {"sha256": "sha-256", "md5": "md5"}.get(algorithm)
    if name is None:
        return {}
    return {"repr-digest": f"{name}=:{b64encode(bytes.fromhex(value)).decode()}:"}


def content_headers(
    path: str, size: int | None, digest: str, *, is_saved: bool = False
) -> dict[str, str]:
    """Return the headers of a file that do not depend on the request.

    Parameters
    ----------
    path
        The path of the file, from which its media type and name follow.
    size
        Size in bytes; None if unknown, without ``Content-Length``.
    digest
        ``<algorithm>:<hex>``; empty if unknown, without ``ETag`` and digests.
    is_saved
        Whether a browser is to save the file, whatever its type.

    Returns
    -------
    dict[str, str]
        The headers, with names in lower case.
    """
    kind = media_type(path)
    charset = "; charset=utf-8" if kind.startswith("text/") else ""
    headers = {
        **CORS_HEADERS,
        "content-type": kind + charset,
        "content-disposition": content_disposition(path, kind, is_saved=is_saved),
        "content-security-policy": SANDBOX,
        "accept-ranges": "bytes",
    }
    if size is not None:
        headers["content-length"] = str(size)
    if digest:
        headers |= {"etag": f'"{digest}"', "neuromirror-digest": digest}
        headers |= representation_digest(digest)
    return headers
