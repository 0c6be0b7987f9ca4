"""Unreadable sidecars of AIND assets, from a bucket to the index and a citation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index
from neuromirror.model import UNREADABLE, EventRaised
from neuromirror_demo import DemoBuckets
from support.mirror_harness import MirrorHarness

AIND = "demo-aind"
ASSET = "ecephys_600000_2022-06-28_10-31-30"
NAME = f"{AIND}:{ASSET}"
RECORDED = Path(__file__).parents[1] / "sources" / "data" / "aind" / "1.4.0" / ASSET


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """A bucket with one asset whose sidecars were written by a release of aind-data-schema."""
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        for path in RECORDED.glob("*.json"):
            running.put(f"{ASSET}/{path.name}", path.read_bytes())
        running.put(f"{ASSET}/ecephys/data.bin", b"voltages")
        yield running


@pytest.fixture
def mirror_harness(buckets: DemoBuckets, tmp_path: Path) -> MirrorHarness:
    mirror = buckets.mirrors / f"{AIND}.toml"
    lines = [one for one in mirror.read_text().splitlines() if not one.startswith("docdb")]
    mirror.write_text("\n".join(lines) + "\n")
    return MirrorHarness(buckets.mirrors, tmp_path / "store")


def run(mirror_harness: MirrorHarness, *arguments: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(main, [*arguments, "--store", str(mirror_harness.folder), "--json"])
    return [json.loads(line) for line in done.stdout.splitlines()]


def description(mirror_harness: MirrorHarness) -> tuple[object, ...]:
    with mirror_harness.index() as index:
        row = index.resolve(NAME)
        return row.title, row.license, index.attributes(row)


def test_the_content_before_a_truncated_sidecar_is_kept_and_shown(
    mirror_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    mirror_harness.sync(NAME)
    title, license_, before = description(mirror_harness)
    whole = buckets.data(f"{ASSET}/data_description.json")
    for cut in (300, 200):
        buckets.put(f"{ASSET}/data_description.json", whole[:cut])
        assert mirror_harness.sync(NAME)[NAME].status == "ok"
        expected = {**before, UNREADABLE: ["data_description.json"]}
        assert description(mirror_harness) == (title, license_, expected)
    assert [one.kind for one in mirror_harness.entries(EventRaised)] == [UNREADABLE, UNREADABLE]
    [status] = [one for one in run(mirror_harness, "status") if one["mirror"] == AIND]
    assert status["unreadable_sidecars"] == 1
    [listed] = run(mirror_harness, "list", "--where", f"{UNREADABLE}=data_description.json")
    assert listed["dataset"] == NAME
    done = CliRunner().invoke(
        main, ["cite", NAME, "--format", "csl", "--store", str(mirror_harness.folder)]
    )
    assert done.exit_code == 0, done.output
    [cited] = json.loads(done.stdout)
    assert [one["family"] for one in cited["author"]] == ["Núñez", "Doe"]
    assert cited["issued"] == {"date-parts": [[2022, 6, 28]]}

    rows = description(mirror_harness)
    rebuild_index(mirror_harness.store, mirror_harness.store.index_path)
    assert description(mirror_harness) == rows

    buckets.put(f"{ASSET}/data_description.json", whole)
    mirror_harness.sync(NAME)
    assert description(mirror_harness) == (title, license_, before)
    [status] = [one for one in run(mirror_harness, "status") if one["mirror"] == AIND]
    assert status["unreadable_sidecars"] == 0


def test_the_content_before_a_refused_sidecar_is_kept_until_it_is_readable(
    mirror_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    mirror_harness.sync(NAME)
    before = description(mirror_harness)
    whole = buckets.data(f"{ASSET}/data_description.json")
    buckets.put(f"{ASSET}/data_description.json", whole + b"\n")
    with buckets.fault("status", path="/data_description.json$", status=403, method="GET"):
        mirror_harness.sync(NAME)
        _, license_, attributes = description(mirror_harness)
        assert license_ == before[1]
        assert attributes == {**before[2], UNREADABLE: ["data_description.json"]}
    mirror_harness.sync(NAME)
    assert description(mirror_harness) == before


def test_a_folder_marker_is_no_dataset_yet(
    mirror_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    marker = f"{AIND}:ecephys_1_2024-01-01_00-00-00"
    buckets.put(f"{marker.partition(':')[2]}/", b"")
    result = mirror_harness.sync()[marker]
    assert (result.visit, result.versions) == ("waiting", ())
    assert marker.replace(":", "--") not in {alias for alias, _ in mirror_harness.store.aliases()}
    buckets.put(f"{marker.partition(':')[2]}/data.bin", b"1")
    assert mirror_harness.sync()[marker].status == "ok"
