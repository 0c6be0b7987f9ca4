"""Whose token a cut-out service is shown."""

from __future__ import annotations

from neuromirror.sources.volumes.tokens import from_environment, variable

__all__ = ["from_environment", "nobody", "variable"]


def nobody(host: str) -> None:
    """No token for any host: what is read is what anybody may read."""
