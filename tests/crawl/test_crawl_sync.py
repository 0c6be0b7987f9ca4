"""What a sync does to a store, seen from outside."""

from __future__ import annotations

import gc
import json
import subprocess
from pathlib import Path

from crawl_place import Place, git

from neuromirror_demo import LATE, DemoArchive


def test_all_published_versions_and_the_draft_are_mirrored(place: Place) -> None:
    results = place.sync()
    assert results["demo:000002"].status == "ok"
    repository = place.repository("demo:000002")
    with place.index() as index:
        rows = list(index.versions("demo:000002"))
    assert [row.kind for row in rows] == ["published", "published", "observed"]
    log = git(repository, "log", "--format=%H", "published").split()
    assert log == [rows[1].commit, rows[0].commit]
    assert git(repository, "rev-parse", "main").strip() == rows[2].commit
    for row in rows:
        assert git(repository, "rev-parse", f"refs/tags/{row.label}").strip() == row.commit
    message = git(repository, "log", "-1", "--format=%B", "published")
    assert f"Version: {rows[1].label}\n" in message
    assert f"State: {rows[1].state}\n" in message
    assert git(repository, "log", "-1", "--format=%an %ae %ct", "published").split() == [
        "neuromirror",
        "demo@neuromirror.invalid",
        git(repository, "log", "-1", "--format=%at", "published").strip(),
    ]
    place.fsck()


def test_a_second_sync_makes_no_commit_and_writes_nothing(place: Place, demo: DemoArchive) -> None:
    place.sync()
    demo.reveal_sha256("000004", LATE)
    place.sync()
    before, refs = place.content(), place.refs()
    demo.clear_requests()
    results = place.sync()
    assert {one.status for one in results.values()} == {"notneeded"}
    assert place.refs() == refs
    assert place.content() == before
    assert demo.requests == ["GET /api/dandisets/?ordering=id&page=1&page_size=1000"] or all(
        "/versions/" not in one for one in demo.requests
    )


def test_a_deep_sync_of_unchanged_datasets_writes_nothing_either(place: Place) -> None:
    place.sync()
    before = place.content()
    results = place.sync(deep=True)
    assert {one.status for one in results.values()} == {"notneeded"}
    assert place.content() == before


def test_one_changed_dandiset_gets_commits_and_no_other(place: Place, demo: DemoArchive) -> None:
    place.sync()
    before = place.refs()
    path = demo.paths("000008")[0]
    demo.change_file("000008", path)
    label = demo.publish("000008")
    place.sync()
    after = place.refs()
    moved = {name.split()[0] for name in after if after[name] != before.get(name)}
    assert moved == {"demo--000008", "demo", "neuromirror"}
    with place.index() as index:
        digest = demo.sha256("000008", path)
        found = list(index.find(f"sha256:{digest}"))
        assert [(one.dataset, one.path, one.first) for one in found] == [
            ("demo:000008", path, label)
        ]
        assert any(row.label == label for row in index.versions("demo:000008"))


def test_a_validated_draft_makes_no_new_state(place: Place, demo: DemoArchive) -> None:
    place.sync()
    before = place.refs()
    demo.touch("000001")
    result = place.sync()["demo:000001"]
    assert (result.status, result.visit) == ("notneeded", "full")
    assert place.refs() == before


def test_a_late_sha256_is_recorded_as_an_upgrade(place: Place, demo: DemoArchive) -> None:
    place.sync()
    with place.index() as index:
        (late,) = [
            one for one in index.files(index.resolve("demo:000004", "draft")) if one.path == LATE
        ]
        assert late.key.startswith("XS3ETAG-")
        others = [
            one for one in index.files(index.resolve("demo:000004", "draft")) if one.path != LATE
        ]
        assert others
        assert all(one.key.startswith("SHA256E-") for one in others)
    assert place.sync()["demo:000004"].status == "notneeded"
    demo.reveal_sha256("000004", LATE)
    assert place.sync()["demo:000004"].status == "ok"
    with place.index() as index:
        row = index.resolve("demo:000004", "draft")
        (upgraded,) = [one for one in index.files(row) if one.path == LATE]
    assert upgraded.key.startswith("SHA256E-")
    assert row.evidence == {"sha256": row.files}


def test_zarr_assets_that_are_not_wanted_are_named(place: Place, demo: DemoArchive) -> None:
    with (demo.mirrors / "demo.toml").open("a") as file:
        file.write("zarrs = false\n")
    place.sync()
    with place.index() as index:
        row = index.resolve("demo:000005", "draft")
        exceptions = index.exceptions(row)
    assert [one["reason"] for one in exceptions] == ["zarr"]
    listed = demo.paths("000005")
    assert row.files + len(exceptions) == len(listed)
    described = json.loads(
        git(place.repository("demo:000005"), "show", "main:.neuromirror/dataset.json")
    )
    assert described["exceptions"] == exceptions


def test_the_tree_holds_nothing_volatile(place: Place, another: Place, demo: DemoArchive) -> None:
    place.sync("demo:000001")
    demo.touch("000001")
    another.sync("demo:000001")
    trees = [
        git(one.repository("demo:000001"), "rev-parse", "main^{tree}") for one in (place, another)
    ]
    assert trees[0] == trees[1]


def test_a_renamed_file_keeps_its_content_and_needs_no_bytes(
    place: Place, demo: DemoArchive
) -> None:
    place.sync("demo:000001")
    path = demo.paths("000001")[0]
    digest = demo.sha256("000001", path)
    demo.rename_file("000001", path, "moved/here.nwb")
    place.sync("demo:000001")
    with place.index() as index:
        here = [one for one in index.find(f"sha256:{digest}") if one.dataset == "demo:000001"]
    assert {(one.path, one.current) for one in here} == {(path, False), ("moved/here.nwb", True)}


def test_a_vanished_dandiset_gets_a_tombstone_and_keeps_its_repository(
    place: Place, demo: DemoArchive
) -> None:
    place.sync()
    refs = place.refs()
    demo.delete_dandiset("000003")
    result = place.sync()["demo:000003"]
    assert (result.status, result.visit, result.exit_code) == ("ok", "not_found", 0)
    assert {k: v for k, v in place.refs().items() if "000003" in k} == {
        k: v for k, v in refs.items() if "000003" in k
    }
    with place.index() as index:
        assert [one.kind for one in index.events("demo:000003")] == ["tombstone"]
    assert "demo:000003" not in place.sync()


def test_a_vanished_dandiset_with_a_published_version_is_an_error(
    place: Place, demo: DemoArchive
) -> None:
    """An owner may delete a draft, and nobody a published version."""
    place.sync()
    assert demo.dandisets["000002"].versions
    demo.delete_dandiset("000002")
    result = place.sync()["demo:000002"]
    assert (result.status, result.visit, result.exit_code) == ("error", "not_found", 1)


def test_datalad_clones_the_mirror_and_gets_down_into_a_dandiset(
    place: Place, tmp_path: Path, demo: DemoArchive
) -> None:
    from neuromirror_demo.walk import serve_folder

    place.sync()
    with place.index() as index:
        path = demo.paths("000002", index.resolve("demo:000002").label)[-1]
    with serve_folder(place.folder) as address:
        clone = tmp_path / "clone"
        datalad("clone", f"ria+{address}/#~demo", str(clone))
        datalad("-C", str(clone), "get", "-n", "000002")
        datalad("-C", str(clone / "000002"), "get", path)
        assert git(clone / "000002", "annex", "fsck", path).count("ok") >= 1
        tagged = tmp_path / "tagged"
        with place.index() as index:
            first = next(index.versions("demo:000002"))
        datalad("clone", f"ria+{address}/#~demo--000002@{first.label}", str(tagged))
        assert git(tagged, "rev-parse", "HEAD").strip() == first.commit
        plain = tmp_path / "plain"
        datalad("clone", f"{address}/alias/demo--000002", str(plain))
        assert git(plain, "status", "--porcelain") == ""


def datalad(*arguments: str) -> None:
    done = subprocess.run(["datalad", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_leaves_the_garbage_collector_as_it_was(place: Place) -> None:
    before = gc.get_threshold()
    place.sync()
    assert gc.get_threshold() == before
