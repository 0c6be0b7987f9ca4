"""Serialization of journal entries."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from neuromirror.model import (
    DatasetReinstated,
    DatasetWithdrawn,
    EventRaised,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
    JournalEntry,
    MirrorSeen,
    VersionMinted,
    VisitEnded,
    dump_entry,
    load_entry,
)

texts = st.text(max_size=10)
commits = st.text("0123456789abcdef", min_size=40, max_size=40) | st.just("")
values = st.none() | st.booleans() | st.integers() | texts
details = st.dictionaries(texts, values, max_size=3)
entries = st.one_of(
    st.builds(MirrorSeen, texts, texts, texts, texts),
    st.builds(HoldReleased, texts, texts, texts),
    st.builds(HoldLapsed, texts, texts),
    st.builds(DatasetWithdrawn, *[texts] * 7),
    st.builds(DatasetReinstated, *[texts] * 5),
    st.builds(HoldPlaced, *[texts] * 6, st.integers(), st.integers(), texts),
    st.builds(EventRaised, *[texts] * 5, details),
    st.builds(VisitEnded, *[texts] * 9, st.integers(), texts),
    st.builds(
        VersionMinted,
        *[texts] * 7,
        *[commits] * 3,
        texts,
        *[st.integers(0, (1 << 63) - 1)] * 2,
        st.lists(details, max_size=2),
        st.dictionaries(texts, st.integers(), max_size=2),
        texts,
        st.lists(texts, max_size=2),
        st.none() | texts,
        st.booleans(),
        texts,
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
    visit = VisitEnded("v", "m", "l", "u", "", "t", "t", "full", "", 0, "", {"h": {"requests": 2}})
    line = json.loads(dump_entry(visit))
    assert load_entry(json.dumps(line).encode()) == visit
    del line["traffic"]
    assert load_entry(json.dumps(line).encode()) == replace(visit, traffic={})
