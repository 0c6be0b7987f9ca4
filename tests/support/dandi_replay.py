"""A loopback archive that replays recorded replies of a real DANDI server, with a bucket.

Lists are paged like the real ones, and URLs in the replies are replaced by its own. ``replies`` are
the replies by name (see ``tests/sources/data/dandi``) and may be changed. ``on_request`` is called
with each request, and may answer it (by returning True) or change the replies.
"""

import copy
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from support.loopback_http import HttpService, send_reply

DATA = Path(__file__).parents[1] / "sources" / "data" / "dandi"
RECORDED_API = "http://127.0.0.1:18900"
RECORDED_BUCKET = "http://127.0.0.1:15900"


def recorded(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


class DandiReplayServer(HttpService):
    def __init__(self) -> None:
        self.replies: dict[str, Any] = {
            path.stem: recorded(path.stem) for path in sorted(DATA.glob("*.json"))
        }
        self.refused: dict[str, tuple[int, Any]] = {
            "/api/dandisets/000004/": (401, self.replies["d000004"]),
            "/api/dandisets/000004/versions/": (401, self.replies["d000004"]),
        }
        self.objects: dict[str, tuple[int, str | None]] = {}
        self.on_request: Callable[[BaseHTTPRequestHandler, str, dict[str, str]], object] | None = (
            None
        )
        self.requests: list[str] = []
        self.heads: list[str] = []
        for name, replies in self.replies.items():
            if re.fullmatch(r"v\d+_.*_assets", name):
                for row in replies["results"]:
                    if row["blob"]:
                        path = urlsplit(row["metadata"]["contentUrl"][1]).path
                        self.objects[path] = (row["size"], f"v-{row['blob'][:8]}")

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if handler.command == "HEAD":
            self.heads.append(handler.path)
        else:
            self.requests.append(handler.path)
        if self.on_request is not None and self.on_request(handler, parts.path, query):
            return
        if parts.path in self.refused:
            status, document = self.refused[parts.path]
            send_reply(handler, status, self.with_own_addresses(document))
        elif parts.path in self.objects:
            size, version_id = self.objects[parts.path]
            headers = {"Content-Length": str(size)}
            if version_id is not None:
                headers["x-amz-version-id"] = version_id
            send_reply(handler, 200, **headers)
        else:
            send_reply(handler, *self.find_reply(parts.path, query))

    def with_own_addresses(self, found: Any) -> bytes:
        text = json.dumps(found).replace(RECORDED_API, self.url).replace(RECORDED_BUCKET, self.url)
        return text.encode()

    def find_reply(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        name = {"/api/info/": "info", "/api/dandisets/": "ds_all"}.get(path)
        if found := re.fullmatch(r"/api/dandisets/(\d{6})/", path):
            name = f"d{found[1]}"
        elif found := re.fullmatch(r"/api/dandisets/(\d{6})/versions/", path):
            name = f"d{found[1]}_versions"
        elif found := re.fullmatch(r"/api/dandisets/(\d{6})/versions/([^/]+)/(\w+)/", path):
            name = f"v{found[1]}_{found[2]}_{found[3]}"
        if name is None or name == "d000006" or name not in self.replies:
            return 404, self.with_own_addresses(self.replies["d000006"])
        replies = self.replies[name]
        if not isinstance(replies, dict) or "results" not in replies:
            return 200, self.with_own_addresses(replies)
        return 200, self.with_own_addresses(
            page_of(replies["results"], f"{RECORDED_API}{path}", query)
        )

    def assets(self, version: str) -> list[dict[str, Any]]:
        """Return the mutable rows of a version (``000002_draft``)."""
        return self.replies[f"v{version}_assets"]["results"]

    def set_blob_count(self, version: str, number: int) -> None:
        """Give a version ``number`` blobs."""
        model = next(row for row in self.assets(version) if row["blob"])
        rows = []
        for index in range(number):
            row = copy.deepcopy(model)
            blob = f"{index:08x}-0000-4000-8000-000000000000"
            row |= {"asset_id": f"{index:08x}-1111-4111-8111-111111111111", "blob": blob}
            row |= {"path": f"sub-{index:05d}.nwb", "size": index + 1}
            path = f"/dandi-dandisets/blobs/{blob[:3]}/{blob[3:6]}/{blob}"
            row["metadata"]["contentUrl"] = [
                f"{RECORDED_API}/api/assets/{row['asset_id']}/download/",
                f"{RECORDED_BUCKET}{path}",
            ]
            row["metadata"]["digest"] = {"dandi:sha2-256": f"{index:064x}"}
            self.objects[path] = (index + 1, f"v-{index}")
            rows.append(row)
        self.replies[f"v{version}_assets"]["results"] = rows
        dandiset, label = version.split("_")
        listed = self.replies[f"d{dandiset}_versions"]["results"]
        for row in (self.replies[f"v{version}_info"], *listed):
            if row["version"] == label:
                row["asset_count"], row["size"] = number, number * (number + 1) // 2


def page_of(rows: list[Any], address: str, query: dict[str, str]) -> dict[str, Any]:
    size = min(int(query.get("page_size", 100)), 1000)
    number = int(query.get("page", 1))
    lazy = address.endswith("/assets/")
    if "order" in query and lazy:
        rows = sorted(rows, key=lambda row: str(row.get("path")) if isinstance(row, dict) else "")
    last = number * size >= len(rows)
    following = urlencode(sorted({**query, "page": number + 1}.items()))
    return {
        "count": len(rows) if number == 1 or not lazy else None,
        "next": None if last else f"{address}?{following}",
        "previous": None,
        "results": rows[(number - 1) * size : number * size],
    }
