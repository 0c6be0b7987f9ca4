"""moto's server on loopback, whose requests can be made to fail."""

from __future__ import annotations

import base64
import hashlib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from neuromirror_demo.web import stop_serving
from support.moto_buckets import Buckets

Rule = Callable[[str, str], tuple[int, str] | None]
"""Returns status and error code for method and path, or None to serve the request."""


class FaultyS3(Buckets):
    """A running server; ``rule`` decides which requests fail, ``log`` has all of them.

    An ``old`` server refuses checksums in trailers, returns none, and its ETags are no MD5s.
    """

    def __init__(self, endpoint: str, faults: _Faults) -> None:
        super().__init__(endpoint)
        self._faults = faults

    @property
    def log(self) -> list[str]:
        return self._faults.log

    @contextmanager
    def failing(self, rule: Rule) -> Iterator[None]:
        """Let requests fail during the block."""
        self._faults.rule = rule
        try:
            yield
        finally:
            self._faults.rule = None

    @contextmanager
    def old(self) -> Iterator[None]:
        """Behave as an old server during the block."""
        self._faults.is_old = True
        try:
            yield
        finally:
            self._faults.is_old = False

    @contextmanager
    def requiring_checksums(self) -> Iterator[None]:
        """Behave for parts as AWS does in a bucket with object lock: refuse those without an MD5.

        moto itself refuses such objects, but not such parts.
        """
        self._faults.needs_checksums = True
        try:
            yield
        finally:
            self._faults.needs_checksums = False

    @contextmanager
    def storm(self, status: int, code: str, *methods: str) -> Iterator[None]:
        """Let all requests with some methods fail during the block."""
        with self.failing(lambda method, path: (status, code) if method in methods else None):
            yield


class _Faults:
    def __init__(self, app: Any) -> None:
        self._app = app
        self.rule: Rule | None = None
        self.is_old = False
        self.needs_checksums = False
        self.log: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.log.append(f"{method} {path}")
        found = None if self.rule is None else self.rule(method, path)
        if found is None and self.is_old and "HTTP_X_AMZ_TRAILER" in environ:
            found = 411, "MissingContentLength"
        if self.needs_checksums and method == "PUT" and "partNumber" in environ["QUERY_STRING"]:
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            environ["wsgi.input"] = BytesIO(body)
            if environ.get("HTTP_CONTENT_MD5") != digest:
                found = 400, "InvalidRequest"
        if found is None:
            # an upload is completed with the ETags of its parts
            is_changed = self.is_old and "partNumber" not in environ["QUERY_STRING"]
            reply = self._as_old(start_response) if is_changed else start_response
            result: Iterable[bytes] = self._app(environ, reply)
            return result
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = found
        body = f"<Error><Code>{code}</Code><Message>fault</Message></Error>".encode()
        start_response(f"{status} Fault", [("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]

    def _as_old(self, start_response: Any) -> Any:
        def reply(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            kept = [
                (name, '"encrypted"' if name.lower() == "etag" else value)
                for name, value in headers
                if not name.lower().startswith("x-amz-checksum")
            ]
            return start_response(status, kept, *more)

        return reply


@contextmanager
def faulty_s3(tls: ssl.SSLContext | None = None) -> Iterator[FaultyS3]:
    """Serve moto's S3 behind faults; with the context of a certificate of localhost, over TLS."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    faults = _Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True, ssl_context=tls)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        origin = "https://localhost" if tls else "http://127.0.0.1"
        yield FaultyS3(f"{origin}:{server.server_port}", faults)
    finally:
        stop_serving(server)
        thread.join()
        server.server_close()
