"""Limits of a process that reads bytes that anybody may have uploaded."""

from __future__ import annotations

import resource


def limit_resources(*, memory: int, file_bytes: int, seconds: int | None = None) -> None:
    """Limit what this process may use; it leaves no core dump.

    Parameters
    ----------
    memory
        The address space in bytes.
    file_bytes
        The size of a written file in bytes.
    seconds
        The CPU time in seconds; unlimited by default.
    """
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        **({} if seconds is None else {resource.RLIMIT_CPU: seconds}),
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))
