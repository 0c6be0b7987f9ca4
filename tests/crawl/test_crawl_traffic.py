"""What a visit asked of its archive is told with the visit, and of the whole run at its end."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest
from crawl_place import Place
from embargo_place import NAME, Embargo
from scripted import Box, Scripted, Thing, files

from neuromirror.crawl import Sync, load_mirrors, parse_requests, rebuild_index
from neuromirror.model import Traffic, VisitEnded, load_traffic, total_traffic
from neuromirror_demo import DemoArchive


def run(place: Place, *names: str, **how) -> tuple[dict, Mapping[str, Traffic]]:
    """Results by dataset, and what was asked of each host for the mirror."""
    store = place.store
    sync = Sync(store, store.index_path, **how)
    requests = parse_requests(names, load_mirrors(place.mirrors))
    results = {one.dataset: one for one in sync.results(requests)}
    return results, sync.traffic()["demo"]


def api(demo: DemoArchive) -> str:
    return urlsplit(demo.api_url).netloc


def s3(demo: DemoArchive) -> str:
    return urlsplit(demo.s3_url).netloc


def test_all_that_the_archive_was_asked_is_counted_for_a_visit_or_beside_them(
    demo: DemoArchive, place: Place
) -> None:
    demo.clear_requests()
    results, asked = run(place)
    assert asked[api(demo)].requests == len(demo.requests)
    assert asked[s3(demo)].requests == len(demo.s3_requests)
    assert asked[api(demo)].bytes > 10_000
    visits = [total_traffic(one.traffic).requests for one in results.values()]
    beside = sum(one.split()[1].startswith("/api/dandisets/?") for one in demo.requests)
    assert min(visits) > 1
    assert sum(visits) == total_traffic(asked).requests - beside


@pytest.mark.parametrize("jobs", [1, 7])
def test_each_visit_counts_its_own_requests_however_many_run(
    demo: DemoArchive, place: Place, jobs: int
) -> None:
    demo.clear_requests()
    results, _ = run(place, jobs=jobs)
    general = sum("/api/info/" in one for one in demo.requests)
    told = 0
    for name, result in results.items():
        own = sum(f"/dandisets/{name.partition(':')[2]}/" in one for one in demo.requests)
        counted = result.traffic[api(demo)].requests
        assert own <= counted <= own + general
        told += counted - own
    # a Zarr's address names no dandiset
    assert told == general + sum("/api/zarr/" in one for one in demo.requests)


def test_a_visit_is_recorded_with_what_it_asked(demo: DemoArchive, place: Place) -> None:
    demo.fault("status", path="/000002/versions/$", status=429, times=1)
    results, _ = run(place)
    entries = {f"{one.mirror}:{one.local_id}": one for one in place.entries(VisitEnded)}
    assert len(entries) == len(results)
    with place.index() as index:
        for name, result in results.items():
            assert load_traffic(entries[name].traffic) == result.traffic
            (row,) = index.visits(name)
            assert row.traffic == result.traffic
        before = list(index.dump())
    slowed = results["demo:000002"].traffic[api(demo)]
    assert (slowed.throttled, slowed.retries) == (1, 1)
    assert slowed.waited > 0
    assert results["demo:000003"].traffic[api(demo)].throttled == 0
    rebuild_index(place.store, place.store.index_path)
    with place.index() as index:
        assert list(index.dump()) == before


def test_a_visit_that_fails_is_recorded_with_what_it_asked(demo: DemoArchive, place: Place) -> None:
    demo.fault("status", path="/000001/versions/draft/info/$", status=404)
    results, _ = run(place, "demo:000001")
    assert results["demo:000001"].visit == "failed"
    (entry,) = place.entries(VisitEnded)
    assert load_traffic(entry.traffic) == results["demo:000001"].traffic
    assert results["demo:000001"].traffic[api(demo)].requests > 1


def test_a_run_that_finds_nothing_new_tells_its_requests_and_writes_nothing(
    demo: DemoArchive, place: Place
) -> None:
    demo.reveal_sha256("000004", next(iter(demo.paths("000004"))))
    run(place)
    size = place.store.journal_size()
    demo.clear_requests()
    results, asked = run(place)
    assert total_traffic(asked).requests == len(demo.requests) > 0
    skipped = [one for one in results.values() if one.message == "unchanged"]
    assert len(skipped) >= 6
    assert [one.traffic for one in skipped] == [{}] * len(skipped)
    assert place.store.journal_size() == size


def test_a_dataset_that_vanished_is_recorded_with_the_question_whether_it_did(
    demo: DemoArchive, place: Place
) -> None:
    run(place)
    demo.delete_dandiset("000003")
    results, _ = run(place)
    (gone,) = [one for one in place.entries(VisitEnded) if one.status == "not_found"]
    assert gone.traffic[api(demo)]["requests"] == 1
    assert results["demo:000003"].traffic == load_traffic(gone.traffic)


def test_a_source_that_asks_nobody_costs_nothing(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"))
    assert box.sync()["box:a"].traffic == {}
    (entry,) = box.entries(VisitEnded)
    assert entry.traffic == {}


def test_how_much_was_asked_for_what_is_under_embargo_is_not_told_of_it(embargo: Embargo) -> None:
    embargo.mirror()
    embargo.demo.clear_requests()
    printed = embargo.run("--json", "sync", NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
    asked = len(embargo.demo.requests) + len(embargo.demo.s3_requests)
    (told,) = [line for line in printed.splitlines() if NAME in line]
    assert '"traffic": {}' in told
    with embargo.index(embargo.private) as index:
        (visit,) = index.visits(NAME)
    private = total_traffic(visit.traffic).requests
    assert private > 1
    # nor in the sum, with the private list
    assert f"neuromirror: demo: {asked - private - 1} requests, " in printed
