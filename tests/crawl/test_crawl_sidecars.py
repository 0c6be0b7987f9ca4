"""Unreadable sidecars of AIND assets, from a bucket to the index and a citation."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index
from neuromirror.index import Schedule
from neuromirror.model import UNREADABLE, EventRaised
from neuromirror.service.metrics import Metrics
from neuromirror_demo import DemoBuckets
from support.mirror_harness import MirrorHarness
from support.quick_mirror import dataset_refs

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
    lines = [line for line in mirror.read_text().splitlines() if not line.startswith("docdb")]
    mirror.write_text("\n".join(lines) + "\n")
    return MirrorHarness(buckets.mirrors, tmp_path / "store")


def run(mirror_harness: MirrorHarness, *arguments: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(main, [*arguments, "--store", str(mirror_harness.folder), "--json"])
    return [json.loads(line) for line in done.stdout.splitlines()]


def description(mirror_harness: MirrorHarness) -> tuple[Any, ...]:
    with mirror_harness.index() as index:
        row = index.versions.resolve(NAME)
        return row.title, row.license, index.versions.attributes(row)


def unreadable_metric(mirror_harness: MirrorHarness) -> float:
    """The number of datasets with an unreadable sidecar that a service would report."""
    store = mirror_harness.store
    with Schedule.open(store.schedule_path) as schedule:
        page = Metrics(store, store.index_path, schedule, [AIND]).page().decode()
    [value] = re.findall(
        rf'^neuromirror_unreadable_sidecar_datasets{{mirror="{AIND}"}} (\S+)$', page, re.MULTILINE
    )
    return float(value)


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
    assert [entry.kind for entry in mirror_harness.entries(EventRaised)] == [UNREADABLE, UNREADABLE]
    [status] = [one for one in run(mirror_harness, "status") if one.get("mirror") == AIND]
    assert status["unreadable_sidecars"] == 1
    assert unreadable_metric(mirror_harness) == 1
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
    [status] = [one for one in run(mirror_harness, "status") if one.get("mirror") == AIND]
    assert status["unreadable_sidecars"] == 0
    assert unreadable_metric(mirror_harness) == 0


def exceptions(mirror_harness: MirrorHarness) -> list[tuple[str, str]]:
    with mirror_harness.index() as index:
        return [
            (exception["path"], exception["reason"])
            for exception in index.versions.exceptions(index.versions.resolve(NAME))
        ]


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_sidecar_leaves_refs_as_in_an_undisturbed_store(
    mirror_harness: MirrorHarness, buckets: DemoBuckets, tmp_path: Path, status: int
) -> None:
    """For a first version and for a later one: the file is neither left out nor annexed."""
    other = MirrorHarness(buckets.mirrors, tmp_path / "other")
    path = f"{ASSET}/data_description.json"
    for suffix in (b"", b"\n"):
        buckets.put(path, buckets.data(path) + suffix)
        other.sync(NAME)
        before = dataset_refs(mirror_harness)
        with buckets.fault("status", path=f"{path}$", status=status, method="GET") as fault:
            for _ in range(2):
                struck = fault.struck
                result = mirror_harness.sync(NAME)[NAME]
                assert fault.struck > struck
                assert (result.exit_code, result.visit, result.versions) == (1, "failed", ())
                assert path in result.message
                [failure] = [one for one in run(mirror_harness, "status") if one.get("dataset")]
                assert (failure["dataset"], failure["task"]) == (NAME, "visit")
            assert dataset_refs(mirror_harness) == before
        assert mirror_harness.sync(NAME)[NAME].visit == "full"
        assert dataset_refs(mirror_harness) == dataset_refs(other)
    assert mirror_harness.entries(EventRaised) == []


@pytest.mark.parametrize("status", [400, 403])
def test_a_sidecar_that_is_refused_for_a_day_is_left_out_by_name_until_it_is_readable(
    mirror_harness: MirrorHarness,
    buckets: DemoBuckets,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    """400 is the status of S3 for an object that is encrypted with a key."""
    mirror_harness.sync(NAME)
    title, license_, attributes = description(mirror_harness)
    path = f"{ASSET}/data_description.json"
    buckets.put(path, buckets.data(path) + b"\n")
    with buckets.fault("status", path=f"{path}$", status=status, method="GET") as fault:
        assert mirror_harness.sync(NAME)[NAME].visit == "failed"
        monkeypatch.setattr("neuromirror.crawl.listing.LASTING_AFTER", timedelta(0))
        for _ in range(2):
            struck = fault.struck
            result = mirror_harness.sync(NAME)[NAME]
            assert fault.struck > struck
            assert (result.exit_code, result.visit) == (1, "partial")
            assert path in result.message
            assert exceptions(mirror_harness) == [("data_description.json", "sidecar-refused")]
        expected = {**attributes, UNREADABLE: ["data_description.json"]}
        assert description(mirror_harness) == (title, license_, expected)
        assert [entry.kind for entry in mirror_harness.entries(EventRaised)] == [UNREADABLE]
        [status, failure] = [
            one for one in run(mirror_harness, "status") if one.get("mirror") == AIND
        ]
        assert (status["unreadable_sidecars"], status["failing"]) == (1, 1)
        assert (failure["task"], failure["dataset"]) == ("visit", NAME)
    assert mirror_harness.sync(NAME)[NAME].visit == "full"
    assert exceptions(mirror_harness) == []
    assert description(mirror_harness) == (title, license_, attributes)
    assert mirror_harness.sync(NAME)[NAME].status == "notneeded"


def test_datasets_are_found_by_what_their_sidecars_state(mirror_harness: MirrorHarness) -> None:
    mirror_harness.sync(NAME)
    _, _, attributes = description(mirror_harness)
    for attribute in ("institution", "acquired", "created"):
        [stated] = attributes[attribute]
        for text, expected in ((stated, [NAME]), (f"{stated}x", [])):
            found = run(mirror_harness, "list", "--where", f"{attribute}={text}")
            assert [one["dataset"] for one in found if "dataset" in one] == expected, attribute
    project = ("--project", "Brain Wide Circuits", "--modality")
    for values, count in ((("ecephys", "--year", "2022"), 1), (("ecephys", "--year", "2025"), 0)):
        found = run(mirror_harness, "search", *project, *values)
        assert [one["status"] for one in found] == (["ok"] if count else ["impossible"])


def test_sidecars_are_listed_and_counted_and_those_that_differ_are_marked(
    mirror_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    joined = {"name": ASSET, "last_modified": "2026-01-01T00:00:00Z"}
    buckets.put(f"{ASSET}/metadata.nd.json", json.dumps(joined))
    buckets.put(f"{ASSET}/original_metadata/rig.json", b"{}")
    mirror_harness.sync(NAME)
    expected = {
        one.removeprefix(f"{ASSET}/"): len(buckets.data(one))
        for one in map(bytes.decode, buckets.present(f"{ASSET}/"))
        if not one.endswith("data.bin")
    } | {"metadata.nd.json": len(json.dumps({"name": ASSET}))}
    files = run(mirror_harness, "files", NAME)
    assert [file["path"] for file in files if file["type"] == "file"] == ["ecephys/data.bin"]
    listed = [file for file in files if file["type"] == "document"]
    assert {one["path"]: one["size"] for one in listed} == expected
    assert [one["path"] for one in listed if one["cleaned"]] == ["metadata.nd.json"]
    [shown] = run(mirror_harness, "show", NAME)
    assert shown["documents"] == [
        {name: one[name] for name in ("path", "size", "cleaned")} for one in listed
    ]
    done = CliRunner().invoke(main, ["show", NAME, "--store", str(mirror_harness.folder)])
    size = expected["metadata.nd.json"]
    assert re.search("^  documents +5 plain files in git, ", done.stdout, re.MULTILINE)
    assert f"  metadata.nd.json: {size} B, differs from upstream's\n" in done.stdout


def test_a_refused_list_does_not_restart_the_day_of_a_refused_sidecar(
    mirror_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    def first_refusals() -> bytes:
        [memo] = (mirror_harness.folder / "neuromirror" / "memos").rglob("*.memo")
        return memo.read_bytes()

    with buckets.fault("status", path="/data_description.json$", status=403, method="GET"):
        mirror_harness.sync(NAME)
    before = first_refusals()
    with buckets.fault("status", query="list-type", status=403) as fault:
        assert mirror_harness.sync(NAME)[NAME].visit == "failed"
    assert fault.struck
    assert first_refusals() == before


def test_a_folder_marker_is_no_dataset_yet(
    mirror_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    marker = f"{AIND}:ecephys_1_2024-01-01_00-00-00"
    buckets.put(f"{marker.partition(':')[2]}/", b"")
    result = mirror_harness.sync()[marker]
    assert (result.visit, result.versions) == ("waiting", ())
    assert marker.replace(":", "--") not in {
        alias for alias, _ in mirror_harness.store.repositories.aliases()
    }
    buckets.put(f"{marker.partition(':')[2]}/data.bin", b"1")
    assert mirror_harness.sync()[marker].status == "ok"
