"""The current time, as in journal entries."""

from __future__ import annotations

from datetime import UTC, datetime


def current_timestamp() -> str:
    """Return the current time in UTC, as ISO 8601 with whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
