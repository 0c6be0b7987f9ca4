"""The effects of a sync on a store, seen from outside."""

import gc
import json
from pathlib import Path

from neuromirror_demo import LATE, DemoArchive
from support.foreign_pushes import run_checked
from support.mirror_harness import MirrorHarness, run_git


def test_all_published_versions_and_the_draft_are_mirrored(mirror_harness: MirrorHarness) -> None:
    results = mirror_harness.sync("demo:000002")
    assert results["demo:000002"].status == "ok"
    repository = mirror_harness.repository("demo:000002")
    with mirror_harness.index() as index:
        rows = list(index.versions.of("demo:000002"))
    assert [row.kind for row in rows] == ["published", "published", "observed"]
    log = run_git(repository, "log", "--format=%H", "published").split()
    assert log == [rows[1].commit, rows[0].commit]
    assert run_git(repository, "rev-parse", "main").strip() == rows[2].commit
    for row in rows:
        assert run_git(repository, "rev-parse", f"refs/tags/{row.label}").strip() == row.commit
    message = run_git(repository, "log", "-1", "--format=%B", "published")
    assert f"Version: {rows[1].label}\n" in message
    assert f"State: {rows[1].state}\n" in message
    assert run_git(repository, "log", "-1", "--format=%an %ae %ct", "published").split() == [
        "neuromirror",
        "demo@neuromirror.invalid",
        run_git(repository, "log", "-1", "--format=%at", "published").strip(),
    ]
    mirror_harness.fsck()


def test_a_second_sync_makes_no_commit_and_writes_nothing(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync()
    demo.reveal_sha256("000004", LATE)
    mirror_harness.sync()
    before, refs = mirror_harness.file_digests(), mirror_harness.refs()
    demo.clear_requests()
    results = mirror_harness.sync()
    assert {result.status for result in results.values()} == {"notneeded"}
    assert mirror_harness.refs() == refs
    assert mirror_harness.file_digests() == before
    assert demo.requests == ["GET /api/dandisets/?ordering=id&page=1&page_size=1000"] or all(
        "/versions/" not in request for request in demo.requests
    )
    results = mirror_harness.sync(deep=True)
    assert {result.status for result in results.values()} == {"notneeded"}
    assert mirror_harness.file_digests() == before


def test_one_changed_dandiset_gets_commits_and_no_other(
    two_dandisets: DemoArchive, small_archive_harness: MirrorHarness
) -> None:
    small_archive_harness.sync()
    before = small_archive_harness.refs()
    two_dandisets.change_file("000001", "a.txt")
    label = two_dandisets.publish("000001")
    small_archive_harness.sync()
    after = small_archive_harness.refs()
    moved = {name.split()[0] for name in after if after[name] != before.get(name)}
    assert moved == {"demo--000001", "demo", "neuromirror"}
    with small_archive_harness.index() as index:
        digest = two_dandisets.sha256("000001", "a.txt")
        found = list(index.files.find(f"sha256:{digest}"))
        assert [(one.dataset, one.path, one.first) for one in found] == [
            ("demo:000001", "a.txt", label)
        ]
        assert any(row.label == label for row in index.versions.of("demo:000001"))


def test_a_validated_draft_makes_no_new_state(
    two_dandisets: DemoArchive, small_archive_harness: MirrorHarness
) -> None:
    small_archive_harness.sync()
    before = small_archive_harness.refs()
    two_dandisets.touch("000001")
    result = small_archive_harness.sync()["demo:000001"]
    assert (result.status, result.visit) == ("notneeded", "full")
    assert small_archive_harness.refs() == before


def test_a_late_sha256_is_recorded_as_an_upgrade(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000004")
    with mirror_harness.index() as index:
        (late,) = [
            one
            for one in index.files.of(index.versions.resolve("demo:000004", "draft"))
            if one.path == LATE
        ]
        assert late.key.startswith("XS3ETAG-")
        others = [
            one
            for one in index.files.of(index.versions.resolve("demo:000004", "draft"))
            if one.path != LATE
        ]
        assert others
        assert all(other.key.startswith("SHA256E-") for other in others)
    assert mirror_harness.sync("demo:000004")["demo:000004"].status == "notneeded"
    draft = demo.dandisets["000004"].draft
    times = (draft.assets[LATE].modified, draft.modified)
    demo.reveal_sha256("000004", LATE)
    assert (draft.assets[LATE].modified, draft.modified) == times
    assert mirror_harness.sync("demo:000004")["demo:000004"].status == "ok"
    with mirror_harness.index() as index:
        first, second = (one.label for one in index.versions.of("demo:000004"))
        assert second.startswith(first)
        row = index.versions.resolve("demo:000004", "draft")
        (upgraded,) = [one for one in index.files.of(row) if one.path == LATE]
    assert upgraded.key.startswith("SHA256E-")
    assert row.evidence == {"sha256": row.files}


def test_zarr_assets_that_are_disabled_are_named_exceptions(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    with (demo.mirrors / "demo.toml").open("a") as file:
        file.write("zarrs = false\n")
    mirror_harness.sync("demo:000005")
    with mirror_harness.index() as index:
        row = index.versions.resolve("demo:000005", "draft")
        exceptions = index.versions.exceptions(row)
    assert [exception["reason"] for exception in exceptions] == ["zarr"]
    listed = demo.paths("000005")
    assert row.files + len(exceptions) == len(listed)
    described = json.loads(
        run_git(mirror_harness.repository("demo:000005"), "show", "main:.neuromirror/dataset.json")
    )
    assert described["exceptions"] == exceptions


def test_the_tree_holds_nothing_volatile(
    mirror_harness: MirrorHarness, second_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000001")
    demo.touch("000001")
    second_harness.sync("demo:000001")
    trees = [
        run_git(one.repository("demo:000001"), "rev-parse", "main^{tree}")
        for one in (mirror_harness, second_harness)
    ]
    assert trees[0] == trees[1]


def test_a_renamed_file_keeps_its_content_and_needs_no_bytes(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000001")
    path = demo.paths("000001")[0]
    digest = demo.sha256("000001", path)
    demo.rename_file("000001", path, "moved/here.nwb")
    mirror_harness.sync("demo:000001")
    with mirror_harness.index() as index:
        here = [one for one in index.files.find(f"sha256:{digest}") if one.dataset == "demo:000001"]
    assert {(one.path, one.current) for one in here} == {(path, False), ("moved/here.nwb", True)}


def test_a_vanished_dandiset_with_a_published_version_is_an_error(
    two_dandisets: DemoArchive, small_archive_harness: MirrorHarness
) -> None:
    """An owner may delete a draft, but not a published version."""
    small_archive_harness.sync()
    assert two_dandisets.dandisets["000001"].versions
    two_dandisets.delete_dandiset("000001")
    result = small_archive_harness.sync()["demo:000001"]
    assert (result.status, result.visit, result.exit_code) == ("error", "not_found", 1)


def test_datalad_clones_the_mirror_and_reaches_a_dandiset(
    mirror_harness: MirrorHarness, tmp_path: Path, demo: DemoArchive
) -> None:
    from neuromirror_demo.walkthrough import serve_folder

    mirror_harness.sync("demo:000002")
    with mirror_harness.index() as index:
        path = demo.paths("000002", index.versions.resolve("demo:000002").label)[-1]
    with serve_folder(mirror_harness.folder) as address:
        clone = tmp_path / "clone"
        run_checked(tmp_path, "datalad", "clone", f"ria+{address}/#~demo", str(clone))
        run_checked(clone, "datalad", "get", f"000002/{path}")
        assert run_git(clone / "000002", "annex", "fsck", path).count("ok") >= 1


def test_a_run_leaves_the_garbage_collector_as_it_was(mirror_harness: MirrorHarness) -> None:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)  # as without the settings of the tests
    try:
        mirror_harness.sync("demo:000001")
        assert gc.get_threshold() == (700, 10, 10)
    finally:
        gc.set_threshold(*before)
