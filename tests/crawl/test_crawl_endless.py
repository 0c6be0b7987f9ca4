"""A bucket whose listing has no end, or more datasets than anybody has: refused, and on record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from crawl_place import Place
from scripted import Box, Scripted, Thing, files
from zarr_box import zarr

from neuromirror.cli import main
from neuromirror.crawl import rebuild_index

ROW = (
    "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;0cc175b9c0f1b6a831c399e269772661&quot;</ETag><Size>1</Size></Contents>"
)
MIRROR = """
source = "s3"
[options]
bucket = "data"
endpoint = "{url}"
depth = {depth}
connections = 2
etags = "md5"
[listing]
{limit}
"""


@dataclass
class Bucket:
    """A server of one bucket; ``pages`` are left before its listing ends."""

    url: str = ""
    pages: int = 1_000
    asked: int = 0


def page(bucket: Bucket, asked: dict[str, list[str]]) -> str:
    after = asked.get("start-after", asked.get("continuation-token", ["key"]))[0]
    names = [f"{after}~{number}" for number in range(1, 10)]
    if "delimiter" in asked and "prefix" in asked and asked["prefix"][0]:
        return "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    bucket.pages -= 1
    tag = "<CommonPrefixes><Prefix>{}/</Prefix></CommonPrefixes>" if "delimiter" in asked else ROW
    return (
        f"<ListBucketResult><IsTruncated>{str(bucket.pages > 0).lower()}</IsTruncated>"
        f"<NextContinuationToken>{names[-1]}</NextContinuationToken>"
        f"{''.join(map(tag.format, sorted(names)))}</ListBucketResult>"
    )


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            made.asked += 1
            asked = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
            listed = "list-type" in asked
            body = (page(made, asked) if listed else "<Error/>").encode()
            self.send_response(200 if listed else 501)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}"
        serving = Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        yield made
        server.shutdown()
        serving.join()


def place_of(bucket: Bucket, folder: Path, *, depth: int, limit: str) -> Place:
    mirrors = folder / "mirrors"
    mirrors.mkdir()
    (mirrors / "b.toml").write_text(MIRROR.format(url=bucket.url, depth=depth, limit=limit))
    return Place(mirrors, folder / "store")


def failing(place: Place) -> list[tuple[str, str | None]]:
    """Task and dataset of what ``status`` says fails, with a rebuilt index too."""
    found = []
    for _ in range(2):
        place_and = ["--mirrors", str(place.mirrors), "--store", str(place.folder)]
        done = CliRunner().invoke(main, [*place_and, "--json", "status"])
        records = map(json.loads, done.stdout.splitlines())
        found.append([(one["task"], one["dataset"]) for one in records if one["status"] == "error"])
        assert done.exit_code == (1 if found[-1] else 0)
        rebuild_index(place.store, place.store.index_path)
    assert found[0] == found[1]
    return found[0]


def test_a_listing_without_end_fails_and_leaves_nothing_behind(
    bucket: Bucket, tmp_path: Path
) -> None:
    place = place_of(bucket, tmp_path, depth=0, limit="max_entries = 200")
    (result,) = [one for one in place.sync().values() if one.dataset]
    assert (result.status, result.visit) == ("error", "failed")
    assert bucket.asked < 100
    assert failing(place) == [("visit", "b:data")]
    assert place.refs() == {}
    left = place.folder / "neuromirror" / "workspaces"
    assert [one for one in left.rglob("*") if one.is_file()] == []
    bucket.pages = 3
    assert place.sync()["b:data"].status == "ok"
    assert failing(place) == []


def test_an_archive_of_endless_datasets_fails_as_a_list(bucket: Bucket, tmp_path: Path) -> None:
    limit = "max_datasets = 50"
    place = place_of(bucket, tmp_path, depth=1, limit=limit)
    (result,) = place.sync().values()
    assert result.status == "error"
    assert limit.split(maxsplit=1)[0] in result.message
    assert bucket.asked < 20
    assert failing(place) == [("list", None)]


@pytest.mark.parametrize("limit", ["max_datasets = 3", "max_hours = 1e-9"])
def test_an_overview_that_never_comes_to_a_dataset_fails_as_a_list(
    bucket: Bucket, tmp_path: Path, limit: str
) -> None:
    place = place_of(bucket, tmp_path, depth=2, limit=limit)
    (result,) = place.sync().values()
    assert result.status == "error"
    assert limit.split(maxsplit=1)[0] in result.message
    assert bucket.asked < 100
    assert failing(place) == [("list", None)]


@pytest.mark.parametrize("held", ["_MOST_EXCEPTIONS", "_MOST_PARTS"])
def test_more_than_can_be_held_in_memory_fails_the_dataset_alone(
    box: Box, source: Scripted, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setattr(import_module("neuromirror.crawl.prove"), held, 20)
    many = [f"n{number}" for number in range(21)]
    source.zarrs = {"z": zarr(3)}
    if held == "_MOST_PARTS":
        source.things["a"] = Thing(files("x"), zarrs=dict.fromkeys(many, "z"))
    else:
        source.things["a"] = Thing(files("x"), exceptions=many)
    source.things["b"] = Thing(files("x"))
    results = box.sync()
    assert (results["box:a"].status, results["box:a"].visit) == ("error", "failed")
    assert results["box:b"].status == "ok"
    assert failing(box) == [("visit", "box:a")]
