"""Split names of people into family and given names, where the result is certain.

``van der Berg, Anna`` and ``Anna van der Berg`` are equal, as in BibTeX. A name without a comma is
split only if it has two words, or if the words between the first and the last are particles or
initials; ``Ana García Márquez`` is ambiguous.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from neuromirror.lab.cite.works import Organisation, Person
from neuromirror.model.person_names import is_generation, without_degrees
from neuromirror.model.plain_text import plain_text

_INITIALS: Final = re.compile(r"(?:[^\W\d_]\.?-?){1,3}\Z")
_ORCID: Final = re.compile(r"(?:https?://(?:www\.)?orcid\.org/)?([0-9]{4}(?:-[0-9]{3}[0-9X]){3})\Z")
_ORCID_DIGITS: Final = re.compile(r"[0-9]{15}[0-9X]\Z")
_ROR: Final = re.compile(r"(?:https?://(?:www\.)?ror\.org/)?(0[a-hj-km-np-tv-z0-9]{6}[0-9]{2})\Z")
_FAMILY_FIRST: Final = ("CJK UNIFIED", "HANGUL", "HIRAGANA", "KATAKANA")


def make_person(
    name: Any, orcid: Any = None, affiliations: Sequence[Organisation] = ()
) -> Person | None:
    """Return the record of a person, from untrusted JSON values; None without a name.

    Academic degrees are removed from the name, and an invalid ORCID is ignored.
    """
    whole = without_degrees(plain_text(name).strip(" ,;"))
    if not whole:
        return None
    family, given, particle, suffix = _split_name(whole)
    return Person(whole, family, given, particle, suffix, orcid_of(orcid), tuple(affiliations))


def make_organisation(name: Any, ror: Any = None) -> Organisation | None:
    """Return the record of an organisation, from untrusted JSON values; None without a name."""
    found = plain_text(name)
    return Organisation(found, ror_of(ror)) if found else None


def orcid_of(value: Any) -> str | None:
    """Return a bare ORCID with a valid check digit (ISO 7064, MOD 11-2), or None."""
    found = _ORCID.match(plain_text(value))
    if found is None or not _ORCID_DIGITS.match(digits := found[1].replace("-", "")):
        return None
    total = 0
    for digit in digits[:-1]:
        total = (total + int(digit)) * 2
    check = (12 - total % 11) % 11
    return found[1] if digits[-1] == ("X" if check == 10 else str(check)) else None


def ror_of(value: Any) -> str | None:
    """Return the ror.org URL of an id or a URL, or None."""
    found = _ROR.match(plain_text(value))
    return f"https://ror.org/{found[1]}" if found else None


def family_first_name(one: Person) -> str:
    """Return the name as in a list of authors, such as ``van der Berg, Anna, Jr``."""
    if not one.family:
        return one.full_name
    family = f"{one.particle} {one.family}".strip()
    return ", ".join(part for part in (family, one.given, one.suffix) if part)


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
        return "", "", "", ""
    tokens = parts[0].split()
    number = _count_particles(tokens)
    return " ".join(tokens[number:]), parts[1], " ".join(tokens[:number]), suffix


def _split_spoken_name(tokens: Sequence[str], suffix: str) -> tuple[str, str, str, str]:
    """Split a name whose words are in spoken order."""
    unknown = ("", "", "", "")
    tokens = list(tokens)
    if not suffix and len(tokens) > 2 and is_generation(tokens[-1]):
        suffix = tokens.pop()
    if len(tokens) < 2:
        return unknown
    if all(map(_has_family_first, tokens)):
        return (tokens[0], tokens[1], "", suffix) if len(tokens) == 2 else unknown
    start = next((at for at, token in enumerate(tokens) if at and _is_particle(token)), None)
    if start is not None:
        number = _count_particles(tokens[start:])
        family = tokens[start + number :]
        particle = tokens[start : start + number]
        return " ".join(family), " ".join(tokens[:start]), " ".join(particle), suffix
    if all(_INITIALS.match(token) and token.isupper() for token in tokens[1:-1]):
        return tokens[-1], " ".join(tokens[:-1]), "", suffix
    return unknown


def _count_particles(tokens: Sequence[str]) -> int:
    """Return the number of leading particles; the last word never counts."""
    number = 0
    while number < len(tokens) - 1 and _is_particle(tokens[number]):
        number += 1
    return number


def _is_particle(token: str) -> bool:
    return token[:1].islower()


def _has_family_first(token: str) -> bool:
    return all(unicodedata.name(one, "").startswith(_FAMILY_FIRST) for one in token)
