"""Numbers, times and the words of proof, as people read them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from neuromirror.model import escape_unprintable, format_bytes

EVIDENCE_TEXT: Mapping[str, str] = {
    "sha256": "known by their SHA-256: any change of a byte would be seen",
    "md5": "known by their MD5: accidents would be seen, a forgery might not",
    "etag": "known by S3's checksum of an upload in parts: accidents would be seen",
    "size": "known by their size alone",
    "none": "nothing is known to compare them with",
}
_EVIDENCE_SHORT: Mapping[str, str] = {
    "sha256": "SHA-256",
    "md5": "MD5",
    "etag": "S3 checksum",
    "size": "size only",
    "none": "no checksum",
}
RETENTION_TEXT: Mapping[str, str] = {
    "published": "upstream promises to keep these bytes for ever",
    "versioned-bucket": "the bucket keeps this very version, until somebody removes it",
    "mutable-bucket": "upstream may put other bytes in their place at any time",
    "draft": "of a draft: upstream may delete what it no longer lists",
}
_RETENTION_SHORT: Mapping[str, str] = {
    "published": "kept for ever",
    "versioned-bucket": "kept by version",
    "mutable-bucket": "may be overwritten",
    "draft": "draft, may be deleted",
}
PROBE_RESULT_TEXT: Mapping[str, str] = {
    "ok": "has it",
    "not-found": "not found",
    "refused": "refused",
    "unsupported": "unsupported",
    "changed": "has something else",
    "unreachable": "no answer",
    "unknown": "cannot be asked",
}
_VIEWERS: Mapping[str, str] = {
    "neurosift": "Neurosift",
    "neuroglancer": "Neuroglancer",
    "ndviz": "ndviz",
    "ndstore": "ndstore",
    "boss": "BOSS",
    "precomputed": "precomputed layer",
}
_CHANGES: Mapping[str, str] = {
    "moved": "renamed",
    "metadata": "same bytes, told otherwise",
    "document": "document",
}
_KINDS: Mapping[str, str] = {
    ".nwb": "NWB file (Neurodata Without Borders)",
    ".nii": "NIfTI image",
    ".nii.gz": "NIfTI image, compressed",
    ".tif": "TIFF image",
    ".tiff": "TIFF image",
    ".png": "PNG image",
    ".jpg": "JPEG image",
    ".jpeg": "JPEG image",
    ".json": "JSON document",
    ".yaml": "YAML document",
    ".csv": "table (CSV)",
    ".tsv": "table (TSV)",
    ".mp4": "video",
    ".avi": "video",
    ".mkv": "video",
    ".mat": "MATLAB file",
    ".h5": "HDF5 file",
    ".zattrs": "metadata of a Zarr",
    ".zarray": "metadata of a Zarr array",
    ".zgroup": "metadata of a Zarr group",
    "zarr.json": "metadata of a Zarr",
}

_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (7, "day"))


def format_size(count: int | None) -> str:
    """A size: ``189.5 kB`` (SI units, as archives state them)."""
    return "unknown" if count is None else format_bytes(count)


def format_number(count: int | None) -> str:
    """A number with its thousands apart: ``1,200``."""
    return "unknown" if count is None else f"{count:,}"


def pluralize(count: int, one: str, more: str = "") -> str:
    """``1 file``, ``1,200 files``."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def format_time(text: str | None) -> str:
    """A time of the journal: ``2024-03-01 12:00 UTC``."""
    if not text:
        return "never"
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")


def format_date(text: str | None) -> str:
    """The day of a time of the journal: ``2024-03-01``."""
    return text[:10] if text else "never"


def format_age(time: str | datetime | None) -> str:
    """How long ago a time was: ``3 hours ago``; ``never`` without one."""
    if time is None or time == "":
        return "never"
    then = datetime.fromisoformat(time) if isinstance(time, str) else time
    value = (datetime.now(UTC) - then).total_seconds()
    if value < 60:
        return "just now"
    for base, unit in _STEPS:
        if value < base:
            return f"{pluralize(int(value), unit)} ago"
        value /= base
    return f"{pluralize(int(value), 'week')} ago" if value < 9 else f"on {then:%Y-%m-%d}"


def printable(text: object) -> str:
    """Text from upstream as it may be shown; HTML's own signs are left to the template."""
    return escape_unprintable(str(text))


def printable_lines(text: object) -> str:
    """The same for text of several lines."""
    return "\n".join(map(escape_unprintable, str(text).split("\n")))


def shell_quote(text: object) -> str:
    """A word as a shell takes it."""
    return shlex.quote(printable(text))


def file_kind(path: str) -> str:
    """What a file is, by its name; empty where that does not tell."""
    name = path.rpartition("/")[2].lower()
    return next((label for ending, label in _KINDS.items() if name.endswith(ending)), "")


def license_name(text: str) -> str:
    """A license as people call it: without the ``spdx:`` of archives."""
    return text.removeprefix("spdx:")


FILTERS: Mapping[str, Callable[..., Any]] = {
    "format_size": format_size,
    "format_number": format_number,
    "pluralize": pluralize,
    "format_time": format_time,
    "format_date": format_date,
    "format_age": format_age,
    "printable": printable,
    "printable_lines": printable_lines,
    "shell_quote": shell_quote,
    "kind": file_kind,
    "license": license_name,
    "evidence": lambda word: EVIDENCE_TEXT.get(word, word),
    "evidence_short": lambda word: _EVIDENCE_SHORT.get(word, word),
    "retention": lambda word: RETENTION_TEXT.get(word, word),
    "retention_short": lambda word: _RETENTION_SHORT.get(word, word),
    "probe_result": lambda word: PROBE_RESULT_TEXT.get(word, word),
    "viewer": lambda kind: _VIEWERS.get(kind, kind),
    "change": lambda kind: _CHANGES.get(kind, kind),
}
