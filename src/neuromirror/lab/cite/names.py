"""Names of people taken apart, as far as that is beyond doubt.

``van der Berg, Anna`` and ``Anna van der Berg`` are the same; so are BibTeX's rules. A name without
a comma is taken apart only where it has two words, or where what stands between first and last is a
particle or an initial: of ``Ana García Márquez`` nobody but she knows which word is which.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from neuromirror.lab.cite.plain import plain
from neuromirror.lab.cite.works import Organisation, Person
from neuromirror.model.people import is_generation, without_degrees

_INITIALS: Final = re.compile(r"(?:[^\W\d_]\.?-?){1,3}\Z")
_ORCID: Final = re.compile(r"(?:https?://(?:www\.)?orcid\.org/)?([0-9]{4}(?:-[0-9]{3}[0-9X]){3})\Z")
_ORCID_DIGITS: Final = re.compile(r"[0-9]{15}[0-9X]\Z")
_ROR: Final = re.compile(r"(?:https?://(?:www\.)?ror\.org/)?(0[a-hj-km-np-tv-z0-9]{6}[0-9]{2})\Z")
_FAMILY_FIRST: Final = ("CJK UNIFIED", "HANGUL", "HIRAGANA", "KATAKANA")


def person(
    name: Any, orcid: Any = None, affiliations: Sequence[Organisation] = ()
) -> Person | None:
    """A person by name, without academic degrees; None where there is no name."""
    whole = without_degrees(plain(name).strip(" ,;"))
    if not whole:
        return None
    family, given, particle, suffix = _apart(whole)
    return Person(whole, family, given, particle, suffix, orcid_of(orcid), tuple(affiliations))


def organisation(name: Any, ror: Any = None) -> Organisation | None:
    """An organisation by name; None where there is no name."""
    found = plain(name)
    return Organisation(found, ror_of(ror)) if found else None


def orcid_of(value: Any) -> str | None:
    """A bare ORCID with the right check digit (ISO 7064, MOD 11-2); None for anything else."""
    found = _ORCID.match(plain(value))
    if found is None or not _ORCID_DIGITS.match(digits := found[1].replace("-", "")):
        return None
    total = 0
    for digit in digits[:-1]:
        total = (total + int(digit)) * 2
    check = (12 - total % 11) % 11
    return found[1] if digits[-1] == ("X" if check == 10 else str(check)) else None


def ror_of(value: Any) -> str | None:
    """The address at ror.org of an id or an address; None for anything else."""
    found = _ROR.match(plain(value))
    return f"https://ror.org/{found[1]}" if found else None


def inverted(one: Person) -> str:
    """The name as it stands in a list of authors: ``van der Berg, Anna, Jr.``"""
    if not one.family:
        return one.whole
    family = f"{one.particle} {one.family}".strip()
    return ", ".join(part for part in (family, one.given, one.suffix) if part)


def _apart(whole: str) -> tuple[str, str, str, str]:
    """Family name, given names, particle and suffix; all empty where that is not certain."""
    parts = [part.strip() for part in whole.split(",") if part.strip()]
    if len(parts) == 1:
        return _in_order(whole.split(), "")
    if len(parts) == 2 and is_generation(parts[1]):
        return _in_order(parts[0].split(), parts[1])
    suffix = ""
    if len(parts) == 3 and (is_generation(parts[1]) or is_generation(parts[2])):
        suffix = parts.pop(1 if is_generation(parts[1]) else 2)
    if len(parts) != 2:
        return "", "", "", ""
    words = parts[0].split()
    number = _particle_words(words)
    return " ".join(words[number:]), parts[1], " ".join(words[:number]), suffix


def _in_order(words: Sequence[str], suffix: str) -> tuple[str, str, str, str]:
    """A name whose words stand as they are spoken."""
    unknown = ("", "", "", "")
    words = list(words)
    if not suffix and len(words) > 2 and is_generation(words[-1]):
        suffix = words.pop()
    if len(words) < 2:
        return unknown
    if all(map(_has_family_first, words)):
        return (words[0], words[1], "", suffix) if len(words) == 2 else unknown
    start = next((at for at, word in enumerate(words) if at and _is_particle(word)), None)
    if start is not None:
        number = _particle_words(words[start:])
        family = words[start + number :]
        particle = words[start : start + number]
        return " ".join(family), " ".join(words[:start]), " ".join(particle), suffix
    if all(_INITIALS.match(word) and word.isupper() for word in words[1:-1]):
        return words[-1], " ".join(words[:-1]), "", suffix
    return unknown


def _particle_words(words: Sequence[str]) -> int:
    """How many words at the beginning are a particle; the last one never is."""
    number = 0
    while number < len(words) - 1 and _is_particle(words[number]):
        number += 1
    return number


def _is_particle(word: str) -> bool:
    return word[:1].islower()


def _has_family_first(word: str) -> bool:
    return all(unicodedata.name(one, "").startswith(_FAMILY_FIRST) for one in word)
