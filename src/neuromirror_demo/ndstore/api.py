"""The read-only part of the REST interface of ndstore that clients of volumes need (``django/sd``).

It is served below ``/nd/ca/`` and its synonym ``/nd/sd/``. ndstore's own errors are 404 with a line
of text and an HTML content type. A token that is not public is refused before ndstore receives the
request, whether it exists or not, with JSON; an invalid user token counts as none.
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Callable
from typing import Any, Final

from werkzeug.wrappers import Request, Response

from neuromirror_demo.ndstore.cutouts import NdstoreError, cut_out, parse
from neuromirror_demo.ndstore.records import Project
from neuromirror_demo.paging import NOT_FOUND_HTML

_BASE: Final = re.compile(r"/(?:nd/|ocp/)?(?:ca|sd)/(?P<rest>.*)")
_SLASHES: Final = re.compile("//+")
_INFO: Final = re.compile(r"(?P<token>\w+)/info/[\w,/]*")
_CUTOUT: Final = re.compile(
    r"(?P<token>\w+)/(?P<channel>\w+)/(?P<service>\w+)/(?P<arguments>\d[\w.,/-]*)"
)
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
        found = _BASE.fullmatch(_SLASHES.sub("/", request.path))
        if found is None:
            return _html(NOT_FOUND_HTML, 404)
        if request.method not in {"GET", "HEAD"}:
            return _json({"detail": f'Method "{request.method}" not allowed.'}, 405)
        rest = found["rest"]
        if rest == "public_tokens/":
            return _json(sorted(one.token for one in self._projects.values() if not one.private))
        if found := _INFO.fullmatch(rest):
            refused = self._refusal(request, found["token"], plain=False)
            return refused or _json(self._projects[found["token"]].info())
        if found := _CUTOUT.fullmatch(rest):
            try:
                return self._refusal(request, found["token"]) or self._cutout(request, found)
            except NdstoreError as error:
                return _html(error.body, 404)
        return _html(NOT_FOUND_HTML, 404)

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

    def _cutout(self, request: Request, match: re.Match[str]) -> Response:
        """Return a zlib stream (no zip file) of a ``.npy`` file of (channel, [time,] z, y, x)."""
        import numpy as np

        project, service = self._projects[match["token"]], match["service"]
        if service != "npz":
            raise NdstoreError(
                f"An illegal Web GET service was requested {service}. Args {match['arguments']}"
            )
        try:
            channel = project.channels.get(match["channel"])
            if channel is None:
                raise NdstoreError("")  # Django's own error has no text
            voxels = cut_out(project, channel, parse(match["arguments"], project.space))
        except NdstoreError as error:
            raise NdstoreError(error.body, wrapped=2) from None
        body = io.BytesIO()
        np.save(body, self._spoil(request, voxels)[None])
        return Response(zlib.compress(body.getvalue()), content_type="product/npz")


def _json(body: object, status: int = 200) -> Response:
    written = json.dumps(body, sort_keys=True, indent=4)
    return Response(written, status=status, content_type="application/json")


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status=status, content_type="text/html; charset=utf-8")
