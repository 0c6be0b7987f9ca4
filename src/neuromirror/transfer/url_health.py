"""What places said, kept for all: in the store's journal, and by that in the index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from neuromirror.crawl import Recorder
from neuromirror.index import Index
from neuromirror.model import LocationsChecked
from neuromirror.transfer.findings import Finding

RECORD_INTERVAL = timedelta(days=30)
"""After so long a place that still says the same is recorded again."""

_BATCH = 1000


def record_health(
    findings: Iterable[Finding],
    recorder: Recorder,
    now: datetime,
    interval: timedelta = RECORD_INTERVAL,
) -> Iterator[Finding]:
    """Passes findings on, and records what places said, as far as the index has these places.

    What the index knows already is recorded again only after ``again``, so that a store's journal
    does not grow by every look. ``now`` has a zone.
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
        # what was found before an interruption was found
        _record(dataset, waiting, recorder, now, interval)


def _record(
    dataset: str | None,
    found: dict[str, str],
    recorder: Recorder,
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
    """As journal entries have it."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")
