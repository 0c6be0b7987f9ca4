"""The state of the demo ndstore, and the operations on it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from neuromirror_demo.archive_state import DemoError
from neuromirror_demo.ndstore.records import (
    NOT_PROPAGATED,
    PROPAGATED,
    UNDER_PROPAGATION,
    NdstoreChannel,
    Project,
)

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

Range = Sequence[int]
Box = tuple[Range, Range, Range]
"""``((x0, x1), (y0, y1), (z0, z1))``, half-open, in the coordinates of a level."""


class NdstoreState:
    """Projects in memory, by their tokens.

    Operations name a project as ``token`` and a channel as ``token/channel``. Coordinates are as in
    requests: voxels of a level, from the dataset's offset on. All raise :class:`DemoError` for an
    unknown name.
    """

    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.lock = threading.RLock()
        self._removed: dict[str, Project | NdstoreChannel] = {}

    # -- voxels

    def edit(
        self,
        path: str,
        box: Box,
        value: float | None = None,
        *,
        level: int | None = None,
        time: int | None = None,
        spread: bool = True,
    ) -> None:
        """Change the voxels of a box, and with ``spread`` the coarser levels computed from them.

        ``value`` None makes zeros one, and all other voxels zero. ``level`` is by default the
        channel's resolution, ``time`` all samples. The info JSON stays the same.
        """
        with self.lock:
            project, channel = self._channel(path)
            at = channel.resolution if level is None else level
            table = _table(channel, path, at)
            start = project.space.offset_at(at)
            samples = slice(None)
            if time is not None:
                samples = slice(time - channel.timerange[0], time - channel.timerange[0] + 1)
            x, y, z = (
                slice(low - first, high - first)
                for (low, high), first in zip(box, start, strict=True)
            )
            old = table[samples, z, y, x]
            inside = all(one.start >= 0 for one in (x, y, z)) and (samples.start or 0) >= 0
            sides = [high - low for low, high in box]
            if not inside or not old.size or list(old.shape[:0:-1]) != sides:
                raise DemoError(f"{path} has no such voxels at level {at}: {box}, time {time}")
            table[samples, z, y, x] = (old == 0) if value is None else value
            if spread and channel.propagate == PROPAGATED:
                project.propagate(channel, at)

    def propagate(self, path: str) -> None:
        """Recompute all coarser levels, and mark the channel as propagated."""
        with self.lock:
            project, channel = self._channel(path)
            project.propagate(channel, channel.resolution)
            channel.propagate = PROPAGATED
            channel.readonly = 0

    def set_propagate(self, path: str, value: int) -> None:
        """Set the state of propagation: 0 not started, 1 in progress, 2 finished; no voxel changes.

        ndstore locks a channel during propagation, and leaves it open afterwards.
        """
        with self.lock:
            _, channel = self._channel(path)
            if value not in (NOT_PROPAGATED, UNDER_PROPAGATION, PROPAGATED):
                raise DemoError(f"propagation is 0, 1 or 2, not {value!r}")
            channel.propagate = value
            channel.readonly = int(value == UNDER_PROPAGATION)

    def voxels(self, path: str, level: int = 0) -> Voxels:
        """Return all voxels of a level; ``t, z, y, x`` if it is a time series."""
        with self.lock:
            _, channel = self._channel(path)
            table = _table(channel, path, level).copy()
            return table if channel.is_timeseries else table[0]

    # -- projects and channels

    def describe(self, path: str, description: str) -> None:
        """Change the description of a project or channel."""
        with self.lock:
            found = self._channel(path)[1] if "/" in path else self._project(path)
            found.description = description

    def move_storage(self, token: str) -> None:
        """Move a project's cuboids from the database to S3 or back; all voxels stay the same."""
        with self.lock:
            project = self._project(token)
            project.s3backend = 1 - project.s3backend

    def lose_lims(self, token: str) -> None:
        """Remove ``metadata`` from the info JSON, as when the server that provides it is slow."""
        with self.lock:
            self._project(token).lims = {}

    def set_public(self, token: str, public: bool) -> None:
        """Make a project public or private."""
        with self.lock:
            self._project(token).private = not public

    def remove(self, path: str) -> None:
        """Remove a project or a channel."""
        with self.lock:
            if "/" not in path:
                self._removed[path] = self._project(path)
                del self.projects[path]
                return
            project, channel = self._channel(path)
            self._removed[path] = channel
            del project.channels[channel.name]

    def restore(self, path: str) -> None:
        """Undo :meth:`remove`."""
        with self.lock:
            found = self._removed.pop(path, None)
            if isinstance(found, Project):
                self.projects[path] = found
            elif found is not None:
                self._project(path.partition("/")[0]).channels[found.name] = found
            else:
                raise DemoError(f"{path} was not removed")

    # -- helpers

    def _project(self, token: str) -> Project:
        if token not in self.projects:
            raise DemoError(f"no project has the token {token!r}")
        return self.projects[token]

    def _channel(self, path: str) -> tuple[Project, NdstoreChannel]:
        token, _, name = path.partition("/")
        project = self._project(token)
        if name not in project.channels:
            raise DemoError(f"{path} is no channel: name token/channel")
        return project, project.channels[name]


def _table(channel: NdstoreChannel, path: str, level: int) -> Voxels:
    if level not in channel.tables:
        raise DemoError(f"{path} has no voxels of its own at level {level}")
    return channel.tables[level]
