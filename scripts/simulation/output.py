"""A plot and a table of a page of the documentation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.common import ROOT


@contextmanager
def plot(name: str) -> Iterator[Any]:
    """Yield the axes of a plot with a legend; afterwards save docs/explanation/<name>.svg."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = name
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    yield axes
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "explanation" / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def write_section(name: str, table: str, page: str = "explanation/benchmarks.md") -> None:
    """Write a table to its marked section in a page of docs/."""
    path = ROOT / "docs" / page
    begin, end = f"<!-- bench {name} -->", f"<!-- end {name} -->"
    text = path.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not rest or not after:
        sys.exit(f"bench: {path} has no section '{begin} … {end}'")
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}")
