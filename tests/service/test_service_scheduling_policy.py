"""The policy: when a dataset is visited next, whatever happened and whatever the clock says."""

from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec.structs import replace

from neuromirror.config.mirror_files import ScheduleSettings
from neuromirror.crawl import DatasetTask
from neuromirror.index import LastVisit, TaskRow
from neuromirror.model import DatasetHint, DatasetRef
from neuromirror.service.scheduling import (
    MAX_FAILURES,
    JobOutcome,
    ScheduleBounds,
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


# --- lists


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
    assert mirror.due <= NOW + 1.101 * bounds.listing
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
