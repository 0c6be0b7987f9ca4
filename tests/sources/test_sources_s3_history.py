"""Earlier states of a prefix, and discovery with DocDB."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from neuromirror.model import Retention, VersionKind
from neuromirror.net import ObjectRow
from neuromirror.sources import DatasetNotFoundError
from neuromirror.sources.s3.history import burst_ends, moment_of, state_at, upstream_name
from support.moto_buckets import Bucket, Buckets, moto_server
from support.visit_context import EMPTY_CONTEXT, FakeVisitContext

T0 = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    with moto_server() as running:
        yield running


def put(bucket: Bucket, key: str, hours: float, data: bytes | None) -> None:
    """Write or delete an object at a given time."""
    if data is None:
        bucket.delete(key)
    else:
        bucket.put(key, data)
    bucket.set_time(key, T0 + hours * HOUR)


@pytest.fixture
def lived_in(buckets: Buckets) -> Bucket:
    """A prefix with added, overwritten, deleted and restored objects."""
    bucket = buckets.make(versioned=True)
    put(bucket, "a/1", 0, b"one")
    put(bucket, "a/2", 0.5, b"two")
    put(bucket, "a/2", 10, b"TWO")
    put(bucket, "a/1", 20, None)
    put(bucket, "a/1", 30, b"one again")
    put(bucket, "a/subject.json", 30.1, b'{"subject_id": "7"}')
    put(bucket, "a/3", 40, b"three")
    put(bucket, "a/4", 40.9, b"four")
    return bucket


def states_of(source, workspace=None, since=None):
    states = []
    for version in source.history(source.dataset("a"), since):
        known = EMPTY_CONTEXT if workspace is None else FakeVisitContext(workspace=workspace)
        listing = source.listing(version, known)
        entries = {entry.path: entry for entry in listing.entries()}
        assert listing.confirm_version() == version
        states.append((version, entries, listing))
    return states


def bytes_of(source, entry):
    key = b"a/" + entry.path
    return source.bucket.read(key, version_id=entry.upstream_id, limit=100)


def test_each_burst_of_changes_was_a_state(lived_in, tmp_path):
    source = lived_in.source()
    states = states_of(source, tmp_path)
    assert [version.time for version, _, _ in states] == [
        T0 + hours * HOUR for hours in (0.5, 10, 20, 30.1)
    ]
    assert [version.upstream for version, _, _ in states][1] == "at 2024-05-01T22:00:00Z"
    assert {version.kind for version, _, _ in states} == {VersionKind.OBSERVED}
    contents = [
        {path: bytes_of(source, entry) for path, entry in entries.items()}
        for _, entries, _ in states
    ]
    assert contents == [
        {b"1": b"one", b"2": b"two"},
        {b"1": b"one", b"2": b"TWO"},
        {b"2": b"TWO"},
        {b"1": b"one again", b"2": b"TWO", b"subject.json": b'{"subject_id": "7"}'},
    ]
    assert list(tmp_path.glob("at-*")) == []


def test_a_state_of_the_past_has_versions_and_no_memo(lived_in):
    source = lived_in.source(layout="aind")
    _, entries, listing = states_of(source)[-1]
    assert set(entries) == {b"1", b"2"}
    for entry in entries.values():
        assert entry.retention is Retention.VERSIONED_BUCKET
        # not the key, because other bytes under it were other versions
        assert entry.upstream_id == entry.locations[0].version_id
    assert [document.content for document in listing.documents] == [b'{"subject_id": "7"}']
    assert ("subject", "7") in listing.facts.attributes
    assert listing.memo() is None
    assert not listing.is_unchanged()
    assert not listing.can_find_present


def test_history_starts_after_the_given_time(lived_in):
    source = lived_in.source()
    assert [v.time for v, _, _ in states_of(source, since=T0 + 10 * HOUR)] == [
        T0 + 20 * HOUR,
        T0 + 30.1 * HOUR,
    ]


def test_the_gap_between_states_is_the_operators(lived_in):
    source = lived_in.source(history_gap_minutes=11 * 60)
    assert source.history(source.dataset("a"), None) == []
    source = lived_in.source(history_gap_minutes=1)
    assert len(source.history(source.dataset("a"), None)) == 7


def test_a_bucket_without_versions_has_no_history(buckets):
    bucket = buckets.make()
    put(bucket, "a/1", 0, b"one")
    put(bucket, "a/2", 10, b"two")
    source = bucket.source()
    assert source.history(source.dataset("a"), None) == []


def test_states_before_the_first_version_id_are_left_out(buckets):
    bucket = buckets.make()
    put(bucket, "a/1", 0, b"one")
    put(bucket, "a/2", 10, b"two")
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
    )
    put(bucket, "a/3", 20, b"three")
    put(bucket, "a/1", 30, b"ONE")
    source = bucket.source()
    ((version, entries, _),) = states_of(source)
    assert version.time == T0 + 20 * HOUR
    assert set(entries) == {b"1", b"2", b"3"}
    assert bytes_of(source, entries[b"1"]) == b"one"
    # and can be overwritten while versioning is suspended
    assert entries[b"1"].locations[0].version_id is None
    assert entries[b"1"].retention is Retention.MUTABLE_BUCKET
    assert entries[b"3"].retention is Retention.VERSIONED_BUCKET


def row(key: bytes, hours: float, *, deleted: bool = False, version: str | None = "v") -> ObjectRow:
    return ObjectRow(key, 1, "e", T0 + hours * HOUR, version, deleted=deleted)


def test_bursts_are_the_same_in_any_order():
    rows = [row(b"a", hours / 7) for hours in (*range(10), *range(40, 50), 90)]
    expected = [T0 + hours / 7 * HOUR for hours in (9, 49, 90)]
    assert burst_ends(rows, HOUR) == burst_ends(reversed(rows), HOUR) == expected
    assert burst_ends([], HOUR) == []
    # a pause as long as the gap separates states
    assert len(burst_ends([row(b"a", 0.5), row(b"b", 1.5)], HOUR)) == 2


def test_of_two_versions_of_a_second_the_first_listed_is_newer(tmp_path):
    rows = [row(b"a", 1, deleted=True), row(b"a", 1), row(b"b", 1), row(b"b", 1, deleted=True)]
    assert [one.key for one in state_at(rows, T0 + HOUR, tmp_path)] == [b"b"]


def test_a_moment_comes_back_from_its_name():
    moment = T0 + timedelta(microseconds=123000)
    assert moment_of(upstream_name(moment)) == moment
    assert moment_of("current") is None


# --- DocDB


class DocDb:
    """Serves the records a few at a time, whatever limit is requested."""

    def __init__(self, server: HTTPServer, bucket: str, most: int = 2) -> None:
        self.rows: list[Any] = []
        self.queries: list[dict[str, Any]] = []
        self.bucket = bucket
        self._most = most
        server.expect_request("/v2/metadata_index/data_assets/find").respond_with_handler(
            self._find
        )
        self.url = server.url_for("/v2/metadata_index/data_assets/find")

    def add(self, name: str, **fields: Any) -> None:
        self.rows.append(
            {"_id": str(len(self.rows)), "location": f"s3://{self.bucket}/{name}", **fields}
        )

    def _find(self, request: Request) -> Response:
        location_filter = json.loads(request.args["filter"])["location"]
        self.queries.append(location_filter)
        if "$in" in location_filter:
            records = [one for one in self.rows if isinstance(one, dict)]
            rows = [record for record in records if record["location"] in location_filter["$in"]]
        else:
            rows = self.rows
        skip = int(request.args["skip"])
        return Response(json.dumps(rows[skip : skip + self._most]), mimetype="application/json")


@pytest.fixture
def assets(buckets: Buckets) -> Bucket:
    bucket = buckets.make()
    bucket.put_all("a/1", "b/1", "c/1", "d/1")
    return bucket


@pytest.fixture
def docdb(httpserver: HTTPServer, assets: Bucket) -> DocDb:
    return DocDb(httpserver, assets.name)


def hints_of(source):
    return {hint.dataset.local_id: hint for hint in source.datasets()}


def test_docdb_changes_are_read_page_by_page(assets, docdb):
    docdb.add("a", last_modified="2024-01-01T00:00:00")
    docdb.add("b/", _last_modified="2024-02-02T00:00:00")
    docdb.add("c", status="without a time")
    docdb.rows.append({"location": None})
    docdb.rows.append({"location": "s3://another/a", "last_modified": "2030-01-01"})
    docdb.rows.append("no record")
    source = assets.source(docdb=docdb.url)
    before = hints_of(source)
    assert [one for one in before if one.startswith("==")] == []
    fingerprints = {name: hint.fingerprint for name, hint in before.items()}
    assert fingerprints["a"] is not None
    assert fingerprints["a"].startswith("2024-01-01T00:00:00 ")
    assert fingerprints["b"] is not None
    assert fingerprints["c"] is None
    # datasets unknown to DocDB are always visited
    assert fingerprints["d"] is None
    for name, hint in before.items():
        assert source.hint(source.dataset(name)) == hint
    docdb.rows[0]["last_modified"] = "2024-03-03T00:00:00"
    after = hints_of(source)
    assert after["a"].fingerprint != before["a"].fingerprint
    assert after["b"] == before["b"]
    # other options may give other records, so unchanged datasets are visited
    other = hints_of(assets.source(docdb=docdb.url, layout="aind"))
    assert other["b"].fingerprint != before["b"].fingerprint


def test_docdb_does_not_decide_which_datasets_exist(assets, docdb):
    docdb.add("a", last_modified="2024")
    for number in range(7):
        docdb.add(f"lost-{number}", last_modified="2024")
    docdb.add("tmp", last_modified="2024")
    source = assets.source(docdb=docdb.url, exclude=["tmp"])
    hints = hints_of(source)
    assert set(hints) == {"a", "b", "c", "d", "==docdb"}
    notice = hints["==docdb"].unavailable
    assert notice is not None
    assert "(7)" in notice
    assert notice.endswith(": lost-0, lost-1, lost-2, lost-3, lost-4 and 2 more")
    with pytest.raises(DatasetNotFoundError):
        source.hint(source.dataset("lost-1"))


def test_discovery_continues_without_docdb_and_reports_it(assets, httpserver):
    httpserver.expect_request("/find").respond_with_data("<p>down", status=503)
    source = assets.source(docdb=httpserver.url_for("/find"))
    hints = hints_of(source)
    notice = hints.pop("==docdb").unavailable
    assert notice is not None
    assert "503" in notice
    assert {hint.fingerprint for hint in hints.values()} == {None}
    assert set(hints) == {"a", "b", "c", "d"}
    assert source.hint(source.dataset("a")).fingerprint is None


@pytest.mark.parametrize("reply", ['{"error": "no"}', "[1", "null"])
def test_malformed_replies_of_docdb_are_reported(assets, httpserver, reply):
    httpserver.expect_request("/find").respond_with_data(reply, mimetype="application/json")
    hints = hints_of(assets.source(docdb=httpserver.url_for("/find")))
    assert hints["==docdb"].unavailable is not None
    assert hints["a"].unavailable is None
