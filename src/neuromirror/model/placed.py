"""A file with its place in git and its annex key, and the line it is kept as.

The lines of one version, sorted by git path, are the version's *records*: all that a source
said, so that the index can be rebuilt from the store alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from neuromirror.model.records import Digest, FileRecord, Location, Retention


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file record, the path it has in the git tree (escaped) and its git-annex key."""

    git_path: bytes
    key: str
    record: FileRecord


def text(name: bytes) -> str:
    """Bytes as text that JSON can carry and :func:`raw` turns back (surrogate escapes)."""
    return name.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """The bytes of a name made by :func:`text`."""
    return name.encode("utf-8", "surrogateescape")


def dump_placed(placed: PlacedFile) -> bytes:
    """One line of records: compact JSON, ASCII, no newline at the end.

    Fields that are empty or can be derived are left out; ``path`` stands only where upstream's
    name is not the git path.
    """
    record = placed.record
    line: dict[str, Any] = {"git": text(placed.git_path), "key": placed.key}
    if record.path != placed.git_path:
        line["path"] = text(record.path)
    if record.size is not None:
        line["size"] = record.size
    if record.digests:
        line["digests"] = [
            [d.algorithm, d.value, d.claimed_by, int(d.checked)] for d in record.digests
        ]
    if record.locations:
        line["at"] = [[place.url, place.kind, place.version_id] for place in record.locations]
    if record.part_size is not None:
        line["part"] = record.part_size
    if record.modified is not None:
        line["time"] = record.modified.isoformat()
    if record.upstream_id is not None:
        line["id"] = record.upstream_id
    line["keep"] = record.retention.value
    return json.dumps(line, separators=(",", ":")).encode("ascii")


def load_placed(line: bytes) -> PlacedFile:
    """The placed file of one line; raises ValueError or KeyError for anything else."""
    got = json.loads(line)
    git_path = raw(got["git"])
    time = got.get("time")
    return PlacedFile(
        git_path,
        got["key"],
        FileRecord(
            path=raw(got["path"]) if "path" in got else git_path,
            size=got.get("size"),
            digests=tuple(Digest(a, v, c, bool(h)) for a, v, c, h in got.get("digests", ())),
            locations=tuple(Location(u, k, v) for u, k, v in got.get("at", ())),
            part_size=got.get("part"),
            modified=None if time is None else datetime.fromisoformat(time),
            upstream_id=got.get("id"),
            retention=Retention(got["keep"]),
        ),
    )


def load_all(lines: Iterable[bytes]) -> Iterator[PlacedFile]:
    """The placed files of many lines, in order."""
    return (load_placed(line) for line in lines)
