"""Discovery of the datasets in a bucket, level by level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from neuromirror.net import ObjectRow, S3Bucket
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.options import BucketOptions, S3Options

Segments = tuple[bytes, ...]
_SHOWN: Final = 5


class PrefixScope:
    """The part of a bucket that the mirror's options select.

    Prefixes are given as segments, the names between slashes.
    """

    def __init__(self, options: BucketOptions) -> None:
        self.top: Segments = local_ids.split_prefix(options.prefix.encode("utf-8"))
        self._exclude = options.exclude

    def is_excluded(self, segments: Segments) -> bool:
        """Return whether this prefix, or one above it, is excluded."""
        return self.matches(segments, self._exclude)

    def matches(self, segments: Segments, patterns: Sequence[str]) -> bool:
        """Return whether a shell pattern matches this prefix or one above it."""
        return any(
            fnmatchcase(local_ids.display_key(b"/".join(segments[:end])), pattern)
            for end in range(len(self.top) + 1, len(segments) + 1)
            for pattern in patterns
        )

    def is_below(self, segments: Segments) -> bool:
        """Return whether a prefix is the mirror's prefix or below it."""
        return segments[: len(self.top)] == self.top

    def level(self, segments: Segments) -> int:
        """Return the number of levels below the mirror's prefix."""
        return len(segments) - len(self.top)


class DatasetLayout(PrefixScope):
    """The depths below the mirror's prefix at which prefixes are datasets, from the options.

    Such a prefix is the root of a dataset.
    """

    def __init__(self, options: S3Options) -> None:
        super().__init__(options)
        self._depth = options.depth
        # the longest matching prefix applies
        self._overrides = sorted(
            (
                (local_ids.split_prefix(one.prefix.encode("utf-8")), one.depth)
                for one in options.datasets
            ),
            key=lambda one: len(one[0]),
            reverse=True,
        )

    def is_root(self, segments: Segments) -> bool:
        """Return whether this prefix is a dataset's root."""
        return self.is_below(segments) and self.level(segments) == self._depth_at(segments)

    def _depth_at(self, segments: Segments) -> int:
        for prefix, depth in self._overrides:
            if segments[: len(prefix)] == prefix:
                return depth
        return self._depth


class UnassignedObjects:
    """Counts the objects that belong to no dataset.

    They are in folders above those of the datasets.
    """

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self._first: list[bytes] = []

    def add(self, row: ObjectRow) -> None:
        """Count an object."""
        self.count += 1
        self.bytes += row.size
        if len(self._first) < _SHOWN:
            self._first.append(row.key)

    def summary(self) -> str | None:
        """Describe the objects, if any."""
        if not self.count:
            return None
        shown = ", ".join(map(local_ids.display_key, self._first))
        rest = self.count - len(self._first)
        more = f" and {rest} more" if rest else ""
        what = "1 object" if self.count == 1 else f"{self.count} objects"
        return (
            f"{what} ({self.bytes} bytes) above the datasets' depth, in no dataset: {shown}{more}"
        )


def find_roots(
    bucket: S3Bucket, layout: DatasetLayout, unassigned: UnassignedObjects
) -> Iterator[Segments]:
    """Yield the prefixes in a bucket that are datasets, as segments, sorted by their bytes.

    If datasets are at several depths, the order applies within each depth. Objects above them are
    counted in ``unassigned``.
    """
    if layout.is_root(layout.top):
        if next(bucket.list_level(local_ids.prefix_of(layout.top)), None) is not None:
            yield layout.top
        return
    yield from _below(bucket, layout, unassigned, layout.top)


def _below(
    bucket: S3Bucket, layout: DatasetLayout, unassigned: UnassignedObjects, around: Segments
) -> Iterator[Segments]:
    for entry in bucket.list_level(local_ids.prefix_of(around)):
        if isinstance(entry, ObjectRow):
            unassigned.add(entry)
            continue
        segments = local_ids.split_prefix(entry)
        if layout.is_excluded(segments):
            continue
        if layout.is_root(segments):
            yield segments
        else:
            yield from _below(bucket, layout, unassigned, segments)
