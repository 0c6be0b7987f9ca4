"""Data that upstream refuses is requested again by a service, without a change in the list."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.mirror_harness import MirrorHarness
from support.service_harness import DAY, open_service_harness

NAME, ZARR = "demo:000901", "sub-1/small.ome.zarr"


def test_a_refused_zarr_is_requested_every_day(
    tmp_path: Path, demo_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.crawl.listing.LASTING_AFTER", timedelta(0))
    with DemoArchive(tmp_path / "archive", cache=demo_files, empty=True) as archive:
        archive.create_dandiset(Description("Zarrs"), identifier="000901")
        archive.add_file("000901", "README.md", b"a Zarr")
        archive.add_zarr("000901", ZARR, {".zgroup": b"{}", "0/0": b"chunk"})
        zarr = archive.find_zarr("000901", ZARR).zarr_id
        fault = archive.fault("status", server="s3", path=f"/zarr/{zarr}/.", status=403)
        mirror_harness = MirrorHarness(archive.mirrors, tmp_path / "store")
        with open_service_harness(mirror_harness) as harness:
            for _ in range(10):  # longer than it takes to be disabled
                struck = fault.struck
                harness.settle()
                assert fault.struck > struck
                assert harness.take_results()[NAME].visit == "partial"
                harness.clock.now += 1.2 * DAY
            archive.clear_faults()
            harness.settle()
            result = harness.take_results()[NAME]
            assert (result.exit_code, result.visit) == (0, "full")
            assert not harness.row(NAME).disabled
