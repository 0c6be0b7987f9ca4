"""A server on loopback with scripted replies per method and path."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = b"the bytes that were mirrored"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
KEY = f"SHA256E-s{len(CONTENT)}--{SHA256}.bin"


@dataclass
class ScriptedReply:
    """A reply; ``cut`` is the number of bytes missing at the end of its body."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = CONTENT
    cut: int = 0


@dataclass
class ScriptedServer:
    """A scripted server: ``answers`` by ``<METHOD> <path>``; the last one is repeated."""

    url: str = ""
    answers: dict[str, list[ScriptedReply]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def add(
        self, path: str, *, head: ScriptedReply | None = None, get: ScriptedReply | None = None
    ) -> str:
        """Script the replies for a path; return its URL."""
        given = get or ScriptedReply()
        self.answers[f"HEAD {path}"] = [head or given]
        self.answers[f"GET {path}"] = [given]
        return self.url + path

    def methods(self, path: str) -> list[str]:
        """Return the methods of the requests for a path, in order."""
        return [one.partition(" ")[0] for one in self.requests if one.endswith(f" {path}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_script: ScriptedServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        request = f"{method} {self.path}"
        self.server_script.requests.append(request)
        given = self.server_script.answers.get(request, [ScriptedReply(404, content=b"")])
        answer = given.pop(0) if len(given) > 1 else given[0]
        content, status, headers = answer.content, answer.status, dict(answer.headers)
        if self.headers.get("Range") == "bytes=0-0" and status == 200:
            status = 206 if content else 416
            headers["Content-Range"] = f"bytes {'0-0' if content else '*'}/{len(content)}"
            content = content[:1]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if method == "GET":
            self.wfile.write(content[: len(content) - answer.cut])
        if answer.cut:
            self.close_connection = True


@contextmanager
def running_server() -> Iterator[ScriptedServer]:
    """Run a scripted server on a free port."""
    script = ScriptedServer()
    handler = type("Handler", (_Handler,), {"server_script": script})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
