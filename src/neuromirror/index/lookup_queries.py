"""Bulk lookups of earlier results, which save requests to upstream."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

from neuromirror.index.contents import CHECKED_BITS, MULTIPART_ETAG
from neuromirror.index.locations import EXACT
from neuromirror.index.query_base import QueryBase
from neuromirror.index.rows import EtagRow
from neuromirror.index.urls import key_hash, short_hash
from neuromirror.model import Digest, Location
from neuromirror.model.records import plain_url, url_version_id

_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_BATCH = 10_000
"""Values per statement."""

_T = TypeVar("_T")


class LookupQueries(QueryBase):
    """Queries for what earlier visits of any dataset recorded, such as known checksums.

    A visit that finds them need not request them from upstream. A base class of :class:`Index`,
    which has the connection.
    """

    def known_locations(self, urls: Sequence[str]) -> list[Location | None]:
        """Return the object version last seen at each URL without version, or None."""
        plain = [plain_url(url) for url in urls]
        last: dict[str, tuple[int, int, str, str | None]] = {}
        for some in _batches(list(map(short_hash, plain))):
            for url, version_id, last_version, number in self._all(
                "SELECT url, version_id, last_version, id FROM locations "
                f"WHERE url_hash IN ({_placeholders(some)}) AND rank = {EXACT}",
                some,
            ):
                address = plain_url(url)
                before = last.get(address)
                if before is None or before < (last_version, number):
                    last[address] = (last_version, number, url, version_id)
        # this rank has objects only
        return [
            None if row is None else Location(row[2], "s3", row[3] or url_version_id(row[2]))
            for row in map(last.get, plain)
        ]

    def known_contents(self, etags: Sequence[str]) -> list[EtagRow | None]:
        """Return the content of each ETag, ``<md5>`` or ``<md5>-<parts>``, or None.

        The result is also None for an ETag with two contradicting contents.
        """
        unique_etags = dict.fromkeys(etags)
        plain = [bytes.fromhex(etag) for etag in unique_etags if _MD5.match(etag)]
        multipart = [
            bytes.fromhex(form[1]) for form in map(MULTIPART_ETAG.match, unique_etags) if form
        ]
        rows_by_etag: dict[str, list[tuple[Any, ...]]] = {}
        for md5, _, size, _, *sha256 in self._contents("md5", plain):
            rows_by_etag.setdefault(md5.hex(), []).append((size, None, *sha256))
        for digest, parts, *rest in self._contents("etag", multipart):
            rows_by_etag.setdefault(f"{digest.hex()}-{parts}", []).append(tuple(rest))
        for etag, *rest in self._other_digests(list(unique_etags)):
            rows_by_etag.setdefault(etag, []).append(tuple(rest))
        claimants = self._claimants()
        return [
            _common_values(rows_by_etag[etag], claimants) if etag in rows_by_etag else None
            for etag in etags
        ]

    def shown_keys(self, keys: Collection[str]) -> set[str]:
        """Return those annex keys that a file of a dataset has which is not withdrawn."""
        found: set[str] = set()
        requested = set(keys)
        for some in _batches(list(map(key_hash, keys))):
            rows = self._all(
                f"SELECT c.key FROM contents c WHERE c.key_hash IN ({_placeholders(some)}) "
                "AND EXISTS (SELECT 1 FROM files f JOIN datasets d ON d.id = f.dataset "
                "WHERE f.content = c.id AND d.withdrawn = '')",
                some,
            )
            found.update(key for (key,) in rows if key in requested)
        return found

    def _contents(self, column: str, digests: list[bytes]) -> Iterator[tuple[Any, ...]]:
        """Yield (digest, parts, size, part size, sha256, its claimant, checked bits) of contents.

        They are the contents whose digest has the same first eight bytes; the rest may differ.
        """
        head = f"substr({column}, 1, 8)"
        chosen = (
            f"SELECT {column}, parts, size, part_size, sha256, sha256_by, checked FROM contents"
        )
        for some in _batches([digest[:8] for digest in digests]):
            named = f"key_hash IN ({_placeholders(some)}) AND {head} = key_hash"
            others = f"{head} <> key_hash AND {head} IN ({_placeholders(some)})"
            yield from self._all(f"{chosen} WHERE {named}", some)
            yield from self._all(f"{chosen} WHERE {others}", some)

    def _other_digests(self, etags: list[str]) -> Iterator[tuple[Any, ...]]:
        """Yield (ETag, size, part size, sha256, its claimant, checked bits) of further ETags."""
        for some in _batches(etags):
            yield from self._all(
                "SELECT o.value, c.size, nullif(o.part_size, 0), c.sha256, c.sha256_by, c.checked "
                "FROM other_digests o JOIN contents c ON c.id = o.content "
                f"WHERE o.value IN ({_placeholders(some)}) AND o.algorithm = 'etag'",
                some,
            )


def _common_values(rows: list[tuple[Any, ...]], claimants: dict[int, str]) -> EtagRow | None:
    """Return the values that all rows of one ETag have in common.

    A row is (size, part size, sha256, its claimant, checked bits).
    """
    if len(rows) == 1:
        size, part_size, sha256, by, checked = rows[0]
        return EtagRow(size, part_size, _digest(sha256, by, checked, claimants))
    sizes = {row[0] for row in rows} - {None}
    part_sizes = {row[1] for row in rows} - {None}
    # checked digests come last and replace unchecked ones
    digests = {
        row[2]: _digest(row[2], row[3], row[4], claimants)
        for row in sorted(rows, key=lambda row: int(row[4] & CHECKED_BITS["sha256"]))
        if row[2] is not None
    }
    if len(sizes) > 1:
        return None
    return EtagRow(
        size=next(iter(sizes), None),
        part_size=next(iter(part_sizes)) if len(part_sizes) == 1 else None,
        sha256=next(iter(digests.values())) if len(digests) == 1 else None,
    )


def _digest(
    sha256: bytes | None, by: int | None, checked: int, claimants: dict[int, str]
) -> Digest | None:
    if sha256 is None or by is None:
        return None
    return Digest("sha256", sha256.hex(), claimants[by], bool(checked & CHECKED_BITS["sha256"]))


def _batches(values: list[_T]) -> Iterator[list[_T]]:
    return (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))


def _placeholders(values: list[Any]) -> str:
    return ",".join("?" * len(values))
