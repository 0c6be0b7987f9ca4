"""Find URLs with user info or a signature in texts of any length, in linear time.

A single regular expression that searches for a signature anywhere after ``http://`` scans the rest
of the text once per URL, which takes minutes for a text of a megabyte.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_ENDS: Final = r"\s'\"<>"


class SignedUrlPattern:
    """Finds URLs that contain user info or the query parameter of a signature, in long texts.

    Parameters
    ----------
    schemes
        Regular expression of the URL schemes.
    names
        Regular expression of the names of signing parameters.
    marks
        The characters that may precede a parameter.
    """

    def __init__(self, schemes: str, names: str, *, marks: str = "?&") -> None:
        self._address = re.compile(rf"(?i)(?:{schemes})://[^{_ENDS}]*")
        self._with_user = re.compile(rf"(?i)(?:{schemes})://[^/@{_ENDS}]+@")
        self._parameter = re.compile(rf"(?i)[{marks}](?:{names})=")

    def search(self, text: str) -> bool:
        """Return whether a text contains such a URL.

        Parameters
        ----------
        text
            The text.

        Returns
        -------
        bool
            Whether there is at least one.
        """
        return any(self._start(found.group()) is not None for found in self._address.finditer(text))

    def sub(self, clean: Callable[[str], str], text: str) -> str:
        """Return the text with each such URL replaced.

        Parameters
        ----------
        clean
            Returns the replacement of a URL.
        text
            The text.

        Returns
        -------
        str
            The text with the replacements.
        """

        def replacement(found: re.Match[str]) -> str:
            address = found.group()
            start = self._start(address)
            return address if start is None else address[:start] + clean(address[start:])

        return self._address.sub(replacement, text)

    def _start(self, address: str) -> int | None:
        """Return the offset of the URL to clean; None if there is nothing to clean.

        A match may contain several URLs without spaces between them, a later one with user info.
        """
        if self._parameter.search(address):
            return 0
        found = self._with_user.search(address)
        return None if found is None else found.start()
