"""``neuromirror search``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.errors import count_of, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from neuromirror.index import FoundDataset, FoundDatasets, Index, MatchedText

_MAX_LINES = 3
"""Maximum number of matching texts per dataset."""
_MAX_SHOWN_VALUES = 20


_FILTERS = (
    ("archive", "MIRROR", "mirror"),
    ("species", "NAME", "species, e.g. mouse or 'Mus musculus'"),
    ("subject", "ID", "subject"),
    ("brain_region", "NAME", "brain region, e.g. hippocampus"),
    ("technique", "NAME", "technique, e.g. ecephys or 'calcium imaging'"),
    ("data_type", "NAME", "kind of files, e.g. NWB or OME-Zarr"),
    ("level", "LEVEL", "level of processing, e.g. raw or derived"),
    ("license", "NAME", "license, e.g. CC-BY-4.0"),
    ("size", "CLASS", "size class (see --facets)"),
    ("year", "YEAR", "year of the latest version"),
    (
        "status",
        "STATUS",
        "status: published, draft (no published version yet) or observed (the archive has no "
        "versions, such as a bucket)",
    ),
)


def _filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each facet except ``volume``."""
    for name, metavar, text in reversed(_FILTERS):
        function = click.option(
            f"--{name.replace('_', '-')}",
            name,
            metavar=metavar,
            multiple=True,
            help=f"Only datasets of this {text}.",
        )(function)
    return function


@command(
    "search",
    example="""\
neuromirror search hippocampus sleep
neuromirror search '"place cells"' --species mouse --status published
neuromirror search --archive dandi --facets""",
)
@argument("terms", nargs=-1, metavar="[TERMS]...", help='Words, or phrases in "double quotes".')
@_filter_options
@click.option("--volume", is_flag=True, help="Only volumes.")
@click.option(
    "--sort",
    type=click.Choice(["relevance", "newest", "size", "title"]),
    help="Order of the results [default: relevance; without terms newest].",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    metavar="N",
    help="Maximum number of datasets.",
)
@click.option("--facets", is_flag=True, help="List values to select by, with their counts.")
@settings_options
def search_command(
    settings: Settings,
    terms: tuple[str, ...],
    *,
    volume: bool,
    sort: str | None,
    limit: int,
    facets: bool,
    **filters: tuple[str, ...],
) -> None:
    """Search the datasets of the store by words, and by archive, species, technique, ….

    All words must match: in the metadata, by their stem, as the start of a word, or by a synonym
    (mouse, Mus musculus); the words that are nowhere there must be in the path of one file. A
    phrase in double quotes matches its words in order. Without words, all datasets match. An option
    that is repeated selects datasets with one of several values; --facets lists the values. Exit
    code 1: nothing found.
    """
    text = " ".join(terms)
    selected = {**filters, "volume": ("yes",) * volume}
    with settings.index() as index:
        found = index.find_datasets(text, filters=selected, sort=sort or "", limit=limit)
        if found.total:
            _print_results(settings, found, facets=facets)
            return
        _print_nothing(settings, index, text)
    sys.exit(1)


def _print_results(settings: Settings, found: FoundDatasets, *, facets: bool) -> None:
    from neuromirror.index.shapes import FacetValue, Match

    if facets:
        for name, values in found.facets.items():
            for value in values:
                settings.emit("search", {"facet": name, **FacetValue.of(value).plain()})
        rows = [
            [name, one.value, str(one.count)]
            for name, values in found.facets.items()
            for one in values[:_MAX_SHOWN_VALUES]
        ]
        settings.print_table(rows, ["FACET", "VALUE", "DATASETS"], ["DATASETS"])
        return
    for row in found.rows:
        settings.emit("search", Match.of(row).plain())
        for line in _lines(row):
            settings.print_text(line)
    about = "" if found.exact else "about "
    settings.print_text(f"{len(found.rows)} of {about}{count_of(found.total, 'dataset')}")


def _lines(row: FoundDataset) -> list[str]:
    dataset = row.dataset
    name = dataset.name if dataset.version is None else f"{dataset.name}@{dataset.version}"
    counts = f"{count_of(dataset.files, 'file')}, {format_bytes(dataset.bytes)}"
    lines = [f"{name}  {dataset.title}", f"    {counts}"]
    lines += [f"    {one.field}: {_marked(one)}" for one in row.matched if one.field != "title"][
        :_MAX_LINES
    ]
    if row.path:
        lines.append(f"    path: {row.path}")
    return lines


def _marked(one: MatchedText) -> str:
    """Return a text with its matches between asterisks."""
    pieces, last = [], 0
    for start, end in one.spans:
        pieces += [one.value[last:start], f"*{one.value[start:end]}*"]
        last = end
    return "".join([*pieces, one.value[last:]])


def _print_nothing(settings: Settings, index: Index, text: str) -> None:
    """Report that nothing matches, with the number of datasets for each word."""
    message = "no dataset matches"
    record: dict[str, object] = {}
    if text.strip():
        counts = index.count_terms(text)
        record = {"counts": counts}
        each = ", ".join(f"{term}: {count}" for term, count in counts.items())
        message += f" all of this; datasets for each term alone: {each}"
    else:
        message += "; 'neuromirror search --facets' lists the values that can be selected"
    settings.emit("search", {**record, "status": "impossible", "message": message}, message)
