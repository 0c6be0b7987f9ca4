"""The assets' metadata as documents: one JSON object per line, in shards of under 10 MB.

If all of it fits, there is one file, ``.dandi/assets.jsonl``. Otherwise there are several,
``.dandi/assets-<hex>.jsonl``, each with the assets whose path's sha256 starts with these digits. A
shard over the limit is split into sixteen, and the others stay the same. So one changed asset
rewrites one shard, and equal upstream state gives equal bytes, whatever the earlier states were.
Lines are sorted by path.

Fields that change although the asset does not are left out: the ones computed for each reply
(``access``, ``contentUrl``, ``id``, ``@context``), ``digest`` (the sha256 is added later, and the
keys contain it), ``publishedBy`` and ``datePublished`` (publishing writes them into the draft's
assets too), ``dateModified`` and the activity ``Metadata generation`` (when and with which program
the metadata were extracted). ``identifier`` is the asset's id and stays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from neuromirror.model import Document
from neuromirror.net import ListingTooLongError
from neuromirror.sources.dandi.document import clean, may_need_cleaning, utf8

SHARD_LIMIT: Final = 8 << 20
"""Maximum bytes of a shard."""
TOTAL_LIMIT: Final = 1 << 30
"""Maximum bytes of all shards of a list: ten times the largest known list."""

_FOLDER: Final = ".dandi"
_LEFT_OUT: Final = frozenset(
    {
        *("@context", "access", "contentUrl", "dateModified", "datePublished", "digest"),
        *("id", "publishedBy", "schemaKey"),
    }
)
_DIGITS: Final = 64
_GENERATION: Final = "Metadata generation"
_dump: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_BASIC: Final = ("path", "identifier", "encodingFormat", "contentSize", "schemaVersion")


def metadata_line(metadata: Mapping[str, Any], path: str) -> bytes:
    """Return an asset's metadata as one line of JSON with its newline.

    Volatile fields, nulls and secrets are left out; of metadata too large for a shard only the
    basic fields remain. ``path`` is the asset's path in the row of the asset list.
    """
    kept = {
        name: value
        for name, value in metadata.items()
        if name not in _LEFT_OUT and value is not None
    }
    activities = kept.get("wasGeneratedBy")
    if isinstance(activities, list):
        kept["wasGeneratedBy"] = [one for one in activities if not _is_generation(one)]
    kept["path"] = path
    dumped = _dump(kept)
    if may_need_cleaning(dumped):
        kept = {**clean(kept), "path": path}
        dumped = _dump(kept)
    line = utf8(dumped) + b"\n"
    if len(line) > SHARD_LIMIT:
        # a line must fit into a shard
        kept = {name: kept[name] for name in _BASIC if name in kept} | {"metadataLeftOut": "size"}
        line = utf8(_dump(kept)) + b"\n"
    return line


def _is_generation(activity: object) -> bool:
    return isinstance(activity, Mapping) and activity.get("name") == _GENERATION


class MetadataShards:
    """Collects the metadata of the assets in one asset list, and divides them into files (shards).

    All lines are in memory: about 100 MB for the largest known list (68,210 assets).

    Parameters
    ----------
    limit
        Maximum bytes of a shard.
    most
        Bytes of all shards beyond which :class:`~neuromirror.net.ListingTooLongError` is raised.
    """

    def __init__(self, limit: int = SHARD_LIMIT, most: int = TOTAL_LIMIT) -> None:
        self._limit = limit
        self._most = most
        self._size = 0
        self._lines: list[tuple[bytes, bytes, bytes]] = []

    def add_rows(self, rows: Iterable[Any]) -> None:
        """Add the unparsed rows of one page; rows that are not assets are skipped."""
        for row in rows:
            metadata = row.get("metadata") if isinstance(row, Mapping) else None
            path = row.get("path") if isinstance(row, Mapping) else None
            if isinstance(metadata, Mapping) and isinstance(path, str) and path:
                name = path.encode("utf-8", "backslashreplace")
                digest = hashlib.sha256(name).digest()
                line = metadata_line(metadata, path)
                self._size += len(name) + len(line)
                self._check_size()
                self._lines.append((digest, name, line))

    def _check_size(self) -> None:
        if self._size > self._most:
            raise ListingTooLongError(
                f"the assets' metadata have more than {self._most} bytes; the listing is not used; "
                "to mirror the files without metadata, set metadata = false in the options of the "
                "mirror's configuration"
            )

    def documents(self) -> tuple[Document, ...]:
        """Return the shards sorted by name, empty without assets, and clear the collection."""
        lines, self._lines = self._lines, []
        return tuple(self._shards(lines, ""))

    def _shards(self, lines: list[tuple[bytes, bytes, bytes]], digits: str) -> list[Document]:
        if not lines:
            return []
        if len(digits) == _DIGITS or sum(len(line) for _, _, line in lines) <= self._limit:
            lines.sort(key=lambda one: one[1:])
            name = f"{_FOLDER}/assets{'-' if digits else ''}{digits}.jsonl"
            return [Document(name.encode("ascii"), b"".join(line for _, _, line in lines))]
        at = len(digits)
        split: list[list[tuple[bytes, bytes, bytes]]] = [[] for _ in range(16)]
        for one in lines:
            split[one[0][at // 2] >> (0 if at % 2 else 4) & 15].append(one)
        lines.clear()
        found: list[Document] = []
        for number, some in enumerate(split):
            found += self._shards(some, f"{digits}{number:x}")
            some.clear()
        return found
