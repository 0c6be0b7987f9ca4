"""Where in a bucket the layers are: folders are looked into until there is an ``info``.

What is below a layer is the layer's: its scales, meshes, and whole layers that somebody put there.
Folders of chunks are never listed; the first page of one that lost its layer's ``info`` is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from neuromirror.net import CountedPool, Forbidden, NotJson, ObjectRow, S3Bucket, TooLarge
from neuromirror.sources.errors import UnexpectedReply
from neuromirror.sources.precomputed.layer import is_volume, read_info
from neuromirror.sources.precomputed.options import PrecomputedOptions
from neuromirror.sources.s3 import names
from neuromirror.sources.s3.discovery import Components, Scope, Strays

_CHUNK: Final = re.compile(rb"-?\d+--?\d+_-?\d+--?\d+_-?\d+--?\d+(?:\.\w+)?|[0-9a-f]+\.shard")
_MOST: Final = 5000
"""Names in a folder that are looked at; where so many lie, no layers do."""
_SHOWN: Final = 5
_FIXED: Final = re.compile(r"[^*?\[]*")


class LayerScope(Scope):
    """What of a bucket is searched for layers."""

    def __init__(self, options: PrecomputedOptions) -> None:
        super().__init__(options)
        self.depth = options.depth
        self._include = options.include

    def is_wanted(self, components: Components) -> bool:
        """Whether a layer here is to be mirrored."""
        if self.is_excluded(components):
            return False
        return not self._include or self.fits(components, self._include)

    def may_hold(self, components: Components) -> bool:
        """Whether a layer here or below may be wanted: only a pattern's fixed beginning tells."""
        if self.is_wanted(components):
            return True
        begins = names.shown(names.prefix_of(components))
        fixed = [_FIXED.match(pattern) for pattern in self._include]
        return not self.is_excluded(components) and any(
            found.group().startswith(begins) or begins.startswith(found.group())
            for found in fixed
            if found is not None
        )

    def is_place(self, components: Components) -> bool:
        """Whether a layer may lie exactly here."""
        level = self.level(components)
        # With a depth, the top is where folders are looked for, and no layer itself.
        return self.is_below(components) and min(self.depth, 1) <= level <= self.depth


class Search:
    """One search of a bucket; what holds no layer can be told afterwards."""

    def __init__(self, bucket: S3Bucket, scope: LayerScope, connections: int) -> None:
        self._bucket = bucket
        self._scope = scope
        self._connections = connections
        self._strays = Strays()
        self._without: list[str] = []

    def layers(self) -> Iterator[Components]:
        """Yields the layers that are wanted, in the order of the bucket's levels."""
        scope = self._scope
        if scope.depth == 0:
            if (trouble := self._looked(scope.top)) == "":
                yield scope.top
            else:
                self._pass(scope.top, trouble or "no info")
            return
        pool = CountedPool(self._connections, thread_name_prefix="layer")
        try:
            yield from self._below(scope.top, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def told(self) -> dict[str, str]:
        """What there is to say of what is in no layer, by a word for each."""
        made = {}
        if (above := self._strays.told()) is not None:
            made["above"] = above
        if self._without:
            count = len(self._without)
            what = "1 folder holds" if count == 1 else f"{count} folders hold"
            more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
            shown = ", ".join(self._without[:_SHOWN])
            made["no-layer"] = f"{what} no layer that can be mirrored: {shown}{more}"
        return made

    def _below(self, around: Components, pool: CountedPool) -> Iterator[Components]:
        folders = list(self._folders(around))
        deeper = self._scope.level(around) + 1 < self._scope.depth
        for folder, trouble in zip(folders, pool.map(self._looked, folders), strict=True):
            if trouble == "":
                if self._scope.is_wanted(folder):
                    yield folder
            elif trouble is not None:
                self._pass(folder, trouble)
            elif deeper:
                yield from self._below(folder, pool)
            else:
                self._pass(folder, "no info")

    def _folders(self, around: Components) -> Iterator[Components]:
        """Yields the folders of a folder that may hold layers that are wanted."""
        for count, entry in enumerate(self._bucket.level(names.prefix_of(around))):
            if count == _MOST:
                self._pass(around, f"more than {_MOST} names")
                return
            if isinstance(entry, ObjectRow):
                if _CHUNK.fullmatch(entry.key.rpartition(b"/")[2]):
                    self._pass(around, "chunks without an info")
                    return
                self._strays.add(entry)
            else:
                components = names.split(entry)
                if self._scope.may_hold(components):
                    yield components

    def _looked(self, folder: Components) -> str | None:
        """Empty for a layer, else why a folder is none; None where it may hold some."""
        try:
            info = read_info(self._bucket, names.prefix_of(folder))
        except UnexpectedReply:
            return "its info is no JSON"
        except Forbidden:
            return "its info may not be read"
        except (NotJson, TooLarge) as error:
            return f"its info cannot be read: {error}"
        if info is None:
            return None
        return "" if is_volume(info) else f"its info is of {info.get('@type', 'something else')!r}"

    def _pass(self, folder: Components, why: str) -> None:
        self._without.append(f"{names.shown(b'/'.join(folder)) or '(the top)'} ({why})")
