"""Repositories over HTTP, served by ``git http-backend``, which is a part of git."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support.loopback_http import HttpService, ServiceHandler


class GitHandler(ServiceHandler):
    def _other(self) -> None:
        self.do_GET()

    do_POST = do_PUT = do_PATCH = _other


@dataclass
class GitServer(HttpService):
    """Serves all repositories below a folder to an authenticated user, who may push by default."""

    folder: Path
    handler_type = GitHandler

    def answer(self, handler: Any) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        answer_git(handler, self.folder, unquote(urlsplit(handler.path).path), body, "user")


def answer_git(handler: Any, folder: Path, path: str, body: bytes, user: str) -> None:
    """Answer a request for a path below a folder of repositories."""
    if handler.headers.get("Transfer-Encoding") == "chunked":
        body = _read_chunks(handler.rfile)
    environment = os.environ | {
        "GIT_PROJECT_ROOT": str(folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REMOTE_USER": user,
        "PATH_INFO": path,
        "QUERY_STRING": urlsplit(handler.path).query,
        "REQUEST_METHOD": handler.command,
        "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
    }
    done = subprocess.run(
        ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True
    )
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    handler.send_response(int(headers.pop("Status", "200 OK").split()[0]))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _read_chunks(file: Any) -> bytes:
    body = b""
    while size := int(file.readline(), 16):
        body += file.read(size)
        file.readline()
    file.readline()
    return body
