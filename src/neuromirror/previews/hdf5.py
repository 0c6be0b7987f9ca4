"""Previews of HDF5 files: the session and first traces of an NWB file, the tree of any other.

The file is hostile: links to other files, external and virtual datasets, which make HDF5 open local
paths, are never followed, and every loop has a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from xml.sax.saxutils import escape

from neuromirror.previews.shapes import Picture, Preview, Table

if TYPE_CHECKING:
    import h5py

_MAX_NODES: Final = 60
"""Maximum number of rows of a table."""
_MAX_LINKS: Final = 1000
"""Maximum number of links that are read in a group."""
_MAX_DEPTH: Final = 4
_MAX_TEXT: Final = 300
_SAMPLES: Final = 2000
_CHANNELS: Final = 8
_MAX_CHUNK_BYTES: Final = 64 << 20

_SESSION_FIELDS: Final = (
    ("Session", "session_description"),
    ("Session start", "session_start_time"),
    ("Experiment", "general/experiment_description"),
    ("Institution", "general/institution"),
    ("Lab", "general/lab"),
)
_SUBJECT_FIELDS: Final = ("subject_id", "species", "sex", "age", "genotype")


def preview_hdf5(file: BinaryIO) -> Preview:
    """Preview an HDF5 file.

    Parameters
    ----------
    file
        The file, seekable.

    Returns
    -------
    Preview
        For an NWB file its session, subject, devices, time series and first traces; for any other
        the datasets with their shapes and types.

    Raises
    ------
    OSError
        It is not an HDF5 file, or damaged.
    """
    import h5py

    with h5py.File(file, "r") as opened:
        if "nwb_version" in opened.attrs:
            return _preview_nwb(opened)
        rows = [
            [path, _format_shape(node.shape), str(node.dtype)]
            for path, node in _datasets(opened, "", _MAX_DEPTH)
        ]
    return Preview("hdf5", tables=[Table("Datasets", ["Path", "Shape", "Type"], rows)])


def _preview_nwb(root: h5py.Group) -> Preview:
    facts = [("NWB version", _text(root.attrs["nwb_version"]))]
    facts += [(name, found) for name, path in _SESSION_FIELDS if (found := _read_text(root, path))]
    subject = _group(root, "general/subject")
    if subject is not None:
        fields = [(name.removeprefix("subject_"), name) for name in _SUBJECT_FIELDS]
        values = [
            f"{label} {found}" for label, name in fields if (found := _read_text(subject, name))
        ]
        if values:
            facts.append(("Subject", ", ".join(values)))
    devices = _group(root, "general/devices")
    if devices is not None:
        facts.append(("Devices", ", ".join(name for name, _ in _children(devices))))
    for label, path in (
        ("Electrodes", "general/extracellular_ephys/electrodes/id"),
        ("Units", "units/id"),
        ("Trials", "intervals/trials/id"),
    ):
        ids = _dataset(root, path)
        if ids is not None and ids.shape:
            facts.append((label, str(ids.shape[0])))
    series = list(_time_series(root))
    durations = [one.seconds for one in series if one.seconds is not None]
    if durations:
        facts.append(("Duration", f"{max(durations):,.1f} s"))
    rows = [one.row() for one in series]
    columns = ["Name", "Type", "Shape", "Unit", "Rate"]
    tables = [Table("Time series", columns, rows)] if rows else []
    notes = []
    if len(series) == _MAX_NODES:
        notes.append(f"The first {_MAX_NODES} time series are listed.")
    picture = None
    for one in sorted(series, key=lambda found: found.kind != "ElectricalSeries"):
        picture = one.draw()
        if picture is not None:
            break
    return Preview("nwb", facts=facts, tables=tables, picture=picture, notes=notes)


class _TimeSeries:
    """A group with a numeric dataset ``data``, as in NWB's TimeSeries."""

    def __init__(self, path: str, group: h5py.Group, data: h5py.Dataset) -> None:
        self._path, self._data = path, data
        self.kind = _text(group.attrs.get("neurodata_type", ""))
        self._unit = _text(data.attrs.get("unit", ""))
        self._conversion = _number(data.attrs.get("conversion"), 1.0)
        starting_time = _dataset(group, "starting_time")
        self._rate = 0.0
        self.seconds: float | None = None
        count = data.shape[0]
        if starting_time is not None:
            self._rate = _number(starting_time.attrs.get("rate"), 0.0)
            if self._rate > 0:
                self.seconds = count / self._rate
        else:
            times = _dataset(group, "timestamps")
            if times is not None and times.ndim == 1 and times.shape[0] > 1:
                self.seconds = float(times[-1] - times[0])

    def row(self) -> list[str]:
        """Return the row of the table of time series."""
        rate = f"{self._rate:,.6g} Hz" if self._rate else ""
        shape = _format_shape(self._data.shape)
        return [self._path, self.kind, shape, self._unit, rate]

    def draw(self) -> Picture | None:
        """Return the first samples of the first channels as curves; None if there are none."""
        import numpy

        data = self._data
        if data.ndim not in (1, 2) or data.dtype.kind not in "iuf" or data.shape[0] < 2:
            return None
        if 0 in data.shape or _chunk_bytes(data) > _MAX_CHUNK_BYTES:
            return None
        part = data[:_SAMPLES] if data.ndim == 1 else data[:_SAMPLES, :_CHANNELS]
        values = numpy.asarray(part, numpy.float64).reshape(len(part), -1) * self._conversion
        seconds = len(values) / self._rate if self._rate else None
        shown = [column.tolist() for column in values.T]
        return draw_traces(shown, name=self._path, unit=self._unit, seconds=seconds)


def _time_series(root: h5py.Group) -> Iterator[_TimeSeries]:
    """Yield the time series below ``acquisition``, ``stimulus`` and ``processing``."""
    count = 0
    for top in ("acquisition", "stimulus", "processing"):
        start = _group(root, top)
        if start is None:
            continue
        for path, node in _datasets(start, top, _MAX_DEPTH):
            folder, _, name = path.rpartition("/")
            group = _group(root, folder)
            if name != "data" or not node.shape or group is None:
                continue
            yield _TimeSeries(folder, group, node)
            count += 1
            if count == _MAX_NODES:
                return


def _datasets(group: h5py.Group, prefix: str, depth: int) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield up to a number of datasets below a group, in the order of the file."""
    import h5py

    left = [_MAX_NODES * 20]

    def walk(group: h5py.Group, prefix: str, depth: int) -> Iterator[tuple[str, h5py.Dataset]]:
        for name, node in _children(group):
            left[0] -= 1
            if left[0] < 0:
                return
            path = f"{prefix}/{name}" if prefix else name
            if isinstance(node, h5py.Dataset):
                yield path, node
            elif depth:
                yield from walk(node, path, depth - 1)

    for count, found in enumerate(walk(group, prefix, depth)):
        if prefix == "" and count == _MAX_NODES:
            return
        yield found


def _children(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    """Yield the groups and datasets of a group that are in this file."""
    for count, name in enumerate(group):
        if count == _MAX_LINKS:
            return
        node = _local(group, name)
        if node is not None:
            yield str(name).encode("utf-8", "replace").decode(), node


def _local(group: h5py.Group, name: str) -> Any:
    """Return a group or dataset that a hard link names and that has its bytes in this file."""
    import h5py

    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        return None
    node = group[name]
    if isinstance(node, h5py.Group):
        return node
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external is not None:
        return None
    return node


def _lookup(group: h5py.Group, path: str) -> Any:
    import h5py

    node: Any = group
    for name in path.split("/"):
        if not isinstance(node, h5py.Group) or name not in node:
            return None
        node = _local(node, name)
    return node


def _group(group: h5py.Group, path: str) -> h5py.Group | None:
    import h5py

    found = _lookup(group, path)
    return found if isinstance(found, h5py.Group) else None


def _dataset(group: h5py.Group, path: str) -> h5py.Dataset | None:
    import h5py

    found = _lookup(group, path)
    return found if isinstance(found, h5py.Dataset) else None


def _read_text(group: h5py.Group, path: str) -> str:
    """Return a scalar text, or the first texts of an array; empty if missing."""
    found = _dataset(group, path)
    if found is None or found.ndim > 1 or found.size == 0 or found.dtype.kind not in "OSU":
        return ""
    if found.ndim == 0:
        return _text(found[()])
    return ", ".join(_text(one) for one in found[:5])


def _text(value: Any) -> str:
    """Return a value of HDF5 as a line of text."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    line = " ".join(text.split())
    return line if len(line) <= _MAX_TEXT else f"{line[: _MAX_TEXT - 1]}…"


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def _format_shape(shape: tuple[int, ...] | None) -> str:
    return " × ".join(f"{one:,}" for one in shape) if shape else "scalar"


def _chunk_bytes(data: h5py.Dataset) -> int:
    """Return the size of what must be decoded at once."""
    return math.prod(data.chunks or ()) * int(data.dtype.itemsize)


# --- curves of the first samples of a time series, as SVG (https://www.w3.org/TR/SVG2/)


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
    finite = [value for value in values if math.isfinite(value)]
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
