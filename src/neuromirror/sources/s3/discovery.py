"""Where in a bucket the datasets are, found level by level."""

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
    """What of a bucket the options leave in; prefixes are told in their components."""

    def __init__(self, options: BucketOptions) -> None:
        self.top: Segments = local_ids.split_prefix(options.prefix.encode("utf-8"))
        self._exclude = options.exclude

    def is_excluded(self, segments: Segments) -> bool:
        """Whether this prefix, or one around it, is passed over."""
        return self.matches(segments, self._exclude)

    def matches(self, segments: Segments, patterns: Sequence[str]) -> bool:
        """Whether one of some shell patterns is of this prefix, or of one around it."""
        return any(
            fnmatchcase(local_ids.display_key(b"/".join(segments[:end])), pattern)
            for end in range(len(self.top) + 1, len(segments) + 1)
            for pattern in patterns
        )

    def is_below(self, segments: Segments) -> bool:
        """Whether a prefix is the mirror's own, or below it."""
        return segments[: len(self.top)] == self.top

    def level(self, segments: Segments) -> int:
        """How many folders below the mirror's own prefix this one lies."""
        return len(segments) - len(self.top)


class DatasetLayout(PrefixScope):
    """What the options say of where roots lie."""

    def __init__(self, options: S3Options) -> None:
        super().__init__(options)
        self._depth = options.depth
        # The closest around a prefix is the longest.
        self._overrides = sorted(
            (
                (local_ids.split_prefix(one.prefix.encode("utf-8")), one.depth)
                for one in options.datasets
            ),
            key=lambda one: len(one[0]),
            reverse=True,
        )

    def is_root(self, segments: Segments) -> bool:
        """Whether a dataset's root lies exactly here."""
        return self.is_below(segments) and self.level(segments) == self._depth_at(segments)

    def _depth_at(self, segments: Segments) -> int:
        for prefix, depth in self._overrides:
            if segments[: len(prefix)] == prefix:
                return depth
        return self._depth


class UnassignedObjects:
    """Objects that lie above the roots, and so in no dataset."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self._first: list[bytes] = []

    def add(self, row: ObjectRow) -> None:
        """One more."""
        self.count += 1
        self.bytes += row.size
        if len(self._first) < _SHOWN:
            self._first.append(row.key)

    def summary(self) -> str | None:
        """What there is to say of them; None where there are none."""
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
    """Yields the roots in order of their keys' bytes, level by level where depths differ."""
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
