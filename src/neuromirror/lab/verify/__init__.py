"""Bytes beside what is pinned: here, as places state them, or as places give them.

What is said to be checked was hashed here; what a place only states is claimed.
"""

from neuromirror.lab.verify.verification import Mode, verify
from neuromirror.transfer.findings import NOT_HERE, Finding, FindingKind, Health
from neuromirror.transfer.verified_repository import NotADatasetError, VerifiedRepository

__all__ = [
    "NOT_HERE",
    "Finding",
    "FindingKind",
    "Health",
    "Mode",
    "NotADatasetError",
    "VerifiedRepository",
    "verify",
]
