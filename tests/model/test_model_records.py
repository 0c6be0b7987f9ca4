"""Records, journal entries and URLs of objects come back from their text."""

import json
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from neuromirror.model import (
    DatasetRef,
    DatasetReinstated,
    DatasetWithdrawn,
    Digest,
    EventRaised,
    FileRecord,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
    JournalEntry,
    Location,
    MirrorSeen,
    Retention,
    SnapshotEntry,
    VersionMinted,
    VisitEnded,
    dump_entry,
    dump_snapshot_entry,
    epoch,
    load_entry,
    load_snapshot_entries,
    load_snapshot_entry,
    path_to_text,
    text_to_path,
    time_label,
)
from neuromirror.model.records import plain_url, url_version_id

texts = st.text(st.characters(codec="utf-8"), max_size=20)
moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
records = st.builds(
    FileRecord,
    path=st.binary(max_size=30),
    size=st.none() | st.integers(0, 1 << 62),
    digests=st.lists(st.builds(Digest, texts, texts, texts, st.booleans()), max_size=3).map(tuple),
    locations=st.lists(st.builds(Location, texts, texts, st.none() | texts), max_size=3).map(tuple),
    part_size=st.none() | st.integers(1, 1 << 40),
    modified=st.none() | moments,
    upstream_id=st.none() | texts,
    retention=st.sampled_from(Retention),
    archived=st.none() | texts,
)


@given(path=texts, key=texts, record=records, same=st.booleans())
def test_a_snapshot_entry_comes_back_from_its_line(
    path: str, key: str, record: FileRecord, same: bool
) -> None:
    git_path = path.encode()
    if same:
        record = FileRecord(git_path, record.size, record.digests, record.locations)
    entry = SnapshotEntry(git_path, key, record)
    line = dump_snapshot_entry(entry)
    assert b"\n" not in line
    assert load_snapshot_entry(line) == entry
    assert load_snapshot_entry(line).record.evidence is record.evidence


def test_lines_come_back_in_order() -> None:
    files = [SnapshotEntry(b"%d" % n, "K", FileRecord(b"%d" % n, n)) for n in range(5)]
    assert list(load_snapshot_entries(map(dump_snapshot_entry, files))) == files


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xb2\x80", b"a\xf0\x9f", b"\x00", b"", b"a/b"])
def test_a_name_that_is_not_utf8_keeps_its_bytes(name: bytes) -> None:
    entry = SnapshotEntry(b"escaped", "K", FileRecord(name, 1))
    assert load_snapshot_entry(dump_snapshot_entry(entry)).record.path == name
    assert text_to_path(path_to_text(name)) == name


@given(name=st.binary())
def test_names_as_text_turn_back_into_the_same_bytes(name: bytes) -> None:
    assert text_to_path(path_to_text(name)) == name


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"null", b"1", b'{"git":"a"}', b'{"git":1,"key":"K"}', b"\xff{"]
)
def test_an_invalid_record_line_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        load_snapshot_entry(line)


@pytest.mark.parametrize(
    ("moment", "seconds", "label"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0, "1970-01-01T000000Z"),
        (datetime(2022, 12, 13, 10, 11, 12, tzinfo=UTC), 1670926272, "2022-12-13T101112Z"),
        (datetime(2022, 12, 13, 10, 11, 12, 999999, tzinfo=UTC), 1670926272, "2022-12-13T101112Z"),
        (datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=UTC), -1, "1969-12-31T235959Z"),
        (
            datetime(2022, 12, 13, 1, 0, 0, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            1670873400,
            "2022-12-12T193000Z",
        ),
        (
            datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            253402300799,
            "9999-12-31T235959Z",
        ),
    ],
)
def test_times_are_whole_seconds_rounded_down(moment: datetime, seconds: int, label: str) -> None:
    assert epoch(moment) == seconds
    assert time_label(moment) == label


@pytest.mark.parametrize("of", [epoch, time_label])
def test_a_time_without_a_zone_is_refused(of: object) -> None:
    with pytest.raises(ValueError, match="zone"):
        of(datetime(2022, 12, 13))  # type: ignore[operator]


def test_a_dataset_is_named_by_its_mirror_and_its_id_comes_from_upstream() -> None:
    dataset = DatasetRef(
        "bossdb", "kasthuri2015/ac4/em", "boss://api.bossdb.io/kasthuri2015/ac4/em"
    )
    assert dataset.name == "bossdb:kasthuri2015/ac4/em"
    assert dataset.alias == "bossdb--kasthuri2015--ac4--em"
    other = DatasetRef("lab", "x", dataset.source_uri)
    assert other.dataset_id == dataset.dataset_id
    dandi = DatasetRef("dandi", "000027", "https://api.dandiarchive.org/api/dandisets/000027/")
    assert dandi.dataset_id == "52c46016-01f6-5ad2-8d65-ac9dcb7f1eed"
    assert dandi.alias == "dandi--000027"


short_texts = st.text(max_size=10)
commits = st.text("0123456789abcdef", min_size=40, max_size=40) | st.just("")
values = st.none() | st.booleans() | st.integers() | short_texts
details = st.dictionaries(short_texts, values, max_size=3)
entries = st.one_of(
    st.builds(MirrorSeen, short_texts, short_texts, short_texts, short_texts),
    st.builds(HoldReleased, short_texts, short_texts, short_texts),
    st.builds(HoldLapsed, short_texts, short_texts),
    st.builds(DatasetWithdrawn, *[short_texts] * 7),
    st.builds(DatasetReinstated, *[short_texts] * 5),
    st.builds(HoldPlaced, *[short_texts] * 6, st.integers(), st.integers(), short_texts),
    st.builds(EventRaised, *[short_texts] * 5, details),
    st.builds(VisitEnded, *[short_texts] * 9, st.integers(), short_texts),
    st.builds(
        VersionMinted,
        *[short_texts] * 3,
        **dict.fromkeys(("label", "upstream", "kind", "state", "time", "title", "at"), short_texts),
        **dict.fromkeys(("commit", "tree", "annex_commit"), commits),
        **dict.fromkeys(("files", "bytes"), st.integers(0, (1 << 63) - 1)),
        exceptions=st.lists(details, max_size=2),
        evidence=st.dictionaries(short_texts, st.integers(), max_size=2),
        license=st.lists(short_texts, max_size=2),
        doi=st.none() | short_texts,
        metadata_only=st.booleans(),
    ),
)


@given(entry=entries)
def test_an_entry_comes_back_from_its_line(entry: JournalEntry) -> None:
    line = dump_entry(entry)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    assert load_entry(line) == entry
    assert load_entry(line[:-1]) == entry


def test_a_line_is_compact_json_with_sorted_keys() -> None:
    line = dump_entry(MirrorSeen("demo", "dandi", "https://é.example.org/", "2024-01-01"))
    assert line == (
        b'{"at":"2024-01-01","index_entries":null,"mirror":"demo","source":"dandi","type":"mirror",'
        b'"uri":"https://\\u00e9.example.org/"}\n'
    )


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"\n", b"{", b"[]", b"1", b"null", b"{}", b'{"type":"mirror"}', b'{"type":"what"}'),
        b'{"type":["mirror"]}',
        b'{"at":"","hold":"","by":"","type":"lapse"}',
        b"\xff\xfe",
        dump_entry(HoldLapsed("a", "b"))[:-5],
    ],
)
def test_an_invalid_entry_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        load_entry(line)


def test_data_of_an_event_may_be_left_out() -> None:
    line = json.loads(dump_entry(EventRaised("m", "l", "incident", "x", "t")))
    del line["data"]
    assert load_entry(json.dumps(line).encode()) == EventRaised("m", "l", "incident", "x", "t")


def test_a_visit_recorded_before_requests_were_counted_has_no_traffic() -> None:
    visit = VisitEnded("m", "l", "u", "v", "", "t", "t", "full", "", 0, "", {"h": {"requests": 2}})
    line = json.loads(dump_entry(visit))
    assert load_entry(json.dumps(line).encode()) == visit
    del line["traffic"]
    assert load_entry(json.dumps(line).encode()) == replace(visit, traffic={})


_URL = "https://bucket.s3.amazonaws.com/a%20b/c"


@pytest.mark.parametrize("version_id", ["abc", "a+b/c=", "é", "null"])
def test_a_version_id_is_read_as_it_was_written(version_id: str) -> None:
    url = f"{_URL}?versionId={quote(version_id, safe='')}"
    assert url_version_id(url) == version_id
    assert url_version_id(f"{url}&partNumber=1") == version_id
    assert plain_url(url) == _URL


@pytest.mark.parametrize(
    "url", [_URL, f"{_URL}?versionId=", f"{_URL}?xversionId=a", f"{_URL}#?versionId=a"]
)
def test_a_url_without_a_version_id_has_none(url: str) -> None:
    assert url_version_id(url) is None
