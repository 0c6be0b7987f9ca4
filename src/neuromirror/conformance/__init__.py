"""Read-only checks of whether a live archive complies with its documented interface."""

from neuromirror.conformance.detect import open_archive
from neuromirror.conformance.report import (
    ConformanceFinding,
    ConformanceReport,
    compare_reports,
    load_report,
)
from neuromirror.conformance.suite import check_archive

__all__ = [
    "ConformanceFinding",
    "ConformanceReport",
    "check_archive",
    "compare_reports",
    "load_report",
    "open_archive",
]
