"""A store that was synced once from an unchanging archive, and copies of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness


def sync_mirror(demo: DemoArchive, folder: Path) -> MirrorHarness:
    mirror_harness = MirrorHarness(demo.mirrors, folder / "store")
    assert {one.exit_code for one in mirror_harness.sync().values()} == {0}
    return mirror_harness


@contextmanager
def serve_few_dandisets(folder: Path, files: Path, *kept: str) -> Iterator[DemoArchive]:
    """Serve a demo archive without dandisets other than these; ``files`` is the cache."""
    with DemoArchive(folder / "demo", cache=files) as demo:
        for dandiset in demo.dandisets.keys() - set(kept):
            demo.delete_dandiset(dandiset)
        yield demo


def copy_mirror(mirror_harness: MirrorHarness, folder: Path) -> MirrorHarness:
    # a catalogue of the original does not serve the copy
    no_catalogue = shutil.ignore_patterns("catalogue-*.json")
    shutil.copytree(mirror_harness.folder, folder, symlinks=True, ignore=no_catalogue)
    return MirrorHarness(mirror_harness.mirrors, folder)


def flip_bit(path: Path, at: float = 0.5) -> None:
    """Flip one bit of a file, like a failing disk."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
