"""The contents of the demo are the same at every start."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from neuromirror_demo import DemoArchive
from neuromirror_demo.records import dandi_etag, zarr_checksum


def everything(demo: DemoArchive) -> dict[str, Any]:
    """All ids, times, checksums and object versions of the archive."""
    return {
        "versions": [
            (one.identifier, version.label, str(version.created), str(version.modified))
            for one in demo.dandisets.values()
            for version in one.versions
        ],
        "assets": [
            (one.asset_id, one.path, str(one.modified), one.size) for one in demo.assets.values()
        ],
        "blobs": [
            (one.blob_id, one.sha256, one.etag, one.version_id) for one in demo.blobs.values()
        ],
        "zarrs": [(one.zarr_id, one.checksum) for one in demo.zarrs.values()],
    }


def test_two_starts_give_the_same_ids_times_and_bytes(
    demo: DemoArchive, tmp_path: Path, demo_files: Path
) -> None:
    with DemoArchive(tmp_path / "second", cache=demo_files) as second:
        assert second.api_url != demo.api_url
        assert everything(second) == everything(demo)


def test_checksums_are_those_of_the_dandi_client(tmp_path: Path) -> None:
    from dandischema.digests.dandietag import DandiETag

    data = random.Random(1).randbytes(70_000)
    (tmp_path / "file").write_bytes(data)
    assert dandi_etag(data) == DandiETag.from_file(tmp_path / "file").as_str()
    assert zarr_checksum({}) == "481a2f77ab786a0f45aafd5db0971caa-0--0"
