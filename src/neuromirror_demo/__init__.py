"""Small archives on loopback with small real data, for tests, demonstrations and experiments."""

from neuromirror_demo.archive import DemoError
from neuromirror_demo.archive_contents import LATE, SHARED, ZARR
from neuromirror_demo.demo_server import DemoArchive, DemoBuckets, DemoDirectoryError
from neuromirror_demo.records import ArchiveClock, Description

__all__ = [
    "LATE",
    "SHARED",
    "ZARR",
    "ArchiveClock",
    "DemoArchive",
    "DemoBuckets",
    "DemoDirectoryError",
    "DemoError",
    "Description",
]
