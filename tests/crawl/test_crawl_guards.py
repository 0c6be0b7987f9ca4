"""Listings that are not believed, held, or contradict themselves."""

from __future__ import annotations

import pytest
from crawl_place import Place

from neuromirror.crawl import recording, release
from neuromirror.model import ConfigurationError
from neuromirror_demo import DemoArchive

FILES = 40


@pytest.fixture
def many(demo: DemoArchive) -> DemoArchive:
    """The demo with a dandiset of many files."""
    demo.make_many("000007", FILES)
    return demo


def released(place: Place, hold: str) -> str:
    store = place.store
    with recording(store, store.index_path) as recorder:
        return release(recorder, hold)


def remove(demo: DemoArchive, count: int) -> None:
    for path in demo.paths("000007")[:count]:
        demo.remove_file("000007", path)


def test_a_listing_that_loses_many_files_is_held_until_released(
    place: Place, many: DemoArchive
) -> None:
    place.sync("demo:000007")
    refs = place.refs()
    remove(many, 11)
    result = place.sync("demo:000007")["demo:000007"]
    assert (result.visit, result.exit_code) == ("held", 3)
    assert place.refs() == refs
    with place.index() as index:
        (hold,) = index.open_holds()
    assert (hold.removed, hold.before) == (11, FILES)
    many.clear_requests()
    assert place.sync("demo:000007")["demo:000007"].exit_code == 3
    assert many.count_requests("/assets/") == 0
    with pytest.raises(ConfigurationError, match="no open hold"):
        released(place, "feedbeef")
    assert released(place, hold.hold) == "demo:000007"
    result = place.sync("demo:000007")["demo:000007"]
    assert (result.status, result.visit) == ("ok", "full")
    with place.index() as index:
        assert index.resolve("demo:000007", "draft").files == FILES - 11
        assert not list(index.open_holds())


def test_a_released_hold_lets_through_only_what_was_held(place: Place, many: DemoArchive) -> None:
    place.sync("demo:000007")
    remove(many, 11)
    place.sync("demo:000007")
    with place.index() as index:
        (hold,) = index.open_holds()
    released(place, hold.hold)
    remove(many, 20)
    assert place.sync("demo:000007")["demo:000007"].visit == "held"


def test_a_hold_lapses_when_upstream_has_the_files_again(place: Place, many: DemoArchive) -> None:
    place.sync("demo:000007")
    paths = many.paths("000007")[:11]
    remove(many, 11)
    assert place.sync("demo:000007")["demo:000007"].visit == "held"
    for path in paths:
        many.add_file("000007", path, b"back again")
    assert place.sync("demo:000007")["demo:000007"].visit == "full"
    with place.index() as index:
        assert not list(index.open_holds())


def test_a_few_files_may_go_without_asking(place: Place, many: DemoArchive) -> None:
    place.sync("demo:000007")
    remove(many, 10)
    assert place.sync("demo:000007")["demo:000007"].visit == "full"


def test_an_emptied_draft_is_held(place: Place, demo: DemoArchive) -> None:
    place.sync("demo:000008")
    for path in demo.paths("000008"):
        demo.remove_file("000008", path)
    assert place.sync("demo:000008")["demo:000008"].visit == "held"


def files_of(place: Place) -> set[str]:
    """The files of the store but for the notes that super-datasets wait for the failed visit."""
    return {name for name in place.content() if "/postponed/" not in name}


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("lost_page", {}),
        ("next_null", {}),
        ("duplicate_rows", {}),
        ("empty_list", {}),
        ("cut", {}),
        ("html", {"path": "/assets/"}),
        ("status", {"path": "/assets/", "status": 404}),
        ("status", {"path": "/assets/", "status": 403}),
    ],
)
def test_a_listing_that_cannot_be_whole_changes_nothing(
    place: Place, demo: DemoArchive, fault: str, options: dict[str, object]
) -> None:
    mirror = demo.mirrors / "demo.toml"
    mirror.write_text(mirror.read_text() + "page_size = 2\n")
    place.sync()
    refs, files = place.refs(), files_of(place)
    demo.add_file("000001", "new.txt", b"new")
    with demo.fault(fault, **options):
        results = place.sync()
    assert results["demo:000001"].status == "error"
    assert results["demo:000001"].visit == "failed"
    assert "\n" not in results["demo:000001"].message
    assert place.refs() == refs
    assert files_of(place) == files
    assert place.sync()["demo:000001"].status == "ok"


def test_files_that_come_and_go_while_listing_are_listed_again(
    place: Place, demo: DemoArchive
) -> None:
    with demo.fault("mutate_while_listing", path=r"/000001/versions/draft/assets/$") as fault:
        result = place.sync("demo:000001")["demo:000001"]
    assert fault.struck
    assert result.visit == "full"
    with place.index() as index:
        files = [one.path for one in index.files(index.resolve("demo:000001"))]
    assert files == sorted(demo.paths("000001"))


def test_one_failing_dandiset_does_not_stop_the_others(place: Place, demo: DemoArchive) -> None:
    with demo.fault("status", path="/dandisets/000002/", status=500):
        results = place.sync()
    assert results["demo:000002"].exit_code == 1
    assert results["demo:000001"].status == "ok"
    assert place.sync()["demo:000002"].status == "ok"


def test_an_emptied_archive_list_is_not_believed(place: Place, demo: DemoArchive) -> None:
    place.sync()
    refs = place.refs()
    with demo.fault("empty_list", path=r"^/api/dandisets/$"):
        results = place.sync()
    assert all(one.exit_code == 1 for one in results.values())
    assert results
    assert place.refs() == refs
    with place.index() as index:
        assert not list(index.events(kind="tombstone"))


def test_a_published_version_that_changes_is_an_incident(place: Place, demo: DemoArchive) -> None:
    place.sync()
    refs = place.refs()
    with place.index() as index:
        first = next(index.versions("demo:000002"))
    demo.tamper_published("000002", first.label, demo.paths("000002", first.label)[0])
    result = place.sync(deep=True)["demo:000002"]
    assert (result.status, result.visit) == ("error", "partial")
    for name in ("published", "tags/" + first.label):
        assert [v for k, v in place.refs().items() if k.endswith(name)] == [
            v for k, v in refs.items() if k.endswith(name)
        ]
    with place.index() as index:
        events = list(index.events("demo:000002"))
    assert {one.kind for one in events} == {"incident"}
    assert any(first.label in one.message for one in events)
    place.sync("demo:000002", deep=True)
    with place.index() as index:
        assert list(index.events("demo:000002")) == events


def test_a_known_incident_with_a_published_version_fails_no_further_run(
    place: Place, demo: DemoArchive
) -> None:
    place.sync("demo:000002")
    with place.index() as index:
        first = next(index.versions("demo:000002"))
    (gone,) = set(demo.paths("000002", first.label)) - set(demo.paths("000002"))
    demo.tamper_published("000002", first.label, gone)
    assert place.sync("demo:000002", deep=True)["demo:000002"].exit_code == 1
    again = place.sync("demo:000002", deep=True)["demo:000002"]
    assert again.exit_code == 0
    assert f"known incident: published version {first.label}" in again.message


def test_an_asset_id_with_other_bytes_is_an_incident_and_the_old_state_stays(
    place: Place, demo: DemoArchive
) -> None:
    place.sync("demo:000008")
    refs = place.refs()
    path = demo.paths("000008")[0]
    demo.tamper_published("000008", "draft", path)
    result = place.sync("demo:000008")["demo:000008"]
    assert (result.status, result.visit) == ("error", "partial")
    assert path in result.message
    heads = [name for name in refs if "demo--000008" in name]
    assert {name: place.refs()[name] for name in heads} == {name: refs[name] for name in heads}
