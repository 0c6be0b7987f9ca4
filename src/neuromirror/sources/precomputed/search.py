"""Search of a bucket for layers: folders are descended until one has an ``info``.

Everything below a layer belongs to it: scales, meshes, and even other layers. Folders of chunks are
not listed, except for the first page of one whose layer has lost its ``info``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from neuromirror.net import (
    AccessDeniedError,
    ContextThreadPool,
    InvalidJsonError,
    ObjectRow,
    ResponseTooLargeError,
    S3Bucket,
)
from neuromirror.sources.errors import UnexpectedReplyError
from neuromirror.sources.options import may_match_below
from neuromirror.sources.precomputed.layer import is_volume, read_info
from neuromirror.sources.precomputed.options import PrecomputedOptions
from neuromirror.sources.s3 import local_ids
from neuromirror.sources.s3.discovery import PrefixScope, Segments, UnassignedObjects

_CHUNK: Final = re.compile(rb"-?\d+--?\d+_-?\d+--?\d+_-?\d+--?\d+(?:\.\w+)?|[0-9a-f]+\.shard")
_MOST: Final = 5000
"""Maximum names in a folder; a folder with more has no layers."""
_SHOWN: Final = 5


class LayerScope(PrefixScope):
    """The part of a bucket that is searched for layers, from the mirror's options."""

    def __init__(self, options: PrecomputedOptions) -> None:
        super().__init__(options)
        self.depth = options.depth
        self._include = options.include

    def is_selected(self, segments: Segments) -> bool:
        """Return whether a layer with this prefix is mirrored."""
        if self.is_excluded(segments):
            return False
        return not self._include or self.matches(segments, self._include)

    def may_contain_layers(self, segments: Segments) -> bool:
        """Return whether a layer here or below may be selected, by the patterns' literal start."""
        if self.is_selected(segments):
            return True
        prefix = local_ids.display_key(local_ids.prefix_of(segments))
        return not self.is_excluded(segments) and may_match_below(self._include, prefix)

    def is_layer_position(self, segments: Segments) -> bool:
        """Return whether a layer may have exactly this prefix."""
        level = self.level(segments)
        # with a depth above 0, the top is searched and is no layer itself
        return self.is_below(segments) and min(self.depth, 1) <= level <= self.depth


class LayerSearch:
    """One search of a bucket for layers; it also counts the folders without layers.

    ``scope`` is the part that is searched; ``connections`` the number of parallel requests.
    """

    def __init__(self, bucket: S3Bucket, scope: LayerScope, connections: int) -> None:
        self._bucket = bucket
        self._scope = scope
        self._connections = connections
        self._unassigned = UnassignedObjects()
        self._skipped: list[str] = []

    def layers(self) -> Iterator[Segments]:
        """Yield the selected layers, level by level."""
        scope = self._scope
        if scope.depth == 0:
            if (trouble := self._check_folder(scope.top)) == "":
                yield scope.top
            else:
                self._skip(scope.top, trouble or "no info")
            return
        pool = ContextThreadPool(self._connections, thread_name_prefix="layer")
        try:
            yield from self._below(scope.top, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def summaries(self) -> dict[str, str]:
        """Describe the objects and folders outside of all layers, by kind."""
        made = {}
        if (above := self._unassigned.summary()) is not None:
            made["above"] = above
        if self._skipped:
            count = len(self._skipped)
            what = "1 folder" if count == 1 else f"{count} folders"
            more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
            shown = ", ".join(self._skipped[:_SHOWN])
            made["no-layer"] = f"{what} without a layer that can be mirrored: {shown}{more}"
        return made

    def _below(self, around: Segments, pool: ContextThreadPool) -> Iterator[Segments]:
        folders = list(self._folders(around))
        deeper = self._scope.level(around) + 1 < self._scope.depth
        for folder, trouble in zip(folders, pool.map(self._check_folder, folders), strict=True):
            if trouble == "":
                if self._scope.is_selected(folder):
                    yield folder
            elif trouble is not None:
                self._skip(folder, trouble)
            elif deeper:
                yield from self._below(folder, pool)
            else:
                self._skip(folder, "no info")

    def _folders(self, around: Segments) -> Iterator[Segments]:
        """Yield the folders of a folder that may contain selected layers."""
        for count, entry in enumerate(self._bucket.list_level(local_ids.prefix_of(around))):
            if count == _MOST:
                self._skip(around, f"more than {_MOST} names")
                return
            if isinstance(entry, ObjectRow):
                if _CHUNK.fullmatch(entry.key.rpartition(b"/")[2]):
                    self._skip(around, "chunks without an info")
                    return
                self._unassigned.add(entry)
            else:
                segments = local_ids.split_prefix(entry)
                if self._scope.may_contain_layers(segments):
                    yield segments

    def _check_folder(self, folder: Segments) -> str | None:
        """Return "" for a layer, else a reason, or None if the folder may contain layers."""
        try:
            info = read_info(self._bucket, local_ids.prefix_of(folder))
        except UnexpectedReplyError:
            return "its info is not JSON"
        except AccessDeniedError:
            return "its info may not be read"
        except (InvalidJsonError, ResponseTooLargeError) as error:
            return f"its info cannot be read: {error}"
        if info is None:
            return None
        return "" if is_volume(info) else f"its info is of {info.get('@type', 'something else')!r}"

    def _skip(self, folder: Segments, why: str) -> None:
        self._skipped.append(f"{local_ids.display_key(b'/'.join(folder)) or '(the top)'} ({why})")
