"""The read-only part of the REST interface of ndstore (``django/sd``, ``django/ramon``).

It is served below ``/nd/ca/``, its synonym ``/nd/sd/``, and ``/nd/ramon/``. ndstore's own errors
are 404 with a line of text and an HTML content type. A token that is not public is refused before
ndstore receives the request, whether it exists or not, with JSON; an invalid user token counts as
none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from werkzeug.wrappers import Request, Response

from neuromirror_demo.ndstore import ramon
from neuromirror_demo.ndstore.cutouts import NdstoreError, cut_out, parse
from neuromirror_demo.ndstore.encodings import ENCODINGS
from neuromirror_demo.ndstore.records import NdstoreChannel, Project
from neuromirror_demo.paging import NOT_FOUND_HTML

_BASES: Final = re.compile(r"/(?:nd/|ocp/)?(?P<app>ca|sd|ramon)/(?P<rest>.*)")
_SLASHES: Final = re.compile("//+")
_LIST: Final = re.compile(r"public_(?P<what>tokens|datasets)/")
_INFO: Final = re.compile(r"(?P<token>\w+)/info/[\w,/]*")
_PROPAGATE: Final = re.compile(r"(?P<token>\w+)/(?P<channels>[\w+,]+)/getPropagate/")
_CUTOUT: Final = re.compile(
    r"(?P<token>\w+)/(?:(?P<channels>[\w+,]+)/)?"
    r"(?P<service>npz|raw|zip|blosc|hdf5|tiff|jpeg|id|ids|xy|xz|yz|blaze)/(?P<arguments>[\w.,/-]*)"
)
_RAMON: Final = re.compile(r"(?P<token>\w+)/(?P<channel>\w+)/(?P<arguments>[\w,/]*)")
_DETAILS: Final = {
    True: "You do not have permission to perform this action.",
    False: "Authentication credentials were not provided.",
}


class NdstoreApi:
    """Answers requests for projects; ``owner`` is the user token that can read private projects.

    ``spoil`` may change the voxels of a cutout before they are encoded.
    """

    def __init__(
        self,
        projects: dict[str, Project],
        owner: str,
        spoil: Callable[[Request, Any], Any] = lambda request, voxels: voxels,
    ) -> None:
        self._projects = projects
        self._owner = owner
        self._spoil = spoil

    def answer(self, request: Request) -> Response:
        """Return the reply to one request."""
        # The web server in front of ndstore merges slashes; ndstore's own client relies on this.
        found = _BASES.fullmatch(_SLASHES.sub("/", request.path))
        if found is None:
            return _html(NOT_FOUND_HTML, 404)
        if request.method not in {"GET", "HEAD"}:
            return _json({"detail": f'Method "{request.method}" not allowed.'}, 405)
        try:
            if found["app"] == "ramon":
                return self._ramon(request, found["rest"])
            return self._data(request, found["rest"])
        except NdstoreError as error:
            return _html(error.body, 404)

    def _data(self, request: Request, rest: str) -> Response:
        if found := _LIST.fullmatch(rest):
            return self._public(found["what"])
        if found := _INFO.fullmatch(rest):
            refused = self._refusal(request, found["token"], plain=False)
            return refused or _json(self._projects[found["token"]].info())
        if found := _PROPAGATE.fullmatch(rest):
            if refused := self._refusal(request, found["token"]):
                return refused
            channels = self._channels(self._projects[found["token"]], found["channels"])
            return _html(",".join(str(one.propagate) for one in channels))
        if found := _CUTOUT.fullmatch(rest):
            return self._refusal(request, found["token"]) or self._cutout(request, found)
        return _html(NOT_FOUND_HTML, 404)

    def _public(self, what: str) -> Response:
        public = [one for one in self._projects.values() if not one.private]
        if what == "tokens":
            return _json(sorted(one.token for one in public))
        return _json(sorted({one.space.name for one in public}))

    def _refusal(self, request: Request, token: str, *, plain: bool = True) -> Response | None:
        """Return the error for a client that may not read this token, if it may not.

        ``plain``: session authentication comes first, which cannot request credentials.
        """
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        known = kind.lower() == "token" and given.strip() == self._owner
        project = self._projects.get(token)
        if project is not None and (known or not project.private):
            return None
        response = _json({"detail": _DETAILS[known]}, 403 if known or plain else 401)
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Token"
        return response

    def _channels(self, project: Project, names: str) -> list[NdstoreChannel]:
        # Django's own error has no text
        found = [project.channels.get(name) for name in names.split(",")]
        there = [one for one in found if one is not None]
        if len(there) < len(found):
            raise NdstoreError("")
        return there

    def _cutout(self, request: Request, match: re.Match[str]) -> Response:
        project, service = self._projects[match["token"]], match["service"]
        if service == "blaze":
            return _html("blaze service not supported for GET. Only for POST", 400)
        if service not in ENCODINGS:
            raise NdstoreError(
                f"An illegal Web GET service was requested {service}. Args {match['arguments']}"
            )
        names = match["channels"] or next(iter(project.channels))
        kind, encoded = ENCODINGS[service]
        try:
            channels = self._channels(project, names)
            cutout_request = parse(match["arguments"], project.space)
            if len({one.datatype for one in channels}) > 1 and service != "hdf5":
                raise NdstoreError("tuple index out of range")
            cuts = [
                (one, self._spoil(request, cut_out(project, one, cutout_request)))
                for one in channels
            ]
        except NdstoreError as error:
            raise NdstoreError(error.body, wrapped=1 if service == "hdf5" else 2) from None
        response = Response(encoded(cuts), content_type=kind)
        if service in {"raw", "blosc", "hdf5"}:
            name = re.sub("/", "-", re.sub(",", "_", match.group()))
            suffix = "h5" if service == "hdf5" else service
            response.headers["Content-Disposition"] = (
                f"attachment; filename={name}ndcutout.{suffix}"
            )
        return response

    def _ramon(self, request: Request, rest: str) -> Response:
        found = _RAMON.fullmatch(rest)
        if found is None:
            return _html(NOT_FOUND_HTML, 404)
        project = self._projects.get(found["token"])
        if project is None:
            raise NdstoreError(
                f"Token {found['token']} does not exist. Token matching query does not exist."
            )
        if refused := self._refusal(request, project.token):
            return refused
        (channel,) = self._channels(project, found["channel"])
        return _json(text=ramon.ramon_json(project, channel, found["arguments"]))


def _json(body: object = None, status: int = 200, *, text: str | None = None) -> Response:
    written = json.dumps(body, sort_keys=True, indent=4) if text is None else text
    return Response(written, status=status, content_type="application/json")


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status=status, content_type="text/html; charset=utf-8")
