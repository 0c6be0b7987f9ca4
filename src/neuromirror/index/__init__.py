"""The index: an SQLite cache of the store's journal, and all queries on it.

Applying all journal entries in order to an empty database gives the same rows in every table as
the live run did. :mod:`neuromirror.index.schema` defines the tables.
"""

from neuromirror.index.backup import raise_if_damaged
from neuromirror.index.browse_queries import ContentSpanRow, FolderEntryRow
from neuromirror.index.checksums import is_checksum
from neuromirror.index.content_queries import FileContent
from neuromirror.index.database import Index, rebuild_from_journal
from neuromirror.index.effective_entries import effective_entries, is_indexed
from neuromirror.index.errors import (
    AmbiguousNameError,
    DatasetWithdrawnError,
    FilesNotIndexedError,
    IndexBusyError,
    IndexDamagedError,
    IndexMissingError,
    IndexUnusableError,
    JournalDamagedError,
    MalformedQueryError,
    QueryStoppedError,
    UnknownAttributeError,
    UnknownDatasetError,
    UnknownFileError,
    UnknownHoldError,
    UnknownMirrorError,
    UnknownVersionError,
)
from neuromirror.index.facet_queries import FacetCount
from neuromirror.index.facet_values import FACETS, SIZES, canonical_value
from neuromirror.index.lease_table import LeaseRow, LeaseTable
from neuromirror.index.match_texts import MatchedText
from neuromirror.index.name_queries import NameMatch
from neuromirror.index.remote_index import CrawlIndex, RemoteIndex, answer_query
from neuromirror.index.replay import Journal
from neuromirror.index.rows import (
    CopyRow,
    DatasetRow,
    DueLocation,
    EdgeRow,
    EtagRow,
    EventRow,
    EvidenceCounts,
    FailingHost,
    FailureRow,
    FileRow,
    FoundFile,
    HoldRow,
    LastVisit,
    LocationRow,
    MirrorStatus,
    ProbeSummary,
    RelatedVersion,
    SubdatasetRow,
    Tombstone,
    UnindexedFiles,
    VersionRow,
    VisitRow,
)
from neuromirror.index.schedule import Schedule, TaskRow
from neuromirror.index.search_queries import SORTS, FoundDataset, FoundDatasets, MatchingFiles
from neuromirror.index.synonyms import without_general_techniques

__all__ = [
    "FACETS",
    "SIZES",
    "SORTS",
    "AmbiguousNameError",
    "ContentSpanRow",
    "CopyRow",
    "CrawlIndex",
    "DatasetRow",
    "DatasetWithdrawnError",
    "DueLocation",
    "EdgeRow",
    "EtagRow",
    "EventRow",
    "EvidenceCounts",
    "FacetCount",
    "FailingHost",
    "FailureRow",
    "FileContent",
    "FileRow",
    "FilesNotIndexedError",
    "FolderEntryRow",
    "FoundDataset",
    "FoundDatasets",
    "FoundFile",
    "HoldRow",
    "Index",
    "IndexBusyError",
    "IndexDamagedError",
    "IndexMissingError",
    "IndexUnusableError",
    "Journal",
    "JournalDamagedError",
    "LastVisit",
    "LeaseRow",
    "LeaseTable",
    "LocationRow",
    "MalformedQueryError",
    "MatchedText",
    "MatchingFiles",
    "MirrorStatus",
    "NameMatch",
    "ProbeSummary",
    "QueryStoppedError",
    "RelatedVersion",
    "RemoteIndex",
    "Schedule",
    "SubdatasetRow",
    "TaskRow",
    "Tombstone",
    "UnindexedFiles",
    "UnknownAttributeError",
    "UnknownDatasetError",
    "UnknownFileError",
    "UnknownHoldError",
    "UnknownMirrorError",
    "UnknownVersionError",
    "VersionRow",
    "VisitRow",
    "answer_query",
    "canonical_value",
    "effective_entries",
    "is_checksum",
    "is_indexed",
    "raise_if_damaged",
    "rebuild_from_journal",
    "without_general_techniques",
]
