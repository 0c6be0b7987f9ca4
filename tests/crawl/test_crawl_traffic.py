"""Traffic is recorded with each visit, and reported for the whole run at its end."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests, rebuild_index
from neuromirror.model import Traffic, VisitEnded, load_traffic, total_traffic
from neuromirror_demo import DemoArchive
from support.embargo_harness import NAME, EmbargoHarness
from support.index_dump import dump_index
from support.mirror_harness import MirrorHarness


@pytest.fixture
def demo(two_dandisets: DemoArchive) -> DemoArchive:
    """An archive of three dandisets instead of the demo's."""
    two_dandisets.make_dandisets(1)
    return two_dandisets


def run(
    mirror_harness: MirrorHarness, *names: str, **options
) -> tuple[dict, Mapping[str, Traffic]]:
    """Return the results by dataset, and the traffic of the mirror by host."""
    store = mirror_harness.store
    sync = Sync(store, store.index_path, **options)
    requests = parse_sync_requests(names, load_mirrors(mirror_harness.mirrors))
    results = {result.dataset: result for result in sync.results(requests)}
    return results, sync.traffic()["demo"]


def api(demo: DemoArchive) -> str:
    return urlsplit(demo.api_url).netloc


def s3(demo: DemoArchive) -> str:
    return urlsplit(demo.s3_url).netloc


def test_every_request_is_counted_for_a_visit_or_for_the_run(
    demo: DemoArchive, mirror_harness: MirrorHarness
) -> None:
    demo.clear_requests()
    results, traffic = run(mirror_harness)
    assert traffic[api(demo)].requests == len(demo.requests)
    assert traffic[s3(demo)].requests == len(demo.s3_requests)
    assert traffic[api(demo)].bytes > 1_000
    visits = [total_traffic(result.traffic).requests for result in results.values()]
    beside = sum(request.split()[1].startswith("/api/dandisets/?") for request in demo.requests)
    assert min(visits) > 1
    assert sum(visits) == total_traffic(traffic).requests - beside


def test_a_visit_is_recorded_with_its_traffic(
    demo: DemoArchive, mirror_harness: MirrorHarness
) -> None:
    demo.fault("status", path="/000002/versions/$", status=429, times=1)
    results, _ = run(mirror_harness)
    entries = {f"{one.mirror}:{one.local_id}": one for one in mirror_harness.entries(VisitEnded)}
    assert len(entries) == len(results)
    with mirror_harness.index() as index:
        for name, result in results.items():
            assert load_traffic(entries[name].traffic) == result.traffic
            (row,) = index.crawl.visits(name)
            assert row.traffic == result.traffic
        before = dump_index(index)
    slowed = results["demo:000002"].traffic[api(demo)]
    assert (slowed.throttled, slowed.retries) == (1, 1)
    assert slowed.waited > 0
    assert results["demo:000003"].traffic[api(demo)].throttled == 0
    rebuild_index(mirror_harness.store, mirror_harness.store.index_path)
    with mirror_harness.index() as index:
        assert dump_index(index) == before


def test_the_traffic_of_embargoed_datasets_is_not_revealed(embargo: EmbargoHarness) -> None:
    embargo.write_mirror_file()
    embargo.demo.clear_requests()
    printed = embargo.run("--json", "sync", NEUROMIRROR_PRIVATE_STORE=str(embargo.private))
    request_count = len(embargo.demo.requests) + len(embargo.demo.s3_requests)
    (record,) = [line for line in printed.splitlines() if NAME in line]
    assert '"traffic": {}' in record
    with embargo.index(embargo.private) as index:
        (visit,) = index.crawl.visits(NAME)
    private = total_traffic(visit.traffic).requests
    assert private > 1
    # nor in the total, which includes the private list
    assert f"neuromirror: demo: {request_count - private - 1} requests, " in printed
