"""The time of day, as journal entries have it."""

from __future__ import annotations

from datetime import UTC, datetime


def current_timestamp() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
