"""What places said, kept for all: in the store's journal, and by that in the index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from neuromirror.crawl import Recorder
from neuromirror.index import Index
from neuromirror.lab.verify.findings import Finding
from neuromirror.model import PlacesAsked

AGAIN = timedelta(days=30)
"""After so long a place that still says the same is recorded again."""

_TOGETHER = 1000


def recorded(
    findings: Iterable[Finding], recorder: Recorder, now: datetime, again: timedelta = AGAIN
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
                if finding.dataset != dataset or len(waiting) >= _TOGETHER:
                    _record(dataset, waiting, recorder, now, again)
                    waiting.clear()
                dataset = finding.dataset
                waiting[finding.url] = finding.health.value
            yield finding
    finally:
        # what was found before an interruption was found
        _record(dataset, waiting, recorder, now, again)


def _record(
    dataset: str | None,
    found: dict[str, str],
    recorder: Recorder,
    now: datetime,
    again: timedelta,
) -> None:
    if dataset is None:
        return
    since = _written(now - again)

    def news(index: Index) -> dict[str, list[str]]:
        told: dict[str, list[str]] = {}
        for url, result in sorted(found.items()):
            known = index.places(url)
            if any(one.result != result or (one.checked_at or "") < since for one in known):
                told.setdefault(result, []).append(url)
        return told

    if told := recorder.ask(news):
        mirror, _, local_id = dataset.partition(":")
        recorder.record(PlacesAsked(mirror, local_id, told, _written(now)))


def _written(moment: datetime) -> str:
    """As journal entries have it."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")
