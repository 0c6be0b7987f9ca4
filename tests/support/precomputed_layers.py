"""A bucket of layers on loopback, and sources with short waits."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from neuromirror.model import ExcludedEntry, FileRecord
from neuromirror.net import RequestLimits, Session
from neuromirror.sources import Listing
from neuromirror.sources.precomputed import PrecomputedOptions, PrecomputedSource
from neuromirror_demo import DemoBuckets
from neuromirror_demo.volumes import encode_object
from support.visit_context import EMPTY_CONTEXT, FakeVisitContext

INFO = json.dumps({"scales": [], "data_type": "uint8", "type": "image"})
TEXT = b"voxels of no great interest"
ENCODINGS = ".precomputed/encodings.json"


class Layers:
    """The bucket, with methods that write objects."""

    def __init__(self, demo: DemoBuckets) -> None:
        self.demo = demo
        self.name = demo.precomputed

    def put(self, key: str, content: bytes | str = TEXT, encoding: str = "") -> None:
        data = content.encode() if isinstance(content, str) else content
        stored = encode_object(data, encoding) if encoding in ("br", "gzip") else None
        self.demo.put(
            key, data if stored is None else stored.data, bucket=self.name, encoding=encoding
        )

    def put_later(self, key: str, content: bytes | str = TEXT, encoding: str = "") -> None:
        """Write an object an hour after all others."""
        self.demo._later()
        self.put(key, content, encoding)

    def scale(self, folder: str, count: int, encoding: str = "", *, first: int = 0) -> None:
        for number in range(first, first + count):
            self.put(f"{folder}/{64 * number}-{64 * number + 64}_0-64_0-16", TEXT, encoding)

    def source(self, mirror: str = "m", **options: object) -> PrecomputedSource:
        given = {"bucket": self.name, "endpoint": self.demo.endpoint, **options}
        checked = PrecomputedOptions.model_validate(given)
        limits = RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
        return PrecomputedSource(mirror, checked, Session(allow_private=True, limits=limits))

    def heads(self) -> list[str]:
        """Return the keys of HEAD requests since the requests were cleared, without the bucket."""
        start = f"HEAD /{self.name}/"
        return [one.removeprefix(start) for one in self.demo.requests if one.startswith(start)]


@contextmanager
def layers_at(folder: Path, *, empty: bool = True) -> Iterator[Layers]:
    with DemoBuckets(folder, layers=True, empty=empty) as demo:
        yield Layers(demo)


def listing_of(
    source: PrecomputedSource, name: str, known: FakeVisitContext = EMPTY_CONTEXT
) -> Listing:
    return source.listing(source.versions(source.dataset(name))[0], known)


def read(listing: Listing) -> dict[bytes, FileRecord | ExcludedEntry]:
    """Return all entries by path, and confirm the version like the crawler."""
    entries = list(listing.entries())
    assert listing.confirm_version() == listing.version
    found = {entry.path: entry for entry in entries}
    assert len(found) == len(entries)
    return found


def encodings_by_folder(listing: Listing) -> dict[str, tuple[str, list[str]]]:
    """Return the document's contents by folder, after the listing was read."""
    (document,) = [one for one in listing.documents if one.path.decode() == ENCODINGS]
    objects = json.loads(document.content)["objects"]
    return {label: (one["asked"], one["encodings"]) for label, one in objects.items()}


def key_of(record: FileRecord | ExcludedEntry) -> str:
    """Return the key in a file's URL."""
    assert isinstance(record, FileRecord)
    (location,) = record.locations
    return unquote(location.url.split("/", 4)[4])
