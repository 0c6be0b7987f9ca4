"""Texts of archives as one plain line."""

from __future__ import annotations

import html
import re
from typing import Any, Final

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


def plain_text(value: Any) -> str:
    """Return a text on one line without HTML and control characters; empty for other types."""
    if not isinstance(value, str):
        return ""
    text = _HIDDEN.sub(" ", value.encode("utf-8", "replace").decode("utf-8"))
    text = _TAG.sub(lambda found: " " if _BLOCK.match(found.group()) else "", text)
    text = _UNPRINTABLE.sub("", html.unescape(text))
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
