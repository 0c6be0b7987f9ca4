"""BibTeX for biblatex (``@dataset``, manual of biblatex 3.20) and the styles of BibTeX.

The text is UTF-8, as biber and current BibTeX styles read it; special characters of TeX are
escaped. ``doi`` and ``url`` are verbatim fields, where only braces and backslashes are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from neuromirror.lab.cite.phrases import note
from neuromirror.lab.cite.works import Agent, CitationCollection, CitedWork, Person

# no at sign: for BibTeX it starts an entry even in a comment
_HEAD: Final = (
    "% The entry type 'dataset' is biblatex's. BibTeX's own styles print it as 'misc', with\n"
    "% a warning; write 'misc' instead to avoid the warning.\n"
)
# BibTeX counts braces even after a backslash
_TEX: Final = str.maketrans(
    {
        **{one: f"\\{one}" for one in "#$%&_"},
        **{"\\": r"\textbackslash{}", "{": r"\textbraceleft{}", "}": r"\textbraceright{}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    }
)
_VERBATIM: Final = str.maketrans({"{": "%7B", "}": "%7D", "\\": "%5C", " ": "%20"})


def write_bibtex(collection: CitationCollection) -> Iterator[str]:
    """Yield the text of a ``.bib`` file: a head of comments, and one entry per work."""
    yield _HEAD
    for key, work in zip(collection.keys(), collection.works, strict=True):
        fields = "".join(f"  {name:<9} = {{{value}}},\n" for name, value in _fields(work) if value)
        yield f"\n@dataset{{{key},\n{fields}}}\n"


def _fields(work: CitedWork) -> Iterator[tuple[str, str]]:
    year = "" if work.citation_date is None else str(work.citation_date.year)
    yield "author", " and ".join(map(_author, work.authors))
    # extra braces keep the case of letters
    yield "title", f"{{{_tex(work.title)}}}"
    yield "year", year
    yield "version", _tex(work.version)
    yield "publisher", "" if work.publisher is None else _tex(work.publisher.name)
    yield "doi", (work.doi or "").translate(_VERBATIM)
    yield "url", "" if work.doi else work.url.translate(_VERBATIM)
    yield "keywords", ", ".join(_tex(one.replace(",", " ")) for one in work.keywords)
    yield "note", _tex(note(work))


def _author(one: Agent) -> str:
    if not isinstance(one, Person):
        return f"{{{_tex(one.name)}}}"
    if not one.family:
        return f"{{{_tex(one.full_name)}}}"
    family = _braced(one.family)
    if one.family[:1].islower():
        family = f"{{{family}}}"
    last = f"{_tex(one.particle)} {family}".strip()
    return ", ".join(part for part in (last, _tex(one.suffix), _braced(one.given)) if part)


def _braced(name: str) -> str:
    """Return a component of a name, in braces if BibTeX would split it."""
    escaped = _tex(name)
    return f"{{{escaped}}}" if " and " in f" {name.casefold()} " or "," in name else escaped


def _tex(text: str) -> str:
    return text.translate(_TEX)
