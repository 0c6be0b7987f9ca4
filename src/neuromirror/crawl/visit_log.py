"""Record visits in the journal, unless they repeat the last one."""

from __future__ import annotations

from neuromirror.crawl.plan import RELEASED, DatasetTask
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.results import Result
from neuromirror.index import LastVisit
from neuromirror.model import DatasetRef, VisitEnded, current_timestamp, dump_traffic
from neuromirror.net import TrafficCounter


class VisitLog:
    """Records visits in the journal through a :class:`~neuromirror.crawl.Recorder`; thread-safe.

    A visit that found no change, like the visit before it, is not recorded.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def record_visit(
        self,
        task: DatasetTask,
        started: str,
        result: Result,
        pending: int,
        visit_traffic: TrafficCounter,
    ) -> None:
        """Record the visit, unless it ended like the last one."""
        hint, last, dataset = task.hint, task.last_visit, task.hint.dataset
        if (
            last is not None
            and task.reason != RELEASED
            and result.status == "notneeded"
            and (last.status, last.fingerprint, last.pending)
            == (result.visit, hint.fingerprint or "", pending)
        ):
            return
        self._record(
            dataset,
            started,
            result.visit,
            result.message,
            visit_traffic,
            title=hint.title,
            fingerprint=hint.fingerprint or "",
            pending=pending,
        )

    def record_result(
        self,
        dataset: DatasetRef,
        last: LastVisit | None,
        result: Result,
        started: str | None = None,
        visit_traffic: TrafficCounter | None = None,
    ) -> None:
        """Record a result as a visit that learned nothing about the dataset's content.

        Nothing is recorded if the last visit ended in the same way. By default, the visit started
        now and made no requests.
        """
        if last is not None and last.status == result.visit:
            name = dataset.name
            before = self._recorder.ask(lambda index: next(index.visits(name, limit=1)))
            if before.message == result.message:
                return
        self._record(
            dataset,
            started or current_timestamp(),
            result.visit,
            result.message,
            visit_traffic or TrafficCounter(),
            fingerprint="" if last is None else last.fingerprint,
            pending=0 if last is None else last.pending,
        )

    def record_tombstone_visit(
        self, dataset: DatasetRef, started: str, message: str, visit_traffic: TrafficCounter
    ) -> None:
        """Record a visit that found that the dataset no longer exists."""
        self._record(dataset, started, "not_found", message, visit_traffic)

    def _record(
        self,
        dataset: DatasetRef,
        started: str,
        status: str,
        message: str,
        visit_traffic: TrafficCounter,
        *,
        title: str = "",
        fingerprint: str = "",
        pending: int = 0,
    ) -> None:
        self._recorder.record(
            VisitEnded(
                visit=f"{started}-{dataset.dataset_id[:8]}",
                mirror=dataset.mirror,
                local_id=dataset.local_id,
                source_uri=dataset.source_uri,
                title=title,
                started=started,
                ended=current_timestamp(),
                status=status,
                fingerprint=fingerprint,
                pending=pending,
                message=message,
                traffic=dump_traffic(visit_traffic.hosts()),
            )
        )
