"""Reproducing observed states, as long as upstream still has them."""

import shutil

import pytest

from neuromirror_demo import ZARR, DemoArchive
from neuromirror_demo.archive_contents import LATE as UNKNOWN
from support.lab_store import LabStore
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedSource, at, files

LATE = "demo:000004"


def zarr(name: str, chunks: int) -> dict[str, ScriptedFile]:
    return files(f"{name}/.zarray", *(f"{name}/{number}" for number in range(chunks)))


def test_every_draft_of_the_demo_archive_is_reproduced(still_lab: LabStore) -> None:
    with still_lab.mirror_harness.index() as index:
        names = [one.name for one in index.datasets.select(subdatasets=False) if one.versions]
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
        label = index.versions.resolve("demo:000002").label
    path = next(path for path in demo.paths("000002", label) if path in demo.paths("000002"))
    demo.tamper_published("000002", label, path, quiet=True)
    found = lab.reproduce("demo:000002@draft")
    assert (found.status, found.first) == ("error", found.label)
    assert path in found.message


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
