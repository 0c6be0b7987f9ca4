"""moto's server on loopback, whose requests can be made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from support.moto_buckets import Buckets

Rule = Callable[[str, str], tuple[int, str] | None]
"""Returns status and error code for method and path, or None to serve the request."""


class FaultyS3(Buckets):
    """A running server; ``rule`` decides which requests fail, ``log`` has all of them."""

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
    def storm(self, status: int, code: str, *methods: str) -> Iterator[None]:
        """Let all requests with some methods fail during the block."""
        with self.failing(lambda method, path: (status, code) if method in methods else None):
            yield


class _Faults:
    def __init__(self, app: Any) -> None:
        self._app = app
        self.rule: Rule | None = None
        self.log: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.log.append(f"{method} {path}")
        found = None if self.rule is None else self.rule(method, path)
        if found is None:
            result: Iterable[bytes] = self._app(environ, start_response)
            return result
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = found
        body = f"<Error><Code>{code}</Code><Message>fault</Message></Error>".encode()
        start_response(f"{status} Fault", [("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    """Serve moto's S3 behind faults."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    faults = _Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield FaultyS3(f"http://127.0.0.1:{server.server_port}", faults)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
