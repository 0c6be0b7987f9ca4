"""Files of a clone got from where their bytes are, many at a time, and checked as they arrive."""

from neuromirror.lab.get.checks import Check, EtagDigest, check_for
from neuromirror.lab.get.clone import NotAClone
from neuromirror.lab.get.run import JOBS, Progress, get
from neuromirror.lab.get.settings import GitFailed

__all__ = [
    "JOBS",
    "Check",
    "EtagDigest",
    "GitFailed",
    "NotAClone",
    "Progress",
    "check_for",
    "get",
]
