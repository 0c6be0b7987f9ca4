"""The crawl: plan visits, read and validate listings, publish versions and record the results."""

from neuromirror.config.mirror_files import (
    Mirror,
    find_mirror,
    list_mirror_files,
    load_mirror,
    load_mirrors,
)
from neuromirror.config.mirror_settings import GuardSettings, MirrorFile, ScheduleSettings
from neuromirror.crawl.dataset_visit import DatasetVisit
from neuromirror.crawl.embargo import PrivateStore
from neuromirror.crawl.failure_log import FailureLog
from neuromirror.crawl.guards.difference import StateDifference
from neuromirror.crawl.guards.holds import release_hold
from neuromirror.crawl.index_rebuild import rebuild_index
from neuromirror.crawl.plan import RELEASED, DatasetTask
from neuromirror.crawl.planner import SyncRequest, parse_sync_requests
from neuromirror.crawl.recorder import JournalRecorder, Recorder, RefMove, open_recorder
from neuromirror.crawl.results import Result
from neuromirror.crawl.sync import Sync, dry_run
from neuromirror.crawl.visit.publisher import PublishedState, Publisher

__all__ = [
    "RELEASED",
    "DatasetTask",
    "DatasetVisit",
    "FailureLog",
    "GuardSettings",
    "JournalRecorder",
    "Mirror",
    "MirrorFile",
    "PrivateStore",
    "PublishedState",
    "Publisher",
    "Recorder",
    "RefMove",
    "Result",
    "ScheduleSettings",
    "StateDifference",
    "Sync",
    "SyncRequest",
    "dry_run",
    "find_mirror",
    "list_mirror_files",
    "load_mirror",
    "load_mirrors",
    "open_recorder",
    "parse_sync_requests",
    "rebuild_index",
    "release_hold",
]
