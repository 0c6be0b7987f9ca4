"""Reproducing observed states, as long as upstream still has them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from neuromirror_demo import ZARR, DemoArchive, DemoBuckets
from neuromirror_demo.archive_contents import LATE as UNKNOWN
from neuromirror_demo.bucket_contents import MEAREC
from support.lab_store import LabStore
from support.mirror_harness import MirrorHarness
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    at,
    files,
)

LATE = "demo:000004"


def zarr(name: str, chunks: int) -> dict[str, ScriptedFile]:
    return files(f"{name}/.zarray", *(f"{name}/{number}" for number in range(chunks)))


def test_every_draft_of_the_demo_archive_is_reproduced(still_lab: LabStore) -> None:
    with still_lab.mirror_harness.index() as index:
        names = [one.name for one in index.datasets(subdatasets=False) if one.versions]
    assert len(names) >= 6
    for name in names:
        found = still_lab.reproduce(f"{name}@draft")
        assert (found.status, found.promised) == ("ok", ("tree", "state")), found.message
        assert found.minted is not None
        assert (found.minted.tree, found.minted.state) == (found.stored.tree, found.stored.state)


def test_a_draft_that_moved_on_is_impossible_not_wrong(lab: LabStore, demo: DemoArchive) -> None:
    lab.mirror_harness.sync(LATE)
    path = demo.paths("000004")[0]
    demo.change_file("000004", path)
    found = lab.reproduce(f"{LATE}@draft")
    assert (found.status, found.exit_code) == ("impossible", 1)
    assert "upstream has changed" in found.message
    assert found.differences is not None
    assert found.differences.other_bytes.first == [path]


def test_a_draft_that_was_only_touched_is_the_same(lab: LabStore, demo: DemoArchive) -> None:
    lab.mirror_harness.sync(LATE)
    demo.touch("000004")
    assert lab.reproduce(f"{LATE}@draft").status == "ok"


def test_an_older_draft_is_reproduced_when_upstream_reverted_to_it(
    lab: LabStore, demo: DemoArchive
) -> None:
    demo.add_file("000004", "more.txt", "more")
    lab.mirror_harness.sync(LATE)
    (label,) = lab.labels(LATE, "observed")
    demo.add_file("000004", "even more.txt", "more")
    lab.mirror_harness.sync(LATE)
    assert lab.reproduce(f"{LATE}@{label}").status == "impossible"
    demo.remove_file("000004", "even more.txt")
    assert lab.reproduce(f"{LATE}@{label}").status == "ok"
    assert lab.reproduce(f"{LATE}@draft").status == "impossible"


def test_a_draft_that_moved_on_at_the_same_time_is_impossible_once_the_store_saw_it(
    lab: LabStore, demo: DemoArchive
) -> None:
    name = "demo:000005"
    lab.mirror_harness.sync(name)
    (first,) = lab.labels(name, "observed")
    demo.change_zarr("000005", ZARR, "0/1/0", None, quiet=True)
    assert lab.reproduce(f"{name}@{first}").status == "error"
    lab.mirror_harness.sync(name, deep=True)
    _, second = lab.labels(name, "observed")
    found = lab.reproduce(f"{name}@{first}")
    assert (found.status, found.exit_code) == ("impossible", 1)
    assert f"(to {second})" in found.message
    assert lab.reproduce(f"{name}@{second}").status == "ok"


def test_a_stronger_checksum_is_not_a_mismatch(lab: LabStore, demo: DemoArchive) -> None:
    lab.mirror_harness.sync(LATE)
    demo.reveal_sha256("000004", UNKNOWN)
    found = lab.reproduce(f"{LATE}@draft")
    assert found.status == "impossible"
    assert found.differences is not None
    assert found.differences.other_checksums.first == [UNKNOWN]
    assert not found.differences.other_bytes


def test_a_draft_with_other_bytes_at_the_same_time_is_wrong(
    lab: LabStore, demo: DemoArchive
) -> None:
    lab.mirror_harness.sync("demo:000002")
    with lab.mirror_harness.index() as index:
        label = index.resolve("demo:000002").label
    path = next(path for path in demo.paths("000002", label) if path in demo.paths("000002"))
    demo.tamper_published("000002", label, path, quiet=True)
    found = lab.reproduce("demo:000002@draft")
    assert (found.status, found.first) == ("error", found.label)
    assert path in found.message


def test_settle_time_does_not_delay_reproduction(tmp_path: Path, source: ScriptedSource) -> None:
    settling = LabStore(
        ScriptedHarness(tmp_path / "settling", source, "[guards]\nsettle_minutes = 60\n"), tmp_path
    )
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin"))
    settling.mirror_harness.sync()
    source.scripted_datasets["a"].files["y.bin"] = ScriptedFile(
        b"y", datetime.now(UTC).replace(microsecond=0)
    )
    settling.mirror_harness.sync()
    assert len(settling.labels("box:a", "observed")) == 2
    assert settling.reproduce("box:a").status == "ok"


# --- sources with a history


def test_a_state_that_was_overwritten_is_found_among_the_earlier_ones(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    seen = {"x.bin": ScriptedFile(b"1", at(1), "v1"), "y.bin": ScriptedFile(b"y", at(0), "y")}
    thing = source.scripted_datasets["a"] = ScriptedDataset(seen)
    scripted_lab.mirror_harness.sync()
    thing.files = {**seen, "x.bin": ScriptedFile(b"2", at(2), "v2")}
    found = scripted_lab.reproduce("box:a")
    assert found.status == "impossible"
    assert found.minted != found.stored
    thing.earlier_states = {
        at(0): files("y.bin"),
        at(1): seen,
        at(1.5): files("z.bin", modified=at(1.5)),
    }
    found = scripted_lab.reproduce("box:a")
    assert (found.status, found.minted is not None) == ("ok", True)
    assert "earlier state 'at 2024-03-01T12:01:00+00:00'" in found.message
    thing.earlier_states[at(1)] = files("x.bin")
    found = scripted_lab.reproduce("box:a")
    assert found.status == "impossible"
    assert "2 earlier states" in found.message


def test_a_state_from_the_history_is_requested_by_its_name(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    past = {at(1): files("x.bin", modified=at(1)), at(2): files("y.bin", modified=at(2))}
    thing = source.scripted_datasets["a"] = ScriptedDataset(
        files("z.bin", modified=at(3)), earlier_states=past
    )
    scripted_lab.mirror_harness.sync(history=True)
    labels = scripted_lab.labels("box:a", "observed")
    assert len(labels) == 3
    for label in labels:
        source.read_listings.clear()
        assert scripted_lab.reproduce(f"box:a@{label}").status == "ok"
        assert len(source.read_listings) == 1
    del thing.earlier_states[at(1)]
    found = scripted_lab.reproduce(f"box:a@{labels[0]}")
    assert (found.status, found.minted) == ("impossible", None)
    assert "(to current)" in found.message


def test_other_bytes_at_the_same_time_are_wrong_and_a_deletion_is_not(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    thing = source.scripted_datasets["a"] = ScriptedDataset(files("x.bin", "y.bin"))
    scripted_lab.mirror_harness.sync()
    del thing.files["x.bin"]
    assert scripted_lab.reproduce("box:a").status == "impossible"
    thing.files = {**files("y.bin"), "x.bin": ScriptedFile(b"other")}
    found = scripted_lab.reproduce("box:a")
    assert (found.status, "x.bin" in found.message) == ("error", True)


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """Fresh demo buckets."""
    with DemoBuckets(tmp_path / "buckets") as running:
        yield running


def test_a_versioned_bucket_still_serves_overwritten_objects(
    buckets: DemoBuckets, tmp_path: Path
) -> None:
    name = f"demo-aind-benchmark:{MEAREC}"
    mirrored = LabStore(MirrorHarness(buckets.mirrors, tmp_path / "store"), tmp_path)
    mirrored.mirror_harness.sync(name, history=True)
    labels = mirrored.labels(name, "observed")
    assert len(labels) == 2
    buckets.overwrite(f"{MEAREC}/mearec_NP2.h5", b"new", bucket=buckets.benchmark)
    for label in labels:
        found = mirrored.reproduce(f"{name}@{label}")
        assert found.status == "ok", found.message


# --- subdatasets


@pytest.mark.parametrize("records", ["kept", "lost"])
def test_subdatasets_are_reminted_on_their_stored_parents(
    scripted_lab: LabStore, source: ScriptedSource, records: str
) -> None:
    thing = source.scripted_datasets["a"] = ScriptedDataset(files("x.bin") | zarr("one.zarr", 5))
    scripted_lab.mirror_harness.sync()
    thing.files |= {"one.zarr/5": ScriptedFile(b"5", at(1))}
    scripted_lab.mirror_harness.sync()
    thing.files |= {"one.zarr/6": ScriptedFile(b"6", at(2))} | zarr("huge.zarr", 20)
    thing.published_versions["1.0"] = files("x.bin") | zarr("one.zarr", 5)
    thing.published_versions["2.0"] = dict(thing.files)
    scripted_lab.mirror_harness.sync()
    if records == "lost":
        shutil.rmtree(scripted_lab.mirror_harness.folder / "neuromirror" / "records")
    for label in ("1.0", "2.0", scripted_lab.labels("box:a", "observed")[-1]):
        found = scripted_lab.reproduce(f"box:a@{label}")
        assert found.status == "ok", found.message
        assert found.minted is not None
        assert found.minted.tree == found.stored.tree
        assert found.subdatasets_compared == (1 if label == "1.0" else 2)


def test_a_changed_file_of_a_subdataset_is_named(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    thing = source.scripted_datasets["a"] = ScriptedDataset(
        files("x.bin"), published_versions={"1.0": files("x.bin") | zarr("one.zarr", 9)}
    )
    scripted_lab.mirror_harness.sync()
    thing.published_versions["1.0"]["one.zarr/3"] = ScriptedFile(b"other")
    found = scripted_lab.reproduce("box:a@1.0")
    assert (found.status, found.first) == ("error", "1.0")
    (part,) = found.subdatasets
    assert (part.path, part.dataset) == ("one.zarr", "box:a/one.zarr")
    assert part.stored is not None
    assert part.minted is not None
    assert part.stored.state != part.minted.state
    assert part.differences is not None
    assert part.differences.other_bytes.first == ["3"]
    assert "one.zarr" in found.message


def test_a_subdataset_is_reproduced_with_its_superdataset(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin") | zarr("one.zarr", 9))
    scripted_lab.mirror_harness.sync()
    found = scripted_lab.reproduce("box:a/one.zarr")
    assert (found.status, found.minted) == ("impossible", None)
    assert "box:a" in found.message
