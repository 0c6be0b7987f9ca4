"""Prometheus metrics of a service.

Events are counted as they happen, from zero at each start; the current state is read from index,
schedule and disk at each scrape. Labels are names of mirrors and housekeeping tasks and values of
fixed sets: never a dataset, a URL, or other text from upstream or from an operator's secrets.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from neuromirror import __version__
from neuromirror.index import Index, MirrorStatus, Schedule, TaskRow
from neuromirror.model import NeuromirrorError, Traffic, total_traffic
from neuromirror.service.custody_tasks import CustodyStatus
from neuromirror.service.housekeeping import HOUSEKEEPING_PREFIX
from neuromirror.service.integrity import IntegrityState
from neuromirror.service.jobs import ALL_MIRRORS
from neuromirror.service.scheduling import SUPERDATASET_PREFIX
from neuromirror.service.servers import CatalogueStatus, catalogue_statuses
from neuromirror.store import Store

_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9 _-]{0,63}")
_JOB_BUCKETS: Final = (0.1, 1, 10, 60, 300, 900, 3_600, 14_400, 86_400)
_TICK_BUCKETS: Final = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30)


class Metrics(Collector):
    """Counts the events of a service and returns the metrics page for Prometheus; thread-safe.

    Parameters
    ----------
    store, index, schedule
        The store, the path of its index, and the schedule; their state is part of the page.
    served
        Names of the served mirrors, read for each page: only these can be overdue.
    clock
        Returns POSIX seconds.
    """

    def __init__(
        self,
        store: Store,
        index: Path,
        schedule: Schedule,
        served: Collection[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._index = index
        self._schedule = schedule
        self._served = served
        self._clock = clock
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="neuromirror", registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                name, text, labels, namespace="neuromirror", registry=registry, buckets=buckets
            )

        self._jobs = counter(
            "jobs",
            "Finished jobs by kind (visit, listing, superdatasets) and outcome.",
            *("kind", "mirror", "outcome"),
        )
        self._job_seconds = histogram(
            "job_duration_seconds", "Duration of jobs.", _JOB_BUCKETS, "kind", "mirror"
        )
        self._housekeeping = counter(
            "housekeeping_runs",
            "Finished runs of housekeeping tasks by outcome (ok, failed).",
            *("task", "outcome"),
        )
        self._housekeeping_seconds = histogram(
            "housekeeping_duration_seconds", "Duration of housekeeping tasks.", _JOB_BUCKETS, "task"
        )
        self._tick_seconds = histogram(
            "tick_duration_seconds", "Duration of one pass of the service loop.", _TICK_BUCKETS
        )
        self._traffic = {
            field: counter(f"http_{name}", text, "mirror")
            for field, name, text in (
                ("requests", "requests", "Requests sent to archives, retries included."),
                ("bytes", "received_bytes", "Bytes of response bodies, as received."),
                ("retries", "retries", "Requests retried after a transient error."),
                ("throttled", "throttled", "Responses that asked to slow down (429, 503)."),
                ("waited", "wait_seconds", "Total time spent waiting before retries."),
            )
        }

    def job_finished(self, kind: str, mirror: str, outcome: str, seconds: float) -> None:
        """Count a finished job; ``kind`` is visit, listing or superdatasets."""
        self._jobs.labels(_label(kind), _label(mirror), _label(outcome)).inc()
        self._job_seconds.labels(_label(kind), _label(mirror)).observe(seconds)

    def requests_sent(self, mirror: str, traffic: Mapping[str, Traffic]) -> None:
        """Count the requests of a job by host (``Result.traffic``)."""
        total = total_traffic(traffic)
        for field, requests in self._traffic.items():
            requests.labels(_label(mirror)).inc(getattr(total, field))

    def housekeeping_finished(self, name: str, ok: bool, seconds: float) -> None:
        """Count a finished run of a housekeeping task."""
        self._housekeeping.labels(_label(name), "ok" if ok else "failed").inc()
        self._housekeeping_seconds.labels(_label(name)).observe(seconds)

    def tick_finished(self, seconds: float) -> None:
        """Count a pass of the service loop."""
        self._tick_seconds.observe(seconds)

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry would otherwise collect at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the state of store, index, schedule and catalogue.

        An unreadable part has no samples, and its ``…_readable`` is 0.
        """
        build = "The running release; always 1."
        yield _gauge("build_info", build, ["version"], [([__version__], 1)])
        now = self._clock()
        served = sorted(self._served)
        leases, readable = _gauge("leases", "Valid leases, one per running job."), True
        tasks: dict[str, list[TaskRow]] = {}
        leased: set[str] = set()
        try:
            tasks = {name: self._schedule.tasks(name) for name in ("", *served)}
            leased = {one.name for one in self._schedule.leases.in_force(now)}
            leases.add_metric([], len(leased))
        except NeuromirrorError:
            tasks, readable = {}, False
        yield leases
        text = "Whether the schedule can be read (1 or 0)."
        yield _gauge("schedule_readable", text, samples=[([], readable)])
        others = {row.name: row for row in tasks.pop("", [])}
        yield from _housekeeping_metrics(others)
        yield from _schedule_metrics(tasks, leased, now)
        yield _gauge(
            "failing_superdatasets",
            "Consecutive failures to update the mirror's superdatasets.",
            ["mirror"],
            (
                ([name], row.failures)
                for name in (*served, ALL_MIRRORS.name)
                if (row := others.get(SUPERDATASET_PREFIX + name)) is not None
            ),
        )
        status, unavailable_counts, failures, readable = self._status()
        text = "Whether the index can be read (1 or 0)."
        yield _gauge("index_readable", text, samples=[([], readable)])
        yield from _index_metrics(status)
        yield _gauge(
            "unavailable_locations",
            "Locations whose last probe did not find the mirrored bytes, by probe result.",
            ["mirror", "result"],
            (
                ([mirror, _label(result)], count)
                for mirror, counts in unavailable_counts.items()
                for result, count in counts.items()
            ),
        )
        yield _gauge(
            "failures",
            "Tasks that failed and have not succeeded since, by task (list, visit, backup ...); "
            "mirror is empty for tasks of the whole store.",
            ["mirror", "task"],
            (
                ([mirror and _label(mirror), _label(task)], count)
                for (mirror, task), count in failures.items()
            ),
        )
        damage = IntegrityState.load(self._store).messages
        text = "Damaged items that the integrity check of store and index has found."
        yield _gauge("damaged_items", text, samples=[([], len(damage))])
        yield from _custody_metrics(CustodyStatus.load(self._store))
        yield from self._successes(served, {one.mirror: one for one in status}, readable)
        yield from self._disk()
        yield from _catalogue_metrics(catalogue_statuses(self._store))

    def _status(
        self,
    ) -> tuple[list[MirrorStatus], dict[str, dict[str, int]], Mapping[tuple[str, str], int], bool]:
        try:
            with Index.open_readonly(self._index) as index:
                failures = Tally((one.mirror, one.task) for one in index.crawl.failures())
                return list(index.crawl.mirrors()), index.locations.failing(), failures, True
        except (NeuromirrorError, OSError):
            return [], {}, {}, False

    def _successes(
        self, mirrors: list[str], status: Mapping[str, MirrorStatus], readable: bool
    ) -> Iterator[Metric]:
        """Yield the times of the last successful listing and visit of each served mirror."""
        listed = {name: self._store.last_listed(name) for name in mirrors}
        yield _gauge(
            "listing_last_success_timestamp_seconds",
            "When the mirror's list of datasets was last read completely, in POSIX seconds; "
            "0: never.",
            ["mirror"],
            (([name], 0 if at is None else at.timestamp()) for name, at in listed.items()),
        )
        visited = {
            name: status[name].last_full_visit if name in status else None for name in mirrors
        }
        yield _gauge(
            "visit_last_success_timestamp_seconds",
            "When a visit of a dataset of the mirror last succeeded, in POSIX seconds; 0: never.",
            ["mirror"],
            (
                ([name], 0 if at is None else datetime.fromisoformat(at).timestamp())
                for name, at in visited.items()
                if readable
            ),
        )

    def _disk(self) -> Iterator[Metric]:
        free = _gauge("store_free_bytes", "Free bytes on the store's disk.")
        size = _gauge("store_disk_bytes", "Size of the store's disk in bytes.")
        inodes = _gauge("store_free_inodes", "Free inodes on the store's disk.")
        with suppress(OSError):
            disk = os.statvfs(self._store.root)
            free.add_metric([], disk.f_bavail * disk.f_frsize)
            size.add_metric([], disk.f_blocks * disk.f_frsize)
            if disk.f_files:  # some file systems have no limit
                inodes.add_metric([], disk.f_favail)
        yield from (free, size, inodes)


def _label(value: str) -> str:
    """Return a label value, or ``other`` for unexpected text: it would be public and unbounded."""
    return value if _LABEL.fullmatch(value) else "other"


def _gauge(
    name: str,
    text: str,
    labels: Sequence[str] = (),
    samples: Iterable[tuple[Sequence[str], float]] = (),
) -> GaugeMetricFamily:
    """Return a gauge with a sample per combination of label values."""
    family = GaugeMetricFamily(f"neuromirror_{name}", text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _catalogue_metrics(catalogues: Sequence[CatalogueStatus]) -> Iterator[Metric]:
    """Yield the state of the catalogues of the store, as each has saved it last."""
    up = _gauge("catalogue_up", "1 if all catalogues of the store run, 0 if one was lost.")
    counts: Tally[str] = Tally()
    gateway: dict[str, str] = {}
    for catalogue in catalogues:
        counts.update(catalogue.counts)
        gateway |= catalogue.gateway
    if catalogues:
        up.add_metric([], not any(catalogue.is_lost for catalogue in catalogues))
    refused = CounterMetricFamily(
        "neuromirror_catalogue_refused",
        "Requests that the catalogue refused because of a rate limit, by kind (cutout, diff, "
        "gateway, preview, search).",
        labels=["kind"],
    )
    delivered = CounterMetricFamily(
        "neuromirror_catalogue_gateway",
        "Responses of the catalogue's gateway by result (document, download, folder, "
        "proxy, redirect), and its failures (failed, gone, timeout, unverifiable, wrong).",
        labels=["result"],
    )
    verified = CounterMetricFamily(
        "neuromirror_catalogue_gateway_bytes", "Verified bytes that the gateway delivered."
    )
    modes = _gauge(
        "catalogue_gateway_mode",
        "1 for the mode of the gateway (off, proxy, redirect), by mirror (empty: all others).",
        ("mirror", "mode"),
        (((name and _label(name), mode), 1) for name, mode in gateway.items()),
    )
    for kind, count in sorted(counts.items()):
        name, _, result = kind.partition(" ")
        if not result:
            refused.add_metric([_label(name)], count)
        elif result == "bytes":
            verified.add_metric([], count)
        else:
            delivered.add_metric([_label(result)], count)
    yield from (up, refused, modes, delivered, verified)


def _custody_metrics(custody: CustodyStatus) -> Iterator[Metric]:
    """Yield the state of [[keep]], vaults and drills."""
    vaults = sorted({keep.vault for keep in custody.keeps})
    for name, text, values in (
        ("contents", "Contents that lock files pin and that the vault is to have.", "contents"),
        ("lacking_contents", "Contents of lock files that are not in the vault.", "lacking"),
    ):
        samples = [
            ([_label(vault)], sum(getattr(k, values) for k in custody.keeps if k.vault == vault))
            for vault in vaults
        ]
        yield _gauge(f"keep_{name}", text, ["vault"], samples)
    for name, text, values in (
        ("copies", "Copies in the vault.", "copies"),
        ("bytes", "Size of the copies in the vault.", "bytes"),
        ("damaged_copies", "Copies with wrong bytes that are not repaired.", "damaged"),
        ("missing_copies", "Copies that the vault has lost and that are not repaired.", "missing"),
        (
            "oldest_read_timestamp_seconds",
            "When all bytes of the copy that was not read for the longest time were read.",
            "oldest_read",
        ),
    ):
        samples = [([_label(one.name)], getattr(one, values) or 0) for one in custody.vaults]
        yield _gauge(f"vault_{name}", text, ["vault"], samples)
    drills = custody.drills.values()
    failed, text = sum(not drill.ok for drill in drills), "Lock files whose last drill failed."
    yield _gauge("failed_drills", text, samples=[([], failed)])
    oldest, text = min((one.at for one in drills), default=0), "Oldest last drill of a lock file."
    yield _gauge("drill_oldest_timestamp_seconds", text, samples=[([], oldest)])


_SCHEDULE: Final = {
    "queue_length": "Tasks that are due and that no worker has taken.",
    "oldest_due_age_seconds": "Time since the oldest of these tasks became due.",
    "current_datasets_ratio": (
        "Share of the datasets whose last visit succeeded and that are not due for another."
    ),
    "disabled_datasets": "Datasets not visited until the mirror's list reports a change.",
    "failing_listings": "Consecutive failures to read the mirror's list.",
}


def _schedule_metrics(
    tasks: Mapping[str, list[TaskRow]], leased: set[str], now: float
) -> Iterator[Metric]:
    """Yield how far each mirror is behind its schedule."""
    figures: dict[str, dict[str, float]] = {name: {} for name in _SCHEDULE}
    for mirror, rows in tasks.items():
        waiting = [row for row in rows if _is_due(row, now) and row.name not in leased]
        datasets = [row for row in rows if row.local_id]
        ages = [now - row.due for row in waiting if row.due is not None]
        figures["queue_length"][mirror] = len(waiting)
        figures["oldest_due_age_seconds"][mirror] = max(ages, default=0)
        if datasets:
            well = sum(_is_current(row, now) for row in datasets)
            figures["current_datasets_ratio"][mirror] = well / len(datasets)
        figures["disabled_datasets"][mirror] = sum(row.disabled for row in datasets)
        failures = sum(row.failures for row in rows if not row.local_id)
        figures["failing_listings"][mirror] = failures
    for name, text in _SCHEDULE.items():
        samples = (([mirror], number) for mirror, number in figures[name].items())
        yield _gauge(name, text, ["mirror"], samples)


def _housekeeping_metrics(tasks: Mapping[str, TaskRow]) -> Iterator[Metric]:
    """Yield the metrics of housekeeping tasks."""
    housekeeping = {
        _label(name.removeprefix(HOUSEKEEPING_PREFIX)): row
        for name, row in tasks.items()
        if name.startswith(HOUSEKEEPING_PREFIX)
    }
    yield _gauge(
        "housekeeping_last_finish_timestamp_seconds",
        "When the task last finished, in POSIX seconds.",
        ["task"],
        (([task], row.ended) for task, row in housekeeping.items() if row.ended is not None),
    )
    yield _gauge(
        "failing_housekeeping_tasks",
        "Consecutive failures of the housekeeping task.",
        ["task"],
        (([task], row.failures) for task, row in housekeeping.items()),
    )


def _is_due(row: TaskRow, now: float) -> bool:
    return not row.disabled and row.due is not None and row.due <= now


def _is_current(row: TaskRow, now: float) -> bool:
    well = row.ended is not None and not row.failures and not row.disabled
    return well and not _is_due(row, now)


def _index_metrics(status: list[MirrorStatus]) -> Iterator[Metric]:
    """Yield the metrics that the index has of each mirror."""
    figures = [
        ("datasets", "Known datasets, subdatasets included.", "datasets"),
        ("mirrored_datasets", "Datasets with at least one version.", "mirrored"),
        ("versions", "Versions minted.", "versions"),
        ("files", "Files in the latest versions of all datasets.", "files"),
        ("content_bytes", "Bytes of these files, stored upstream.", "bytes"),
        ("failing_datasets", "Datasets whose last visit failed or was partial.", "failing"),
        ("removed_datasets", "Datasets that upstream no longer lists.", "removed_upstream"),
        ("settling_datasets", "Datasets postponed until they settle.", "settling"),
        (
            "unreadable_sidecar_datasets",
            "Datasets with an unreadable sidecar file in their newest version.",
            "unreadable_sidecars",
        ),
        ("open_holds", "Listings held until an operator decides.", "open_holds"),
        ("incidents", "Recorded incidents; never decreases.", "incidents"),
    ]
    for name, text, field in figures:
        samples = (([one.mirror], getattr(one, field)) for one in status)
        yield _gauge(name, text, ["mirror"], samples)
