"""Profile of the Allen Institute for Neural Dynamics: asset names, and sidecars of all schemas.

Sidecars are JSON files in an asset's root, written by aind-data-schema, and ``original_metadata/``.
``metadata.nd.json`` combines them all, and replaces a missing sidecar. Names and fields have
changed often and are sometimes malformed, so nothing here raises for any content, and unknown
content is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from neuromirror.model import INFERRED, UNREADABLE, DatasetFacts, Document
from neuromirror.model.archive_metadata import (
    spdx_id,
    split_list,
    split_person_names,
    without_degrees,
)
from neuromirror.sources.s3.options import Profile
from neuromirror.sources.s3.sidecars import without_members

_DATE: Final = r"\d{4}-\d{1,2}-\d{1,2}"  # HCR_BL6-000_2023-06-1_00-00-00
_CLOCK: Final = r"_\d{1,2}-\d{1,2}-\d{1,2}"
_TIME: Final = _DATE + _CLOCK
# The input may itself be derived. A name that continues after the time is malformed but readable,
# and so is one that ends with a date (..._fusion_2023-08-24).
_DERIVED: Final = (
    re.compile(
        rf"(?P<input>.+_{_TIME})_(?P<process>.+?)_(?P<time>{_DATE}(?:{_CLOCK})?)\Z", re.ASCII
    ),
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
_S3: Final = re.compile(r"(?i)\As3://[^/]+/")
_LEVELS: Final = {"raw data": "raw", "derived data": "derived", "simulated data": "simulated"}
_INFERABLE: Final = ("subject", "platform", "created", "process")
_LONGEST: Final = 300
_MOST: Final = 200
"""Maximum values of an attribute; a sidecar with more is malformed."""
_DEEP: Final = 8


def is_document(path: bytes) -> bool:
    """Return whether a path in an asset is a sidecar."""
    return path.startswith(_ORIGINALS) or _TOP.match(path) is not None


def normalize(path: bytes, content: bytes) -> bytes:
    """Return the content of a sidecar without the members that AIND's indexer updates.

    ``path`` is the path of the sidecar in its asset.
    """
    return without_members(content, _VOLATILE) if path == _JOINED.encode() else content


def asset_facts(
    name: str, documents: Sequence[Document], refused: Sequence[bytes] = ()
) -> DatasetFacts:
    """Return an asset's facts from its sidecars, or from its name if it has no description.

    Parameters
    ----------
    name
        The local id of the dataset, whose last segment is the asset's name.
    documents
        The sidecars that were read.
    refused
        Paths of listed sidecars that could not be read.

    Returns
    -------
    DatasetFacts
        Its attribute ``inferred-from-name`` lists the attributes that come from the name,
        ``unreadable-sidecar`` the sidecars that are not valid JSON or were refused.
    """
    sidecars = _Sidecars(documents, refused)
    description, subject = sidecars.read("data_description"), sidecars.read("subject")
    acquisition = sidecars.read("acquisition", "session", "ephys_session", "ophys_session")
    values: dict[str, list[str]] = {
        "subject": _field_texts(description, "subject_id") or _field_texts(subject, "subject_id"),
        "species": _field_texts(subject, "species")
        or _field_texts(_mapping(subject.get("subject_details")), "species"),
        "modality": [
            name
            for text in _field_texts(description, "modalities", prefer="abbreviation")
            or _field_texts(description, "modality", prefer="abbreviation")
            or _field_texts(description, "experiment_type")
            for name in split_list(text)
        ],
        "platform": _field_texts(description, "platform", prefer="abbreviation"),
        "project": _field_texts(description, "project_name")
        or _field_texts(description, "project_id"),
        "investigator": _people(description.get("investigators")),
        "institution": _field_texts(description, "institution"),
        "funder": [
            name
            for source in _flat(description.get("funding_source"))
            for name in _texts(source.get("funder") if isinstance(source, Mapping) else source)
        ],
        "data-level": [
            _LEVELS.get(level.casefold(), level)
            for level in _field_texts(description, "data_level")
        ],
        "created": _created(description),
        "acquired": _times(acquisition, "acquisition_start_time", "session_start_time"),
        "acquisition-type": _field_texts(acquisition, "acquisition_type")
        or _field_texts(acquisition, "session_type"),
        "process": _processes(sidecars.read("processing")),
        "schema-version": _field_texts(description, "schema_version")
        or _field_texts(sidecars.joined, "schema_version"),
        UNREADABLE: sorted(sidecars.unreadable),
    }
    named = name_parts(name.rpartition("/")[2])
    inferred: dict[str, list[str]] = {}
    if not sidecars.has("data_description"):
        inferred = {
            kind: named[kind] for kind in _INFERABLE if named.get(kind) and not values[kind]
        }
    inputs = _inputs(description)
    if not inputs and "input" in named:
        inputs = named["input"]
        values[INFERRED] = ["input"]
    if inputs and not values["acquired"]:
        times = [time for path in inputs for time in _acquired(path.rpartition("/")[2])]
        inferred |= {"acquired": times} if times else {}
    values |= inferred
    values[INFERRED] = [*values.get(INFERRED, ()), *inferred]
    return DatasetFacts(
        title=[*_field_texts(description, "name"), *_field_texts(sidecars.joined, "name"), name][0],
        license=tuple(spdx_id(name) or name for name in _field_texts(description, "license")),
        landing_page=next(
            (
                page
                for holder in (description, sidecars.joined)
                for field in ("landing_page", "url")
                for page in _field_texts(holder, field)
                if page.startswith(("https://", "http://")) and " " not in page
            ),
            None,
        ),
        attributes=tuple(
            sorted({(kind, value) for kind, stated in values.items() for value in stated[:_MOST]})
        ),
        # some assets list themselves as input
        inputs=tuple(sorted(set(inputs) - {name, name.rpartition("/")[2]})),
    )


class _Sidecars:
    """The sidecars in the root of an asset, and which of them cannot be read."""

    def __init__(self, documents: Sequence[Document], refused: Sequence[bytes]) -> None:
        self.unreadable = {path.decode() for path in refused if b"/" not in path}
        self._parsed: dict[str, Mapping[str, Any]] = {}
        for document in documents:
            if b"/" not in document.path:
                self._add(document.path.decode(), document.content)
        self.joined = self._parsed.get(_JOINED, {})

    def _add(self, path: str, content: bytes) -> None:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            self.unreadable.add(path)
        else:
            self._parsed[path] = _mapping(value)

    def has(self, stem: str) -> bool:
        """Return whether this sidecar exists, even if unreadable."""
        path = f"{stem}.json"
        return path in self._parsed or path in self.unreadable or bool(self.read(stem))

    def read(self, *stems: str) -> Mapping[str, Any]:
        """Return the first sidecar that is not empty, from its own file or the combined one."""
        for stem in stems:
            own = self._parsed.get(f"{stem}.json") or _mapping(self.joined.get(stem))
            if own:
                return own
        return {}


def name_parts(name: str) -> dict[str, list[str]]:
    """Return what an asset's name states: subject, platform, created, process and input.

    Parameters
    ----------
    name
        The name, such as ``ecephys_705161_2024-01-02_03-04-05``. A derived name has the name of its
        input, the process and a second time.

    Returns
    -------
    dict[str, list[str]]
        Each part that the name has, as a list of one value, like other attributes of datasets;
        ``created`` is a time in ISO 8601. Empty for a name of another form.
    """
    derived = next(filter(None, (pattern.match(name) for pattern in _DERIVED)), None)
    if derived is not None:
        # the input's time is not this asset's
        parts = {
            kind: value
            for kind, value in name_parts(derived["input"]).items()
            if kind in ("subject", "platform")
        }
        return {
            **parts,
            "input": [derived["input"]],
            "process": [derived["process"]],
            "created": _moment(derived["time"]),
        }
    raw = _RAW.match(name)
    if raw is None:
        return {}
    parts = {"created": _moment(raw["time"])}
    if raw["platform"]:
        parts["platform"] = [raw["platform"]]
    if re.search("[0-9]", raw["subject"]):  # ids have digits; SmartSPIM-template is no subject
        parts["subject"] = [raw["subject"]]
    return parts


def _acquired(name: str) -> list[str]:
    """Return the time in the name of the raw asset at the beginning of an asset's name."""
    parts = name_parts(name)
    return _acquired(parts["input"][0]) if "input" in parts else parts.get("created", [])


def _moment(time: str) -> list[str]:
    """Return the time in a name in ISO 8601; empty if there is no such day."""
    date, *clock = ([number.zfill(2) for number in part.split("-")] for part in time.split("_"))
    return _valid_times(["T".join(["-".join(date), *(":".join(parts) for parts in clock)])])


def _inputs(description: Mapping[str, Any]) -> list[str]:
    """Return the names of the input assets, from the newest schema's field that has any."""
    for field in ("source_data", "input_data_name", "input_data"):
        stated = _field_texts(description, field)
        # an S3 URL or a name
        if names := list(filter(None, (_S3.sub("", text).strip("/") for text in stated))):
            return names
    return []


def _people(value: Any) -> list[str]:
    """Return names of persons without degrees: one per object, one or several per text."""
    people: list[str] = []
    for person in _flat(value):
        names = _texts(person)
        if not isinstance(person, Mapping):
            names = [name for text in names for name in split_person_names(text)]
        people += map(without_degrees, names)
    return list(dict.fromkeys(people))


def _created(description: Mapping[str, Any]) -> list[str]:
    """Return the time of creation; early schemas have separate fields for date and time."""
    dates = _field_texts(description, "creation_date")
    if dates:
        times = _field_texts(description, "creation_time")
        joined = [f"{dates[0]}T{time}" for time in times[:1] if "-" not in time[:8]]
        return _valid_times([*joined, *dates])
    return _times(description, "creation_time")


def _times(holder: Mapping[str, Any], *names: str) -> list[str]:
    """Return the first valid ISO 8601 date or time in some fields."""
    return _valid_times(text for name in names for text in _field_texts(holder, name))


def _valid_times(texts: Iterable[str]) -> list[str]:
    for text in texts:
        with suppress(ValueError):
            datetime.fromisoformat(text)
            return [text]
    return []


def _processes(processing: Mapping[str, Any]) -> list[str]:
    pipeline = _mapping(processing.get("processing_pipeline"))
    listed = [
        *_flat(processing.get("data_processes")),
        *_flat(pipeline.get("data_processes")),
        *_flat(processing.get("analyses")),
    ]
    names = (
        name
        for process in listed
        for field in ("process_type", "name")
        for name in _field_texts(_mapping(process), field)
    )
    return list(dict.fromkeys(names))


def _field_texts(holder: Mapping[str, Any], field: str, prefer: str = "name") -> list[str]:
    return _texts(holder.get(field), prefer)


def _texts(value: Any, prefer: str = "name") -> list[str]:
    """Return the texts in a value that is a text, a number, an object with a name, or a list."""
    texts: list[str] = []
    for item in _flat(value):
        stated = item
        if isinstance(item, Mapping):
            named = [item.get(key) for key in (prefer, "name", "abbreviation")]
            stated = next((text for text in named if isinstance(text, str) and text.strip()), None)
        if isinstance(stated, int) and not isinstance(stated, bool) and abs(stated) < 10**18:
            stated = str(stated)
        if isinstance(stated, str) and (text := _line(stated)) and text not in texts:
            texts.append(text)
    return texts


def _flat(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the innermost values of nested lists, up to a limited depth."""
    if isinstance(value, list):
        if depth < _DEEP:
            for inner in value[:_MOST]:
                yield from _flat(inner, depth + 1)
    else:
        yield value


def _line(text: str) -> str:
    """Return a text as one short line; empty for a null value."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    line = "".join(sign for sign in line if sign.isprintable())
    return "" if line.casefold() in ("none", "null", "unknown", "") else line[:_LONGEST]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


AIND: Final = Profile(is_document=is_document, normalize=normalize, facts=asset_facts)
