"""A citation as plain text: one paragraph per work, in the style of DANDI and journals."""

from __future__ import annotations

from collections.abc import Iterator

from neuromirror.lab.cite.phrases import license_phrase, listed_name, remarks, retrieval_phrase
from neuromirror.lab.cite.works import CitationCollection, CitedWork


def write_text(collection: CitationCollection) -> Iterator[str]:
    """Yield the paragraphs, separated by empty lines."""
    for number, work in enumerate(collection.works):
        yield "\n" * bool(number) + paragraph(work) + "\n"


def paragraph(work: CitedWork) -> str:
    """Return one citation on one line."""
    title = work.title.rstrip(".")
    year = "n.d." if work.citation_date is None else str(work.citation_date.year)
    authors = "; ".join(map(listed_name, work.authors))
    head = f"{authors} ({year}) {title}" if authors else f"{title} ({year})"
    publisher = "" if work.publisher is None else work.publisher.name.rstrip(".")
    sentences = [
        f"{head} (Version {work.version}) [Data set].",
        publisher and f"{publisher}.",
        # a full stop directly after a URL would be read as part of it
        f"{work.url} ({license_phrase(work)})." if work.licenses else f"{work.url} .",
        *remarks(work),
        retrieval_phrase(work),
    ]
    return " ".join(one for one in sentences if one)
