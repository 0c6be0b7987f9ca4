"""The errors of a BOSS: its numbered errors (bosscore/error.py), and its defects."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from werkzeug.wrappers import Response


class Code(IntEnum):
    """The ``code`` of an error; each has its own HTTP status."""

    INVALID_URL = 1000
    INVALID_CUTOUT_ARGS = 1001
    TYPE_ERROR = 1002
    INVALID_POST_ARGUMENT = 1003
    REQUEST_TOO_LARGE = 2000
    MISSING_PERMISSION = 3001
    ACCESS_DENIED_UNKNOWN = 3004
    RESOURCE_NOT_FOUND = 4000
    RESOURCE_MARKED_FOR_DELETION = 4005
    BOSS_SYSTEM_ERROR = 9001
    UNSUPPORTED_VERSION = 9003


_STATUS: Final = {
    Code.REQUEST_TOO_LARGE: 413,
    Code.MISSING_PERMISSION: 403,
    Code.RESOURCE_NOT_FOUND: 404,
    Code.RESOURCE_MARKED_FOR_DELETION: 404,
}


class BossError(Exception):
    """An error of BOSS."""

    def __init__(self, message: str, code: Code) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def response(self) -> Response:
        """Return the JSON of status, code and message."""
        import json

        from werkzeug.wrappers import Response

        status = _STATUS.get(self.code, 400)
        body = {"status": status, "code": int(self.code), "message": self.message}
        return Response(json.dumps(body), status, content_type="application/json")


class FrameworkError(Exception):
    """An error of the framework below BOSS: credentials, method or media type."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail

    def response(self) -> Response:
        """Return the JSON of a detail."""
        from neuromirror_demo.paging import json_response

        response = json_response({"detail": self.detail}, self.status)
        if self.status == 401:
            response.headers["WWW-Authenticate"] = "api"
        return response


class UpstreamDefectError(Exception):
    """A defect in upstream's code: 500."""


def server_error_page(status: int = 500, text: str = "Server Error (500)") -> Response:
    """Return the page of a server error, which has no details."""
    from neuromirror_demo.paging import html_response

    return html_response(f"<h1>{text}</h1>", status)


def not_found_page() -> Response:
    """Return the page for an unknown path."""
    from neuromirror_demo.paging import html_response

    text = "<h1>Not Found</h1><p>The requested resource was not found on this server.</p>"
    return html_response(text, 404)
