"""Where in a bucket the datasets are, found level by level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final

from neuromirror.net import ObjectRow, S3Bucket
from neuromirror.sources.s3 import names
from neuromirror.sources.s3.options import BucketOptions, S3Options

Components = tuple[bytes, ...]
_SHOWN: Final = 5


class Scope:
    """What of a bucket the options leave in; prefixes are told in their components."""

    def __init__(self, options: BucketOptions) -> None:
        self.top: Components = names.split(options.prefix.encode("utf-8"))
        self._exclude = options.exclude

    def is_excluded(self, components: Components) -> bool:
        """Whether this prefix, or one around it, is passed over."""
        return self.fits(components, self._exclude)

    def fits(self, components: Components, patterns: Sequence[str]) -> bool:
        """Whether one of some shell patterns is of this prefix, or of one around it."""
        return any(
            fnmatchcase(names.shown(b"/".join(components[:end])), pattern)
            for end in range(len(self.top) + 1, len(components) + 1)
            for pattern in patterns
        )

    def is_below(self, components: Components) -> bool:
        """Whether a prefix is the mirror's own, or below it."""
        return components[: len(self.top)] == self.top

    def level(self, components: Components) -> int:
        """How many folders below the mirror's own prefix this one lies."""
        return len(components) - len(self.top)


class Plan(Scope):
    """What the options say of where roots lie."""

    def __init__(self, options: S3Options) -> None:
        super().__init__(options)
        self._depth = options.depth
        # The closest around a prefix is the longest.
        self._overrides = sorted(
            ((names.split(one.prefix.encode("utf-8")), one.depth) for one in options.datasets),
            key=lambda one: len(one[0]),
            reverse=True,
        )

    def is_root(self, components: Components) -> bool:
        """Whether a dataset's root lies exactly here."""
        return self.is_below(components) and self.level(components) == self._depth_at(components)

    def _depth_at(self, components: Components) -> int:
        for prefix, depth in self._overrides:
            if components[: len(prefix)] == prefix:
                return depth
        return self._depth


class Strays:
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

    def told(self) -> str | None:
        """What there is to say of them; None where there are none."""
        if not self.count:
            return None
        shown = ", ".join(map(names.shown, self._first))
        rest = self.count - len(self._first)
        more = f" and {rest} more" if rest else ""
        what = "1 object" if self.count == 1 else f"{self.count} objects"
        return (
            f"{what} ({self.bytes} bytes) above the datasets' depth, in no dataset: {shown}{more}"
        )


def roots(bucket: S3Bucket, plan: Plan, strays: Strays) -> Iterator[Components]:
    """Yields the roots in order of their keys' bytes, level by level where depths differ."""
    if plan.is_root(plan.top):
        if next(bucket.level(names.prefix_of(plan.top)), None) is not None:
            yield plan.top
        return
    yield from _below(bucket, plan, strays, plan.top)


def _below(
    bucket: S3Bucket, plan: Plan, strays: Strays, around: Components
) -> Iterator[Components]:
    for entry in bucket.level(names.prefix_of(around)):
        if isinstance(entry, ObjectRow):
            strays.add(entry)
            continue
        components = names.split(entry)
        if plan.is_excluded(components):
            continue
        if plan.is_root(components):
            yield components
        else:
            yield from _below(bucket, plan, strays, components)
