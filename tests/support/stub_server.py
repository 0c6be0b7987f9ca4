"""An HTTP server on loopback whose responses are functions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class RecordedRequest:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class StubServer:
    """``answers`` maps a path (without query) to its response; ``requests`` records requests."""

    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[RecordedRequest] = field(default_factory=list)

    def __enter__(self) -> StubServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.requests.append(RecordedRequest(self.command, self.path, dict(self.headers)))
                answer = outer.answers.get(self.path.partition("?")[0])
                try:
                    if answer is None:
                        send_reply(self, 404, b'{"detail": "Not found."}')
                    else:
                        answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_HEAD = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send_reply(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    kind: str = "application/json",
    **headers: str,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def responds_with(
    status: int, body: bytes = b"", kind: str = "application/json", **headers: str
) -> Answer:
    return lambda handler: send_reply(handler, status, body, kind, **headers)


def responds_with_json(found: Any) -> Answer:
    return responds_with(200, json.dumps(found).encode())


def responds_in_turn(*answers: Answer) -> Answer:
    """Return the responses one after another, and the last one for all further requests."""
    left = list(answers)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return answer
