"""URLs of the pages, as paths, and the list of versions that a visitor has collected in a URL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Final
from urllib.parse import parse_qsl, quote, quote_plus, urlencode

from msgspec import Struct

from neuromirror.web.lookups import split_version_name

_UNCHANGED: Final = re.compile(r"[\w.~-]*", re.ASCII).fullmatch
_UNCHANGED_NAME: Final = re.compile(r"[\w.~/:-]*", re.ASCII).fullmatch
"""Texts that need no percent-encoding; pages have hundreds of URLs, and quote() is slow."""
_MAX_REMEMBERED: Final = 200
"""Maximum length of texts whose encoded form is kept for other URLs."""
_ERRORS: Final = "surrogateescape"
"""How bytes of names that are not UTF-8 are encoded."""


def dataset_address(name: str) -> str:
    """Return the path of a dataset's page: ``/dataset/dandi:000027``."""
    return f"/dataset/{_name(name)}"


def version_address(
    name: str, label: str, under: str = "", start: str = "", match: str = ""
) -> str:
    """Return the path of a version's page: ``/dataset/dandi:000027@0.210831.2033``.

    Parameters
    ----------
    name, label
        The dataset and the label of the version.
    under
        The folder to show; empty for the top folder.
    start
        The first entry to show, on later pages of a long list.
    match
        Search terms for paths: the files that match are shown instead of a folder.
    """
    return f"/dataset/{_version(name, label)}" + _query(under=under, match=match, start=start)


def file_address(name: str, label: str, path: str) -> str:
    """Return the path of a file's page."""
    return f"/file/{_version(name, label)}" + _query(path=path)


def volume_address(name: str, label: str, level: str = "") -> str:
    """Return the path of a volume's page; with a level, its cutout form is set to that level."""
    return f"/volume/{_version(name, label)}" + _query(level=level)


def slice_address(name: str, label: str) -> str:
    """Return the path of the image of a volume's middle plane."""
    return f"/slice/{_version(name, label)}.png"


def preview_address(name: str, label: str, path: str) -> str:
    """Return the path of the page with a file's preview."""
    return f"/preview/{_version(name, label)}" + _query(path=path)


def thumbnail_address(name: str, label: str, path: str) -> str:
    """Return the path of the small image of a file's preview."""
    return f"/thumbnail/{_version(name, label)}" + _query(path=path)


def cutout_address(name: str, label: str) -> str:
    """Return the path of a volume's cutout service."""
    return f"/cutout/{_version(name, label)}"


def lock_address(*names: str) -> str:
    """Return the path of the lock file page of versions (``dandi:000027@0.210831.2033``)."""
    return "/lock" + _adding(names)


def lock_file_address(file: str, names: Sequence[str]) -> str:
    """Return the path of a file that is made of versions (``dandi:000027@0.210831.2033``).

    ``file`` is ``datasets.lock`` or the name of a list for another program.
    """
    return f"/lock/{file}" + _adding(names)


def diff_address(old: str, new: str, page: int = 1, under: str = "") -> str:
    """Return the path of a comparison of two versions (``dandi:000027@0.210831.2033``).

    ``page`` is the page of a long comparison, ``under`` the folder to which it is limited.
    """
    return "/diff" + _query(a=old, b=new, under=under, page=str(page) if page > 1 else "")


def compare_address(dataset: str) -> str:
    """Return the path of the form that offers the versions of a dataset for comparison."""
    return "/diff" + _query(dataset=dataset)


def checksums_address(name: str, label: str) -> str:
    """Return the path of a version's list of checksums."""
    return f"/checksums/{_version(name, label)}"


def download_address(name: str, label: str, path: str) -> str:
    """Return the path that redirects to the content of a file at the archive."""
    return f"/download/{_version(name, label)}" + _query(path=path)


def gateway_address(
    name: str, label: str, path: str = "", *, after: str = "", form: str = ""
) -> str:
    """Return the path of a file, or of a folder that ends with a slash, below ``/at/``."""
    query = _query(format=form, after=after)
    return f"/at/{_version(name, label)}/{quote(path, safe='/:=+,')}" + query


def cite_address(name: str, label: str, form: str) -> str:
    """Return the path of a version's citation as a file; ``form`` is one of its formats."""
    return f"/cite/{_version(name, label)}" + _query(format=form)


def croissant_address(name: str, label: str) -> str:
    """Return the path of the Croissant metadata of a version."""
    return f"/croissant/{_version(name, label)}.json"


def badge_address(name: str, label: str) -> str:
    """Return the path of a version's badge, an SVG image for READMEs."""
    return f"/badge/{_version(name, label)}.svg"


def manifest_address(state: str) -> str:
    """Return the path of the canonical manifest of a state (``sha256:<hex>``)."""
    digest = state.removeprefix("sha256:")
    return f"/manifests/{digest[:2]}/{digest[2:]}.jsonl.zst"


def events_address(kind: str = "", mirror: str = "", before: int | None = None) -> str:
    """Return the path of the events, filtered by kind and mirror."""
    since = "" if before is None else str(before)
    return "/events" + _query(kind=kind, mirror=mirror, before=since)


def search_address(
    terms: str = "", filters: Iterable[tuple[str, str]] = (), sort: str = "", page: int = 1
) -> str:
    """Return the path of a search for terms, values of facets, or a checksum.

    Parameters
    ----------
    terms
        The text of the search.
    filters
        Selected values, as pairs of facet and value.
    sort
        The order of the results; empty for the default.
    page
        The number of the page, from 1.
    """
    pairs = [("q", terms), *filters, ("sort", sort), ("page", str(page) if page > 1 else "")]
    return "/search" + _query_of_pairs(pair for pair in pairs if pair[1])


def find_address(checksum: str) -> str:
    """Return the path of a search by checksum."""
    return "/find" + _query(checksum=checksum)


def breadcrumbs(folder: str) -> list[tuple[str, str]]:
    """Return name and path of each folder that leads to a folder, and of that folder itself."""
    parts = folder.split("/") if folder else []
    return [(part, "/".join(parts[: depth + 1])) for depth, part in enumerate(parts)]


def header_url(url: str) -> str:
    """Return a URL as a value of a header; no character of it ends the value."""
    return quote(url, safe="%/:=&?~#+!$,;'@()*[]")


def _adding(names: Sequence[str]) -> str:
    return _query_of_pairs((("add", one) for one in names), safe="/:@")


def _query(**values: str) -> str:
    return _query_of_pairs((key, value) for key, value in values.items() if value)


def _query_of_pairs(pairs: Iterable[tuple[str, str]], safe: str = "/:") -> str:
    """Return a query string with its question mark; empty without pairs. Keys are plain words."""
    query = "&".join([f"{key}={_quoted(value, safe)}" for key, value in pairs])
    return f"?{query}" if query else ""


def _quoted(value: str, safe: str) -> str:
    if _UNCHANGED_NAME(value):
        return value
    if len(value) > _MAX_REMEMBERED:
        return quote_plus(value, safe, None, _ERRORS)
    return _quoted_short(value, safe)


@lru_cache(maxsize=2000)
def _quoted_short(value: str, safe: str) -> str:
    """Return a quoted value; a page of results has its terms and facets in each of its links."""
    return quote_plus(value, safe, None, _ERRORS)


def _version(name: str, label: str) -> str:
    return f"{_name(name)}@{label if _UNCHANGED(label) else quote(label, safe='')}"


def _name(name: str) -> str:
    return name if _UNCHANGED_NAME(name) else quote(name, safe="/:")


TEMPLATE_GLOBALS: Mapping[str, Callable[..., str]] = {
    name: function for name, function in globals().items() if name.endswith("_address")
}
"""The functions that templates use."""


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
