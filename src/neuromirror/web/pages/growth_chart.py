"""The chart of a dataset's size over time, as SVG coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

_WIDTH, _HEIGHT = 640.0, 110.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 10.0, 10.0, 8.0, 8.0


class GrowthChart(Struct, frozen=True):
    """A step chart of a dataset's size over time, in the units of the SVG view box.

    Attributes
    ----------
    width, height
        The size of the view box.
    floor
        The y of zero bytes.
    line
        The points of the line, as an SVG attribute.
    points
        x, y and whether the version is published, per version.
    first, last
        The days of the first and of the last version, with their times if it is one day.
    minimum, maximum
        The smallest and the largest size in bytes.
    """

    width: float
    height: float
    floor: float
    line: str
    points: tuple[tuple[float, float, bool], ...]
    first: str
    last: str
    minimum: int
    maximum: int


def growth_chart(sizes: Sequence[tuple[str, int, bool]]) -> GrowthChart | None:
    """Return the chart of (time, bytes, published) samples; None for fewer than two versions."""
    samples = sorted(
        (datetime.fromisoformat(time), size, published) for time, size, published in sizes
    )
    if len(samples) < 2:
        return None
    first, last = samples[0][0], samples[-1][0]
    span = (last - first).total_seconds() or 1.0
    most = max(size for _, size, _ in samples)
    floor = _HEIGHT - _BOTTOM
    points = tuple(
        (
            round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (time - first).total_seconds() / span, 1),
            round(floor - (floor - _TOP) * size / (most or 1), 1),
            published,
        )
        for time, size, published in samples
    )
    # a size holds until the next version
    line = f"M{points[0][0]} {points[0][1]}" + "".join(f"H{x}V{y}" for x, y, _ in points[1:])
    least = min(size for _, size, _ in samples)
    form = "%Y-%m-%d" if first.date() != last.date() else "%Y-%m-%d %H:%M UTC"
    days = f"{first:{form}}", f"{last:{form}}"
    return GrowthChart(_WIDTH, _HEIGHT, floor, line, points, *days, least, most)
