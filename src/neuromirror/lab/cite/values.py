"""Values of upstream's documents, which are untrusted: texts, dates, licenses, people; and of JSON.

A field that is missing or has a wrong type is ignored. Names of people are split into family and
given names where the result is certain: ``van der Berg, Anna`` and ``Anna van der Berg`` are equal,
as in BibTeX. A name without a comma is split only if it has two words, or if the words between the
first and the last are particles or initials; ``Ana García Márquez`` is ambiguous.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, Final, TypeVar

from neuromirror.lab.cite.works import Agent, License
from neuromirror.model.archive_metadata import (
    is_generation,
    plain_text,
    spdx_id,
    without_degrees,
    without_spdx_prefix,
)

_Value = TypeVar("_Value")

_MAX_MEMBERS: Final = 10_000
"""Maximum number of list members that are read: twice the longest known list of authors."""
_MAX_DOCUMENT_BYTES: Final = 8 << 20
"""Maximum size of a document in bytes; for a larger one, the fields of the mirror are cited."""
_DOI: Final = re.compile(r"(?i)(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(10\.[0-9]{4,9}/\S+)\Z")
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]|\Z)")
_INITIALS: Final = re.compile(r"(?:[^\W\d_]\.?-?){1,3}\Z")
_ORCID: Final = re.compile(r"(?:https?://(?:www\.)?orcid\.org/)?((?:[0-9]{4}-){3}[0-9]{3}[0-9X])\Z")
_ROR: Final = re.compile(r"(?:https?://(?:www\.)?ror\.org/)?(0[a-hj-km-np-tv-z0-9]{6}[0-9]{2})\Z")
_FAMILY_FIRST: Final = ("CJK UNIFIED", "HANGUL", "HIRAGANA", "KATAKANA")
_AMBIGUOUS: Final = ("", "", "", "")
_UNSEEN: Final = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Invisible characters, and those that change the writing direction."""


def parse_object(content: bytes) -> Mapping[str, Any]:
    """Parse a JSON object; empty if it is invalid or too large."""
    with suppress(ValueError, RecursionError):
        return mapping(json.loads(content) if len(content) <= _MAX_DOCUMENT_BYTES else None)
    return {}


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a JSON object (``dict``), else ``{}``."""
    return value if isinstance(value, dict) else {}


def members(value: Any) -> list[Any]:
    """Return the first members of a list; another value is its own only member."""
    return value[:_MAX_MEMBERS] if isinstance(value, list) else [value]


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the JSON objects among the first members of a list."""
    listed = members(value) if isinstance(value, list) else []
    return [one for one in listed if isinstance(one, dict)]


def plain_texts(value: Any) -> tuple[str, ...]:
    """Return a text or the texts of a list, without markup and duplicates."""
    return tuple(dict.fromkeys(filter(None, map(plain_text, members(value)))))


def web_address(value: Any) -> str:
    """Return an http or https URL, else an empty text."""
    text = plain_text(value)
    return text if text.startswith(("http://", "https://")) and " " not in text else ""


def doi_of(value: Any) -> str | None:
    """Return the bare DOI in a DOI, ``doi:…`` or a doi.org URL, or None."""
    found = _DOI.match(plain_text(value))
    return found[1] if found else None


def day(value: Any) -> date | None:
    """Return the day of an ISO 8601 date or time; None for any other value."""
    found = _DAY.match(value) if isinstance(value, str) else None
    with suppress(ValueError):
        return None if found is None else date(*map(int, found.groups()))
    return None


def license_of(value: Any) -> License | None:
    """Return the license that a text names; None without a text.

    The text may be ``spdx:CC-BY-4.0``, ``CC BY 4.0``, a URL or a sentence.
    """
    name = plain_text(value)
    if spdx := spdx_id(name):
        return License(spdx, spdx, f"https://spdx.org/licenses/{spdx}")
    name = without_spdx_prefix(name)
    return License(name, None, web_address(name) or None) if name else None


def licenses_of(value: Any) -> tuple[License, ...]:
    """Return the licenses in a list of texts, without duplicates."""
    return tuple(dict.fromkeys(filter(None, map(license_of, members(value)))))


# --- people and organisations


def make_person(name: Any, orcid: Any = None, affiliations: Sequence[Agent] = ()) -> Agent | None:
    """Return the record of a person, from untrusted JSON values; None without a name.

    Academic degrees are removed from the name, and an invalid ORCID is ignored.
    """
    whole = without_degrees(plain_text(name).strip(" ,;"))
    number = orcid_of(orcid)
    url = number and f"https://orcid.org/{number}"
    return Agent(whole, *_split_name(whole), url, tuple(affiliations), True) if whole else None


def make_organisation(name: Any, ror: Any = None) -> Agent | None:
    """Return the record of an organisation, from untrusted JSON values; None without a name."""
    found = plain_text(name)
    return Agent(found, url=ror_of(ror)) if found else None


def orcid_of(value: Any) -> str | None:
    """Return a bare ORCID with a valid check digit (ISO 7064, MOD 11-2), or None."""
    found = _ORCID.match(plain_text(value))
    if found is None:
        return None
    total = 0
    for digit in found[1][:-1].replace("-", ""):
        total = (total + int(digit)) * 2
    return found[1] if found[1][-1] == "0123456789X"[(12 - total % 11) % 11] else None


def ror_of(value: Any) -> str | None:
    """Return the ror.org URL of an id or a URL, or None."""
    found = _ROR.match(plain_text(value))
    return f"https://ror.org/{found[1]}" if found else None


def _split_name(whole: str) -> tuple[str, str, str, str]:
    """Return family name, given names, particle and suffix; all empty if ambiguous."""
    parts = [part.strip() for part in whole.split(",") if part.strip()]
    if len(parts) == 1:
        return _split_spoken_name(whole.split(), "")
    if len(parts) == 2 and is_generation(parts[1]):
        return _split_spoken_name(parts[0].split(), parts[1])
    suffix = ""
    if len(parts) == 3 and (is_generation(parts[1]) or is_generation(parts[2])):
        suffix = parts.pop(1 if is_generation(parts[1]) else 2)
    if len(parts) != 2:
        return _AMBIGUOUS
    tokens = parts[0].split()
    number = _count_particles(tokens)
    return " ".join(tokens[number:]), parts[1], " ".join(tokens[:number]), suffix


def _split_spoken_name(tokens: Sequence[str], suffix: str) -> tuple[str, str, str, str]:
    """Split a name whose words are in spoken order."""
    tokens = list(tokens)
    if not suffix and len(tokens) > 2 and is_generation(tokens[-1]):
        suffix = tokens.pop()
    if len(tokens) < 2:
        return _AMBIGUOUS
    if all(map(_has_family_first, tokens)):
        return (tokens[0], tokens[1], "", suffix) if len(tokens) == 2 else _AMBIGUOUS
    start = next((at for at, token in enumerate(tokens) if at and token[:1].islower()), None)
    if start is not None:
        end = start + _count_particles(tokens[start:])
        particle = " ".join(tokens[start:end])
        return " ".join(tokens[end:]), " ".join(tokens[:start]), particle, suffix
    if all(_INITIALS.match(token) and token.isupper() for token in tokens[1:-1]):
        return tokens[-1], " ".join(tokens[:-1]), "", suffix
    return _AMBIGUOUS


def _count_particles(tokens: Sequence[str]) -> int:
    """Return the number of leading particles; the last word never counts."""
    others = (at for at, token in enumerate(tokens[:-1]) if not token[:1].islower())
    return next(others, max(len(tokens) - 1, 0))


def _has_family_first(token: str) -> bool:
    return all(unicodedata.name(one, "").startswith(_FAMILY_FIRST) for one in token)


# --- JSON, as UTF-8 with invisible characters escaped; equal values give equal bytes


def indented_json(value: Any) -> str:
    """Encode a value indented, with a newline at the end."""
    return compact_json(value, indent=2) + "\n"


def compact_json(value: Any, indent: int | None = None) -> str:
    """Encode a value, by default on one line."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def distinct(values: Iterable[_Value]) -> list[_Value]:
    """Return JSON values in their order, without duplicates."""
    found: list[_Value] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object without its members that are null or an empty text, list or object."""
    empty: tuple[Any, ...] = (None, "", [], {}, ())
    return {name: value for name, value in table.items() if value not in empty}
