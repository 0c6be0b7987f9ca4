"""A transient fault of a bucket mints nothing: later states are those of an undisturbed store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuromirror.model import EventRaised
from neuromirror_demo import DemoBuckets
from support.quick_mirror import dataset_refs, quick_harness

ASSET = "ecephys_600000_2022-06-28_10-31-30"
NAME = f"aind:{ASSET}"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "503": ("status", {"status": 503}),
    "reset": ("reset", {}),
    "timeout": ("hang", {"seconds": 30}),
}
PARTS = {
    "sidecar": {"path": "/data_description.json$", "method": "GET"},
    "object": {"path": "/parts-.*.bin$", "method": "HEAD"},
    "page": {"query": "list-type.*prefix="},
}


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """A bucket with one asset."""
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        for file in running.mirrors.iterdir():
            file.unlink()
        (running.mirrors / "aind.toml").write_text(
            f'source = "s3"\n[options]\nbucket = "{running.open_data}"\n'
            f'endpoint = "{running.endpoint}"\ndepth = 1\nlayout = "aind"\n'
        )
        running.put(f"{ASSET}/whole.bin", b"voltages")
        yield running


@pytest.mark.parametrize(
    ("kind", "part"), [*((kind, "sidecar") for kind in KINDS), ("503", "object"), ("503", "page")]
)
def test_a_bucket_that_does_not_answer_mints_no_version(
    buckets: DemoBuckets, tmp_path: Path, kind: str, part: str
) -> None:
    undisturbed = quick_harness(buckets.mirrors, tmp_path / "undisturbed")
    disturbed = quick_harness(buckets.mirrors, tmp_path / "disturbed")
    name, options = KINDS[kind]
    for number in range(2):
        description = json.dumps({"license": "CC-BY-4.0", "subject_id": str(number)})
        buckets.put(f"{ASSET}/data_description.json", description.encode())
        buckets.put(f"{ASSET}/parts-{number}.bin", bytes([number]) * (6 << 20), part_size=5 << 20)
        assert undisturbed.sync(NAME)[NAME].visit == "full"
        before = dataset_refs(disturbed)
        with buckets.fault(name, **PARTS[part], **options) as fault:
            result = disturbed.sync(NAME)[NAME]
        assert fault.struck
        assert (result.exit_code, result.visit, result.versions) == (1, "failed", ())
        assert dataset_refs(disturbed) == before
        assert disturbed.sync(NAME)[NAME].visit == "full"
        assert dataset_refs(disturbed) == dataset_refs(undisturbed)
    assert disturbed.entries(EventRaised) == []
