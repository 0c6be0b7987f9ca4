"""A server on loopback with scripted replies per method and path."""

import hashlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from support.loopback_http import HttpService

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
class ScriptedServer(HttpService):
    """A scripted server: ``answers`` by ``<METHOD> <path>``; the last one is repeated."""

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

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = f"{handler.command} {handler.path}"
        self.requests.append(request)
        given = self.answers.get(request, [ScriptedReply(404, content=b"")])
        answer = given.pop(0) if len(given) > 1 else given[0]
        content, status, headers = answer.content, answer.status, dict(answer.headers)
        if handler.headers.get("Range") == "bytes=0-0" and status == 200:
            status = 206 if content else 416
            headers["Content-Range"] = f"bytes {'0-0' if content else '*'}/{len(content)}"
            content = content[:1]
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if "Content-Length" not in headers:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(content[: len(content) - answer.cut])
        if answer.cut:
            handler.close_connection = True
