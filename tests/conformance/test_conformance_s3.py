"""Findings for each deviation of a bucket from the S3 API."""

from __future__ import annotations

from typing import Any

import pytest

from neuromirror.conformance import ConformanceReport, check_archive, open_archive, suite
from support.nonconforming_bucket import nonconforming_bucket


def check_bucket(endpoint: str) -> ConformanceReport:
    kind, source = open_archive(f"{endpoint}/odd")
    assert kind == "s3"
    return check_archive(source, "odd", kind)


def statuses(report: ConformanceReport) -> dict[str, str]:
    return {one.rule.removeprefix("s3."): one.status for one in report.findings}


EXPECTED_STATUSES = {
    "listing": "ok",
    "listing-order": "ok",
    "page-size": "ok",
    "start-after": "ok",
    "continuation-token": "ok",
    "versions-listed": "limited",
    "versions-read": "limited",
    "sizes": "ok",
    "etag-md5": "ok",
    "checksums": "limited",
    "part-heads": "ok",
    "ranges": "ok",
    "if-match": "ok",
    "missing-object": "ok",
    "rate-limits": "ok",
}


def test_a_bucket_that_keeps_every_rule() -> None:
    with nonconforming_bucket() as endpoint:
        report = check_bucket(endpoint)
    assert statuses(report) == EXPECTED_STATUSES
    assert report.broken == []
    assert report.uri == f"{endpoint}/odd"
    assert 0 < report.requests <= suite.REQUEST_LIMIT


@pytest.mark.parametrize(
    ("departure", "value", "expected"),
    [
        ("same_page", True, {"start-after": "broken", "continuation-token": "broken"}),
        ("no_versions", True, {}),
        ("swift", True, {"sizes": "limited", "etag-md5": "limited"}),
        ("opaque", True, {"etag-md5": "limited"}),
        ("no_parts", True, {"part-heads": "limited"}),
        ("no_ranges", True, {"ranges": "limited"}),
        ("no_conditions", True, {"if-match": "limited"}),
        ("missing", 403, {"missing-object": "limited"}),
        ("missing", 200, {"missing-object": "broken"}),
        ("headers", {"X-RateLimit-Remaining": "7"}, {"rate-limits": "limited"}),
    ],
)
def test_each_departure_is_found_and_nothing_else(
    departure: str, value: Any, expected: dict[str, str]
) -> None:
    with nonconforming_bucket(**{departure: value}) as endpoint:
        report = check_bucket(endpoint)
    assert statuses(report) == {**EXPECTED_STATUSES, **expected}


def test_a_listing_out_of_order_breaks_the_check_that_reads_it(no_waits: None) -> None:
    with nonconforming_bucket(unordered=True) as endpoint:
        report = check_bucket(endpoint)
    assert "broken" in {one.status for one in report.findings if one.rule.startswith("s3.listing")}


def test_no_request_is_sent_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "REQUEST_LIMIT", 5)
    with nonconforming_bucket() as endpoint:
        report = check_bucket(endpoint)
    assert report.requests == 5
    assert statuses(report)["missing"] == "unknown"
