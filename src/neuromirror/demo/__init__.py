"""Small loopback archives with real small data, for tests, demonstrations and trying by hand."""

from neuromirror.demo.archive import DemoError
from neuromirror.demo.buckets import DemoBuckets
from neuromirror.demo.contents import LATE, SHARED, ZARR
from neuromirror.demo.demo import DemoArchive, DemoDirectoryError
from neuromirror.demo.records import ArchiveClock, Description

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
