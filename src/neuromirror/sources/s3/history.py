"""Earlier states of a prefix, from the object versions and delete markers in its bucket.

A burst of changes with shorter pauses than a given gap makes one state, as of its last change.
Versions that lifecycle rules removed are unknown. States before the first version id are left out,
because changes before the bucket was versioned are unknown too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, BinaryIO, Final

import msgspec

from neuromirror.net import ObjectRow

_LENGTH: Final = 4
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ObjectRow).decode


def write_row(file: IO[bytes], row: ObjectRow) -> None:
    """Append a row to a binary file."""
    line = _encode(row)
    file.write(len(line).to_bytes(_LENGTH, "big") + line)


def read_rows(file: IO[bytes]) -> Iterator[ObjectRow]:
    """Yield the rows of a file, from its current position on."""
    while head := file.read(_LENGTH):
        yield _decode(file.read(int.from_bytes(head, "big")))


_PARTS: Final = 64
_AT: Final = "at "
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def upstream_name(moment: datetime) -> str:
    """Return the upstream name of the state that a bucket had at a time: ``at <time>``, in UTC."""
    return f"{_AT}{moment.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"


def moment_of(upstream: str) -> datetime | None:
    """Parse the time in an upstream name; None for another name."""
    if not upstream.startswith(_AT):
        return None
    try:
        moment = datetime.fromisoformat(upstream.removeprefix(_AT))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def burst_ends(rows: Iterable[ObjectRow], gap: timedelta) -> list[datetime]:
    """Return the times of the earlier states of a prefix: the last change before each pause.

    Parameters
    ----------
    rows
        All versions and delete markers of the objects.
    gap
        Changes with shorter pauses between them form one burst, which gives one state. States
        before the first object with a version id are left out: the bucket did not keep them.

    Returns
    -------
    list[datetime]
        The times, oldest first.
    """
    # changes in one slot are closer than the gap, so its first and last change are enough
    slots: dict[int, tuple[datetime, datetime]] = {}
    begin: datetime | None = None
    for row in rows:
        slot = (row.modified - _EPOCH) // gap
        first, last = slots.get(slot, (row.modified, row.modified))
        slots[slot] = (min(first, row.modified), max(last, row.modified))
        if row.version_id is not None and (begin is None or row.modified < begin):
            begin = row.modified
    ends: list[datetime] = []
    for slot in sorted(slots):
        first, last = slots[slot]
        if ends and first - ends[-1] < gap:
            ends[-1] = last
        else:
            ends.append(last)
    return [] if begin is None else [moment for moment in ends if moment >= begin]


def state_at(
    rows: Iterable[ObjectRow], moment: datetime, workspace: Path | None
) -> Iterator[ObjectRow]:
    """Yield the latest version of each key at a time, except for deleted keys.

    Parameters
    ----------
    rows
        All versions and delete markers, newest first for each key.
    moment
        The time.
    workspace
        A folder for spooling the rows; None for the system's temporary folder.
    """
    with TemporaryDirectory(prefix="at-", dir=workspace) as folder, ExitStack() as stack:
        parts = [
            stack.enter_context((Path(folder) / str(number)).open("w+b"))
            for number in range(_PARTS)
        ]
        for row in rows:
            if row.modified <= moment:
                write_row(parts[zlib.crc32(row.key) % _PARTS], row)
        for part in parts:
            yield from _latest(part)


def _latest(part: BinaryIO) -> Iterator[ObjectRow]:
    part.seek(0)
    latest: dict[bytes, ObjectRow] = {}
    for row in read_rows(part):
        known = latest.get(row.key)
        # of two versions in the same second, the one listed first is newer
        if known is None or row.modified > known.modified:
            latest[row.key] = row
    yield from (row for row in latest.values() if not row.deleted)
