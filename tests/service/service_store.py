"""A store that was synced once from the archive that stands still, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from crawl_place import Place

from neuromirror.index import Index
from neuromirror_demo import DemoArchive


def synced(demo: DemoArchive, folder: Path) -> Place:
    place = Place(demo.mirrors, folder / "store")
    assert {one.exit_code for one in place.sync().values()} == {0}
    return place


def copy_of(place: Place, folder: Path) -> Place:
    shutil.copytree(place.folder, folder, symlinks=True)
    return Place(place.mirrors, folder)


def dump(path: Path) -> list[str]:
    with Index.open_readonly(path) as index:
        return list(index.dump())


def flip(path: Path, at: float = 0.5) -> None:
    """Turns one bit of a file around, as a failing disk does."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
