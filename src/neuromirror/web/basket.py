"""The versions that a visitor collects while browsing: the parameters ``add`` of a page's URL.

Nothing is stored, on the server or in the browser. The links and forms of a page that is requested
with a basket lead to pages with the same basket, until it becomes a lock file (``/lock``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Final
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct

from neuromirror.web.version_comparison import split_version_name

PARAMETER: Final = "add"
"""Name of the parameter of each version."""

MAX_VERSIONS: Final = 50
_MAX_CHARACTERS: Final = 8000
"""Length of a query string; longer ones are not accepted by all servers and proxies."""

_PAGES: Final = (
    r"/(?:(?:dataset|file|volume|preview)/[^\"?#]*"
    r"|(?:search|find|diff|events|mirrors|changes|help|lock|api)?(?=[\"?#]))"
)
"""Paths of the pages that show a basket."""
_LINK: Final = re.compile(
    rf"(?P<start><(?P<tag>a|form)\b[^>]*? (?:href|action)=\")(?P<path>{_PAGES})"
    r"(?P<query>\?[^\"#]*)?(?P<end>[^\">]*\"[^>]*>)"
)
_PLAIN_PATH: Final = re.compile(_PAGES.replace(r"(?=[\"?#])", r"(?=[?#]|$)"))
_HAS_BASKET: Final = re.compile(rf"(?:[?&]|&amp;){PARAMETER}=")


class Basket(Struct, frozen=True):
    """The versions in a page's URL, at most one of each dataset.

    Attributes
    ----------
    names
        Their names, such as ``dandi:000027@0.210831.2033``, as given by the visitor.
    path, query
        Path and query string of the page.
    """

    names: tuple[str, ...] = ()
    path: str = "/"
    query: str = ""

    @classmethod
    def of(cls, given: Sequence[str], path: str, query: str) -> Basket:
        """Return the basket of a page; of several versions of a dataset, the last counts.

        Names with invisible characters are left out, which must not be shown.
        """
        found: dict[str, str] = {}
        for text in given:
            if (name := text.strip()) and name.isprintable():
                found[split_version_name(name)[0]] = name
        return cls(tuple(found.values()), path, query)

    @property
    def is_carried(self) -> bool:
        """Whether other pages get the basket: it is neither empty nor too large for a URL."""
        return 0 < len(self.names) <= MAX_VERSIONS and len(self._parameters) <= _MAX_CHARACTERS

    def label_of(self, dataset: str) -> str | None:
        """Return the label of the collected version of a dataset; None if it has none."""
        labels = dict(map(split_version_name, self.names))
        return (labels[dataset] or "latest") if dataset in labels else None

    def adding(self, name: str) -> str:
        """Return the page's address after a version was added to the basket."""
        return self._with(Basket.of([*self.names, name], "", "").names)

    def removing(self, name: str) -> str:
        """Return the page's address after a version was removed from the basket."""
        return self._with([one for one in self.names if one != name])

    def _with(self, names: Sequence[str]) -> str:
        pairs = parse_qsl(self.query, keep_blank_values=True)
        others = [(key, value) for key, value in pairs if key != PARAMETER]
        # an empty parameter means an empty basket: see carry()
        added = [(PARAMETER, one) for one in names or ("",)]
        return f"{self.path}?{urlencode([*others, *added], safe='/:@')}"

    def carry(self, page: str) -> str:
        """Return a page whose links and forms keep the basket.

        Links that have the parameter already, such as those of :meth:`removing`, stay unchanged.

        Parameters
        ----------
        page
            HTML of a template, where quotes and angle brackets of texts are escaped.
        """
        if not self.is_carried:
            return page
        added = escape(self._parameters)
        fields = "".join(
            f'<input type="hidden" name="{PARAMETER}" value="{escape(one)}">' for one in self.names
        )

        def replace(found: re.Match[str]) -> str:
            start, path, query = found["start"], found["path"], found["query"] or ""
            if found["tag"] == "form":
                return found[0] + fields
            if _HAS_BASKET.search(query):
                return found[0]
            return f"{start}{path}{query}{'&amp;' if query else '?'}{added}{found['end']}"

        return _LINK.sub(replace, page)

    def carry_address(self, address: str) -> str:
        """Return the address of another page of the catalogue with the basket."""
        if not self.is_carried or not _PLAIN_PATH.match(address) or _HAS_BASKET.search(address):
            return address
        path, hash_sign, fragment = address.partition("#")
        return f"{path}{'&' if '?' in path else '?'}{self._parameters}{hash_sign}{fragment}"

    @property
    def _parameters(self) -> str:
        return urlencode([(PARAMETER, one) for one in self.names], safe="/:@")
