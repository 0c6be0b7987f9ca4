"""Collections, experiments, channels and frames over HTTP (bosscore/views/views_resource.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from werkzeug.wrappers import Request

from neuromirror_demo.boss.documents import (
    OWNER,
    Json,
    channel_document,
    collection_document,
    experiment_document,
    frame_document,
    names,
    readable,
)
from neuromirror_demo.boss.errors import BossError, Code, UpstreamDefectError
from neuromirror_demo.boss.records import BossChannel, BossCollection, BossExperiment
from neuromirror_demo.boss.state import BossState

T = TypeVar("T")
R = TypeVar("R", BossCollection, BossExperiment, BossChannel)


class Resources:
    """Handles requests for resources, given the request, the user, and names from the path."""

    def __init__(self, state: BossState) -> None:
        self._state = state

    # -- lists

    def collections(self, request: Request, user: str) -> Json:
        """Return the names of readable collections, including public ones marked for deletion."""
        found = self._state.collections.values()
        seen = [one for one in found if one.public or (user == OWNER and not one.deleted)]
        return {"collections": [one.name for one in seen]}

    def experiments(self, request: Request, user: str, collection: str) -> Json:
        """Return the names of a collection's experiments; like upstream, fail if it is unknown."""
        held = _require(self._state.collections, collection).experiments
        return {"experiments": names(held, False, user)}

    def channels(self, request: Request, user: str, collection: str, experiment: str) -> Json:
        """Return the names of an experiment's channels."""
        held = _require(self._state.collections, collection).experiments
        return {"channels": names(_require(held, experiment).channels, False, user)}

    def frames(self, request: Request, user: str) -> Json:
        """Return the names of all coordinate frames."""
        return {"coords": [one.name for one in self._state.frames.values() if not one.deleted]}

    # -- single resources

    def collection(self, request: Request, user: str, collection: str) -> Json:
        """Return a collection."""
        found = _lookup(self._state.collections, collection)
        return collection_document(_require_readable(found, user), user)

    def experiment(self, request: Request, user: str, collection: str, experiment: str) -> Json:
        """Return an experiment."""
        parent = _lookup(self._state.collections, collection)
        found = _lookup(parent.experiments, experiment)
        return experiment_document(collection, _require_readable(found, user), user)

    def channel(
        self, request: Request, user: str, collection: str, experiment: str, channel: str
    ) -> Json:
        """Return a channel."""
        parent = _lookup(_lookup(self._state.collections, collection).experiments, experiment)
        found = _lookup(parent.channels, channel)
        return channel_document(parent, _require_readable(found, user))

    def frame(self, request: Request, user: str, frame: str) -> Json:
        """Return a coordinate frame."""
        found = _lookup(self._state.frames, frame)
        if found.deleted:
            raise _deleted()
        return frame_document(found)


def _require(held: Mapping[str, T], name: str) -> T:
    if name not in held:
        raise UpstreamDefectError(name)
    return held[name]


def _lookup(held: Mapping[str, T], name: str) -> T:
    if name not in held:
        raise BossError(f"{name} does not exist.", Code.RESOURCE_NOT_FOUND)
    return held[name]


def _require_readable(found: R, user: str) -> R:
    if not readable(found, user):
        what = f"Missing read permissions on the resource {found.name}"
        raise BossError(what, Code.MISSING_PERMISSION)
    if found.deleted:
        raise _deleted()
    return found


def _deleted() -> BossError:
    return BossError(
        "Invalid Request. This Resource has been marked for deletion",
        Code.RESOURCE_MARKED_FOR_DELETION,
    )
