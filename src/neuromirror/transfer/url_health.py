"""Record the health of URLs in the store's journal, and thereby in the index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from neuromirror.crawl import JournalRecorder
from neuromirror.index import Index
from neuromirror.model import LocationsChecked
from neuromirror.transfer.findings import Finding

RECORD_INTERVAL = timedelta(days=30)
"""The time after which unchanged health is recorded again."""

_BATCH = 1000


def record_health(
    findings: Iterable[Finding],
    recorder: JournalRecorder,
    now: datetime,
    interval: timedelta = RECORD_INTERVAL,
) -> Iterator[Finding]:
    """Pass findings on, and record the health of URLs that the index knows.

    Unchanged health is recorded again only after ``interval``, so that the journal does not grow
    with each run.

    Parameters
    ----------
    findings
        Findings of a verification or audit.
    recorder
        Writer for the journal and the index.
    now
        The current time, with a time zone.
    interval
        Minimum time between two records of unchanged health.
    """
    waiting: dict[str, str] = {}
    dataset: str | None = None
    try:
        for finding in findings:
            if finding.url and finding.health is not None and finding.dataset is not None:
                if finding.dataset != dataset or len(waiting) >= _BATCH:
                    _record(dataset, waiting, recorder, now, interval)
                    waiting.clear()
                dataset = finding.dataset
                waiting[finding.url] = finding.health.value
            yield finding
    finally:
        # record what was found before an interruption, too
        _record(dataset, waiting, recorder, now, interval)


def _record(
    dataset: str | None,
    found: dict[str, str],
    recorder: JournalRecorder,
    now: datetime,
    interval: timedelta,
) -> None:
    if dataset is None:
        return
    since = _format_time(now - interval)

    def news(index: Index) -> dict[str, list[str]]:
        changed: dict[str, list[str]] = {}
        for url, result in sorted(found.items()):
            known = index.url_locations(url)
            if any(one.result != result or (one.checked_at or "") < since for one in known):
                changed.setdefault(result, []).append(url)
        return changed

    if changed := recorder.ask(news):
        mirror, _, local_id = dataset.partition(":")
        recorder.record(LocationsChecked(mirror, local_id, changed, _format_time(now)))


def _format_time(moment: datetime) -> str:
    """Return a time in the journal's format."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")
