"""Pictures that are made on the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

_WIDTH, _HEIGHT, _MARGIN = 640.0, 120.0, 8.0


@dataclass(frozen=True, slots=True)
class Growth:
    """A line through (time, bytes) of versions, in the units of an SVG's view box."""

    width: float
    height: float
    line: str
    points: tuple[tuple[float, float], ...]
    first: str
    last: str
    most: int


def growth(sizes: Sequence[tuple[str, int]]) -> Growth | None:
    """How a dataset grew; None where fewer than two versions tell."""
    told = sorted((datetime.fromisoformat(time), size) for time, size in sizes)
    if len(told) < 2:
        return None
    first, last = told[0][0], told[-1][0]
    span = (last - first).total_seconds() or 1.0
    most = max(size for _, size in told) or 1
    points = tuple(
        (
            round(_MARGIN + (_WIDTH - 2 * _MARGIN) * (time - first).total_seconds() / span, 1),
            round(_HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * size / most, 1),
        )
        for time, size in told
    )
    line = " ".join(f"{x},{y}" for x, y in points)
    return Growth(_WIDTH, _HEIGHT, line, points, f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}", most)
