"""Faults in front of the demo BOSS, with the messages of a BOSS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from neuromirror_demo.boss.errors import Code, server_error_page
from neuromirror_demo.faults import FaultInjector

if TYPE_CHECKING:
    from werkzeug.wrappers import Request, Response

    from neuromirror_demo.faults import Fault

_PAGES: Final = {
    500: "Server Error (500)",
    502: "502 Bad Gateway",
    503: "503 Service Temporarily Unavailable",
    504: "504 Gateway Time-out",
}


class BossFaultInjector(FaultInjector):
    """Refuses requests as BOSS's throttle (bosscore/renderer_helper.py) or load balancer does."""

    def _answer(self, request: Request, struck: list[Fault]) -> Response:
        for fault in struck:
            if fault.name == "status":
                return _error_response(fault)
        return super()._answer(request, struck)


def _error_response(fault: Fault) -> Response:
    from werkzeug.wrappers import Response

    status = int(fault.options["status"])
    if status == 429:
        after = fault.options["retry_after"]
        when = "tomorrow" if after is None else f"in {after} seconds"
        text = f"User is throttled. Expected available {when}."
        body = {"status": status, "message": text, "code": int(Code.ACCESS_DENIED_UNKNOWN)}
        response = Response(json.dumps(body), status, content_type="application/json")
    else:
        response = server_error_page(status, _PAGES.get(status, str(status)))
    if fault.options["retry_after"] is not None:
        response.headers["Retry-After"] = str(fault.options["retry_after"])
    return response
