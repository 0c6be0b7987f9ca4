"""Operations over HTTP: ``POST /_demo/<verb>`` with a JSON object of arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from neuromirror.model import NeuromirrorError
from neuromirror_demo.archive import DemoError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class ControlMiddleware:
    """Adds operations below ``/_demo/`` to an application.

    The response is ``{"result": …}``, or 400 and ``{"detail": …}``.
    """

    def __init__(self, app: WSGIApplication, verbs: Mapping[str, Callable[..., object]]) -> None:
        self._app = app
        self._verbs = verbs

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if not environ["PATH_INFO"].startswith("/_demo/"):
            return self._app(environ, start_response)
        from werkzeug.wrappers import Request

        from neuromirror_demo.paging import json_response

        request = Request(environ)
        verb = request.path.removeprefix("/_demo/").strip("/")
        try:
            if verb not in self._verbs:
                raise DemoError(f"no verb {verb!r}: there are {', '.join(self._verbs)}")
            result = self._verbs[verb](**json.loads(request.get_data() or b"{}"))
        except (NeuromirrorError, TypeError, ValueError) as error:
            return json_response({"detail": str(error)}, 400)(environ, start_response)
        result = result if isinstance(result, str) else None
        return json_response({"result": result})(environ, start_response)
