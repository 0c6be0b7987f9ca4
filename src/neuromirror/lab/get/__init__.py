"""Files of a clone got from where their bytes are, many at a time, and checked as they arrive."""

from neuromirror.lab.get.checks import Check, check_for
from neuromirror.lab.get.clone import NotAClone
from neuromirror.lab.get.run import JOBS, Progress, get
from neuromirror.lab.git import GitFailed

__all__ = [
    "JOBS",
    "Check",
    "GitFailed",
    "NotAClone",
    "Progress",
    "check_for",
    "get",
]
