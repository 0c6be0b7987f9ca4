"""Read-only checks of a live archive: which documented rules it keeps."""

from neuromirror.conformance.detect import ArchiveUnknown, open_address
from neuromirror.conformance.report import Finding, Report, compare_reports, load_report
from neuromirror.conformance.suite import REQUEST_LIMIT, check_archive

__all__ = [
    "REQUEST_LIMIT",
    "ArchiveUnknown",
    "Finding",
    "Report",
    "check_archive",
    "compare_reports",
    "load_report",
    "open_address",
]
