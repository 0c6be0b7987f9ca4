"""The Allen Institute for Neural Dynamics: names of assets, and sidecars of all schema generations.

Sidecars are JSON files in an asset's root, made by aind-data-schema, and ``original_metadata/``.
``metadata.nd.json`` joins them all; where a sidecar of its own is missing, its part in there
stands in. Names and fields have changed often and are broken now and then: nothing here raises,
whatever a sidecar holds, and what is not understood is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from neuromirror.model import DatasetFacts, Document
from neuromirror.sources.s3.profile import Profile
from neuromirror.sources.s3.sidecars import without_members

_TIME: Final = r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}"
# The input may itself be derived; a name that goes on after the time is broken, but tells as much.
_DERIVED: Final = (
    re.compile(rf"(?P<input>.+_{_TIME})_(?P<process>.+?)_(?P<time>{_TIME})\Z", re.ASCII),
    re.compile(rf"(?P<input>.+?_{_TIME})_(?P<process>.+?)_(?P<time>{_TIME})", re.ASCII),
)
_RAW: Final = re.compile(
    rf"(?:(?P<platform>[A-Za-z][A-Za-z0-9-]*)_)?(?P<subject>[A-Za-z0-9.-]+)_(?P<time>{_TIME})\Z",
    re.ASCII,
)
_TOP: Final = re.compile(rb"[^/]+\.json\Z")
_ORIGINALS: Final = b"original_metadata/"
_JOINED: Final = "metadata.nd.json"
_VOLATILE: Final = frozenset({"last_modified", "_last_modified"})
_S3: Final = re.compile(r"(?i)s3://[^/]+/(?P<path>.*)", re.DOTALL)
_LEVELS: Final = {"raw data": "raw", "derived data": "derived", "simulated data": "simulated"}
_LONGEST: Final = 300
_MOST: Final = 200
"""Values of one attribute; a sidecar with more of them is broken."""
_DEEP: Final = 8


def is_document(path: bytes) -> bool:
    """Whether a path below an asset's root is a sidecar."""
    return path.startswith(_ORIGINALS) or _TOP.match(path) is not None


def kept(path: bytes, content: bytes) -> bytes:
    """A sidecar without what an indexer changes by itself; all else byte for byte."""
    return without_members(content, _VOLATILE) if path == _JOINED.encode() else content


def facts(name: str, documents: Sequence[Document]) -> DatasetFacts:
    """What the sidecars and, where they are silent, the name say of an asset."""
    sidecars = {
        document.path.decode(): _parsed(document.content)
        for document in documents
        if b"/" not in document.path
    }
    joined = _mapping(sidecars.get(_JOINED))

    def sidecar(stem: str) -> Mapping[str, Any]:
        return _mapping(sidecars.get(f"{stem}.json")) or _mapping(joined.get(stem))

    description, subject = sidecar("data_description"), sidecar("subject")
    named = name_parts(name.rpartition("/")[2])
    found: dict[str, list[str]] = {
        "subject": _words(description, "subject_id")
        or _words(subject, "subject_id")
        or named.get("subject", []),
        "species": _words(subject, "species")
        or _words(_mapping(subject.get("subject_details")), "species"),
        "modality": _words(description, "modalities", prefer="abbreviation")
        or _words(description, "modality", prefer="abbreviation")
        or _words(description, "experiment_type"),
        "platform": _words(description, "platform", prefer="abbreviation")
        or named.get("platform", []),
        "project": _words(description, "project_name") or _words(description, "project_id"),
        "investigator": _people(description.get("investigators")),
        "funder": _funders(description.get("funding_source")),
        "data-level": [
            _LEVELS.get(one.casefold(), one) for one in _words(description, "data_level")
        ],
        "created": _created(description) or named.get("created", []),
        "process": _processes(sidecar("processing")) or named.get("process", []),
        "schema-version": _words(description, "schema_version") or _words(joined, "schema_version"),
    }
    return DatasetFacts(
        title=_first(_words(description, "name")) or _first(_words(joined, "name")) or name,
        license=tuple(_words(description, "license")),
        landing_page=_page(description) or _page(joined),
        attributes=tuple(
            sorted({(kind, value) for kind, values in found.items() for value in values[:_MOST]})
        ),
        # Some say that they were made of themselves.
        inputs=tuple(sorted(set(_inputs(description, named)) - {name, name.rpartition("/")[2]})),
    )


def name_parts(name: str) -> dict[str, list[str]]:
    """What an asset's name says: subject, platform, created, process, input; {} where nothing.

    A derived name matches the pattern of a raw one too, so it is tried first.
    """
    derived = next(filter(None, (pattern.match(name) for pattern in _DERIVED)), None)
    if derived is not None:
        # Of the input only what stays the same: its time is not this asset's.
        parts = {
            kind: value
            for kind, value in name_parts(derived["input"]).items()
            if kind in ("subject", "platform")
        }
        return {
            **parts,
            "input": [derived["input"]],
            "process": [derived["process"]],
            "created": [_moment(derived["time"])],
        }
    raw = _RAW.match(name)
    if raw is None:
        return {}
    parts = {"subject": [raw["subject"]], "created": [_moment(raw["time"])]}
    return {**parts, "platform": [raw["platform"]]} if raw["platform"] else parts


def _moment(time: str) -> str:
    date, _, clock = time.partition("_")
    return f"{date}T{clock.replace('-', ':')}"


def _inputs(description: Mapping[str, Any], named: Mapping[str, list[str]]) -> list[str]:
    """Names of the assets that this one was made of, from the newest field that holds any."""
    for field in ("source_data", "input_data_name", "input_data"):
        stated = [_asset(one) for one in _words(description, field)]
        if found := [one for one in stated if one]:
            return found
    return named.get("input", [])


def _asset(stated: str) -> str:
    """The asset's name in a name or in an address in a bucket."""
    found = _S3.match(stated)
    return (found["path"] if found else stated).strip("/")


def _people(value: Any) -> list[str]:
    """Names of persons; one text may hold several, with commas between them."""
    return [
        part.strip() for one in _texts(value, "name") for part in one.split(",") if part.strip()
    ]


def _funders(value: Any) -> list[str]:
    found: list[str] = []
    for one in value if isinstance(value, list) else [value]:
        found += _texts(one.get("funder") if isinstance(one, Mapping) else one, "name")
    return found


def _created(description: Mapping[str, Any]) -> list[str]:
    """Time of creation; early schemas keep date and time of day apart."""
    times, dates = _words(description, "creation_time"), _words(description, "creation_date")
    if dates and times and "-" not in times[0][:8]:
        return [f"{dates[0]}T{times[0]}"]
    return times[:1] or dates[:1]


def _processes(processing: Mapping[str, Any]) -> list[str]:
    pipeline = _mapping(processing.get("processing_pipeline"))
    found: list[str] = []
    for listed in (
        processing.get("data_processes"),
        pipeline.get("data_processes"),
        processing.get("analyses"),
    ):
        for one in _flat(listed):
            if isinstance(one, Mapping):
                found += _words(one, "process_type") or _words(one, "name")
    return found


def _page(holder: Mapping[str, Any]) -> str | None:
    for field in ("landing_page", "url"):
        for one in _words(holder, field):
            if one.startswith(("https://", "http://")) and not re.search(r"\s", one):
                return one
    return None


def _words(holder: Mapping[str, Any], field: str, prefer: str = "name") -> list[str]:
    return _texts(holder.get(field), prefer)


def _texts(value: Any, prefer: str) -> list[str]:
    """The texts of a value that may be a text, a number, an object with a name, or a list."""
    found: list[str] = []
    for one in _flat(value):
        stated = one
        if isinstance(one, Mapping):
            named = (one.get(key) for key in (prefer, "name", "abbreviation"))
            stated = next((word for word in named if isinstance(word, str) and word.strip()), None)
        if isinstance(stated, int) and not isinstance(stated, bool) and abs(stated) < 10**18:
            stated = str(stated)
        if isinstance(stated, str) and (word := _line(stated)) and word not in found:
            found.append(word)
    return found


def _flat(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yields the innermost values of lists in lists, a few levels deep."""
    if isinstance(value, list):
        if depth < _DEEP:
            for one in value[:_MOST]:
                yield from _flat(one, depth + 1)
    else:
        yield value


def _line(text: str) -> str:
    """One line of valid text, not too long; empty for what says nothing."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    line = "".join(one for one in line if one.isprintable())
    return "" if line.casefold() in ("none", "null", "unknown", "") else line[:_LONGEST]


def _first(words: Sequence[str]) -> str:
    return words[0] if words else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


AIND: Final = Profile(is_document=is_document, kept=kept, facts=facts)
