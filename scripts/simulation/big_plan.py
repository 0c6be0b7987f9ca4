"""How large each part of a synthetic archive is, and the ids of its blobs and Zarrs.

The distributions are those of the DANDI archive (2026): 1,251 dandisets with 600,000 assets, the
largest list having 68,210; 29,061 Zarrs with 369 million entries, half of them with 147 or fewer,
one in a hundred with 115,668 or more, 1,401 with more than 100,000, the largest with 1.3 million.
At a scale S there are S times as many dandisets, assets and Zarrs, of the same sizes: each
distribution is cut into as many equal shares as there are dandisets (or Zarrs), and each gets the
size in the middle of its share.

Ids are functions of a number, and numbers of ids, so that nothing must be remembered.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final, NamedTuple, Self

from neuromirror_demo.checksums import PART_SIZE

DANDISETS: Final = 1251
ASSETS: Final = 600_000
LARGEST: Final = 68_210
ZARRS: Final = 29_061
ENTRIES: Final = 369_000_000

_QUANTILES: Final = (
    (0.0, 5),
    (0.5, 147),
    (0.8, 1_400),
    (1 - 1_401 / ZARRS, 100_000),
    (0.99, 115_668),
    (1.0, 1_300_000),
)
"""Entries of a Zarr by its rank; logarithmic interpolation between these points."""

_WITH_ZARRS: Final = 12
_ZARRS_OF: Final = 0.6
_PUBLISHED: Final = 4
_SPREAD: Final = 1_000_003
"""A prime, whose multiples reach all numbers below any number that it does not divide."""


class BlobFacts(NamedTuple):
    """The properties of a blob; ``size`` in bytes."""

    blob_id: str
    asset_id: str
    size: int
    etag: str
    sha256: str
    version_id: str


class DandisetPlan(NamedTuple):
    """One dandiset: its blobs are numbered from ``first_blob``, its Zarrs in the same way."""

    number: int
    blobs: int
    first_blob: int
    zarrs: int
    first_zarr: int
    published: bool

    @property
    def assets(self) -> int:
        """The number of blobs and Zarrs."""
        return self.blobs + self.zarrs


class SortedUuids:
    """``count`` uuids and their order: by number as they are used, by rank as they are sorted."""

    def __init__(self, kind: str, count: int) -> None:
        self.kind = kind.encode()
        self.count = count
        self._step = _SPREAD % max(count, 1) or 1
        while math.gcd(self._step, count) > 1:
            self._step += 1
        self._back = pow(self._step, -1, count) if count > 1 else 0

    def rank(self, number: int) -> int:
        """Return the rank of the id with this number."""
        return number * self._step % self.count

    def number(self, rank: int) -> int:
        """Return the number of the id with this rank."""
        return rank * self._back % self.count

    def drawn(self, rank: int) -> str:
        """Return 128 hex digits, from which the id of this rank and its properties are derived."""
        return hashlib.blake2b(b"%b %d" % (self.kind, rank)).hexdigest()

    def uuid(self, rank: int, drawn: str | None = None) -> str:
        """Return the id with this rank, in the form of a random uuid."""
        drawn = self.drawn(rank) if drawn is None else drawn
        whole = 1 << 48
        top = (rank * whole + int(drawn[:12], 16) % (whole - 2 * self.count)) // self.count
        head = f"{top:012x}"
        return as_uuid(head + drawn[12:32])

    def find(self, uuid: str) -> int | None:
        """Return the rank of an id; None if it does not exist."""
        try:
            top = int(uuid[:8] + uuid[9:13], 16)
        except ValueError:
            return None
        guess = top * self.count >> 48
        for rank in (guess, guess - 1, guess + 1):
            if 0 <= rank < self.count and self.uuid(rank) == uuid:
                return rank
        return None


class ArchivePlan:
    """A synthetic archive; equal plans give equal archives.

    ``sizes`` are the assets of each dandiset, ``held`` how many of them are Zarrs, ``entries``
    those of each Zarr; ``scale`` is the size of it all, where 1 is that of DANDI.
    """

    def __init__(
        self, scale: float, sizes: Sequence[int], held: Sequence[int], entries: Sequence[int]
    ) -> None:
        self.scale = scale
        self.entries = entries
        """Entries of each Zarr, by its number."""
        first_blob = list(accumulate((s - z for s, z in zip(sizes, held, strict=True)), initial=0))
        first_zarr = list(accumulate(held, initial=0))
        self.dandisets = [
            DandisetPlan(
                number,
                size - held[number],
                first_blob[number],
                held[number],
                first_zarr[number],
                published=not held[number] and number % _PUBLISHED == 1,
            )
            for number, size in enumerate(sizes)
        ]
        self.blobs = SortedUuids("blob", first_blob[-1])
        self.zarrs = SortedUuids("zarr", first_zarr[-1])
        self._first_zarr = first_zarr

    @classmethod
    def at_scale(cls, scale: float) -> Self:
        """Return an archive with the distribution of the real one."""
        sizes = _dandiset_sizes(scale)
        held = _zarrs_per_dandiset(sizes, max(1, round(ZARRS * scale)))
        # mix large and small ones
        spread = SortedUuids("entries", sum(held))
        entries = [
            _quantile((spread.rank(number) + 0.5) / spread.count) for number in range(spread.count)
        ]
        return cls(scale, sizes, held, entries)

    @classmethod
    def of_two(cls, blobs: int, entries: int) -> Self:
        """Return two dandisets: one with blobs, one with a single Zarr of this many entries."""
        return cls((blobs + 1) / ASSETS, [blobs, 1], [0, 1], [entries])

    @property
    def assets(self) -> int:
        """The number of assets of all dandisets; published versions have those of the drafts."""
        return self.blobs.count + self.zarrs.count

    def dandiset_of_zarr(self, number: int) -> DandisetPlan:
        """Return the dandiset of a Zarr."""
        return self.dandisets[bisect_right(self._first_zarr, number) - 1]


def blob_facts(ids: SortedUuids, rank: int) -> BlobFacts:
    """Return the properties of the blob of this rank."""
    drawn = ids.drawn(rank)
    sha256 = hashlib.sha256(drawn.encode()).hexdigest()
    # from 10 kB to 10 GB, logarithmically uniform
    size = int(10 ** (4 + 6 * int(sha256[:8], 16) / 2**32))
    return BlobFacts(
        ids.uuid(rank, drawn),
        as_uuid(drawn[96:128]),
        size,
        f"{drawn[32:64]}-{-(-size // PART_SIZE)}",
        sha256,
        drawn[64:96],
    )


def as_uuid(drawn: str) -> str:
    """Return 32 hex digits in the form of a random uuid."""
    return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[13:16]}-a{drawn[17:20]}-{drawn[20:32]}"


@lru_cache(1)
def _dandiset_size_curve() -> list[float]:
    """Return the sizes of 1,251 dandisets, the largest first: a power law with the true total."""
    low, high = 0.5, 2.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        total = sum(LARGEST * rank**-middle for rank in range(1, DANDISETS + 1))
        low, high = (middle, high) if total > ASSETS else (low, middle)
    return [LARGEST * rank**-low for rank in range(1, DANDISETS + 1)]


def _dandiset_sizes(scale: float) -> list[int]:
    count = max(1, round(DANDISETS * scale))
    total = max(count, round(ASSETS * scale))
    falling = _dandiset_size_curve()
    drawn = [falling[int((rank + 0.5) / count * DANDISETS)] for rank in range(count)]
    sizes = [max(1, round(size * total / sum(drawn))) for size in drawn]
    sizes[0] += total - sum(sizes)
    # without shuffling, the largest would come first
    order = SortedUuids("dandisets", count)
    return [sizes[order.rank(number)] for number in range(count)]


def _zarrs_per_dandiset(sizes: list[int], count: int) -> list[int]:
    """Return the number of Zarrs per dandiset; few dandisets have Zarrs."""
    by_size = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    first = by_size[_WITH_ZARRS // 4 :: _WITH_ZARRS]
    held = [0] * len(sizes)
    for number in [*first, *(one for one in by_size if one not in set(first))]:
        held[number] = min(count, int(sizes[number] * _ZARRS_OF))
        count -= held[number]
    return held


def _quantile(quantile: float) -> int:
    for (low, least), (high, most) in pairwise(_QUANTILES):
        if quantile <= high:
            part = (quantile - low) / (high - low)
            return round(math.exp(math.log(least) + part * math.log(most / least)))
    return _QUANTILES[-1][1]
