"""A server of moto that checks signatures, in a process of its own: ``python signing_server.py``.

moto's authenticated mode is global to a process. What moto lacks is added here: anonymous requests
are refused, and so are requests to requester-pays buckets without the signed header, session tokens
after they expire, and signatures for another region than the bucket's.

Prints its URL. ``PUT /control`` sets what is refused; ``GET /control`` returns the signed requests.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], object]

_SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request, *SignedHeaders=([^,]+)")


class Gate:
    """A WSGI application in front of moto's."""

    def __init__(self, application: Callable[[Environ, Start], Iterable[bytes]]) -> None:
        self._application = application
        self._rules: dict[str, Any] = {}
        self._requests: list[dict[str, str]] = []

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/control":
            if method == "PUT":
                self._rules = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                self._requests.clear()
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._requests).encode()]
        if self._rules and method in ("GET", "HEAD") and not path.startswith("/moto-api"):
            refusal = self._refusal(environ, path)
            if refusal is not None:
                status, code, more = refusal
                body = f"<Error><Code>{code}</Code><Message>refused</Message>{more}</Error>"
                start(status, [("Content-Type", "application/xml")])
                return [] if method == "HEAD" else [body.encode()]
        return self._application(environ, start)

    def _refusal(self, environ: Environ, path: str) -> tuple[str, str, str] | None:
        bucket = path.split("/")[1]
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        self._requests.append(
            {"method": environ["REQUEST_METHOD"], "path": path, "authorization": authorization}
        )
        found = _SCOPE.search(authorization)
        if found is None:
            return "403 Forbidden", "AccessDenied", ""
        region = self._rules.get("regions", {}).get(bucket)
        if region not in (None, found[2]):
            more = f"<Region>{region}</Region>"
            return "400 Bad Request", "AuthorizationHeaderMalformed", more
        if self._rules.get("expired") and environ.get("HTTP_X_AMZ_SECURITY_TOKEN"):
            return "400 Bad Request", "ExpiredToken", ""
        pays = (
            environ.get("HTTP_X_AMZ_REQUEST_PAYER") == "requester"
            and "x-amz-request-payer" in found[3]
        )
        if bucket in self._rules.get("payer", []) and not pays:
            return "403 Forbidden", "AccessDenied", ""
        return None


def main() -> None:
    """Serve until the standard input is closed."""
    import sys
    import threading

    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    gate = Gate(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, gate, True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
