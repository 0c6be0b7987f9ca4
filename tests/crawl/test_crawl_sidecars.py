"""Sidecars of AIND assets that cannot be read, from a bucket to the index and a citation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from crawl_place import Place

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index
from neuromirror.model import UNREADABLE, EventRaised
from neuromirror_demo import DemoBuckets

AIND = "demo-aind"
ASSET = "ecephys_600000_2022-06-28_10-31-30"
NAME = f"{AIND}:{ASSET}"
RECORDED = Path(__file__).parents[1] / "sources" / "data" / "aind" / "1.4.0" / ASSET


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """A bucket with one asset whose sidecars a real release of aind-data-schema wrote."""
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        for path in RECORDED.glob("*.json"):
            running.put(f"{ASSET}/{path.name}", path.read_bytes())
        running.put(f"{ASSET}/ecephys/data.bin", b"voltages")
        yield running


@pytest.fixture
def place(buckets: DemoBuckets, tmp_path: Path) -> Place:
    mirror = buckets.mirrors / f"{AIND}.toml"
    lines = [one for one in mirror.read_text().splitlines() if not one.startswith("docdb")]
    mirror.write_text("\n".join(lines) + "\n")
    return Place(buckets.mirrors, tmp_path / "store")


def run(place: Place, *arguments: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(main, [*arguments, "--store", str(place.folder), "--json"])
    return [json.loads(line) for line in done.stdout.splitlines()]


def described(place: Place) -> tuple[object, ...]:
    with place.index() as index:
        row = index.resolve(NAME)
        return row.title, row.license, index.attributes(row)


def test_what_a_truncated_sidecar_said_before_is_kept_and_shown(
    place: Place, buckets: DemoBuckets
) -> None:
    place.sync(NAME)
    title, license_, before = described(place)
    whole = buckets.data(f"{ASSET}/data_description.json")
    for cut in (300, 200):
        buckets.put(f"{ASSET}/data_description.json", whole[:cut])
        assert place.sync(NAME)[NAME].status == "ok"
        expected = {**before, UNREADABLE: ["data_description.json"]}
        assert described(place) == (title, license_, expected)
    assert [one.kind for one in place.entries(EventRaised)] == [UNREADABLE, UNREADABLE]
    [status] = [one for one in run(place, "status") if one["mirror"] == AIND]
    assert status["unreadable_sidecars"] == 1
    [listed] = run(place, "list", "--where", f"{UNREADABLE}=data_description.json")
    assert listed["dataset"] == NAME
    done = CliRunner().invoke(main, ["cite", NAME, "--format", "csl", "--store", str(place.folder)])
    assert done.exit_code == 0, done.output
    [cited] = json.loads(done.stdout)
    assert [one["family"] for one in cited["author"]] == ["Núñez", "Doe"]
    assert cited["issued"] == {"date-parts": [[2022, 6, 28]]}

    rows = described(place)
    rebuild_index(place.store, place.store.index_path)
    assert described(place) == rows

    buckets.put(f"{ASSET}/data_description.json", whole)
    place.sync(NAME)
    assert described(place) == (title, license_, before)
    [status] = [one for one in run(place, "status") if one["mirror"] == AIND]
    assert status["unreadable_sidecars"] == 0


def test_what_a_refused_sidecar_said_before_is_kept_until_it_can_be_read(
    place: Place, buckets: DemoBuckets
) -> None:
    place.sync(NAME)
    before = described(place)
    whole = buckets.data(f"{ASSET}/data_description.json")
    buckets.put(f"{ASSET}/data_description.json", whole + b"\n")
    with buckets.fault("status", path="/data_description.json$", status=403, method="GET"):
        place.sync(NAME)
        _, license_, attributes = described(place)
        assert license_ == before[1]
        assert attributes == {**before[2], UNREADABLE: ["data_description.json"]}
    place.sync(NAME)
    assert described(place) == before


def test_a_folder_marker_alone_is_no_dataset_yet(place: Place, buckets: DemoBuckets) -> None:
    marker = f"{AIND}:ecephys_1_2024-01-01_00-00-00"
    buckets.put(f"{marker.partition(':')[2]}/", b"")
    result = place.sync()[marker]
    assert (result.visit, result.versions) == ("waiting", ())
    assert marker.replace(":", "--") not in {alias for alias, _ in place.store.aliases()}
    buckets.put(f"{marker.partition(':')[2]}/data.bin", b"1")
    assert place.sync()[marker].status == "ok"
