"""The index: a SQLite cache of the store's journal, and every question that is asked of it.

Event sourcing: applying all entries of the journal in order to an empty database gives the same
tables, row by row, as the live run did. See :mod:`neuromirror.index.schema` for the tables.
"""

from neuromirror.index.applying import Journal
from neuromirror.index.backup import check_damage
from neuromirror.index.browse_queries import LevelRow, SpanRow
from neuromirror.index.canned import CANNED
from neuromirror.index.checksums import is_checksum
from neuromirror.index.database import Index, rebuild
from neuromirror.index.errors import (
    AmbiguousName,
    DatasetWithheld,
    FilesNotIndexed,
    IndexBusy,
    IndexDamaged,
    IndexMissing,
    IndexUnusable,
    JournalBroken,
    MalformedQuery,
    QueryStopped,
    UnknownAttribute,
    UnknownDataset,
    UnknownFile,
    UnknownHold,
    UnknownMirror,
    UnknownVersion,
)
from neuromirror.index.name_queries import Named
from neuromirror.index.rows import (
    AilingHost,
    Answers,
    CopyRow,
    DatasetRow,
    EdgeRow,
    EtagRow,
    EventRow,
    FailureRow,
    FileRow,
    FoundFile,
    HoldRow,
    LastVisit,
    LocationRow,
    MirrorStatus,
    NotIndexed,
    PartRow,
    PlaceDue,
    Relative,
    Tombstone,
    VersionRow,
    VisitRow,
    Vouched,
)
from neuromirror.index.schedule import LeaseRow, Schedule, TaskRow
from neuromirror.index.search_queries import FoundDataset, FoundDatasets, MatchedPaths
from neuromirror.index.settings import is_indexed, settled
from neuromirror.index.urls import plain_url
from neuromirror.index.visitors import VisitorIndex, as_damage, refusal

__all__ = [
    "CANNED",
    "AilingHost",
    "AmbiguousName",
    "Answers",
    "CopyRow",
    "DatasetRow",
    "DatasetWithheld",
    "EdgeRow",
    "EtagRow",
    "EventRow",
    "FailureRow",
    "FileRow",
    "FilesNotIndexed",
    "FoundDataset",
    "FoundDatasets",
    "FoundFile",
    "HoldRow",
    "Index",
    "IndexBusy",
    "IndexDamaged",
    "IndexMissing",
    "IndexUnusable",
    "Journal",
    "JournalBroken",
    "LastVisit",
    "LeaseRow",
    "LevelRow",
    "LocationRow",
    "MalformedQuery",
    "MatchedPaths",
    "MirrorStatus",
    "Named",
    "NotIndexed",
    "PartRow",
    "PlaceDue",
    "QueryStopped",
    "Relative",
    "Schedule",
    "SpanRow",
    "TaskRow",
    "Tombstone",
    "UnknownAttribute",
    "UnknownDataset",
    "UnknownFile",
    "UnknownHold",
    "UnknownMirror",
    "UnknownVersion",
    "VersionRow",
    "VisitRow",
    "VisitorIndex",
    "Vouched",
    "as_damage",
    "check_damage",
    "is_checksum",
    "is_indexed",
    "plain_url",
    "rebuild",
    "refusal",
    "settled",
]
