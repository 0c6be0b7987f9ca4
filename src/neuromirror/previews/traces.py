"""Curves of the first samples of a time series, as SVG (https://www.w3.org/TR/SVG2/)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from neuromirror.previews.shapes import Picture

_WIDTH: Final = 720
_ROW: Final = 44
"""Height of one curve in pixels."""
_LEFT: Final = 10
_TOP, _BOTTOM = 10, 26
_COLORS: Final = ("#2a7fb8", "#b8562a", "#2f9150", "#9a4fb0")
"""Colours of the curves, legible on white and on dark backgrounds."""
_MUTED: Final = "#7d8590"


def draw_traces(
    channels: Sequence[Sequence[float]], *, name: str, unit: str, seconds: float | None
) -> Picture | None:
    """Draw the curves of some channels below each other, all at the same scale.

    Parameters
    ----------
    channels
        The values of each channel; not-a-number leaves a gap.
    name
        Name of the time series.
    unit
        Unit of the values; empty if unknown.
    seconds
        Duration of the drawn samples in seconds; None if unknown.

    Returns
    -------
    Picture | None
        The drawing; None if no channel has two finite values.
    """
    ranges = [_range(values) for values in channels]
    spans = [high - low for low, high in (one for one in ranges if one is not None)]
    if not spans:
        return None
    span = max(spans) or 1.0
    height = _TOP + _ROW * len(channels) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' width="{_WIDTH}" height="{height}">'
    ]
    for row, (values, found) in enumerate(zip(channels, ranges, strict=True)):
        if found is None:
            continue
        middle = _TOP + _ROW * (row + 0.5)
        path = _path(values, sum(found) / 2, span, middle)
        color = _COLORS[row % len(_COLORS)]
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1"/>')
    duration = f"{seconds:,.4g} s" if seconds is not None else f"{len(channels[0])} samples"
    scale = f"tallest curve {span:.3g} {unit}".rstrip()
    channel_count = "1 channel" if len(channels) == 1 else f"{len(channels)} channels"
    caption = f"First {duration}, {channel_count}, {scale}"
    parts.append(
        f'<text x="{_LEFT}" y="{height - 8}" font-family="sans-serif" font-size="13"'
        f' fill="{_MUTED}">{escape(caption)}</text></svg>'
    )
    description = f"The beginning of {name}: {caption}"
    data = "".join(parts).encode("utf-8", "replace")
    return Picture("image/svg+xml", data, _WIDTH, height, description)


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    finite = [one for one in values if math.isfinite(one)]
    return (min(finite), max(finite)) if len(finite) > 1 else None


def _path(values: Sequence[float], center: float, span: float, middle: float) -> str:
    """Return SVG path data; several samples on one pixel column become a vertical line."""
    step = (_WIDTH - 2 * _LEFT) / max(1, len(values) - 1)
    columns: dict[int, list[float]] = {}
    for number, value in enumerate(values):
        if math.isfinite(value):
            columns.setdefault(round(number * step), []).append(value)
    made: list[str] = []
    previous: int | None = None
    gap = math.ceil(step) + 1
    for column, found in columns.items():
        ends = [found[0]] if len(found) == 1 else [min(found), max(found)]
        for value in ends:
            y = middle - (value - center) / span * (_ROW - 4)
            verb = "M" if previous is None or column - previous > gap else "L"
            made.append(f"{verb}{_LEFT + column} {y:.1f}")
            previous = column
    return "".join(made)
