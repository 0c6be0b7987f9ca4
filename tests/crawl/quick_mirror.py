"""A mirror of the demo archive that gives up soon, for tests of faults that pass."""

from __future__ import annotations

from pathlib import Path

from crawl_place import Place

from neuromirror.crawl import Mirror
from neuromirror.net import Limits, Session
from neuromirror.sources import Source
from neuromirror.sources.dandi.source import DandiOptions, DandiSource

QUICK = Limits(attempts=2, wait=0.01, wait_max=0.02, connect=2.0, read=0.4, total=5.0)


class QuickMirror(Mirror):
    """A mirror of a DANDI archive whose session waits neither long nor often."""

    def open(self) -> Source:
        options = DandiOptions.model_validate(self.settings.options)
        source: Source = DandiSource(self.name, options, Session(allow_private=True, limits=QUICK))
        return source


def quick_place(mirrors: Path, folder: Path) -> Place:
    """A place for a store whose mirrors give up soon."""
    return Place(
        mirrors, folder, lambda mirror: QuickMirror(mirror.name, mirror.path, mirror.settings)
    )


def dataset_refs(place: Place) -> dict[str, str]:
    """The refs of all datasets; those of superdatasets are not among them."""
    return {name: commit for name, commit in place.refs().items() if "--" in name}
