"""Zarrs of demo archives, mirrored, and their bytes in a folder as after a download."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from neuromirror_demo import DemoArchive, Description
from support.mirror_harness import MirrorHarness
from support.zarrs_of_every_kind import image_entries

FORMS = ("inline", "subdataset", "manifest")
"""Where a Zarr of 40 files is: in a folder, in a subdataset, or with its chunks in the manifest."""

_LIMITS = {
    "inline": "inline = 1000\nmanifest = 1000",
    "subdataset": "inline = 10\nmanifest = 1000",
    "manifest": "inline = 10\nmanifest = 20",
}


def write_entries(folder: Path, entries: Mapping[str, bytes]) -> Path:
    """Write a Zarr to a folder, as a download does."""
    for name, content in entries.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def with_zarr_limits(mirrors: Path, folder: Path, form: str) -> Path:
    """Return a copy of the mirror files in which Zarrs of 40 files have a form."""
    folder.mkdir()
    for path in mirrors.glob("*.toml"):
        text = f"{path.read_text('utf-8')}\n[zarr]\n{_LIMITS[form]}\n"
        (folder / path.name).write_text(text, "utf-8")
    return folder


@dataclass
class StreamedZarrs:
    """A dandiset with Zarrs of 40 files in both formats, in stores of each form."""

    archive: DemoArchive
    dandiset: str
    harnesses: dict[str, MirrorHarness]
    entries: dict[int, dict[str, bytes]] = field(default_factory=dict)

    def version(self, label: str = "draft") -> str:
        return f"demo:{self.dandiset}@{label}"

    def store(self, form: str = "inline") -> Path:
        return self.harnesses[form].folder

    @staticmethod
    def path(zarr_format: int) -> str:
        return f"sub-{zarr_format}/image.ome.zarr"


@contextmanager
def streamed_zarrs(folder: Path, forms: tuple[str, ...] = FORMS) -> Iterator[StreamedZarrs]:
    """Serve and mirror the dandiset."""
    with DemoArchive(folder / "archive", empty=True) as archive:
        dandiset = archive.create_dandiset(Description("Images", "Made up."))
        found = StreamedZarrs(archive, dandiset, {})
        for zarr_format in (2, 3):
            entries = image_entries(zarr_format, zarr_format)
            found.entries[zarr_format] = entries
            archive.add_zarr(dandiset, found.path(zarr_format), entries)
        for form in forms:
            mirrors = with_zarr_limits(archive.mirrors, folder / f"mirrors-{form}", form)
            found.harnesses[form] = MirrorHarness(mirrors, folder / form)
            results = found.harnesses[form].sync()
            assert {result.exit_code for result in results.values()} == {0}
        yield found
