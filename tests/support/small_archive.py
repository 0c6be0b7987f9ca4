"""A demo archive of a few dandisets with one small file each, which are visited quickly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromirror_demo import DemoArchive, Description


@contextmanager
def small_archive(folder: Path, dandisets: int = 3) -> Iterator[DemoArchive]:
    """Serve an archive of drafts ``000001``, ``000002``, … in a new folder."""
    with DemoArchive(folder, empty=True) as running:
        for number in range(1, dandisets + 1):
            dandiset = running.create_dandiset(Description(f"Dandiset {number}"))
            running.add_file(dandiset, "notes.txt", f"Notes {number}.\n")
        yield running
