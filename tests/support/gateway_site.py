"""A catalogue in this process whose archive is a web server that can fail in any way."""

import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec
import uvicorn

from neuromirror.model import BlockHasher, FileRecord, Location
from neuromirror.net import RequestLimits
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.web.app import catalogue_app
from neuromirror.web.gateway.modes import GatewayModes
from neuromirror.web.gateway.service import GatewayService
from neuromirror.web.rate_limits import RequestLimiter, parse_limits
from neuromirror.web.serve import IdleTimeoutProtocol
from neuromirror.web.site import Site, SiteSettings
from support.range_server import RangeServer
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, ScriptedSource

DATASET = "box:data"
SHORT_LIMITS = RequestLimits(
    attempts=2, wait=0.05, wait_max=0.1, retry_after_max=0.1, connect=2.0, read=1.0, per_host=16
)
"""Limits with which a server that sends nothing fails soon."""


@dataclass
class ServedFile(ScriptedFile):
    """A file at URLs of its own."""

    urls: tuple[str, ...] = ()

    def record(self, path: str) -> FileRecord:
        found = tuple(Location(url, "api") for url in self.urls)
        return msgspec.structs.replace(super().record(path), locations=found)


def mirror_contents(
    folder: Path,
    server: RangeServer,
    contents: Mapping[str, bytes],
    *,
    others: tuple[RangeServer, ...] = (),
    piece_size: int | None = None,
    settings: str = "",
    exceptions: Iterable[str] = (),
) -> ScriptedHarness:
    """Mirror contents that servers have at ``/<path>``; with a piece size, digest them."""
    source = ScriptedSource(uri=f"{server.url}/")
    harness = ScriptedHarness(folder, source, settings)
    listed: dict[str, ScriptedFile] = {}
    for path, content in contents.items():
        for one in (server, *others):
            one.contents[f"/{quote(path)}"] = content
        urls = tuple(f"{one.url}/{quote(path)}" for one in (server, *others))
        listed[path] = ServedFile(content, sha256=True, urls=urls)
    source.scripted_datasets["data"] = ScriptedDataset(listed, exceptions=[*exceptions])
    harness.sync()
    if piece_size is not None:
        digests = BlockDigestsFolder.of_store(harness.store)
        with harness.index() as index:
            for file in index.files.of(index.versions.resolve(DATASET)):
                hasher = BlockHasher(piece_size)
                hasher.update(contents[file.path])
                digests.write(file.key, hasher.finish(file.digest_values["sha256"]))
    return harness


@contextmanager
def serve_gateway(
    harness: ScriptedHarness, *, seconds: float = 5.0, limits: RequestLimits = SHORT_LIMITS
) -> Iterator[str]:
    """Serve a store's catalogue with the gateway as a proxy; yield the address of its files."""
    store = harness.store
    modes = GatewayModes("proxy")
    limiter = RequestLimiter(parse_limits(["gateway=0"]))
    site = Site(store, store.index_path, SiteSettings(modes=modes), limiter)
    site.gateway = GatewayService(store, site.reader, modes, limits=limits, seconds=seconds)
    config = uvicorn.Config(
        catalogue_app(site), log_config=None, access_log=False, http=IdleTimeoutProtocol, ws="none"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            host, port = listener.getsockname()
            yield f"http://{host}:{port}/at/{DATASET}@latest"
        finally:
            server.should_exit = True
            thread.join(60)
