"""Download, hash and verify the bytes of annexed files."""

from neuromirror.git import GitError
from neuromirror.transfer.annex_clone import NotACloneError
from neuromirror.transfer.byte_progress import ByteProgress
from neuromirror.transfer.clone_get import JOBS, get
from neuromirror.transfer.content_checks import ContentCheck, check_for

__all__ = [
    "JOBS",
    "ByteProgress",
    "ContentCheck",
    "GitError",
    "NotACloneError",
    "check_for",
    "get",
]
