"""Listings that are incomplete, contradictory or suspicious."""

from typing import Any

import pytest

from neuromirror.crawl import open_recorder, release_hold
from neuromirror.model import ConfigurationError
from neuromirror_demo import DemoArchive
from neuromirror_demo.faults import Kind
from support.list_faults import and_then, duplicate_row, empty_list, lost_page, next_null
from support.mirror_harness import MirrorHarness

FILES = 40


@pytest.fixture
def archive_with_many_files(demo: DemoArchive) -> DemoArchive:
    """The demo archive with a dandiset of many files."""
    demo.make_many("000007", FILES)
    return demo


def release(mirror_harness: MirrorHarness, hold: str) -> str:
    store = mirror_harness.store
    with open_recorder(store, store.index_path) as recorder:
        return release_hold(recorder, hold)


def remove(demo: DemoArchive, count: int) -> None:
    for path in demo.paths("000007")[:count]:
        demo.remove_file("000007", path)


def test_a_listing_that_loses_many_files_is_held_until_released(
    mirror_harness: MirrorHarness, archive_with_many_files: DemoArchive
) -> None:
    mirror_harness.sync("demo:000007")
    refs = mirror_harness.refs()
    remove(archive_with_many_files, 11)
    result = mirror_harness.sync("demo:000007")["demo:000007"]
    assert (result.visit, result.exit_code) == ("held", 3)
    assert mirror_harness.refs() == refs
    with mirror_harness.index() as index:
        (hold,) = index.crawl.open_holds()
    assert (hold.files_removed, hold.files_before) == (11, FILES)
    archive_with_many_files.clear_requests()
    assert mirror_harness.sync("demo:000007")["demo:000007"].exit_code == 3
    assert archive_with_many_files.count_requests("/assets/") == 0
    with pytest.raises(ConfigurationError, match="feedbeef"):
        release(mirror_harness, "feedbeef")
    assert release(mirror_harness, hold.hold) == "demo:000007"
    result = mirror_harness.sync("demo:000007")["demo:000007"]
    assert (result.status, result.visit) == ("ok", "full")
    with mirror_harness.index() as index:
        assert index.versions.resolve("demo:000007", "draft").files == FILES - 11
        assert not list(index.crawl.open_holds())


def test_a_released_hold_approves_only_the_held_listing(
    mirror_harness: MirrorHarness, archive_with_many_files: DemoArchive
) -> None:
    mirror_harness.sync("demo:000007")
    remove(archive_with_many_files, 11)
    mirror_harness.sync("demo:000007")
    with mirror_harness.index() as index:
        (hold,) = index.crawl.open_holds()
    release(mirror_harness, hold.hold)
    remove(archive_with_many_files, 20)
    assert mirror_harness.sync("demo:000007")["demo:000007"].visit == "held"


def test_a_few_files_may_be_removed_without_a_hold(
    mirror_harness: MirrorHarness, archive_with_many_files: DemoArchive
) -> None:
    mirror_harness.sync("demo:000007")
    remove(archive_with_many_files, 10)
    assert mirror_harness.sync("demo:000007")["demo:000007"].visit == "full"


def test_an_emptied_draft_is_held(mirror_harness: MirrorHarness, demo: DemoArchive) -> None:
    mirror_harness.sync("demo:000008")
    for path in demo.paths("000008"):
        demo.remove_file("000008", path)
    assert mirror_harness.sync("demo:000008")["demo:000008"].visit == "held"


def files_of(mirror_harness: MirrorHarness) -> set[str]:
    """Return the files of the store, except for the postponements of superdatasets."""
    return {name for name in mirror_harness.file_digests() if "/postponed/" not in name}


INCOMPLETE: list[tuple[str | Kind, dict[str, Any]]] = [
    (lost_page, {"page": 1}),
    (next_null, {"page": 1}),
    (duplicate_row, {"page": 2}),
    (empty_list, {}),
    ("cut", {}),
    ("html", {"path": "/assets/"}),
    ("status", {"path": "/assets/", "status": 404}),
    ("status", {"path": "/assets/", "status": 403}),
]


def test_a_listing_that_cannot_be_whole_changes_nothing(
    mirror_harness: MirrorHarness, demo: DemoArchive, no_waits: None
) -> None:
    mirror = demo.mirrors / "demo.toml"
    mirror.write_text(mirror.read_text() + "page_size = 2\n")
    mirror_harness.sync("demo:000001")
    for number, (fault, options) in enumerate(INCOMPLETE):
        refs, files = mirror_harness.refs(), files_of(mirror_harness)
        demo.add_file("000001", f"new-{number}.txt", b"new")
        with demo.fault(fault, **options):
            result = mirror_harness.sync("demo:000001")["demo:000001"]
        assert (result.status, result.visit) == ("error", "failed"), (fault, options)
        assert "\n" not in result.message
        assert mirror_harness.refs() == refs, (fault, options)
        assert files_of(mirror_harness) == files, (fault, options)
        assert mirror_harness.sync("demo:000001")["demo:000001"].status == "ok"


def test_a_listing_during_which_files_change_is_repeated(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    def remove_one() -> None:
        demo.remove_file("000001", demo.paths("000001")[0])

    with demo.fault(and_then(remove_one), page=1, times=1) as fault:
        result = mirror_harness.sync("demo:000001")["demo:000001"]
    assert fault.struck
    assert result.visit == "full"
    with mirror_harness.index() as index:
        files = [one.path for one in index.files.of(index.versions.resolve("demo:000001"))]
    assert files == sorted(demo.paths("000001"))


def test_a_published_version_that_changes_is_an_incident(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000002")
    refs = mirror_harness.refs()
    with mirror_harness.index() as index:
        first = next(index.versions.of("demo:000002"))
    demo.tamper_published("000002", first.label, demo.paths("000002", first.label)[0])
    result = mirror_harness.sync("demo:000002", deep=True)["demo:000002"]
    assert (result.status, result.visit) == ("error", "partial")
    for name in ("published", "tags/" + first.label):
        assert [v for k, v in mirror_harness.refs().items() if k.endswith(name)] == [
            v for k, v in refs.items() if k.endswith(name)
        ]
    with mirror_harness.index() as index:
        events = list(index.crawl.events("demo:000002"))
    assert {event.kind for event in events} == {"incident"}
    assert any(first.label in event.message for event in events)
    mirror_harness.sync("demo:000002", deep=True)
    with mirror_harness.index() as index:
        assert list(index.crawl.events("demo:000002")) == events


def test_a_known_incident_with_a_published_version_fails_no_further_run(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000002")
    with mirror_harness.index() as index:
        first = next(index.versions.of("demo:000002"))
    (gone,) = set(demo.paths("000002", first.label)) - set(demo.paths("000002"))
    demo.tamper_published("000002", first.label, gone)
    assert mirror_harness.sync("demo:000002", deep=True)["demo:000002"].exit_code == 1
    repeated = mirror_harness.sync("demo:000002", deep=True)["demo:000002"]
    assert repeated.exit_code == 0
    assert f"known incident: published version {first.label}" in repeated.message


def test_an_asset_id_with_other_bytes_is_an_incident_and_the_old_state_stays(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync("demo:000008")
    refs = mirror_harness.refs()
    path = demo.paths("000008")[0]
    demo.tamper_published("000008", "draft", path)
    result = mirror_harness.sync("demo:000008")["demo:000008"]
    assert (result.status, result.visit) == ("error", "partial")
    assert path in result.message
    heads = [name for name in refs if "demo--000008" in name]
    assert {name: mirror_harness.refs()[name] for name in heads} == {
        name: refs[name] for name in heads
    }
