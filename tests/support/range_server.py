"""A web server with range requests whose replies may be wrong, short, of a newer state, or late."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import msgspec

from neuromirror.annex import sha256e_key
from neuromirror.lab import ListedFile
from neuromirror.model import BlockDigests, BlockHasher
from neuromirror.stream.git_tree import AccessRules, FolderEntry
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror_demo.web import stop_serving

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class RangeRequest:
    """A request: the path, and the offsets of the first byte and after the last byte."""

    path: str
    start: int
    stop: int


@dataclass
class RangeServer:
    """Serves ``contents`` by path; ``fault`` may send another reply and then returns True."""

    contents: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[RangeHandler, RangeRequest], bool] = lambda handler, request: False
    requests: list[RangeRequest] = field(default_factory=list)
    has_ranges: bool = True
    stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        handler = type("Bound", (RangeHandler,), {"web": self})
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        stop_serving(self._server)
        self._server.server_close()
        self._thread.join()

    @property
    def bytes_requested(self) -> int:
        """Return the number of bytes of all requests."""
        return sum(request.stop - request.start for request in self.requests)


class _QuietServer(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class RangeHandler(BaseHTTPRequestHandler):
    """Answers GET requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    web: RangeServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        content = self.web.contents.get(self.path)
        if content is None:
            self.reply(404, b"not here")
            return
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        stop = min(int(found[2]) + 1, len(content)) if found and found[2] else len(content)
        request = RangeRequest(self.path, start, stop)
        self.web.requests.append(request)
        try:
            if not self.web.fault(self, request):
                self.send_range(content, request)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send_range(self, content: bytes, request: RangeRequest) -> None:
        """Send the requested range of a content, which may be another one than expected."""
        if not self.web.has_ranges:
            self.reply(200, content)
        elif request.start >= len(content):
            self.reply(416, b"")
        else:
            self.send_body(request, content[request.start : request.stop], len(content))

    def send_body(self, request: RangeRequest, body: bytes, size: int) -> None:
        """Send a body as the start of the requested range of a content with a size."""
        end = request.start + len(body) - 1
        self.reply(206, body, {"Content-Range": f"bytes {request.start}-{end}/{size}"})

    def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a reply."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_truncated(self, content: bytes, request: RangeRequest, count: int) -> None:
        """Announce the whole range, send ``count`` bytes of it and close the connection."""
        body = content[request.start : request.stop]
        self.send_response(206)
        last = request.start + len(body) - 1
        self.send_header("Content-Range", f"bytes {request.start}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:count])
        self.wfile.flush()
        self.close_connection = True


@dataclass
class ServedTree:
    """A version whose files are on web servers, with block digests for some."""

    files: dict[str, ListedFile] = field(default_factory=dict)
    digests: dict[str, BlockDigests] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)
    name: str = "served:1@1"
    closed: bool = False

    def add(
        self,
        path: str,
        content: bytes,
        *urls: str,
        piece_size: int | None = None,
        like: ServedTree | None = None,
    ) -> ListedFile:
        """Add a file; with a piece size, it has block digests. Or one of another tree."""
        if like is not None:
            file = msgspec.structs.replace(like.files[path], urls=urls)
            self.files[path] = file
            return file
        sha256 = hashlib.sha256(content).hexdigest()
        key = sha256e_key(len(content), sha256, path.encode())
        file = ListedFile(path, key, f"sha256:{sha256}", len(content), urls)
        self.files[path] = file
        if piece_size is not None:
            hasher = BlockHasher(piece_size)
            hasher.update(content)
            self.digests[path] = hasher.finish(sha256)
        return file

    @property
    def access(self) -> AccessRules:
        values = {"annex.security.allowed-ip-addresses": ["127.0.0.1"]}
        return AccessRules(AnnexSettings(values))

    def file(self, path: str) -> ListedFile | None:
        return self.files.get(path)

    def document(self, path: str) -> bytes | None:
        return self.documents.get(path)

    def entries(self, folder: str) -> Iterator[FolderEntry] | None:
        below = f"{folder}/" if folder else ""
        found: dict[str, FolderEntry] = {}
        for path in (*self.files, *self.documents):
            if path.startswith(below):
                name, slash, _ = path[len(below) :].partition("/")
                file = self.files.get(path)
                size = len(self.documents[path]) if file is None else file.size
                key = "" if file is None or slash else file.key
                found[name] = FolderEntry(name, bool(slash), None if slash else size, key)
        return iter([found[name] for name in sorted(found)]) if found or not folder else None

    def first_with_prefix(self, prefix: str) -> str | None:
        return next((path for path in sorted(self.files) if path.startswith(prefix)), None)

    def block_digests(self, file: ListedFile) -> BlockDigests | None:
        return self.digests.get(file.path)

    def local_content(self, file: ListedFile) -> Path | None:
        return self.copies.get(file.path)

    def close(self) -> None:
        self.closed = True
