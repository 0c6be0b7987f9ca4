"""The Jinja environment of the templates, compiled once, and its filters."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final
from xml.sax.saxutils import escape

from jinja2 import Environment, FileSystemLoader
from jinja2.runtime import Context, Macro
from markupsafe import Markup

from neuromirror.model import escape_unprintable, format_bytes
from neuromirror.web import addresses

EVIDENCE_TEXT: Mapping[str, str] = {
    "sha256": "with a SHA-256: any change is detected",
    "md5": "with an MD5: accidental changes are detected, forgeries may not be",
    "etag": "with the S3 ETag of a multipart upload: accidental changes are detected",
    "size": "with a size only",
    "none": "without checksum and size: cannot be verified",
}
_EVIDENCE_MEANING: Mapping[str, str] = {
    "sha256": "a checksum that detects any change",
    "md5": "a checksum that detects accidental changes, but perhaps not forgeries",
    "etag": "the checksum of an upload in parts: it detects accidental changes",
    "size": "only the number of bytes is known; a change that keeps it is not detected",
    "none": "neither a checksum nor the size is known; the file cannot be verified",
}
_CHECKSUM_TEXT: Mapping[str, tuple[str, str]] = {
    "sha256": ("SHA-256", "detects any change"),
    "md5": ("MD5", "detects accidental changes, but perhaps not forgeries"),
    "etag": ("S3 ETag of a multipart upload", "detects accidental changes"),
    "size": ("none, only the size is known", ""),
    "none": ("none, the file cannot be verified", ""),
}
_EVIDENCE_SHORT: Mapping[str, str] = {
    "sha256": "SHA-256",
    "md5": "MD5",
    "etag": "S3 ETag",
    "size": "size only",
    "none": "no checksum",
}
RETENTION_TEXT: Mapping[str, str] = {
    "published": "the archive promises to keep this content permanently",
    "versioned-bucket": "the archive's storage keeps this version of the file even if a newer one "
    "replaces it, unless the archive deletes it",
    "mutable-bucket": "the archive may overwrite this content at any time",
    "archived": "in an archive storage class: not readable until the bucket's owner restores it",
    "draft": "part of a draft: the archive may delete the file once the draft no longer lists it",
}
_RETENTION_SHORT: Mapping[str, str] = {
    "published": "permanent",
    "versioned-bucket": "versioned",
    "mutable-bucket": "may be overwritten",
    "archived": "archived, not readable now",
    "draft": "may be deleted (draft)",
}
PROBE_RESULT_TEXT: Mapping[str, str] = {
    "ok": "available",
    "not-found": "not found",
    "refused": "access denied",
    "archived": "archived: must be restored first",
    "unsupported": "cannot be checked: unsupported by the server",
    "changed": "has other content now",
    "unreachable": "server unreachable",
    "unknown": "cannot be checked",
}
VISIT_RESULT_TEXT: Mapping[str, str] = {
    "full": "all files listed",
    "partial": "failed in part",
    "held": "update on hold",
    "waiting": "postponed: still changing",
    "not_found": "not found at the archive",
    "failed": "failed",
    "unavailable": "not accessible to this catalogue",
}
EVENT_TEXT: Mapping[str, tuple[str, str]] = {
    "tombstone": ("removed from the archive", "the archive no longer lists the dataset"),
    "returned": ("listed again", "the archive lists a removed dataset again"),
    "incident": ("incident", "content that must never change did change at the archive"),
    "takedown": ("withdrawn", "the operator of this catalogue withdrew the dataset"),
    "repair": ("repaired", "changes that another program made to a repository were undone"),
    "unavailable": ("not available", "the archive does not allow this catalogue to read it"),
    "unreadable-sidecar": (
        "unreadable metadata",
        "a metadata file cannot be read, because its JSON is invalid or access is denied",
    ),
}
TASK_TEXT: Mapping[str, str] = {
    "visit": "Update of",
    "list": "List of datasets of",
    "locations": "Availability of files of",
    "probe": "Detection of the capabilities of",
    "superdatasets": "Superdatasets of",
    "private": "Embargoed datasets of",
}
_VIEWERS: Mapping[str, str] = {
    "neurosift": "Neurosift",
    "neuroglancer": "Neuroglancer",
    "ndviz": "ndviz",
    "ndstore": "ndstore",
    "boss": "BOSS",
    "precomputed": "precomputed layer",
    "zarr": "OME-Zarr",
    "n5": "N5",
}
_CHANGES: Mapping[str, str] = {
    "moved": "renamed",
    "metadata": "same content",
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

_ATTRIBUTES: Mapping[str, str] = {"checked": "Blocks read by the last comparison"}
"""Names of attributes that are not what visitors would call them."""

_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (7, "day"))


def format_size(count: int | None) -> str:
    """Format a size: ``189.5 kB`` (SI units, as archives use them)."""
    return "unknown" if count is None else format_bytes(count)


def format_number(count: int | None) -> str:
    """Format a number with thousands separators: ``1,200``."""
    return "unknown" if count is None else f"{count:,}"


def pluralize(count: int, one: str, more: str = "") -> str:
    """Format a count with its noun: ``1 file``, ``1,200 files``.

    ``one`` is the singular; ``more`` the plural, by default the singular with an ``s``.
    """
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def format_time(text: str | None) -> str:
    """Format an ISO 8601 time: ``2024-03-01 12:00 UTC``."""
    if not text:
        return "never"
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")


def format_date(text: str | None) -> str:
    """Format the date of an ISO 8601 time: ``2024-03-01``."""
    return text[:10] if text else "never"


def format_age(time: str | datetime | None) -> str:
    """Format the age of a time: ``3 hours ago``; ``never`` without a time."""
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
    """Escape unprintable characters, such as control characters; HTML is escaped elsewhere."""
    plain = str(text)
    return plain if plain.isascii() and plain.isprintable() else escape_unprintable(plain)


def xml(text: object) -> Markup:
    """Escape a text for XML, with the two printable characters that are not allowed in it."""
    plain = printable(text).replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
    return Markup(escape(plain))


def summary(text: object) -> str:
    """Return the first 300 characters of a text in one line."""
    plain = " ".join(str(text)[:2000].split())
    return printable(plain if len(plain) <= 300 else f"{plain[:299]}…")


def printable_lines(text: object) -> str:
    """Escape unprintable characters, except line breaks."""
    return "\n".join(map(printable, str(text).split("\n")))


def shell_quote(text: object) -> str:
    """Quote a text as one argument of a POSIX shell."""
    return shlex.quote(printable(text))


def python_string(text: object) -> str:
    """Quote a text as a string literal that is valid in Python and in R."""
    return json.dumps(printable(text))


def matlab_string(text: object) -> str:
    """Quote a text as a string literal of MATLAB."""
    return "'" + printable(text).replace("'", "''") + "'"


def file_kind(path: str) -> str:
    """Return the name of a file's format by the end of its name; empty if unknown."""
    name = path.rpartition("/")[2].lower()
    return next((label for ending, label in _KINDS.items() if name.endswith(ending)), "")


def checksum_source(evidence: str, checked: bool, archive: str = "the archive") -> str:
    """Describe the strongest checksum of a file, who computed it, and its use, for visitors.

    ``archive`` is the title of the archive.
    """
    name, purpose = _CHECKSUM_TEXT.get(evidence, (evidence, ""))
    if not purpose:
        return name
    return f"{name} {'checked here' if checked else f'from {archive}'}: {purpose}"


def event_kind(kind: str) -> str:
    """Return the text that visitors see for a kind of event, such as ``listed again``."""
    return EVENT_TEXT.get(kind, (kind.replace("-", " "), ""))[0]


def license_name(text: str) -> str:
    """Return a license without the prefix ``spdx:`` that archives use."""
    return text.removeprefix("spdx:")


def attribute_name(name: str) -> str:
    """Return the name of an attribute for visitors, such as ``Data level``."""
    return _ATTRIBUTES.get(name, name.replace("-", " ").capitalize())


def kind_label(kind: str, upstream: str) -> str:
    """Return a kind of version for visitors: a state of a DANDI draft is called a draft."""
    if kind == "observed":
        return "draft" if upstream == "draft" else "observed state"
    return kind


FILTERS: Mapping[str, Callable[..., Any]] = {
    "format_size": lambda count: format_size(count).replace(" ", "\u00a0"),
    "format_number": format_number,
    "pluralize": pluralize,
    "format_time": format_time,
    "format_date": format_date,
    "format_age": format_age,
    "printable": printable,
    "printable_lines": printable_lines,
    "summary": summary,
    "xml": xml,
    "shell_quote": shell_quote,
    "python_string": python_string,
    "matlab_string": matlab_string,
    "base64": lambda data: base64.b64encode(data).decode(),
    "kind": file_kind,
    "license": license_name,
    "evidence": lambda key: EVIDENCE_TEXT.get(key, key),
    "evidence_meaning": lambda key: _EVIDENCE_MEANING.get(key, key),
    "kind_label": kind_label,
    "attribute": attribute_name,
    "evidence_short": lambda key: _EVIDENCE_SHORT.get(key, f"{key} (detects damage only)"),
    "retention": lambda key: RETENTION_TEXT.get(key, key),
    "retention_short": lambda key: _RETENTION_SHORT.get(key, key),
    "probe_result": lambda key: PROBE_RESULT_TEXT.get(key, key),
    "checksum_source": checksum_source,
    "visit_result": lambda key: VISIT_RESULT_TEXT.get(key, key),
    "event_kind": event_kind,
    "event_text": lambda kind: EVENT_TEXT.get(kind, ("", ""))[1],
    "task": lambda key: TASK_TEXT.get(key, f"{key[:1].upper()}{key[1:]}"),
    "viewer": lambda kind: _VIEWERS.get(kind, kind),
    "change": lambda kind: _CHANGES.get(kind, kind),
}


CONTACT_VARIABLE = "NEUROMIRROR_CATALOGUE_CONTACT"
"""The environment variable with the operator's e-mail address or web page."""
REPOSITORY_VARIABLE = "NEUROMIRROR_CATALOGUE_REPOSITORY"
"""The environment variable with the URL of a git repository of neuromirror."""


_DICT_ATTRIBUTES: Final = frozenset(dir(dict))


_FUNCTIONS: Final = frozenset(addresses.TEMPLATE_GLOBALS.values())


class _FastContext(Context):
    """A context that calls macros and the functions of URLs without looking at them first.

    Jinja looks up, for each of the hundreds of calls of a page, whether a function expects the
    context; that took longer than most calls.
    """

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a function or a method."""
        kind = type(function)
        if kind is Macro:
            args = (self.eval_ctx, *args)
        elif kind is not BuiltinFunctionType and not (
            kind is FunctionType and function in _FUNCTIONS
        ):
            return super().call(function, *args, **kwargs)
        # the variables of the calling block and loop, for functions that expect the context
        kwargs.pop("_block_vars", None)
        kwargs.pop("_loop_vars", None)
        return function(*args, **kwargs)


class _FastEnvironment(Environment):
    """An environment in which ``one.path`` of a dictionary is looked up as a key first.

    Jinja looks for an attribute first, and most values of the templates are dictionaries: the
    exceptions took a tenth of the time of a page.
    """

    context_class = _FastContext

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an item of a dictionary, or an attribute of anything else."""
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


@cache
def template_environment() -> Environment:
    """Return the environment with filters and URL functions; output is HTML-escaped."""
    made = _FastEnvironment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        auto_reload=False,
    )
    made.filters.update(FILTERS)
    made.globals.update(addresses.TEMPLATE_GLOBALS)
    return made


def operator_variables() -> dict[str, str]:
    """Return the variables of templates that the operator sets in the process's environment."""
    contact = os.environ.get(CONTACT_VARIABLE, "").strip()
    return {
        "contact": contact,
        "contact_address": _address(contact),
        "package_source": _package_source(),
    }


def _package_source() -> str:
    """Return what ``pip install`` is given: the operator's repository, or the package's name."""
    given = os.environ.get(REPOSITORY_VARIABLE, "").strip()
    if not given:
        labels = ("source", "repository")
        urls = metadata.metadata("neuromirror").get_all("Project-URL") or []
        pairs = [one.partition(",") for one in urls]
        found = {label.strip().casefold(): url.strip() for label, _, url in pairs}
        given = next((found[label] for label in labels if label in found), "")
    return f"neuromirror @ git+{given}" if given else "neuromirror"


def _address(contact: str) -> str:
    """Return the URL of a contact; empty for other text."""
    if contact.startswith(("https://", "http://")):
        return contact
    return f"mailto:{contact}" if re.fullmatch(r"[^\s@:/?&]+@[^\s@:/?&]+", contact) else ""
