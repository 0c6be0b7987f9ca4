"""Sources of an ndstore with short waits, and datasets assembled as in a clone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuromirror.model import ExcludedEntry, FileRecord
from neuromirror.net import RequestLimits, Session
from neuromirror.sources import Listing
from neuromirror.sources.ndstore import NdstoreOptions, NdstoreSource
from neuromirror.sources.volumes.fetching import fetch_block
from neuromirror.sources.volumes.urls import parse_url
from neuromirror_demo.ndstore import DemoNdstore
from support.visit_context import FakeVisitContext

TOKEN = "NEUROMIRROR_TEST_NDSTORE"
"""The environment variable with the token."""


def make_source(ndstore: DemoNdstore | str, **options: Any) -> NdstoreSource:
    """Return a source of an ndstore, or of the service at a URL."""
    api = ndstore if isinstance(ndstore, str) else ndstore.api
    checked = NdstoreOptions.model_validate({"api": api, "block": [64, 64, 16], **options})
    tokens = {checked.api: checked.token_env} if checked.token_env else {}
    limits = RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
    return NdstoreSource("nd", checked, Session(allow_private=True, tokens=tokens, limits=limits))


def listing_of(source: NdstoreSource, local_id: str, **known: Any) -> Listing:
    """Return the listing of a channel's current state."""
    (version,) = source.versions(source.dataset(local_id))
    return source.listing(version, FakeVisitContext(**known))


def read(listing: Listing) -> tuple[list[FileRecord], list[ExcludedEntry]]:
    """Return all records and exclusions, after confirming the version."""
    entries = list(listing.entries())
    listing.confirm_version()
    return (
        [entry for entry in entries if isinstance(entry, FileRecord)],
        [entry for entry in entries if isinstance(entry, ExcludedEntry)],
    )


def digests(records: list[FileRecord]) -> Mapping[str, str]:
    """Return the first digest of each block by path."""
    return {record.path.decode(): record.digests[0].value for record in records}


def fetch_dataset(source: NdstoreSource, listing: Listing, folder: Path) -> Path:
    """Write documents and fetched blocks to a folder."""
    for document in listing.documents:
        _put(folder, document.path, document.content)
    for record in read(listing)[0]:
        url = parse_url(record.locations[0].url)
        body = b"".join(fetch_block(source.session, url, size=record.size))
        assert len(body) == record.size
        _put(folder, record.path, body)
    return folder


def _put(folder: Path, path: bytes, content: bytes) -> None:
    target = folder / path.decode()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def document(listing: Listing, path: str) -> Any:
    """Return a document's JSON."""
    (content,) = (one.content for one in listing.documents if one.path == path.encode())
    return json.loads(content)


def transformations_by_level(listing: Listing) -> dict[str, tuple[list[float], list[float]]]:
    """Return scale and translation of each level."""
    ome = document(listing, "zarr.json")["attributes"]["ome"]
    return {
        one["path"]: (
            one["coordinateTransformations"][0]["scale"],
            one["coordinateTransformations"][1]["translation"],
        )
        for one in ome["multiscales"][0]["datasets"]
    }
