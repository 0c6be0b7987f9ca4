"""The REST interface of BOSS, version 1, as a WSGI application (boss/urls.py)."""

from __future__ import annotations

import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from werkzeug.wrappers import Request, Response

from neuromirror_demo.boss.server import (
    DOWNSAMPLED,
    SIZE,
    BossChannel,
    BossCollection,
    BossExperiment,
    BossState,
    CoordinateFrame,
    Resource,
)
from neuromirror_demo.faults import spoil_voxels
from neuromirror_demo.volumes import XYZ, coarser_box
from neuromirror_demo.web import NOT_FOUND_HTML, ApiError, html_response, json_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from neuromirror_demo.volumes import Voxels


_STATUS: Final = {2000: 413, 3001: 403, 4000: 404, 4005: 404}


def boss_error(code: int, message: str) -> ApiError:
    """Return an error of BOSS, by its code; 400 for most."""
    status = _STATUS.get(code, 400)
    return ApiError(status, {"status": status, "code": code, "message": message})


class UpstreamDefectError(Exception):
    """A defect in upstream's code: 500."""


def server_error_page(status: int = 500, text: str = "Server Error (500)") -> Response:
    """Return the page of a server error, which has no details."""
    return html_response(f"<h1>{text}</h1>", status)


Json = dict[str, Any]

OWNER = "demo"
"""The owner of all resources."""

PUBLIC = "public"
"""The public user."""

ANONYMOUS = ""


def readable(resource: BossCollection | BossExperiment | BossChannel, user: str) -> bool:
    """Return whether the user may read a resource."""
    return resource.public or user == OWNER


def names(
    held: Mapping[str, BossExperiment] | Mapping[str, BossChannel], whole: bool, user: str
) -> list[str]:
    """Return the names of resources that are not deleted; with ``whole`` also unreadable ones."""
    found: Mapping[str, Any] = held
    return [
        name for name, one in found.items() if not one.deleted and (whole or readable(one, user))
    ]


def collection_document(one: BossCollection, user: str) -> Json:
    """Return the JSON of a collection."""
    return {
        "name": one.name,
        "public": one.public,
        "description": one.description,
        "experiments": names(one.experiments, one.public or user == OWNER, user),
        "creator": OWNER,
    }


def frame_document(one: CoordinateFrame) -> Json:
    """Return the JSON of a coordinate frame."""
    axes = "xyz"
    ends = {
        f"{axis}_{end}": getattr(one, end)[at]
        for at, axis in enumerate(axes)
        for end in ("start", "stop")
    }
    sizes = {f"{axis}_voxel_size": float(one.voxel[at]) for at, axis in enumerate(axes)}
    about = {"name": one.name, "description": one.description}
    return {**about, **ends, **sizes, "voxel_unit": one.unit}


def experiment_document(collection: str, one: BossExperiment, user: str) -> Json:
    """Return the JSON of an experiment; that of a public one names private channels too."""
    return {
        "channels": names(one.channels, one.public or user == OWNER, user),
        "name": one.name,
        "public": one.public,
        "description": one.description,
        "collection": collection,
        "coord_frame": one.frame.name,
        "num_hierarchy_levels": one.levels,
        "hierarchy_method": one.method,
        "num_time_samples": one.samples,
        "time_step": one.time_step,
        "time_step_unit": one.time_step_unit,
        "creator": OWNER,
    }


def channel_document(experiment: BossExperiment, one: BossChannel) -> Json:
    """Return the JSON of a channel; deleted sources and related channels are left out."""
    there = names(experiment.channels, True, OWNER)
    return {
        "name": one.name,
        "public": one.public,
        "description": one.description,
        "experiment": experiment.name,
        "default_time_sample": one.default_time_sample,
        "type": one.kind,
        "base_resolution": one.base_resolution,
        "datatype": one.datatype,
        "creator": OWNER,
        "sources": [name for name in one.sources if name in there],
        "downsample_status": one.downsample_status,
        "related": [name for name in one.related if name in there],
        "storage_type": one.storage_type,
        "bucket": one.bucket,
        "cv_path": one.cv_path,
    }


def levels_document(experiment: BossExperiment, channel: BossChannel) -> Json:
    """Return the levels of a channel (spdb/project/resource.py).

    Extents are halved from the frame's stop, and rounded up. Upstream refuses frames whose voxels
    are not square, because it also looks for the level at which they are nearest to cubes.
    """
    voxel, extent = list(experiment.frame.voxel), experiment.frame.stop
    if experiment.method == "anisotropic" and voxel[0] != voxel[1]:
        raise boss_error(9001, "X voxel size != Y voxel size: unable to determine isotropic level")
    voxels, extents = {"0": [float(one) for one in voxel]}, {"0": list(extent)}
    for level in range(1, experiment.levels):
        voxel = [one * by for one, by in zip(voxel, experiment.factor, strict=True)]
        _, extent = coarser_box((0, 0, 0), extent, experiment.factor)
        voxels[str(level)], extents[str(level)] = [float(one) for one in voxel], list(extent)
    return {
        "status": channel.downsample_status,
        "num_hierarchy_levels": experiment.levels,
        "voxel_size": voxels,
        "extent": extents,
        "cuboid_size": {str(level): list(SIZE) for level in range(experiment.levels)},
    }


BLOSC: Final = "application/blosc"
NPYGZ: Final = "application/npygz"


@dataclass(frozen=True, slots=True)
class BossCutoutRequest:
    """The parameters of one request."""

    experiment: BossExperiment
    channel: BossChannel
    level: int
    start: XYZ
    stop: XYZ
    samples: range
    with_time: bool

    @property
    def size(self) -> int:
        """The size of the voxels in bytes."""
        size = int(self.channel.datatype.removeprefix("uint")) // 8 * len(self.samples)
        for a, b in zip(self.start, self.stop, strict=True):
            size *= b - a
        return size


def encode(voxels: Voxels, accepted: str, turn: int) -> bytes:
    """Return the body of a reply.

    Upstream's blosc streams depend on the order in which its threads finish. Here large ones do
    too, and small ones, which need no threads, depend on ``turn``.
    """
    if accepted == NPYGZ:
        import numpy as np

        file = io.BytesIO()
        np.save(file, voxels, allow_pickle=False)
        return zlib.compress(file.getvalue())
    import blosc  # type: ignore[import-untyped]

    sizes = (8 * voxels.itemsize, voxels.itemsize, 3, 5)
    stream: bytes = blosc.compress(voxels, typesize=sizes[turn % len(sizes)])
    return stream


T = TypeVar("T")
R = TypeVar("R", BossCollection, BossExperiment, BossChannel)


class Resources:
    """Handles requests for resources, given the request, the user, and names from the path."""

    def __init__(self, state: BossState) -> None:
        self._state = state

    def collections(self, request: Request, user: str) -> Json:
        """Return the names of readable collections, including public ones marked for deletion."""
        found = self._state.collections.values()
        seen = [one for one in found if one.public or (user == OWNER and not one.deleted)]
        return {"collections": [one.name for one in seen]}

    def experiments(self, request: Request, user: str, collection: str) -> Json:
        """Return the names of a collection's experiments; like upstream, fail if it is unknown."""
        return {"experiments": names(self._children(collection), False, user)}

    def channels(self, request: Request, user: str, collection: str, experiment: str) -> Json:
        """Return the names of an experiment's channels."""
        return {"channels": names(self._children(collection, experiment), False, user)}

    def _children(self, collection: str, *experiment: str) -> Any:
        try:
            held: Any = self._state.collections[collection].experiments
            return held[experiment[0]].channels if experiment else held
        except KeyError as error:
            raise UpstreamDefectError(str(error)) from error

    def frames(self, request: Request, user: str) -> Json:
        """Return the names of all coordinate frames."""
        return {"coords": list(self._state.frames)}

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
        return frame_document(_lookup(self._state.frames, frame))


def _lookup(held: Mapping[str, T], name: str) -> T:
    if name not in held:
        raise boss_error(4000, f"{name} does not exist.")
    return held[name]


def _require_readable(found: R, user: str) -> R:
    if not readable(found, user):
        raise boss_error(3001, f"Missing read permissions on the resource {found.name}")
    if found.deleted:
        raise boss_error(4005, "Invalid Request. This Resource has been marked for deletion")
    return found


MAX_REQUEST_BYTES: Final = 520 << 20
"""Maximum bytes of voxels per request; four times as many for voxels of 64 bits."""


class BossCutouts:
    """Read and write voxels, and describe levels; ``most`` is the limit per request in bytes."""

    def __init__(self, state: BossState, max_bytes: int = MAX_REQUEST_BYTES) -> None:
        self.max_bytes = max_bytes
        self._state = state
        self._turn = itertools.count()

    def cutout(self, request: Request, user: str, **names: str) -> Response:
        """Return the voxels of a box."""
        cutout_request = self._parse_request(request, user, names)
        accept = request.headers.get("Accept", "")
        accepted = NPYGZ if NPYGZ in accept and BLOSC not in accept else BLOSC
        voxels = spoil_voxels(request, self._voxels(cutout_request))
        return Response(encode(voxels, accepted, next(self._turn)), content_type=accepted)

    def levels(self, request: Request, user: str, **names: str) -> Json:
        """Describe the downsampling status and the levels."""
        return levels_document(*self._channel(request, user, names))

    # -- request parsing

    def _channel(
        self, request: Request, user: str, names: dict[str, str]
    ) -> tuple[BossExperiment, BossChannel]:
        where = [names[name] for name in ("collection", "experiment", "channel")]
        _, experiment, channel = locate(self._state, where)
        assert isinstance(experiment, BossExperiment)
        assert isinstance(channel, BossChannel)
        check(channel.public or user == OWNER)
        return experiment, channel

    def _parse_request(
        self, request: Request, user: str, names: dict[str, str]
    ) -> BossCutoutRequest:
        experiment, channel = self._channel(request, user, names)
        samples = range(channel.default_time_sample, channel.default_time_sample + 1)
        if names.get("t"):
            # upstream allows one more than exist, which reads as zeros
            samples = range(*(int(end) for end in names["t"].split(":")))
        level, first = int(names["level"]), channel.base_resolution
        if level not in range(first, first + experiment.levels):
            last = first + experiment.levels
            what = f"Invalid resolution {level}. The resolution has to be within {first} and {last}"
            raise boss_error(1002, what)
        start, stop = _corners(names, experiment)
        cutout_request = BossCutoutRequest(
            experiment, channel, level, start, stop, samples, bool(names.get("t"))
        )
        if channel.datatype == "uint32":
            raise UpstreamDefectError(
                "upstream has no size for 32-bit voxels (spdb/project/resource.py)"
            )
        if cutout_request.size > self.max_bytes * (4 if channel.datatype == "uint64" else 1):
            what = "Cutout request is over 500MB when uncompressed. Reduce cutout dimensions."
            raise boss_error(2000, what)
        return cutout_request

    # -- reading and writing

    def _voxels(self, cutout_request: BossCutoutRequest) -> Voxels:
        """Return the voxels in the requested shape."""
        import numpy as np

        experiment, channel = cutout_request.experiment, cutout_request.channel
        if channel.storage_type == "cloudvol":
            # A layer is read with ``bounded`` set (cvdb/cloudvolumedb.py).
            first, last = experiment.box(cutout_request.level)
            ends = zip((*first, *cutout_request.stop), (*cutout_request.start, *last), strict=True)
            if any(a > b for a, b in ends):
                raise UpstreamDefectError("beyond the layer")
        elif (
            channel.labels
            and cutout_request.level > channel.base_resolution
            and channel.downsample_status != DOWNSAMPLED
        ):
            raise UpstreamDefectError("labels are not downsampled on the fly (spdb/spatialdb.py)")
        with self._state.lock:
            self._state.fill(experiment, channel)
            read = channel.tables.read
            found = [
                read(cutout_request.level, sample, cutout_request.start, cutout_request.stop)
                for sample in cutout_request.samples
            ]
        return np.stack(found) if cutout_request.with_time else found[0]


def locate(state: BossState, names: Iterable[str | None]) -> list[Resource]:
    """Return the resources along a path, as looked up by all but the resource service."""
    found: list[Resource] = []
    held: Any = state.collections
    kinds = (("Collection", "experiments"), ("Experiment", "channels"), ("Channel", ""))
    for name, (kind, within) in zip(names, kinds, strict=False):
        if name is None:
            break
        if name not in held:
            raise boss_error(4000, f"{kind} {name} not found")
        if held[name].deleted:
            what = f"Invalid Request. This resource {name} has been marked for deletion"
            raise boss_error(4005, what)
        found.append(held[name])
        held = getattr(held[name], within, None)
    return found


def check(allowed: bool) -> None:
    """Raise an error if the user lacks the permission."""
    if not allowed:
        raise boss_error(3001, "This user does not have the required permissions")


def _corners(names: dict[str, str], experiment: BossExperiment) -> tuple[XYZ, XYZ]:
    """Return start and stop of the box; the bounds of all levels are those of level 0."""
    starts, stops = zip(
        *([int(end) for end in names[one].split(":")] for one in "xyz"), strict=True
    )
    frame = experiment.frame
    for a, b, low, high in zip(starts, stops, frame.start, frame.stop, strict=True):
        if not low <= a < b <= high:
            ranges = "/".join(names[one] for one in ("level", "x", "y", "z"))
            raise boss_error(1001, f"Incorrect cutout arguments {ranges}")
    return (starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2])


_PAGES: Final = {
    500: "Server Error (500)",
    502: "502 Bad Gateway",
    503: "503 Service Temporarily Unavailable",
    504: "504 Gateway Time-out",
}


def refuse(status: int, retry_after: int | None) -> Response:
    """Refuse like BOSS's throttle (bosscore/renderer_helper.py) or load balancer."""
    if status != 429:
        return server_error_page(status, _PAGES.get(status, str(status)))
    when = "tomorrow" if retry_after is None else f"in {retry_after} seconds"
    text = f"User is throttled. Expected available {when}."
    body = {"status": status, "message": text, "code": 3004}
    return Response(json.dumps(body), status, content_type="application/json")


Answer = Callable[..., "Response | Json"]

_C, _E, _N = (rf"(?P<{name}>[\w-]+)" for name in ("collection", "experiment", "channel"))
_BOX: Final = r"(?P<level>\d)/(?P<x>\d+:\d+)/(?P<y>\d+:\d+)/(?P<z>\d+:\d+)(?:/(?P<t>\d+:\d+))?"


class BossApi:
    """Answers requests; ``tokens`` maps a token to its user. ``/latest`` means ``/v1``."""

    def __init__(self, state: BossState, cutouts: BossCutouts, tokens: dict[str, str]) -> None:
        self._state = state
        self._tokens = tokens
        self._cutouts = cutouts
        made = Resources(state)
        experiments, channels = rf"collection/{_C}/experiment", rf"{_C}/experiment/{_E}/channel"
        routes: tuple[tuple[str, Answer], ...] = (
            (r"collection", made.collections),
            (rf"collection/{_C}", made.collection),
            (experiments, made.experiments),
            (rf"{experiments}/{_E}", made.experiment),
            (rf"collection/{channels}", made.channels),
            (rf"collection/{channels}/{_N}", made.channel),
            (r"coord", made.frames),
            (r"coord/(?P<frame>[\w-]+)", made.frame),
            (rf"meta/{_C}(?:/{_E}(?:/{_N})?)?", self._meta),
            (rf"cutout/{_C}/{_E}/{_N}/{_BOX}", cutouts.cutout),
            (rf"downsample/{_C}/{_E}/{_N}", cutouts.levels),
        )
        self._routes = [(re.compile(f"/v1/{path}/?"), one) for path, one in routes]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return self.answer(Request(environ))(environ, start_response)

    def answer(self, request: Request) -> Response:
        """Return the response to a request."""
        # nginx does this before the application receives the path.
        path = re.sub("/+", "/", request.path)
        path = re.sub("^/latest", "/v1", path)
        try:
            for pattern, answer in self._routes:
                if found := pattern.fullmatch(path):
                    return self._call(answer, request, found.groupdict())
        except ApiError as error:
            return json_response(error.body, error.status)
        except UpstreamDefectError:
            return server_error_page()
        return html_response(NOT_FOUND_HTML, 404)

    def _call(self, answer: Answer, request: Request, names: dict[str, Any]) -> Response:
        user = ANONYMOUS
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "token":
            if token not in self._tokens:
                if answer == self._cutouts.cutout:
                    # The renderer of voxels finds none in the error, and fails.
                    raise UpstreamDefectError("Invalid token.")
                raise ApiError(401, {"detail": "Invalid token."})
            user = self._tokens[token]
        if request.method not in {"GET", "HEAD"}:
            # the demo is changed by its verbs only
            raise ApiError(405, {"detail": f'Method "{request.method}" not allowed.'})
        made = answer(request, user, **names)
        return made if isinstance(made, Response) else json_response(made)

    def _meta(self, request: Request, user: str, **names: str | None) -> Json:
        """Return the keys of a resource, or the value of one (bossmeta/views.py)."""
        key = request.args.get("key")
        resource = locate(self._state, names.values())[-1]
        # Even public data requires the token of the public user.
        check(user == OWNER or (user == PUBLIC and resource.public))
        path = "/".join(name for name in names.values() if name)
        held = self._state.metadata.get(path, {})
        if key is None:
            return {"keys": sorted(held)}
        if key not in held:
            raise boss_error(1003, f"Invalid request. Key {key} Not found in the database")
        return {"key": key, "value": held[key]}
