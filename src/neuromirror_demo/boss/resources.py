"""Collections, experiments, channels and frames over HTTP (bosscore/views/views_resource.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from werkzeug.wrappers import Request, Response

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
from neuromirror_demo.boss.errors import BossError, Code, FrameworkError, UpstreamDefectError
from neuromirror_demo.boss.records import (
    DATATYPES,
    KINDS,
    STORAGE,
    TIME_UNITS,
    UNITS,
    BossChannel,
    BossCollection,
    BossExperiment,
)
from neuromirror_demo.boss.state import BossState
from neuromirror_demo.paging import json_response
from neuromirror_demo.volumes import HALVING

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_AXES = ("x", "y", "z")


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

    def collection(self, request: Request, user: str, collection: str) -> Json | Response:
        """Read, create, change or delete a collection."""
        held = self._state.collections
        if request.method == "POST":
            data = _data(request, user)
            _check_new(collection, held, "collection with this Name of the Collection")
            self._state.add_collection(
                collection, description=_text(data), public=bool(data.get("public", False))
            )
            return json_response(collection_document(held[collection], user), 201)
        found = _lookup(held, collection)
        if request.method == "DELETE":
            return self._delete(found, names(found.experiments, True, user), user)
        if request.method == "PUT":
            _change(found, request, user, {"name", "public", "description"})
        return collection_document(_require_readable(found, user), user)

    def experiment(
        self, request: Request, user: str, collection: str, experiment: str
    ) -> Json | Response:
        """Read, create, change or delete an experiment."""
        parent = _lookup(self._state.collections, collection)
        if request.method == "POST":
            self._make_experiment(parent, experiment, _data(request, user))
            made = parent.experiments[experiment]
            return json_response(experiment_document(collection, made, user), 201)
        found = _lookup(parent.experiments, experiment)
        if request.method == "DELETE":
            return self._delete(found, names(found.channels, True, user), user)
        if request.method == "PUT":
            levels = {"num_hierarchy_levels": "levels", "hierarchy_method": "method"}
            times = {"num_time_samples": "samples", "time_step": "time_step"}
            fields = {"name", "public", "description", "time_step_unit", *levels, *times}
            _change(found, request, user, fields, {**levels, **times})
        return experiment_document(collection, _require_readable(found, user), user)

    def channel(
        self, request: Request, user: str, collection: str, experiment: str, channel: str
    ) -> Json | Response:
        """Read, create, change or delete a channel."""
        parent = _lookup(_lookup(self._state.collections, collection).experiments, experiment)
        if request.method == "POST":
            path = f"{collection}/{experiment}/{channel}"
            self._make_channel(parent, path, channel, _data(request, user))
            return json_response(channel_document(parent, parent.channels[channel]), 201)
        found = _lookup(parent.channels, channel)
        if request.method == "DELETE":
            derived = [one.name for one in parent.channels.values() if channel in one.sources]
            return self._delete(found, names(parent.channels, True, user) if derived else [], user)
        if request.method == "PUT":
            if "storage_type" in _data(request, user):
                raise BossError(
                    "Only admins can change storage_type after creation", Code.MISSING_PERMISSION
                )
            fields = {"name", "public", "description", "default_time_sample"}
            _change(found, request, user, fields | {"base_resolution", "sources", "related"})
        return channel_document(parent, _require_readable(found, user))

    def frame(self, request: Request, user: str, frame: str) -> Json | Response:
        """Read, create, change or delete a coordinate frame."""
        held = self._state.frames
        if request.method == "POST":
            data = _data(request, user)
            what = "coordinate frame with this Name of the Coordinate reference frame"
            _check_new(frame, held, what)
            unit = _choice(data, "voxel_unit", UNITS)
            ends = {
                end: [_number(data, f"{axis}_{end}", int) for axis in _AXES]
                for end in ("start", "stop")
            }
            voxel = [_number(data, f"{axis}_voxel_size", float) for axis in _AXES]
            self._state.add_frame(frame, **ends, voxel=voxel, unit=unit, description=_text(data))
            return json_response(frame_document(held[frame]), 201)
        found = _lookup(held, frame)
        if request.method == "DELETE":
            users = [
                experiment.name
                for collection in self._state.collections.values()
                for experiment in collection.experiments.values()
                if experiment.frame is found and not experiment.deleted
            ]
            return self._delete(found, users, user)
        if request.method == "PUT":
            _change(found, request, user, {"name", "description"})
        if found.deleted:
            raise _deleted()
        return frame_document(found)

    # -- helpers

    def _make_experiment(self, parent: BossCollection, name: str, data: Mapping[str, Any]) -> None:
        if "coord_frame" not in data:
            raise BossError("This request requires a valid coordinate frame", _BAD)
        frame = _lookup(self._state.frames, str(data["coord_frame"]))
        _check_new(name, parent.experiments, "The fields collection, name")
        self._state.add_experiment(
            f"{parent.name}/{name}",
            frame.name,
            public=bool(data.get("public", False)),
            description=_text(data),
            levels=_number(data, "num_hierarchy_levels", int, 1),
            method=_choice(data, "hierarchy_method", tuple(HALVING), "anisotropic"),
            samples=_number(data, "num_time_samples", int, 1),
            time_step=data.get("time_step"),
            time_step_unit=_choice(data, "time_step_unit", (*TIME_UNITS, None), None),
        )

    def _make_channel(
        self, parent: BossExperiment, path: str, name: str, data: Mapping[str, Any]
    ) -> None:
        for field, what in (("bucket", "bucket name"), ("cv_path", "cv_path")):
            if data.get(field):
                raise BossError(f"Only admins can set {what}", Code.MISSING_PERMISSION)
        _check_new(name, parent.channels, "The fields experiment, name")
        storage = _choice(data, "storage_type", STORAGE, "spdb")
        kind = _choice(data, "type", KINDS)
        datatype = _choice(data, "datatype", DATATYPES)
        sample = _number(data, "default_time_sample", int, 0)
        if sample >= parent.samples:
            raise _invalid_field(
                "default_time_sample", "is beyond the experiment's num_time_samples"
            )
        sources, related = list(data.get("sources", [])), list(data.get("related", []))
        for other in (*sources, *related):
            if other not in parent.channels:
                what = "in the list of source/related channels channels "
                raise BossError(f"Invalid channel names {other} {what}", _BAD)
        self._state.add_channel(
            path,
            datatype,
            kind,
            downsampled=storage == "cloudvol",
            public=bool(data.get("public", False)),
            description=_text(data),
            base_resolution=_number(data, "base_resolution", int, 0),
            default_time_sample=sample,
            storage_type=storage,
            cv_path=f"/{path}" if storage == "cloudvol" else None,
            sources=sources,
            related=related,
        )

    def _delete(self, found: Any, used: Iterable[str], user: str) -> Response:
        _may_write(user)
        if any(used):
            what = f"{found.name} is referenced by others and cannot be deleted."
            raise BossError(what, Code.INTEGRITY_ERROR)
        found.deleted = True
        return Response(status=204)


_BAD = Code.INVALID_POST_ARGUMENT


def _require(held: Mapping[str, T], name: str) -> T:
    if name not in held:
        raise UpstreamDefectError(name)
    return held[name]


def _lookup(held: Mapping[str, T], name: str) -> T:
    if name not in held:
        raise BossError(f"{name} does not exist.", Code.RESOURCE_NOT_FOUND)
    return held[name]


R = TypeVar("R", BossCollection, BossExperiment, BossChannel)


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


def _may_write(user: str) -> None:
    if user != OWNER:
        what = f"{user} does not have the required role resource-manager"
        raise BossError(what, Code.MISSING_ROLE)


def _data(request: Request, user: str) -> Mapping[str, Any]:
    _may_write(user)
    if request.mimetype != "application/json":
        raise FrameworkError(415, f'Unsupported media type "{request.mimetype}" in request.')
    data = request.get_json(silent=True)
    if not isinstance(data, dict):
        raise FrameworkError(400, "JSON parse error - an object is needed")
    return data


def _change(
    found: Any,
    request: Request,
    user: str,
    fields: set[str],
    called: Mapping[str, str] | None = None,
) -> None:
    """Set the fields of a PUT; ``called`` maps fields to differently named attributes."""
    data = _data(request, user)
    more = sorted(data.keys() - fields)
    if more:
        raise _invalid_field("fields", f"Cannot update the following readonly fields:{more}.")
    if data.get("name", found.name) != found.name:
        raise _invalid_field("name", "This demo renames nothing.")
    for field, value in data.items():
        setattr(found, (called or {}).get(field, field), value)


def _check_new(name: str, held: Mapping[str, object], what: str) -> None:
    if not _NAME.fullmatch(name):
        raise _invalid_field("name", "Invalid Name.")
    if name in held and what.startswith("The fields"):
        raise _invalid_field("non_field_errors", f"{what} must make a unique set.", "unique")
    if name in held:
        raise _invalid_field("name", f"{what} already exists.", "unique")


def _invalid_field(field: str, text: str, code: str = "invalid") -> BossError:
    """Return the error of an invalid field, printed as upstream's framework prints it."""
    return BossError(f"{{'{field}': [ErrorDetail(string='{text}', code='{code}')]}}", _BAD)


def _text(data: Mapping[str, Any]) -> str:
    return str(data.get("description", ""))


def _number(
    data: Mapping[str, Any], field: str, kind: Callable[[Any], T], default: T | None = None
) -> T:
    if field not in data and default is not None:
        return default
    if field not in data:
        raise _invalid_field(field, "This field is required.", "required")
    try:
        return kind(data[field])
    except (TypeError, ValueError):
        raise _invalid_field(field, "A valid number is required.") from None


def _choice(data: Mapping[str, Any], field: str, allowed: tuple[Any, ...], *default: Any) -> Any:
    if field not in data and default:
        return default[0]
    if field not in data:
        raise _invalid_field(field, "This field is required.", "required")
    if data[field] not in allowed:
        text = f'"{data[field]}" is not a valid choice.'
        raise _invalid_field(field, text, "invalid_choice")
    return data[field]
