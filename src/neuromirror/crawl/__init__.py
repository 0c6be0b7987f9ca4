"""Plan, visit, record: the one room that joins sources, mint and index."""

from neuromirror.crawl.compare import Changes, Difference
from neuromirror.crawl.failures import FailureLog
from neuromirror.crawl.holds import release
from neuromirror.crawl.mirror_run import NotNow
from neuromirror.crawl.mirrors import (
    Guards,
    Mirror,
    MirrorFile,
    NetSettings,
    ScheduleSettings,
    ZarrLimits,
    find_mirror,
    load_mirror,
    load_mirrors,
    mirror_files,
)
from neuromirror.crawl.outcome import Outcome
from neuromirror.crawl.plan import RELEASED, Task
from neuromirror.crawl.private import PrivateSide
from neuromirror.crawl.prove import Proven, Spool, prove
from neuromirror.crawl.publish import Published, Publisher
from neuromirror.crawl.rebuild import rebuild_index
from neuromirror.crawl.recorder import JournalRecorder, Recorder, recording
from neuromirror.crawl.requests import Request, parse_requests
from neuromirror.crawl.results import Result
from neuromirror.crawl.sync import Sync, dry_run
from neuromirror.crawl.visit import Visit

__all__ = [
    "RELEASED",
    "Changes",
    "Difference",
    "FailureLog",
    "Guards",
    "JournalRecorder",
    "Mirror",
    "MirrorFile",
    "NetSettings",
    "NotNow",
    "Outcome",
    "PrivateSide",
    "Proven",
    "Published",
    "Publisher",
    "Recorder",
    "Request",
    "Result",
    "ScheduleSettings",
    "Spool",
    "Sync",
    "Task",
    "Visit",
    "ZarrLimits",
    "dry_run",
    "find_mirror",
    "load_mirror",
    "load_mirrors",
    "mirror_files",
    "parse_requests",
    "prove",
    "rebuild_index",
    "recording",
    "release",
]
