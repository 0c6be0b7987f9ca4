"""Words and pictures that pages are made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from neuromirror.web.pages.dataset import growth_chart
from neuromirror.web.pages.folders import is_public
from neuromirror.web.rendering import format_age


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "just now"),
        (60, "1 minute ago"),
        (7_300, "2 hours ago"),
        (86_400 * 6, "6 days ago"),
        (86_400 * 15, "2 weeks ago"),
    ],
)
def test_recent_time_is_shown_as_age_and_an_old_one_as_date(seconds: int, text: str) -> None:
    assert format_age(datetime.now(UTC) - timedelta(seconds=seconds)) == text
    assert format_age("2024-03-01T12:00:00+00:00") == "on 2024-03-01"
    assert format_age(None) == "never"


def test_growth_chart_marks_published_and_observed() -> None:
    first, second = "2024-03-01T00:00:00+00:00", "2024-03-11T00:00:00+00:00"
    drawn = growth_chart([(second, 200, True), (first, 100, False)])
    assert drawn is not None
    (left, low, old), (right, high, new) = drawn.points
    assert (old, new) == (False, True)
    assert left < right
    assert low > high
    assert (drawn.first, drawn.last) == ("2024-03-01", "2024-03-11")
    assert (drawn.minimum, drawn.maximum) == (100, 200)
    # what stands between two versions is the size of the first
    assert drawn.line == f"M{left} {low}H{right}V{high}"
    assert growth_chart([(first, 100, True)]) is None
    assert growth_chart([(first, 0, True), (first, 0, True)]) is not None
    drawn = growth_chart([("2024-03-01T10:00:00Z", 1, True), ("2024-03-01T11:30:00Z", 2, True)])
    assert drawn is not None
    assert (drawn.first, drawn.last) == ("2024-03-01 10:00 UTC", "2024-03-01 11:30 UTC")


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
