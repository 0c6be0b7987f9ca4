"""URLs with user info or a signature, found in texts of any length in linear time.

A pattern that looks for a signature anywhere behind ``http://`` reads the rest of the text once for
each address in it: minutes for a description of a megabyte.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_ENDS: Final = r"\s'\"<>"


class SignedUrlPattern:
    """The addresses in a text that hold user info, or a query parameter that signs them.

    ``schemes`` and ``names`` (of parameters) are regular expressions; ``marks`` are the characters
    that may stand before a parameter.
    """

    def __init__(self, schemes: str, names: str, *, marks: str = "?&") -> None:
        self._address = re.compile(rf"(?i)(?:{schemes})://[^{_ENDS}]*")
        self._with_user = re.compile(rf"(?i)(?:{schemes})://[^/@{_ENDS}]+@")
        self._parameter = re.compile(rf"(?i)[{marks}](?:{names})=")

    def search(self, text: str) -> bool:
        """Return whether a text holds such an address."""
        return any(self._start(found.group()) is not None for found in self._address.finditer(text))

    def sub(self, clean: Callable[[str], str], text: str) -> str:
        """Return the text with what ``cleaned`` makes of each such address."""

        def replacement(found: re.Match[str]) -> str:
            address = found.group()
            start = self._start(address)
            return address if start is None else address[:start] + clean(address[start:])

        return self._address.sub(replacement, text)

    def _start(self, address: str) -> int | None:
        """Return where the address to clean begins; None where nothing is to be cleaned.

        What is written without a space behind an address may be one more, which has user info.
        """
        if self._parameter.search(address):
            return 0
        found = self._with_user.search(address)
        return None if found is None else found.start()
