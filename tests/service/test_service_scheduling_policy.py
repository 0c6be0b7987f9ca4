"""The policy: when a dataset is visited next, whatever happened and whatever the clock says."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec.structs import replace

from neuromirror.crawl import DatasetTask, Result, ScheduleSettings
from neuromirror.index import LastVisit, TaskRow
from neuromirror.model import DatasetHint, DatasetRef
from neuromirror.service.scheduling import (
    MAX_FAILURES,
    JobOutcome,
    ScheduleBounds,
    classify_results,
    mirror_row_after_listing,
    repair_row,
    row_after_listing,
    row_after_visit,
)

HOUR, DAY = 3600.0, 86_400.0
NOW = 1_800_000_000.0
BOUNDS = ScheduleBounds.from_settings(ScheduleSettings())

all_bounds = some.builds(
    ScheduleSettings,
    list_minutes=some.floats(1, 10_000),
    min_hours=some.floats(0.01, 1000),
    max_days=some.floats(0.01, 400),
    deep_days=some.one_of(some.just(0.0), some.floats(0.5, 400)),
).map(ScheduleBounds.from_settings)
outcomes = some.sampled_from(get_args(JobOutcome))
moments = some.floats(0, 4e9)
spans = some.floats(0, 30 * DAY)
fingerprints = some.sampled_from([None, "a", "b"])


def _task(
    name: str = "volumes:one",
    fingerprint: str | None = None,
    action: str = "visit",
    last: LastVisit | None = None,
    title: str = "",
) -> DatasetTask:
    mirror, _, local_id = name.partition(":")
    dataset = DatasetRef(mirror, local_id, f"s3://{local_id}")
    return DatasetTask(DatasetHint(dataset, fingerprint, title), action, "a test", last)


def _last(status: str = "full", fingerprint: str = "", pending: int = 0) -> LastVisit:
    return LastVisit(fingerprint, status, pending, "2027-01-01T00:00:00Z")


def _row(fingerprint: str | None = None, name: str = "volumes:one", **more: object) -> TaskRow:
    row = row_after_listing(None, _task(name, fingerprint), NOW, BOUNDS)
    return replace(row, **more)  # type: ignore[arg-type]


# --- datasets without fingerprints


@given(bounds=all_bounds, outcome=outcomes, spacing=some.floats(0, 1e8), now=moments, took=spans)
def test_no_two_visits_follow_each_other_immediately(
    bounds: ScheduleBounds, outcome: JobOutcome, spacing: float, now: float, took: float
) -> None:
    deep_due = now - took if bounds.deep else None
    row = _row(spacing=spacing, deep_due=deep_due)
    done = row_after_visit(row, outcome, now, took, bounds, "said")
    assert (done.status, done.ended, done.seconds, done.message) == (outcome, now, took, "said")
    if outcome == "removed":
        assert (done.due, done.deep_due) == (None, None)
    else:
        assert done.due is not None
        assert done.due > now
        assert (done.deep_due is None) == (not bounds.deep)
        assert done.deep_due is None or done.deep_due > now


@given(bounds=all_bounds, changes=some.lists(some.booleans(), min_size=1, max_size=40))
def test_spacing_stays_within_the_bounds_and_moves_in_the_right_direction(
    bounds: ScheduleBounds, changes: list[bool]
) -> None:
    row = _row()
    for changed in changes:
        before = row.spacing
        row = row_after_visit(row, "changed" if changed else "unchanged", NOW, 1, bounds)
        assert bounds.least <= row.spacing <= bounds.most
        assert row.due is not None
        assert 0.899 * row.spacing <= row.due - NOW <= 1.101 * row.spacing
        if before:
            shorter, longer = max(before / 4, bounds.least), min(before * 1.2, bounds.most)
            assert row.spacing == pytest.approx(shorter if changed else longer)


def test_one_left_to_settle_comes_back_soon_and_later_each_time() -> None:
    row, gaps = _row(), []
    for _ in range(10):
        row = row_after_visit(row, "settling", NOW, 1, BOUNDS)
        gaps.append(row.spacing)
    assert gaps[0] == HOUR
    assert gaps == sorted(gaps)
    assert gaps[-1] == 6 * HOUR
    # and it is no less watched, once it is there, than any other that changed
    assert row_after_visit(row, "changed", NOW, 1, BOUNDS).spacing == 6 * HOUR


# --- datasets with fingerprints in the list


@given(outcome=some.sampled_from(["changed", "unchanged", "held"]), bounds=all_bounds)
def test_a_dataset_with_a_fingerprint_waits_for_the_overview(
    outcome: JobOutcome, bounds: ScheduleBounds
) -> None:
    row = row_after_visit(_row("a"), outcome, NOW, 1, bounds)
    assert row.due is None
    same = row_after_listing(row, _task(fingerprint="a", action="skip"), NOW + HOUR, bounds)
    assert same.due is None
    changed = row_after_listing(
        same, _task(fingerprint="b", last=_last("full", "a")), NOW + 2 * HOUR, bounds
    )
    assert changed.due == NOW + 2 * HOUR
    assert changed.fingerprint == "b"


def test_files_without_a_checksum_are_checked_at_growing_intervals() -> None:
    row, gaps, now = _row("a"), [], NOW
    for _ in range(12):
        row = row_after_visit(row, "unchanged", now, 1, BOUNDS)
        row = row_after_listing(
            row, _task(fingerprint="a", last=_last("full", "a", 3)), now, BOUNDS
        )
        assert row.due is not None
        gaps.append(row.due - now)
        now = row.due
    assert gaps[0] == 6 * HOUR
    assert gaps == sorted(gaps)
    assert gaps[-1] > 24 * HOUR


def test_one_under_embargo_is_not_visited_until_it_is_open() -> None:
    row = row_after_listing(None, _task(fingerprint="a", action="unavailable"), NOW, BOUNDS)
    assert (row.due, row.deep_due) == (None, None)
    row = row_after_listing(row, _task(fingerprint="a"), NOW + DAY, BOUNDS)
    assert row.due == NOW + DAY
    assert row.deep_due is not None
    shut = row_after_listing(
        row, _task(fingerprint="a", action="unavailable"), NOW + 2 * DAY, BOUNDS
    )
    assert shut.due is None


def test_a_removed_dataset_that_reappears_is_visited() -> None:
    for fingerprint in (None, "a"):
        gone = row_after_visit(_row(fingerprint), "removed", NOW, 1, BOUNDS)
        last = _last("not_found", fingerprint or "")
        back = row_after_listing(gone, _task(fingerprint=fingerprint, last=last), NOW + DAY, BOUNDS)
        assert back.due == NOW + DAY
        assert back.deep_due is not None


# --- failures


@given(bounds=all_bounds, fingerprint=fingerprints)
def test_three_failures_in_a_row_disable_and_each_waits_longer(
    bounds: ScheduleBounds, fingerprint: str | None
) -> None:
    row, waits = _row(fingerprint), []
    for number in range(1, MAX_FAILURES + 1):
        assert not row.disabled
        row = row_after_visit(row, "failed", NOW, 1, bounds, "no answer")
        assert row.failures == number
        assert row.due is not None
        waits.append(row.due - NOW)
    assert row.disabled
    assert waits[1] >= waits[0] * 0.8
    enabled = row_after_visit(replace(row, disabled=False), "unchanged", NOW, 1, bounds)
    assert (enabled.failures, enabled.disabled) == (0, False)


def _disabled(fingerprint: str | None, bounds: ScheduleBounds) -> TaskRow:
    row = _row(fingerprint)
    for _ in range(MAX_FAILURES):
        row = row_after_visit(row, "failed", NOW, 1, bounds)
    return row


def test_a_disabled_dataset_is_enabled_by_a_change_in_the_list() -> None:
    row = _disabled("a", BOUNDS)
    failed = _last("failed", "a")
    same = row_after_listing(row, _task(fingerprint="a", last=failed), NOW + HOUR, BOUNDS)
    assert same.disabled
    anew = row_after_listing(same, _task(fingerprint="b", last=failed), NOW + 2 * HOUR, BOUNDS)
    assert (anew.disabled, anew.failures, anew.due) == (False, 0, NOW + 2 * HOUR)
    titled = row_after_listing(_disabled(None, BOUNDS), _task(title="New"), NOW + HOUR, BOUNDS)
    assert (titled.disabled, titled.due) == (False, NOW + HOUR)


@given(bounds=all_bounds, fingerprint=fingerprints)
def test_a_disabled_one_is_tried_once_more_after_a_while(
    bounds: ScheduleBounds, fingerprint: str | None
) -> None:
    row = _disabled(fingerprint, bounds)
    assert row.due is not None
    assert row.due - NOW <= 1.101 * bounds.most
    assert repair_row(row, row.due - 1e-3 * (row.due - NOW), bounds).disabled
    awake = repair_row(row, row.due, bounds)
    assert not awake.disabled
    # one more failure is enough
    assert row_after_visit(awake, "failed", row.due, 1, bounds).disabled


def test_a_failed_deep_visit_is_retried_later_and_deep() -> None:
    row = replace(_row("a"), due=None, deep_due=NOW - 10)
    row = row_after_visit(row, "failed", NOW, 5, BOUNDS)
    assert row.due == row.deep_due
    assert row.due is not None
    assert row.due > NOW + 50 * 60


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        ([], "unchanged"),
        ([("notneeded", "", ())], "unchanged"),
        ([("notneeded", "full", ())], "unchanged"),
        ([("ok", "full", ("draft",))], "changed"),
        ([("ok", "full", ())], "changed"),
        ([("notneeded", "waiting", ())], "settling"),
        ([("impossible", "held", ("1.0",))], "held"),
        ([("error", "failed", ())], "failed"),
        ([("error", "partial", ())], "failed"),
        ([("error", "partial", ("1.0",))], "changed"),
        ([("error", "not_found", ())], "removed"),
        ([("ok", "full", ("1.0",)), ("error", "failed", ())], "failed"),
    ],
)
def test_results_of_a_visit_come_to_one_outcome(
    results: list[tuple[str, str, tuple[str, ...]]], outcome: JobOutcome
) -> None:
    visit_results = [
        Result("demo:1", status, "", visit, labels) for status, visit, labels in results
    ]
    assert classify_results(visit_results) == outcome


# --- lists


@given(bounds=all_bounds, failures=some.integers(0, 3000), now=moments)
def test_lists_are_read_by_the_minute_and_backed_off_from_within_reason(
    bounds: ScheduleBounds, failures: int, now: float
) -> None:
    row = TaskRow("dandi", "dandi", failures=failures)
    good = mirror_row_after_listing(row, True, now, 2, bounds)
    assert good.due is not None
    assert 0.899 * bounds.listing <= good.due - now <= 1.101 * bounds.listing
    bad = mirror_row_after_listing(row, False, now, 2, bounds, "no answer")
    assert (bad.failures, bad.disabled, bad.message) == (failures + 1, False, "no answer")
    assert bad.due is not None
    assert bad.spacing >= bounds.listing
    assert bad.due - now <= 1.101 * max(bounds.listing, 4 * HOUR)


# --- no stampede


def test_a_first_crawl_of_ten_thousand_makes_no_day_of_ten_thousand_deep_visits() -> None:
    rows = [_row("a", f"dandi:{number:06}") for number in range(10_000)]
    days: Counter[int] = Counter()
    for first in rows:
        row, now = first, NOW
        for _ in range(3):
            assert row.deep_due is not None
            assert row.deep_due - now <= 99 * DAY
            now = row.deep_due
            days[int((now - NOW) // DAY)] += 1
            row = row_after_visit(row, "unchanged", now, 0, BOUNDS)
    assert max(days.values()) < 3 * 10_000 / 90


def test_a_lost_schedule_does_not_make_all_datasets_due_at_once() -> None:
    rows = [
        row_after_listing(None, _task(f"volumes:{number}", last=_last()), NOW, BOUNDS)
        for number in range(600)
    ]
    hours = Counter(int((row.due - NOW) // HOUR) for row in rows if row.due is not None)
    assert sorted(hours) == list(range(6))
    assert max(hours.values()) < 150


def test_an_overview_that_starts_to_give_fingerprints_causes_no_stampede_and_loses_no_change() -> (
    None
):
    row = row_after_visit(_row(None), "unchanged", NOW, 1, BOUNDS)
    listed_row = row_after_listing(row, _task(fingerprint="a", last=_last()), NOW + HOUR, BOUNDS)
    assert listed_row.due == row.due
    moved = row_after_listing(
        listed_row, _task(fingerprint="b", last=_last()), NOW + 2 * HOUR, BOUNDS
    )
    assert moved.due == NOW + 2 * HOUR


# --- clocks


@given(
    bounds=all_bounds,
    fingerprint=fingerprints,
    ahead=some.floats(0, 100 * 365 * DAY),
    outcome=outcomes,
)
def test_a_clock_that_was_ahead_puts_nothing_off_for_ever(
    bounds: ScheduleBounds, fingerprint: str | None, ahead: float, outcome: JobOutcome
) -> None:
    row = row_after_visit(_row(fingerprint), outcome, NOW + ahead, 1, bounds)
    row = repair_row(row, NOW, bounds)
    for due, most in ((row.due, bounds.most), (row.deep_due, bounds.deep)):
        assert due is None or due <= NOW + 1.101 * most
    mirror = repair_row(
        mirror_row_after_listing(TaskRow("m", "m"), True, NOW + ahead, 1, bounds), NOW, bounds
    )
    assert mirror.due is not None
    assert mirror.due <= NOW + 1.101 * max(bounds.listing, 4 * HOUR)
    # nor does the content of the list, new or unchanged
    for listed_fingerprint in ("c", fingerprint):
        last = _last("full", fingerprint or "", 3)
        relisted = row_after_listing(
            row, _task(fingerprint=listed_fingerprint, last=last), NOW + 1, bounds
        )
        assert relisted.due is not None
        assert relisted.due <= NOW + 1 + 1.101 * bounds.most


@given(steps=some.lists(some.tuples(some.sampled_from(["list", "visit", "jump"]), outcomes)))
def test_a_dataset_without_a_fingerprint_always_has_a_next_visit(
    steps: list[tuple[str, JobOutcome]],
) -> None:
    now, row, there = NOW, _row(), True
    for number, (step, outcome) in enumerate(steps):
        if step == "list":
            now += HOUR
            row = row_after_listing(row, _task(last=_last("failed")), now, BOUNDS)
            there = True
        elif step == "jump":
            now += DAY if number % 2 else -DAY
        else:
            row = row_after_visit(row, outcome, now, 1, BOUNDS)
            there = outcome != "removed"
        row = repair_row(row, now, BOUNDS)
        if there:
            assert row.due is not None
            later = repair_row(row, now + 1.101 * BOUNDS.most, BOUNDS)
            assert not later.disabled
            assert later.due is not None
            assert later.due <= now + 1.101 * BOUNDS.most


def test_deep_visits_stop_when_disabled() -> None:
    never = ScheduleBounds.from_settings(ScheduleSettings(deep_days=0))
    row = _row("a")
    assert row.deep_due is not None
    assert repair_row(row, NOW, never).deep_due is None
    assert row_after_visit(row, "unchanged", NOW, 1, never).deep_due is None
    assert row_after_listing(None, _task(fingerprint="a"), NOW, never).deep_due is None


def test_the_least_is_never_more_than_the_most() -> None:
    odd = ScheduleBounds.from_settings(ScheduleSettings(min_hours=48, max_days=1))
    assert odd.least == odd.most == 2 * DAY
    assert ScheduleBounds.from_settings(ScheduleSettings()).listing == HOUR
