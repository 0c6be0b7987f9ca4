"""Normalize texts of upstream for citations: markup, control characters, licenses, DOIs."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Final

from neuromirror.lab.cite.upstream_documents import MAX_MEMBERS
from neuromirror.lab.cite.works import License
from neuromirror.model.licenses import spdx_id, without_spdx_prefix
from neuromirror.model.plain_text import plain_text

_DOI: Final = re.compile(r"(?i)(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(10\.[0-9]{4,9}/\S+)\Z")
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]|\Z)")


def plain_texts(value: Any) -> tuple[str, ...]:
    """Return the texts in a JSON value without markup and duplicates.

    The value is a text or a list of texts.
    """
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
    """Return the day of an ISO 8601 date or time; None for any other value."""
    found = _DAY.match(value) if isinstance(value, str) else None
    if found is None:
        return None
    try:
        return date(*map(int, found.groups()))
    except ValueError:
        return None


def license_of(value: Any) -> License | None:
    """Return the license that a text names; None without a text.

    The text may be ``spdx:CC-BY-4.0``, ``CC BY 4.0``, a URL or a sentence.
    """
    name = plain_text(value)
    spdx = spdx_id(name)
    if spdx is not None:
        return License(spdx, spdx, f"https://spdx.org/licenses/{spdx}")
    name = without_spdx_prefix(name)
    return License(name, None, web_address(name) or None) if name else None


def licenses_of(value: Any) -> tuple[License, ...]:
    """Return the licenses in a list of texts, without duplicates."""
    found = map(license_of, value[:MAX_MEMBERS] if isinstance(value, list) else [value])
    return tuple(dict.fromkeys(one for one in found if one is not None))
