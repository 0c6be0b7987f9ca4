"""Words and pictures that pages are made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from neuromirror.index import Answers
from neuromirror.web.pages.downloads import verified
from neuromirror.web.pages.drawing import growth
from neuromirror.web.pages.viewers import is_public
from neuromirror.web.words import ago, counted, file_kind, printable_lines


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (5, "just now"),
        (60, "1 minute ago"),
        (7_300, "2 hours ago"),
        (86_400 * 6, "6 days ago"),
        (86_400 * 15, "2 weeks ago"),
    ],
)
def test_a_time_is_told_by_how_long_ago_it_was(seconds: int, words: str) -> None:
    assert ago(datetime.now(UTC) - timedelta(seconds=seconds)) == words


def test_a_time_long_ago_is_told_by_its_day_and_none_as_never() -> None:
    assert ago("2024-03-01T12:00:00+00:00") == "on 2024-03-01"
    assert ago(None) == "never"


def test_one_is_told_otherwise_than_many() -> None:
    assert counted(1, "file") == "1 file"
    assert counted(1200, "file") == "1,200 files"
    assert counted(2, "listing is", "listings are") == "2 listings are"


def test_lines_stay_lines_and_what_turns_text_is_escaped() -> None:
    assert printable_lines("one\ntwo\u202e\x07") == "one\ntwo\\u202e\\x07"


def test_a_file_is_called_by_the_end_of_its_name() -> None:
    assert file_kind("sub-1/a.NWB").startswith("NWB")
    assert file_kind("sub-1/a.nii.gz") == "NIfTI image, compressed"
    assert file_kind("nwb/readme") == ""


def test_the_picture_of_growth_tells_published_from_observed() -> None:
    first, second = "2024-03-01T00:00:00+00:00", "2024-03-11T00:00:00+00:00"
    drawn = growth([(second, 200, True), (first, 100, False)])
    assert drawn is not None
    (left, low, old), (right, high, new) = drawn.points
    assert (old, new) == (False, True)
    assert left < right
    assert low > high
    assert (drawn.first, drawn.last) == ("2024-03-01", "2024-03-11")
    assert (drawn.least, drawn.most) == (100, 200)
    # what stands between two versions is the size of the first
    assert drawn.line == f"M{left} {low}H{right}V{high}"
    assert growth([(first, 100, True)]) is None
    assert growth([(first, 0, True), (first, 0, True)]) is not None


def test_nothing_is_called_verified_that_was_not_asked() -> None:
    assert verified(None) == "not counted"
    assert verified(Answers(3, 0, 0, 0, None)) == "no date yet"
    assert verified(Answers(3, 3, 0, 0, None)) == "no date; hashed when mirrored"
    assert verified(Answers(3, 2, 0, 3, None)) == "no date yet"
    assert verified(Answers(0, 0, 0, 0, None)) == "no date yet"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://bucket.s3.amazonaws.com/a.nwb", True),
        ("http://bucket.s3.amazonaws.com/a.nwb", False),
        ("https://localhost/a.nwb", False),
        ("https://archive.local/a.nwb", False),
        ("https://192.168.0.1/a.nwb", False),
        ("https://[::1]/a.nwb", False),
        ("s3://bucket/a.nwb", False),
        ("https://", False),
        ("https://[bad/a.nwb", False),
    ],
)
def test_only_the_open_web_is_public(url: str, public: bool) -> None:
    assert is_public(url) is public
