"""Read-only checks of whether a live archive complies with its documented interface."""

from neuromirror.conformance.detect import UnknownArchiveError, open_archive
from neuromirror.conformance.report import (
    ConformanceFinding,
    ConformanceReport,
    compare_reports,
    load_report,
)
from neuromirror.conformance.suite import REQUEST_LIMIT, check_archive

__all__ = [
    "REQUEST_LIMIT",
    "ConformanceFinding",
    "ConformanceReport",
    "UnknownArchiveError",
    "check_archive",
    "compare_reports",
    "load_report",
    "open_archive",
]
