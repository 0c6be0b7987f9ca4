"""An HTTP server on loopback whose responses are functions."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from support.loopback_http import HttpService, send_reply

Answer = Callable[[BaseHTTPRequestHandler], object]


@dataclass
class RecordedRequest:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class StubServer(HttpService):
    """``answers`` maps a path (without query) to its response; ``requests`` records requests."""

    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[RecordedRequest] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(RecordedRequest(handler.command, handler.path, dict(handler.headers)))
        answer = self.answers.get(handler.path.partition("?")[0])
        if answer is None:
            send_reply(handler, 404, b'{"detail": "Not found."}')
        else:
            answer(handler)


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


def count_concurrent_requests(server: StubServer, delay: float) -> list[int]:
    """Let ``/x`` respond slowly; return a list with the number of concurrent requests so far."""
    lock, now, most = threading.Lock(), [0], [0]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(delay)
        with lock:
            now[0] -= 1
        send_reply(handler, 200, b"1")

    server.answers["/x"] = answer
    return most
