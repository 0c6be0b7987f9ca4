"""Normalize texts of upstream for citations: markup, control characters, licenses, DOIs."""

from __future__ import annotations

import html
import re
from datetime import date
from typing import Any, Final

from neuromirror.lab.cite.upstream_documents import MAX_MEMBERS
from neuromirror.lab.cite.works import License

_TAG: Final = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|br|cite|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|pre"
    r"|q|s|script|small|span|strike|strong|style|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul"
    r"|jats:[a-z]+|mml:[a-z]+)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_BLOCK: Final = re.compile(
    r"</?(?:blockquote|br|d[dlt]|div|h[1-6]|hr|li|ol|p|pre|t[dhr]|table|ul)\b", re.IGNORECASE
)
_HIDDEN: Final = re.compile(
    r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL
)
# control characters, changes of the writing direction, and noncharacters
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
_DOI: Final = re.compile(r"(?i)(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(10\.[0-9]{4,9}/\S+)\Z")
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]|\Z)")

SPDX: Final = (
    *(f"CC-BY-{version}" for version in ("1.0", "2.0", "2.5", "3.0", "4.0")),
    *(
        f"CC-BY-{terms}-{version}"
        for terms in ("NC", "NC-ND", "NC-SA", "ND", "SA")
        for version in ("1.0", "2.0", "2.5", "3.0", "4.0")
    ),
    *("CC0-1.0", "CC-PDDC", "ODC-By-1.0", "ODbL-1.0", "PDDL-1.0", "CDLA-Permissive-1.0"),
    *("CDLA-Sharing-1.0", "OGL-UK-3.0", "etalab-2.0", "MIT", "Apache-2.0", "BSD-2-Clause"),
    *("BSD-3-Clause", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"),
    *("LGPL-3.0-only", "LGPL-3.0-or-later", "Unlicense"),
)
"""SPDX ids that are recognised in any spelling."""

_SPELLINGS: Final = {
    **{re.sub(r"[^a-z0-9.]", "", one.casefold()): one for one in SPDX},
    **{"cc0": "CC0-1.0", "odcby": "ODC-By-1.0", "odbl": "ODbL-1.0", "pddl": "PDDL-1.0"},
}


def plain_text(value: Any) -> str:
    """Return a text on one line without HTML and control characters; empty for other types."""
    if not isinstance(value, str):
        return ""
    text = _HIDDEN.sub(" ", value.encode("utf-8", "replace").decode("utf-8"))
    text = _TAG.sub(lambda found: " " if _BLOCK.match(found.group()) else "", text)
    text = _UNPRINTABLE.sub("", html.unescape(text))
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def plain_texts(value: Any) -> tuple[str, ...]:
    """Return the plain texts of a list or of one text, in order, without duplicates."""
    found = [
        plain_text(one) for one in (value[:MAX_MEMBERS] if isinstance(value, list) else [value])
    ]
    return tuple(dict.fromkeys(one for one in found if one))


def web_address(value: Any) -> str:
    """Return an http or https URL, else an empty text."""
    text = plain_text(value)
    is_one = text.startswith(("http://", "https://")) and " " not in text
    return text if is_one else ""


def doi_of(value: Any) -> str | None:
    """Return the bare DOI in a DOI, ``doi:…`` or a doi.org URL, or None."""
    found = _DOI.match(plain_text(value))
    return found[1] if found else None


def day(value: Any) -> date | None:
    """Return the day of an ISO 8601 date or time, or None."""
    found = _DAY.match(value) if isinstance(value, str) else None
    if found is None:
        return None
    try:
        return date(*map(int, found.groups()))
    except ValueError:
        return None


def license_of(value: Any) -> License | None:
    """Return the license in a text: ``spdx:CC-BY-4.0``, ``CC BY 4.0``, a URL, a sentence."""
    name = plain_text(value)
    is_spdx = name[:5].casefold() == "spdx:"
    name = name[5:].strip() if is_spdx else name
    if not name:
        return None
    known = _SPELLINGS.get(re.sub(r"[^a-z0-9.]", "", name.casefold()))
    spdx = known or (name if is_spdx and re.fullmatch(r"[A-Za-z0-9.+-]+", name) else None)
    if spdx is not None:
        return License(spdx, spdx, f"https://spdx.org/licenses/{spdx}")
    return License(name, None, web_address(name) or None)


def licenses_of(value: Any) -> tuple[License, ...]:
    """Return the licenses in a list of texts, without duplicates."""
    found = map(license_of, value[:MAX_MEMBERS] if isinstance(value, list) else [value])
    return tuple(dict.fromkeys(one for one in found if one is not None))


def count_of(number: int, thing: str) -> str:
    """Format a count: ``1 file``, ``2 files``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
