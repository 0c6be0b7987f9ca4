"""The REST interface of BOSS, version 1, as a WSGI application (boss/urls.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from werkzeug.wrappers import Request, Response

from neuromirror_demo.boss.cutouts import BossCutouts, active_faults, check, locate
from neuromirror_demo.boss.documents import ANONYMOUS, OWNER, PUBLIC, Json
from neuromirror_demo.boss.encodings import JSON, accepted_type
from neuromirror_demo.boss.errors import (
    BossError,
    Code,
    FrameworkError,
    UpstreamDefectError,
    not_found_page,
    server_error_page,
)
from neuromirror_demo.boss.resources import Resources
from neuromirror_demo.boss.state import BossState
from neuromirror_demo.paging import json_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Answer = Callable[..., "Response | Json"]

_C, _E, _N = (rf"(?P<{name}>[\w-]+)" for name in ("collection", "experiment", "channel"))
_BOX: Final = r"(?P<level>\d)/(?P<x>\d+:\d+)/(?P<y>\d+:\d+)/(?P<z>\d+:\d+)(?:/(?P<t>\d+:\d+))?"
_READ: Final = ("GET", "HEAD")


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
        request = Request(environ)
        return self.answer(request)(environ, start_response)

    def answer(self, request: Request) -> Response:
        """Return the response to a request."""
        # nginx does this before the application receives the path.
        path = re.sub("/+", "/", request.path)
        path = re.sub("^/latest", "/v1", path)
        try:
            if path.startswith("/ping"):
                return json_response({"ip": "127.0.0.1"})
            if re.match(r"/v0\.\d/", path):
                what = " This API version is unsupported. Update to version v1"
                raise BossError(what, Code.UNSUPPORTED_VERSION)
            for pattern, answer in self._routes:
                if found := pattern.fullmatch(path):
                    return self._call(answer, request, found.groupdict())
        except (BossError, FrameworkError) as error:
            return error.response()
        except UpstreamDefectError:
            return server_error_page()
        return not_found_page()

    def _call(self, answer: Answer, request: Request, names: dict[str, Any]) -> Response:
        try:
            user = self._user(request)
            if request.method not in _READ:
                # the demo is changed by its verbs only
                raise FrameworkError(405, f'Method "{request.method}" not allowed.')
            made = answer(request, user, **names)
        except FrameworkError as error:
            if answer == self._cutouts.cutout and accepted_type(request) != JSON:
                # The renderer of voxels finds none in the error, and fails.
                raise UpstreamDefectError(error.detail) from error
            raise
        return made if isinstance(made, Response) else json_response(made)

    def _user(self, request: Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "token":
            return ANONYMOUS
        if token not in self._tokens or "bad_token" in active_faults(request):
            raise FrameworkError(401, "Invalid token.")
        return self._tokens[token]

    def _meta(self, request: Request, user: str, **names: str | None) -> Json:
        """Return the keys of a resource, or the value of one (bossmeta/views.py)."""
        key = request.args.get("key")
        resource = locate(self._state, names.values())[-1]
        # Even public data requires the token of the public user.
        check(request, user == OWNER or (user == PUBLIC and resource.public))
        path = "/".join(name for name in names.values() if name)
        held = self._state.metadata.get(path, {})
        if key is None:
            return {"keys": sorted(held)}
        if key not in held:
            raise BossError(
                f"Invalid request. Key {key} Not found in the database", Code.INVALID_POST_ARGUMENT
            )
        return {"key": key, "value": held[key]}
