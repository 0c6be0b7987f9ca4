"""Targets: what visitors send to the catalogue, and words for full-text search."""

import asyncio
import re
import sqlite3
from functools import cache
from ipaddress import IPv4Address
from typing import Any
from urllib.parse import unquote_to_bytes
from zlib import crc32

# published states, as the store's own tests make them
from fuzz_core import DisagreementError, check_agreement, fixed_seeds, target
from fuzz_git import scratch

from neuromirror.index import Index, MalformedQueryError
from neuromirror.index.search_terms import parse_terms, path_conditions, path_query, split_terms
from neuromirror.mint import MintResult
from neuromirror.model import EventRaised, HoldPlaced, MirrorSeen, VersionMinted, VisitEnded
from neuromirror.sources.volumes.grid import Level, Volume, zarr_documents
from neuromirror.store import Store
from support.store_publisher import Publisher, dataset

_AT = "2024-01-01T00:00:00+00:00"


def _version(one: Publisher, label: str, minted: MintResult) -> VersionMinted:
    """The journal's entry of a version that was published."""
    return VersionMinted(
        *("demo", one.dataset.local_id, one.dataset.source_uri),
        **{"label": label, "upstream": "draft", "kind": "observed", "state": minted.state},
        **{"commit": minted.commit, "tree": minted.tree, "annex_commit": minted.annex_commit},
        **{"files": minted.files, "bytes": minted.bytes, "evidence": {"sha256": minted.files}},
        **{"title": "A title", "license": ["spdx:CC-BY-4.0"], "doi": None, "metadata_only": False},
        **{"time": _AT, "exceptions": [], "at": _AT},
    )


@cache
def _store() -> Store:
    """A store with two versions of a dataset and a volume, indexed."""
    store = Store.open(scratch() / "store", create=True)
    plain, volume = Publisher(store), Publisher(store, dataset(2))
    files = {"sub-01/a.nwb": 1, "sub-01/b.nwb": 2, "sub-02/ses-003/c.nwb": 3}
    zarr = Volume(
        *("boss", "api.example.invalid", "c/e/ch", "uint8", "nanometer"),
        levels=(Level("0", (0, 0, 0), (4, 4, 4), (4.0, 4.0, 4.0), (4, 4, 4)),),
    )
    entries = [
        MirrorSeen("demo", "dandi", "https://api.example.invalid/", _AT),
        _version(plain, "0.1", plain.publish("0.1", files)),
        _version(plain, "0.2", plain.publish("0.2", files | {"sub-01/b.nwb": 4})),
        _version(
            volume,
            "0.1",
            volume.publish("0.1", {"0/c/0/0/0": 64}, documents=tuple(zarr_documents(zarr))),
        ),
        VisitEnded(
            *("demo", "000001", plain.dataset.source_uri, "v", "A title", _AT, _AT, "full", "f"),
            0,
            "",
        ),
        EventRaised("demo", "000001", "incident", "m", _AT),
        HoldPlaced("h", "demo", "000001", "draft", "sha256:1", "r", 1, 3, _AT),
    ]
    store.journal.append(*entries)
    with Index.open(store.index_path) as index:
        index.catch_up(store)
    return store


@cache
def _site() -> tuple[asyncio.AbstractEventLoop, Any]:
    from neuromirror.web.app import catalogue_app
    from neuromirror.web.rate_limits import REQUEST_KINDS, RequestLimiter
    from neuromirror.web.site import Site, SiteSettings

    store, limiter = _store(), RequestLimiter(dict.fromkeys(REQUEST_KINDS, 0))
    site = Site(store, store.index_path, SiteSettings(cutouts=False), limiter)
    return asyncio.new_event_loop(), catalogue_app(site)


def _requests() -> list[bytes]:
    paths = [
        *(
            "/",
            "/?q=sub-01&page=1&mirror=demo",
            "/dataset/demo:000001",
            "/dataset/demo:000001@0.1?under=sub-01",
        ),
        *(
            "/file/demo:000001@0.1?path=sub-01/a.nwb",
            "/sums/demo:000001@0.1",
            "/cite/demo:000001@0.1?format=bibtex",
        ),
        *(
            "/diff?a=demo:000001@0.1&b=demo:000001@0.2",
            "/find?checksum=sha256:" + "0" * 64,
            "/events?kind=incident",
        ),
        *(
            "/feed/demo:000001.atom",
            "/sitemap.xml",
            "/badge/demo:000001@0.1.svg",
            "/volume/demo:000002@0.1?level=0",
        ),
        *(
            "/api/v1/datasets?after=WyJhIl0",
            "/api/v1/datasets/demo:000001/versions/0.1/files?after=W10",
        ),
        *("/mirrors", "/slice/demo:000002@0.1.png"),
        *(
            "/alias/demo--000001/HEAD",
            "/manifests/00/x",
            "/tombstones/x.json",
            "/-/static-plugins/neuromirror/catalogue.css",
            "/cutout/demo:000002@0.1?level=0&x=0:4&y=0:4&z=0:4&as=npy",
        ),
    ]
    head = (
        '\nif-none-match: W/"x", *\nrange: bytes=0-5\naccept-encoding: gzip;q=0.5, br\nhost: a:80'
    )
    return [f"GET {path}{head}".encode() for path in paths]


@target("web-request", seeds=_requests, kind="text", slow=True)
def web_request(data: bytes) -> None:
    """Requests to the catalogue: paths, queries, headers. No reply is a 500."""
    first, *rest = data.split(b"\n")
    method, _, address = first.partition(b" ")
    if not re.fullmatch(rb"[!-~]+", address):  # the server refuses such a line
        return
    raw_path, _, query = address.partition(b"?")
    loop, site = _site()
    headers = [
        (name.strip().lower(), value.strip())
        for name, _, value in (line.partition(b":") for line in rest)
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method.decode("latin-1").upper(),
        "raw_path": raw_path,
        "query_string": query,
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "root_path": "",
        "headers": headers,
        "client": (str(IPv4Address(0x0A000000 | crc32(data) >> 8)), 1),
        "server": ("127.0.0.1", 80),
    }
    status = loop.run_until_complete(asyncio.wait_for(_request(site, scope), 30))
    check_agreement(status not in (500, None), status, first)


async def _request(site: Any, scope: dict[str, Any]) -> int | None:
    status: int | None = None
    size = 0

    is_sent = False

    async def receive() -> dict[str, Any]:
        nonlocal is_sent
        if is_sent:  # who asks again waits for the other side to go
            await asyncio.Event().wait()
        is_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, size
        if message["type"] == "http.response.start":
            check_agreement(status is None, "two replies")
            status = message["status"]
            for name, value in message["headers"]:
                check_agreement(
                    b"\n" not in name + value and b"\r" not in name + value, name, value
                )
        size += len(message.get("body", b""))
        check_agreement(size < 10_000_000, "a reply of more than 10 MB")

    await site(scope, receive, send)
    return status


@cache
def _text() -> sqlite3.Connection:
    """The tables of full-text search as the index has them."""
    return sqlite3.connect(f"file:{_store().index_path}?mode=ro", uri=True)


@target(
    "search-words",
    MalformedQueryError,
    seeds=fixed_seeds("sub-01 a.nwb ses-3 Núñez", 'NEAR("a b") AND * OR x-1-2'),
    kind="text",
)
def search_terms(data: bytes) -> None:
    """Words of a search, up to SQLite's full-text search itself."""
    typed = data.decode("utf-8", "surrogateescape")
    found, terms = split_terms(typed), parse_terms(typed)
    connection = _text()
    text, paths = "", path_query(found)
    try:
        for term in terms:
            for text in (term.stem_query(), term.prefix_query()):
                connection.execute(
                    "SELECT rowid FROM dataset_text WHERE dataset_text MATCH ?", (text,)
                ).fetchall()
            if text := term.token_query():
                connection.execute(
                    "SELECT rowid FROM dataset_text_tokens WHERE dataset_text_tokens MATCH ?",
                    (text,),
                ).fetchall()
        if paths:
            connection.execute(
                "SELECT rowid FROM path_text WHERE path_text MATCH ?", (paths,)
            ).fetchall()
    except sqlite3.Error as error:
        raise DisagreementError(str(error), text[:200], paths[:200]) from error
    conditions, given, fits = path_conditions(found, "path")
    connection.execute(f"SELECT path FROM files WHERE 1 {conditions}", given).fetchall()
    fits("sub-01/a.nwb")
