"""A demo archive with the shape of a real one whose requests were counted."""

from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description

SHARING = 2_101
"""Assets of one dandiset that share one blob."""


def fill_like_a_real_archive(archive: DemoArchive) -> str:
    """Add 10 dandisets with 2,140 assets in 14 versions; return the id of the large one.

    Three assets are Zarrs, with 1,286 entries in all. The blob that most of the large dandiset's
    assets share is also in each of the others.
    """
    names = [archive.create_dandiset(Description(f"Dandiset {number}")) for number in range(10)]
    large, *others = names
    for number in range(SHARING):
        archive.add_file(large, f"sub-{number // 100:02d}/file-{number:04d}.txt", "the shared blob")
    for name in others:
        archive.add_file(name, "shared.txt", "the shared blob")
        for number in range(3):
            archive.add_file(name, f"file-{number}.txt", f"file {number} of {name}")
    for name, count in zip(others, (1_213, 64, 9), strict=False):
        entries = {f"0/{number}": f"chunk {number}" for number in range(count - 1)}
        archive.remove_file(name, "file-2.txt")
        archive.add_zarr(name, "image.zarr", {".zgroup": "{}", **entries})
    for name in others[5:]:
        archive.publish(name)
    for name in (large, *others[:2]):
        archive.add_file(name, "README.md", f"of {name}")
    return large
