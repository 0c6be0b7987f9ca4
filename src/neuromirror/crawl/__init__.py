"""The crawl: plan visits, read and validate listings, publish versions and record the results."""

from neuromirror.config.mirror_files import Mirror, load_mirrors
from neuromirror.crawl.embargo import PrivateStore
from neuromirror.crawl.guards import StateDifference, release_hold
from neuromirror.crawl.plan import (
    RELEASED,
    DatasetTask,
    Result,
    SyncRequest,
    Visit,
    VisitOutcome,
    parse_sync_requests,
)
from neuromirror.crawl.publish import publish
from neuromirror.crawl.recorder import (
    FailureLog,
    JournalRecorder,
    Recorder,
    RefMove,
    open_recorder,
    rebuild_index,
)
from neuromirror.crawl.sync import Sync, dry_run
from neuromirror.crawl.visit import visit_dataset

__all__ = [
    "RELEASED",
    "DatasetTask",
    "FailureLog",
    "JournalRecorder",
    "Mirror",
    "PrivateStore",
    "Recorder",
    "RefMove",
    "Result",
    "StateDifference",
    "Sync",
    "SyncRequest",
    "Visit",
    "VisitOutcome",
    "dry_run",
    "load_mirrors",
    "open_recorder",
    "parse_sync_requests",
    "publish",
    "rebuild_index",
    "release_hold",
    "visit_dataset",
]
