"""Zarr assets: components that upstream names, inline or as datasets of their own."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from neuromirror.crawl import open_recorder, release_hold
from neuromirror.model import ConfigurationError, EventRaised, VersionMinted, VisitEnded
from neuromirror.sources import ComponentUnavailableError
from neuromirror.store import read_versions_from_git
from support.mirror_harness import run_git
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    ScriptedZarr,
    at,
    files,
)
from support.scripted_zarrs import (
    CONTRADICTED,
    UNREACHABLE,
    exceptions,
    links,
    parts,
    paths,
    scripted_zarr,
    version_labels,
)

# --- the form of a component


def test_a_small_zarr_is_a_folder_of_files_and_a_large_one_a_dataset(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"s": scripted_zarr(3, "c/"), "l": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"sub/small.zarr": "s", "sub/large.zarr": "l"}, has_summary=True
    )
    result = zarr_harness.sync()["box:a"]
    assert (result.status, result.visit, len(result.versions)) == ("ok", "full", 1)
    assert paths(zarr_harness) == [
        "sub/small.zarr/.zarray",
        "sub/small.zarr/c/0",
        "sub/small.zarr/c/1",
        "x.bin",
    ]
    (part,) = parts(zarr_harness).values()
    assert (part.path, part.dataset, part.files) == ("sub/large.zarr", "box:zarr/l", 9)
    assert part.label == zarr_harness.source.zarrs["l"].checksum
    assert part.bytes == zarr_harness.source.zarrs["l"].size
    repository = zarr_harness.repository("box:zarr/l")
    assert links(zarr_harness) == {
        "sub/large.zarr": run_git(repository, "rev-parse", "main").strip()
    }
    assert run_git(repository, "rev-parse", part.label) == run_git(repository, "rev-parse", "main")
    inner = run_git(repository, "ls-tree", "--name-only", "main").split()
    assert {".zarray", "0", "7"} <= set(inner)
    within = {entry.local_id: entry.within for entry in zarr_harness.entries(VersionMinted)}
    assert within == {"a": "", "zarr/l": "zarr"}
    top = run_git(zarr_harness.folder / "alias" / "box", "ls-tree", "--name-only", "main").split()
    assert "a" in top
    assert "zarr" not in top
    zarr_harness.fsck()


def test_listed_files_are_committed_or_named_exceptions_with_one_per_component(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {
        "s": scripted_zarr(3),
        "l": scripted_zarr(9),
        "empty": ScriptedZarr({}),
        "broken": scripted_zarr(7, error=CONTRADICTED),
        "broken-small": scripted_zarr(2, error=CONTRADICTED),
    }
    scripted_dataset = ScriptedDataset(files("x.bin", "y.bin"), has_summary=True)
    scripted_dataset.zarrs = {f"{name}.zarr": name for name in zarr_harness.source.zarrs}
    zarr_harness.datasets["a"] = scripted_dataset
    result = zarr_harness.sync()["box:a"]
    assert (result.exit_code, result.visit) == (1, "partial")
    left_out = exceptions(zarr_harness)
    assert left_out == {
        "empty.zarr": ("zarr-empty", 0),
        "broken.zarr": ("zarr-not-proven", zarr_harness.source.zarrs["broken"].size),
        "broken-small.zarr": ("zarr-not-proven", zarr_harness.source.zarrs["broken-small"].size),
    }
    own = [path for path in paths(zarr_harness) if not path.startswith("s.zarr/")]
    assert len(own) + 1 + len(parts(zarr_harness)) + len(left_out) == 2 + len(
        scripted_dataset.zarrs
    )


def test_the_summary_counts_each_component_as_one_file(zarr_harness: ScriptedHarness) -> None:
    zarr_harness.source.zarrs = {"l": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"l.zarr": "l"}, has_summary=True
    )
    zarr_harness.source.zarrs["l"].stated_checksum = f"{'0' * 32}-9--9"
    assert zarr_harness.sync()["box:a"].visit == "full"
    # the summary also counts a component that the listing lacks
    scripted_dataset = zarr_harness.datasets["a"]
    whole = zarr_harness.source._summary(scripted_dataset, scripted_dataset.files)
    scripted_dataset.zarrs = {}
    zarr_harness.source._summary = lambda scripted_dataset, content: whole  # type: ignore[method-assign]
    result = zarr_harness.sync()["box:a"]
    assert result.visit == "failed"
    assert "upstream states 2 files" in result.message


@pytest.mark.parametrize(("limit", "inline"), [(0, False), (3, False), (4, True)])
def test_the_mirror_file_sets_the_size_of_inline_zarrs(
    tmp_path: Path, source: ScriptedSource, limit: int, inline: bool
) -> None:
    harness = ScriptedHarness(tmp_path / "limit", source, f"[zarr]\ninline_components = {limit}\n")
    source.zarrs = {"z": scripted_zarr(3)}
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    assert harness.sync()["box:a"].visit == "full"
    assert ("z.zarr/0" in paths(harness)) is inline
    assert ("z.zarr" in parts(harness)) is not inline


def test_the_form_of_each_zarr_is_in_the_documents_the_journal_and_the_index(
    tmp_path: Path, source: ScriptedSource
) -> None:
    harness = ScriptedHarness(
        tmp_path / "forms", source, "[zarr]\ninline_components = 4\ninline = 6\nmanifest = 12\n"
    )
    source.zarrs = {
        "huge": scripted_zarr(20),
        "large": scripted_zarr(9),
        "one": scripted_zarr(3),
        "two": scripted_zarr(2),
    }
    scripted_dataset = source.scripted_datasets["a"] = ScriptedDataset(files("x.bin"))
    scripted_dataset.zarrs = {
        "h.zarr": "huge",
        "l.zarr": "large",
        "z/one.zarr": "one",
        "a/two.zarr": "two",
    }
    assert harness.sync()["box:a"].visit == "full"
    description = json.loads(
        run_git(harness.repository("box:a"), "show", "main:.neuromirror/dataset.json")
    )
    expected = {
        path: {
            "source": source.dataset(f"zarr/{name}").source_uri,
            "checksum": source.zarrs[name].checksum,
            "files": len(source.zarrs[name].files),
            "bytes": source.zarrs[name].size,
        }
        for path, name in (("a/two.zarr", "two"), ("z/one.zarr", "one"))
    }
    assert (description["form"], description["inline"], sorted(description["parts"])) == (
        "files",
        expected,
        ["h.zarr", "l.zarr"],
    )
    with harness.index() as index:
        row = index.versions.resolve("box:a")
        assert index.versions.inline_components(row) == [
            {"path": path, **one} for path, one in expected.items()
        ]
        huge, large = (
            index.versions.resolve("box:zarr/huge"),
            index.versions.resolve("box:zarr/large"),
        )
        assert index.versions.inline_components(huge) == []
    assert (row.form, row.manifest_only_files) == ("files", 0)
    assert (large.form, large.manifest_only_files) == ("files", 0)
    metadata = source.zarrs["huge"].files[".zarray"]
    size = source.zarrs["huge"].size - len(metadata.content)
    assert (huge.form, huge.manifest_only_files, huge.manifest_only_bytes) == ("manifest", 19, size)
    # the same from git alone
    for name in ("a", "zarr/huge"):
        minted = [entry for entry in harness.entries(VersionMinted) if entry.local_id == name]
        dataset = source.dataset(name)
        repository = harness.store.repositories.of(dataset)
        found = list(read_versions_from_git(repository, set(), minted[0].at))
        for field in ("form", "manifest_only_files", "manifest_only_bytes", "inline"):
            assert getattr(found[0], field) == getattr(minted[0], field)
    # entries copied from the previous state are recorded like entries that were read
    scripted_dataset.files |= files("y.bin")
    assert harness.sync()["box:a"].visit == "full"
    description = json.loads(
        run_git(harness.repository("box:a"), "show", "main:.neuromirror/dataset.json")
    )
    assert description["inline"] == expected
    del scripted_dataset.zarrs["a/two.zarr"]
    assert harness.sync()["box:a"].visit == "full"
    with harness.index() as index:
        assert [
            one["path"] for one in index.versions.inline_components(index.versions.resolve("box:a"))
        ] == ["z/one.zarr"]


def test_odd_paths_of_zarrs_are_mirrored(zarr_harness: ScriptedHarness) -> None:
    odd = ["-dash.zarr", "a b/ü.zarr", ".git/x.zarr", "f.zarr"]
    zarr_harness.source.zarrs = {
        f"{size}{number}": scripted_zarr(size) for size in (3, 9) for number in range(len(odd))
    }
    zarr_harness.datasets["a"] = ScriptedDataset(files("f.zarr/inside", "f.zarr "))
    zarr_harness.datasets["a"].zarrs = {one: f"9{number}" for number, one in enumerate(odd)}
    zarr_harness.datasets["b"] = ScriptedDataset(
        files("x"), zarrs={one: f"3{n}" for n, one in enumerate(odd)}
    )
    assert {one.visit for name, one in zarr_harness.sync().items() if ":" in name} == {"full"}
    assert {part.source_path.decode() for part in parts(zarr_harness).values()} == set(odd)
    assert len(paths(zarr_harness, "box:b")) == 1 + 3 * len(odd)
    refs = zarr_harness.refs()
    zarr_harness.datasets["b"].files |= files("y")
    zarr_harness.datasets["a"].files |= files("y")
    zarr_harness.source.read_listings.clear()
    assert {one.visit for name, one in zarr_harness.sync().items() if ":" in name} == {"full"}
    assert zarr_harness.source.read_listings == [
        "a current",
        "b current",
    ] or zarr_harness.source.read_listings == ["b current", "a current"]
    del zarr_harness.datasets["a"].files["y"], zarr_harness.datasets["b"].files["y"]
    zarr_harness.sync()
    for name in "ab":
        before = refs[f"box--{name} refs/heads/main"]
        one = zarr_harness.repository(f"box:{name}")
        trees = run_git(one, "rev-parse", f"{before}^{{tree}}", "main^{tree}").split()
        assert trees[0] == trees[1]
    zarr_harness.fsck()


# --- from visit to visit


def test_a_known_zarr_costs_no_request_and_an_unchanged_dataset_is_not_written(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"s": scripted_zarr(3), "l": scripted_zarr(9)}
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"s.zarr": "s", "l.zarr": "l"}
    )
    zarr_harness.sync()
    zarr_harness.source.read_listings.clear()
    before = zarr_harness.file_stamps()
    assert zarr_harness.sync()["box:a"].status == "notneeded"
    assert (zarr_harness.source.read_listings, zarr_harness.file_stamps()) == ([], before)
    scripted_dataset.files["y.bin"] = ScriptedFile(b"y", at(9))
    assert zarr_harness.sync()["box:a"].versions == ("2024-03-01T120900Z",)
    assert zarr_harness.source.read_listings == ["a current"]
    assert version_labels(zarr_harness, "box:zarr/l") == [zarr_harness.source.zarrs["l"].checksum]
    assert len(paths(zarr_harness)) == 5
    # the files of a small Zarr are copied only from a state with a valid memo
    for memo in (zarr_harness.folder / "neuromirror" / "memos").rglob("*.memo"):
        memo.unlink()
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync()["box:a"].status == "notneeded"
    assert sorted(zarr_harness.source.read_listings) == [
        "a current",
        f"zarr/s {zarr_harness.source.zarrs['s'].checksum}",
    ]


def test_a_zarr_that_changed_has_a_new_version_and_the_dataset_links_it(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"s": scripted_zarr(3), "l": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"s.zarr": "s", "l.zarr": "l"}
    )
    zarr_harness.sync()
    labels = [zarr_harness.source.zarrs["l"].checksum]
    for name in "sl":
        zarr_harness.source.zarrs[name].files["0"] = ScriptedFile(b"other", at(4))
    labels.append(zarr_harness.source.zarrs["l"].checksum)
    result = zarr_harness.sync()["box:a"]
    assert (result.visit, result.versions) == ("full", ("2024-03-01T120400Z",))
    assert version_labels(zarr_harness, "box:zarr/l") == labels
    assert parts(zarr_harness)["l.zarr"].label == labels[1]
    # the earlier state has a commit already
    zarr_harness.source.zarrs["l"].files["0"] = files("0")["0"]
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert zarr_harness.source.read_listings == ["a current"]
    assert parts(zarr_harness)["l.zarr"].label == labels[0]
    assert version_labels(zarr_harness, "box:zarr/l") == labels
    zarr_harness.fsck()


def test_a_zarr_that_grows_to_a_subdataset_and_back_counts_as_one_file(
    tmp_path: Path, source: ScriptedSource
) -> None:
    settings = "[zarr]\ninline_components = 100\n"
    harness = ScriptedHarness(tmp_path / "grows", source, settings)
    source.zarrs = {"z": scripted_zarr(90)}
    source.scripted_datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"z.zarr": "z"}, has_summary=True
    )
    harness.sync()
    for chunks in (120, 90, 20):
        source.zarrs["z"].files = scripted_zarr(chunks).files
        assert harness.sync()["box:a"].visit == "full", chunks
        assert bool(parts(harness)) is (chunks == 120)
        assert len(paths(harness)) == (1 if chunks == 120 else chunks + 1)
    harness.fsck()


def test_many_lost_zarrs_are_held_like_other_files(zarr_harness: ScriptedHarness) -> None:
    zarr_harness.source.zarrs = {
        str(number): scripted_zarr(3 + 3 * (number % 2), str(number)) for number in range(24)
    }
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), has_summary=True
    )
    scripted_dataset.zarrs = {f"{name}.zarr": name for name in zarr_harness.source.zarrs}
    assert zarr_harness.sync()["box:a"].visit == "full"
    refs = zarr_harness.refs()
    scripted_dataset.zarrs = {
        path: name for path, name in scripted_dataset.zarrs.items() if int(name) < 12
    }
    zarr_harness.source.zarrs["new"] = scripted_zarr(9, "new")
    scripted_dataset.zarrs["new.zarr"] = "new"
    zarr_harness.source.read_listings.clear()
    result = zarr_harness.sync()["box:a"]
    assert result.visit == "held"
    assert zarr_harness.refs() == refs
    assert zarr_harness.source.read_listings == ["a current"]
    with zarr_harness.index() as index:
        (hold,) = index.crawl.open_holds()
    assert (hold.files_removed, hold.files_before) == (12, 25)
    # another dataset has mirrored the new Zarr meanwhile, so the listing is unchanged
    zarr_harness.datasets["b"] = ScriptedDataset(files("y.bin"), zarrs={"new.zarr": "new"})
    result = zarr_harness.sync()["box:a"]
    assert result.visit == "held"
    store = zarr_harness.store
    with open_recorder(store, store.index_path) as recorder:
        release_hold(recorder, hold.hold)
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert len(parts(zarr_harness)) == 7


def test_one_zarr_in_two_datasets_is_one_dataset_that_waits_for_neither(
    zarr_harness: ScriptedHarness,
) -> None:
    both = threading.Barrier(2, timeout=600)
    zarr_harness.source.zarrs = {"l": scripted_zarr(9)}

    def meet() -> None:
        both.wait()

    zarr_harness.source.on_entries = meet
    for name in "ab":
        zarr_harness.datasets[name] = ScriptedDataset(
            files(f"{name}.bin"), zarrs={f"{name}.zarr": "l"}
        )
    result = zarr_harness.sync()
    assert {result[f"box:{name}"].visit for name in "ab"} == {"full"}
    assert [one.split()[0] for one in zarr_harness.source.read_listings].count("zarr/l") == 1
    (first,) = (one for one in zarr_harness.entries(VersionMinted) if one.local_id == "zarr/l")
    assert first.within == "zarr"  # in either order
    assert (
        links(zarr_harness, "box:a")["a.zarr"]
        == links(zarr_harness, "box:b")["b.zarr"]
        == first.commit
    )


def test_files_of_a_zarr_are_not_pending(zarr_harness: ScriptedHarness) -> None:
    zarr_harness.source.late_sha256 = True
    zarr_harness.source.zarrs = {"s": scripted_zarr(3), "l": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin") | files("y.bin", sha256=True), zarrs={"s.zarr": "s", "l.zarr": "l"}
    )
    assert zarr_harness.sync()["box:a"].status == "ok"
    assert zarr_harness.pending_files("box:a") == 1
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync()["box:a"].status == "notneeded"
    assert zarr_harness.pending_files("box:a") == 1
    assert zarr_harness.source.read_listings == []


def test_an_unfinalized_zarr_is_checked_in_each_sync(zarr_harness: ScriptedHarness) -> None:
    zarr_harness.source.zarrs = {"l": scripted_zarr(2, is_finalized=False)}
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"l.zarr": "l"}
    )
    zarr_harness.source.memos = False
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert [part.files for part in parts(zarr_harness).values()] == [2]
    assert zarr_harness.sync()["box:a"].status == "notneeded"
    assert zarr_harness.source.read_listings.count("zarr/l current") == 1  # then its memo suffices
    zarr_harness.source.zarrs["l"].files["1"] = ScriptedFile(b"1", at(5))
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert [part.files for part in parts(zarr_harness).values()] == [3]
    zarr_harness.source.zarrs["l"].files.clear()
    result = zarr_harness.sync()["box:a"]
    assert (result.visit, "l.zarr" in result.message) == ("partial", True)
    assert [part.files for part in parts(zarr_harness).values()] == [3]
    scripted_dataset.zarrs["other.zarr"] = "none"
    zarr_harness.source.zarrs["none"] = ScriptedZarr({}, is_finalized=False)
    zarr_harness.sync()
    assert exceptions(zarr_harness) == {"other.zarr": ("zarr-empty", 0)}


def test_a_zarr_that_changed_after_its_row_was_read_is_mirrored_as_it_is(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {
        "s": scripted_zarr(3),
        "l": scripted_zarr(9),
        "grown": scripted_zarr(9),
    }
    for zarr in zarr_harness.source.zarrs.values():
        zarr.stated_checksum = f"{'0' * 32}-{min(len(zarr.files), 9)}--{zarr.size}"
    zarr_harness.source.zarrs["grown"].stated_checksum = f"{'0' * 32}-2--18"
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    scripted_dataset.zarrs = {f"{name}.zarr": name for name in zarr_harness.source.zarrs}
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert {path: one.label for path, one in parts(zarr_harness).items()} == {
        "l.zarr": zarr_harness.source.zarrs["l"].checksum,
        "grown.zarr": zarr_harness.source.zarrs["grown"].checksum,
    }
    for one in zarr_harness.source.zarrs.values():
        one.stated_checksum = None
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync()["box:a"].status == "notneeded"
    assert zarr_harness.source.read_listings == ["a current"]


def test_a_zarr_that_git_has_and_the_journal_lacks_is_not_reread(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"l": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"l.zarr": "l"})
    zarr_harness.sync()
    refs = zarr_harness.refs()
    (zarr_harness.folder / "neuromirror" / "journal.jsonl").unlink()
    zarr_harness.store.index_path.unlink()
    (zarr_harness.repository("box:a") / "packed-refs").unlink()
    zarr_harness.source.read_listings.clear()
    zarr_harness.sync()
    assert zarr_harness.source.read_listings == ["a current"]
    mains = {one: sha for one, sha in refs.items() if "box--a" in one or "zarr" in one}
    assert mains.items() <= zarr_harness.refs().items()
    assert {entry.within for entry in zarr_harness.entries(VersionMinted)} == {"", "zarr"}


# --- failures, deep visits and earlier states

# --- Zarrs that fail validation


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_fails_validation_keeps_its_previous_state_and_blocks_no_other(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    zarr_harness.source.zarrs = {
        "z": scripted_zarr(chunks),
        "other": scripted_zarr(8),
        "small": scripted_zarr(2),
    }
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), has_summary=True)
    zarr_harness.datasets["a"].zarrs = {f"{name}.zarr": name for name in zarr_harness.source.zarrs}
    zarr_harness.source.fingerprint = "same"
    zarr_harness.sync()
    before = (
        links(zarr_harness).get("z.zarr"),
        [path for path in paths(zarr_harness) if path.startswith("z")],
    )
    for zarr in zarr_harness.source.zarrs.values():
        zarr.files["0"] = ScriptedFile(b"another", at(3))
    zarr_harness.source.zarrs["z"].error = CONTRADICTED
    zarr_harness.source.fingerprint = "another"
    result = zarr_harness.sync()["box:a"]
    assert (result.exit_code, result.status, result.visit) == (1, "error", "partial")
    assert "z.zarr (box:zarr/z)" in result.message
    assert str(CONTRADICTED) in result.message
    after = (
        links(zarr_harness).get("z.zarr"),
        [path for path in paths(zarr_harness) if path.startswith("z")],
    )
    assert after == before
    assert exceptions(zarr_harness) == {}
    assert parts(zarr_harness)["other.zarr"].label == zarr_harness.source.zarrs["other"].checksum
    assert len(version_labels(zarr_harness, "box:a")) == 2
    # read again, although the overview is unchanged
    assert zarr_harness.sync()["box:a"].visit == "partial"
    assert len(version_labels(zarr_harness, "box:a")) == 2
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert len(version_labels(zarr_harness, "box:a")) == 3
    assert "unchanged" in zarr_harness.sync()["box:a"].message
    zarr_harness.fsck()


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_new_zarr_that_fails_validation_is_a_named_exception_until_it_passes(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    zarr_harness.source.zarrs = {
        "z": scripted_zarr(chunks, error=CONTRADICTED),
        "other": scripted_zarr(8),
    }
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"z.zarr": "z", "other.zarr": "other"}
    )
    first = zarr_harness.sync()["box:a"]
    assert (first.visit, len(first.versions)) == ("partial", 1)
    assert exceptions(zarr_harness) == {
        "z.zarr": ("zarr-not-proven", zarr_harness.source.zarrs["z"].size)
    }
    refs = zarr_harness.refs()
    zarr_harness.source.zarrs["z"].error = UNREACHABLE
    repeated = zarr_harness.sync()["box:a"]
    assert (repeated.visit, repeated.versions) == ("failed", ())
    assert zarr_harness.refs() == refs
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert exceptions(zarr_harness) == {}


def test_a_zarr_that_outgrew_its_folder_and_fails_validation_keeps_its_files(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"z": scripted_zarr(3)}
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"z.zarr": "z"}, has_summary=True
    )
    zarr_harness.sync()
    before = paths(zarr_harness)
    zarr_harness.source.zarrs["z"] = scripted_zarr(9, error=CONTRADICTED)
    assert zarr_harness.sync()["box:a"].visit == "partial"
    assert (paths(zarr_harness), parts(zarr_harness)) == (before, {})
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    before = links(zarr_harness)
    zarr_harness.source.zarrs["z"] = scripted_zarr(2, error=CONTRADICTED)
    assert zarr_harness.sync()["box:a"].visit == "partial"
    assert (paths(zarr_harness), links(zarr_harness)) == (["x.bin"], before)
    zarr_harness.fsck()


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_is_not_public_is_an_exception_and_no_failure(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    zarr_harness.source.zarrs = {
        "z": scripted_zarr(chunks, error=ComponentUnavailableError("under embargo"))
    }
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    result = zarr_harness.sync()["box:a"]
    assert (result.exit_code, result.visit) == (0, "full")
    assert exceptions(zarr_harness) == {
        "z.zarr": ("embargoed", zarr_harness.source.zarrs["z"].size)
    }
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert exceptions(zarr_harness) == {}


@pytest.mark.parametrize("chunks", [3, 9])
def test_an_unfinished_zarr_is_requested_in_each_sync_and_no_failure(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    pending = ComponentUnavailableError("it has no checksum", "pending")
    zarr_harness.source.zarrs = {"z": scripted_zarr(chunks, error=pending)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    zarr_harness.source.fingerprint = "same"
    for _ in range(2):
        result = zarr_harness.sync()["box:a"]
        assert (result.exit_code, result.visit) == (0, "full")
        assert exceptions(zarr_harness) == {
            "z.zarr": ("pending", zarr_harness.source.zarrs["z"].size)
        }
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert exceptions(zarr_harness) == {}
    # the previous state is kept while the Zarr is being written
    before = paths(zarr_harness), links(zarr_harness)
    zarr_harness.source.fingerprint = "another"
    zarr_harness.source.zarrs["z"] = scripted_zarr(chunks + 1, error=pending)
    for _ in range(2):
        result = zarr_harness.sync()["box:a"]
        assert (result.exit_code, result.visit) == (0, "full")
    assert (paths(zarr_harness), links(zarr_harness)) == before
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert (paths(zarr_harness), links(zarr_harness)) != before


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_is_being_written_counts_once_whichever_versions_have_it(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    pending = ComponentUnavailableError("it has no checksum", "pending")
    zarr_harness.source.zarrs = {
        "z": scripted_zarr(chunks, error=pending),
        "y": scripted_zarr(chunks, error=pending),
    }
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), published_versions={"1.0": files("x.bin")}
    )
    scripted_dataset.zarrs = {"z.zarr": "z", "y.zarr": "y"}
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert [entry.pending for entry in zarr_harness.entries(VisitEnded)] == [2]


def test_a_published_version_waits_until_all_its_zarrs_are_valid(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"s": scripted_zarr(3), "l": scripted_zarr(9)}
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), published_versions={"1.0": files("x.bin")}
    )
    scripted_dataset.zarrs, scripted_dataset.has_summary = {"s.zarr": "s", "l.zarr": "l"}, True
    zarr_harness.source.zarrs["s"].error = zarr_harness.source.zarrs["l"].error = CONTRADICTED
    for name in "sl":
        result = zarr_harness.sync()["box:a"]
        assert (result.visit, "1.0" in result.versions) == ("partial", False)
        zarr_harness.source.zarrs[name].error = None
    assert "1.0" in zarr_harness.sync()["box:a"].versions
    # its components count as upstream counts them
    result = zarr_harness.sync()["box:a"]
    assert (result.visit, result.message) == ("full", "nothing new")
    assert zarr_harness.sync(deep=True)["box:a"].exit_code == 0
    # also without the memo of which files belong to a component
    shutil.rmtree(zarr_harness.folder / "neuromirror" / "memos")
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync()["box:a"].message == "nothing new"
    assert "a 1.0" in zarr_harness.source.read_listings
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync()["box:a"].message == "nothing new"
    assert zarr_harness.source.read_listings == []
    assert zarr_harness.entries(EventRaised) == []


# --- deep visits and earlier states


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_deep_visit_reads_zarrs_whose_checksum_is_the_same(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    zarr_harness.source.zarrs = {"z": scripted_zarr(chunks)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    zarr_harness.sync()
    refs = zarr_harness.refs()
    zarr_harness.source.read_listings.clear()
    (zarr_harness.folder / "neuromirror" / "memos").rename(zarr_harness.folder / "forgotten")
    assert zarr_harness.sync(deep=True)["box:a"].status == "notneeded"
    assert sorted(zarr_harness.source.read_listings) == [
        "a current",
        f"zarr/z {zarr_harness.source.zarrs['z'].checksum}",
    ]
    zarr_harness.source.zarrs["z"].error = CONTRADICTED
    for _ in range(2):
        result = zarr_harness.sync(deep=True)["box:a"]
        assert (result.exit_code, result.visit) == (1, "partial")
        assert "box:zarr/z" in result.message
    assert zarr_harness.refs() == refs
    events = [one.local_id for one in zarr_harness.entries(EventRaised) if one.kind == "incident"]
    assert events == ["zarr/z" if chunks == 9 else "a"]


def test_the_memo_of_a_zarr_makes_a_deep_visit_of_it_cheap(zarr_harness: ScriptedHarness) -> None:
    zarr_harness.source.zarrs = {"z": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    zarr_harness.sync()
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync(deep=True)["box:a"].status == "notneeded"
    assert zarr_harness.source.read_listings == ["a current"]


def test_earlier_states_of_a_zarr_come_before_the_current_one(
    zarr_harness: ScriptedHarness,
) -> None:
    past = {at(-9): files("0"), at(-6): {}, at(-3): files("0", "1", modified=at(-3))}
    zarr_harness.source.zarrs = {"z": scripted_zarr(9, earlier_states=past)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    result = zarr_harness.sync(history=True)["box:a"]
    assert (result.visit, "3 new states of its Zarrs" in result.message) == ("full", True)
    checksum = zarr_harness.source.zarrs["z"].checksum
    *past_labels, last = version_labels(zarr_harness, "box:zarr/z")
    assert [label[:19] for label in past_labels] == ["2024-03-01T120000Z-", "2024-03-01T115700Z-"]
    assert last == checksum
    assert parts(zarr_harness)["z.zarr"].label == checksum
    repeated = zarr_harness.sync(history=True)["box:a"]
    assert repeated.status == "notneeded"
    assert len(version_labels(zarr_harness, "box:zarr/z")) == 3
    # changes between two visits
    zarr_harness.source.zarrs["z"].earlier_states[at(0)] = dict(
        zarr_harness.source.zarrs["z"].files
    )
    zarr_harness.source.zarrs["z"].earlier_states[at(5)] = {
        **zarr_harness.source.zarrs["z"].files,
        "0": ScriptedFile(b"five", at(5)),
    }
    zarr_harness.source.zarrs["z"].files["0"] = ScriptedFile(b"seven", at(7))
    assert zarr_harness.sync(history=True)["box:a"].visit == "full"
    labels = version_labels(zarr_harness, "box:zarr/z")
    assert [labels[2], labels[4]] == [checksum, zarr_harness.source.zarrs["z"].checksum]
    assert labels[3].startswith("2024-03-01T120500Z-")
    zarr_harness.fsck()


def test_a_zarr_is_synced_only_with_the_dataset_that_holds_it(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"l": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"l.zarr": "l"})
    zarr_harness.sync()
    with pytest.raises(ConfigurationError, match="box:a"):
        zarr_harness.sync("box:zarr/l")
