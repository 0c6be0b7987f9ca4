"""Reproducing published versions from upstream: equal ids, or the differences."""

import shutil

import pytest

from neuromirror.lab import VersionIds
from neuromirror.model import ConfigurationError
from neuromirror_demo import DemoArchive
from support.lab_store import LabStore
from support.mirror_harness import run_git

TWICE = "demo:000002"


@pytest.fixture
def synced(lab: LabStore) -> LabStore:
    """A store with a dandiset of two published versions."""
    lab.mirror_harness.sync(TWICE)
    return lab


def first_file(demo: DemoArchive, version: str) -> str:
    return demo.paths("000002", version)[0]


def test_every_published_version_of_the_demo_archive_is_reproduced(still_lab: LabStore) -> None:
    with still_lab.mirror_harness.index() as index:
        rows = [
            row
            for one in index.datasets.select()
            for row in index.versions.of(one.name)
            if row.kind == "published"
        ]
    assert len(rows) >= 3
    for row in rows:
        found = still_lab.reproduce(row.name)
        assert (found.status, found.promised) == ("ok", ("commit", "tree", "state"))
        assert found.minted == found.stored == VersionIds(row.commit, row.tree, row.state)
        # a commit contains the id of its parent, so that the versions before it are minted too
        labels = still_lab.labels(row.dataset_name)
        assert found.reminted_labels == tuple(labels[: labels.index(row.label) + 1])
        assert (found.first, found.differences) == (None, None)


def test_neither_later_changes_of_the_draft_nor_bytes_in_the_bucket_matter(
    synced: LabStore, demo: DemoArchive
) -> None:
    label = synced.labels(TWICE)[-1]
    demo.set_metadata("000002", title="Another title")
    demo.add_file("000002", "new.txt", "new")
    demo.publish("000002")
    assert synced.reproduce(f"{TWICE}@{label}").status == "ok"
    # wrong bytes are for others to find
    demo.corrupt_blob("000002", first_file(demo, label), label)
    assert synced.reproduce(f"{TWICE}@{label}").status == "ok"


def test_other_bytes_under_a_published_file_are_found_and_named(
    synced: LabStore, demo: DemoArchive
) -> None:
    label = synced.labels(TWICE)[0]
    path = first_file(demo, label)
    demo.tamper_published("000002", label, path, quiet=True)
    found = synced.reproduce(f"{TWICE}@{label}")
    assert (found.status, found.first) == ("error", label)
    assert found.minted is not None
    assert {found.minted.commit, found.minted.tree, found.minted.state}.isdisjoint(
        {found.stored.commit, found.stored.tree, found.stored.state}
    )
    assert found.differences is not None
    assert (found.differences.other_bytes.count, found.differences.other_bytes.first) == (1, [path])
    assert not found.differences.added
    assert not found.differences.removed
    assert f"({path})" in found.message


def test_the_first_version_that_differs_is_named(synced: LabStore, demo: DemoArchive) -> None:
    before, after = synced.labels(TWICE)
    only_after = next(
        path
        for path in demo.paths("000002", after)
        if demo.dandisets["000002"].version(before).assets.get(path)  # type: ignore[union-attr]
        is not demo.dandisets["000002"].version(after).assets[path]  # type: ignore[union-attr]
    )
    demo.tamper_published("000002", after, only_after)
    assert synced.reproduce(f"{TWICE}@{before}").status == "ok"
    assert synced.reproduce(f"{TWICE}@{after}").first == after
    demo.tamper_published("000002", before, first_file(demo, before))
    found = synced.reproduce(f"{TWICE}@{after}")
    assert found.first == before
    assert f"first in {before}" in found.message


def test_a_commit_made_by_other_rules_is_the_only_difference(synced: LabStore) -> None:
    label = synced.labels(TWICE)[-1]
    repository = synced.mirror_harness.repository(TWICE)
    original = run_git(repository, "rev-parse", f"{label}^{{commit}}").strip()
    other = "d3de99dc58e6f00fd3de99dc58e6f00fd3de99dc"
    for old, new, message in (
        ("Mirror-Spec: 1", "Mirror-Spec: 0", "its message has 'Mirror-Spec: 0' in the store"),
        ("+0000", "+0100", "its time is"),
        ("author neuromirror", "author Somebody", "its author is"),
        ("\nparent ", f"\nparent {other}\nparent ", "its parent"),
    ):
        commit = synced.rewrite(TWICE, label, old, new)
        found = synced.reproduce(f"{TWICE}@{label}")
        assert (found.status, found.first, found.stored.commit) == ("error", label, commit)
        assert found.minted is not None
        assert (found.minted.tree, found.minted.state) == (found.stored.tree, found.stored.state)
        assert found.differences is not None
        assert len(found.differences.commit) == 1
        assert message in found.message
        run_git(repository, "update-ref", f"refs/tags/{label}", original)


def test_a_version_that_upstream_hides_or_took_back_cannot_be_minted(
    synced: LabStore, demo: DemoArchive
) -> None:
    with demo.fault("status", path="/dandisets/000002/", status=403):
        found = synced.reproduce(TWICE)
    assert (found.status, found.minted) == ("impossible", None)
    assert "embargoed" in found.message
    before, after = synced.labels(TWICE)
    del demo.dandisets["000002"].published[0]
    found = synced.reproduce(f"{TWICE}@{before}")
    assert (found.status, found.minted) == ("impossible", None)
    found = synced.reproduce(f"{TWICE}@{after}")
    assert (found.status, found.first) == ("error", before)
    # nor one of another archive
    (demo.mirrors / "demo.toml").write_text(
        'source = "dandi"\n[options]\napi = "http://127.0.0.1:9/api"\n'
    )
    with pytest.raises(ConfigurationError, match=r"demo\.toml"):
        synced.reproduce(TWICE)


def test_records_that_are_lost_are_read_back_from_git(synced: LabStore, demo: DemoArchive) -> None:
    shutil.rmtree(synced.mirror_harness.folder / "neuromirror" / "records")
    assert synced.reproduce(TWICE).status == "ok"
    label = synced.labels(TWICE)[-1]
    path = first_file(demo, label)
    demo.tamper_published("000002", label, path)
    found = synced.reproduce(f"{TWICE}@{label}").differences
    assert found is not None
    assert found.other_bytes.first == [path]
