"""Earlier states of a prefix, from the versions and delete markers that its bucket keeps.

A burst of changes, with no longer pause in it than a gap, makes one state: that at its last
change. What lifecycle rules have expired is not known any more; and what happened before the
bucket kept versions cannot be told, so states before its first version id are left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final

import msgspec

from neuromirror.net import ObjectRow

_PARTS: Final = 64
_AT: Final = "at "
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LENGTH: Final = 4

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ObjectRow).decode


def upstream_name(moment: datetime) -> str:
    """How a version that is the state at a moment is called."""
    return f"{_AT}{moment.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"


def moment_of(upstream: str) -> datetime | None:
    """The moment of a version with such a name; None for any other name."""
    if not upstream.startswith(_AT):
        return None
    try:
        moment = datetime.fromisoformat(upstream.removeprefix(_AT))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def burst_ends(rows: Iterable[ObjectRow], gap: timedelta) -> list[datetime]:
    """The last change of each burst, oldest first, from the first version id on.

    Memory is bounded by the time between the first and the last change, not by their number.
    """
    # Two changes in one slot are closer than the gap, so first and last of a slot are enough.
    slots: dict[int, tuple[datetime, datetime]] = {}
    begin: datetime | None = None
    for row in rows:
        slot = (row.modified - _EPOCH) // gap
        first, last = slots.get(slot, (row.modified, row.modified))
        slots[slot] = (min(first, row.modified), max(last, row.modified))
        if row.version_id is not None and (begin is None or row.modified < begin):
            begin = row.modified
    found: list[datetime] = []
    for slot in sorted(slots):
        first, last = slots[slot]
        if found and first - found[-1] < gap:
            found[-1] = last
        else:
            found.append(last)
    return [] if begin is None else [moment for moment in found if moment >= begin]


def state_at(
    rows: Iterable[ObjectRow], moment: datetime, workspace: Path | None
) -> Iterator[ObjectRow]:
    """Yields each key's latest version at a moment, but for those deleted then.

    ``rows`` are all versions and delete markers, a key's own newest first; they go through files
    in ``workspace`` (None: the system's place for such), so that memory stays flat.
    """
    with TemporaryDirectory(prefix="at-", dir=workspace) as folder, ExitStack() as stack:
        parts = [
            stack.enter_context((Path(folder) / str(number)).open("w+b"))
            for number in range(_PARTS)
        ]
        for row in rows:
            if row.modified <= moment:
                line = _encode(row)
                parts[zlib.crc32(row.key) % _PARTS].write(len(line).to_bytes(_LENGTH, "big") + line)
        for part in parts:
            yield from _latest(part)


def _latest(part: BinaryIO) -> Iterator[ObjectRow]:
    part.seek(0)
    latest: dict[bytes, ObjectRow] = {}
    while head := part.read(_LENGTH):
        row = _decode(part.read(int.from_bytes(head, "big")))
        known = latest.get(row.key)
        # Of two of the same second the one listed first is the newer.
        if known is None or row.modified > known.modified:
            latest[row.key] = row
    yield from (row for row in latest.values() if not row.deleted)
