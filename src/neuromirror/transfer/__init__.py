"""Download, hash and verify the bytes of annexed files."""

from neuromirror.transfer.clone_get import JOBS, get

__all__ = [
    "JOBS",
    "get",
]
