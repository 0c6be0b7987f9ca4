"""What a process of ours leaves behind when it dies."""

from __future__ import annotations

from contextlib import suppress


def forbid_core_dumps() -> None:
    """Let no core dump be written of this process and of those that it starts.

    Their memory and environment hold tokens. Only the soft limit is lowered, so that whoever debugs
    a child can raise it.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on every system

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
