"""Bytes beside what is pinned: here, as places state them, or as places give them.

What is said to be checked was hashed here; what a place only states is claimed.
"""

from neuromirror.lab.verify.clone import Clone, NotADataset
from neuromirror.lab.verify.findings import NOT_HERE, Finding, Health, What
from neuromirror.lab.verify.verbs import Mode, verify

__all__ = [
    "NOT_HERE",
    "Clone",
    "Finding",
    "Health",
    "Mode",
    "NotADataset",
    "What",
    "verify",
]
