"""Verification of datasets and lock files.

Local content, replies of servers, or downloaded content are compared with the pinned state.
``checked`` findings were hashed here; ``claimed`` ones are statements of a server.
"""

from neuromirror.lab.verify.verification import Mode, verify
from neuromirror.transfer.findings import NOT_HERE, Finding, Health
from neuromirror.transfer.verified_repository import NotADatasetError, VerifiedRepository

__all__ = [
    "NOT_HERE",
    "Finding",
    "Health",
    "Mode",
    "NotADatasetError",
    "VerifiedRepository",
    "verify",
]
