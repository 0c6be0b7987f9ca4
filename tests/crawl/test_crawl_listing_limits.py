"""Listings without end, and refusals."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import listing, rebuild_index
from neuromirror.crawl.listing import RefusalHistory
from neuromirror.store.memos import Memos
from support.loopback_http import HttpService, send_reply
from support.mirror_harness import MirrorHarness
from support.scripted_source import ScriptedDataset, ScriptedHarness, files
from support.scripted_zarrs import scripted_zarr

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
class EndlessBucket(HttpService):
    """A server of one bucket; ``pages`` are left before its listing ends."""

    pages: int = 1_000
    request_count: int = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.request_count += 1
        query = parse_qs(urlsplit(handler.path).query, keep_blank_values=True)
        listed = "list-type" in query
        body = list_page(self, query) if listed else "<Error/>"
        send_reply(handler, 200 if listed else 501, body.encode(), "application/xml")


def list_page(bucket: EndlessBucket, query: dict[str, list[str]]) -> str:
    after = query.get("start-after", query.get("continuation-token", ["key"]))[0]
    names = [f"{after}~{number}" for number in range(1, 10)]
    if "delimiter" in query and "prefix" in query and query["prefix"][0]:
        return "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    bucket.pages -= 1
    tag = "<CommonPrefixes><Prefix>{}/</Prefix></CommonPrefixes>" if "delimiter" in query else ROW
    return (
        f"<ListBucketResult><IsTruncated>{str(bucket.pages > 0).lower()}</IsTruncated>"
        f"<NextContinuationToken>{names[-1]}</NextContinuationToken>"
        f"{''.join(map(tag.format, sorted(names)))}</ListBucketResult>"
    )


@pytest.fixture
def bucket() -> Iterator[EndlessBucket]:
    with EndlessBucket() as running:
        yield running


def bucket_harness(bucket: EndlessBucket, folder: Path, *, depth: int, limit: str) -> MirrorHarness:
    mirrors = folder / "mirrors"
    mirrors.mkdir()
    (mirrors / "b.toml").write_text(MIRROR.format(url=bucket.url, depth=depth, limit=limit))
    return MirrorHarness(mirrors, folder / "store")


def failing_tasks(mirror_harness: MirrorHarness) -> list[tuple[str, str | None]]:
    """Return task and dataset of the failures in ``status``, also with a rebuilt index."""
    found = []
    for _ in range(2):
        options = ["--mirrors", str(mirror_harness.mirrors), "--store", str(mirror_harness.folder)]
        done = CliRunner().invoke(main, [*options, "--json", "status"])
        records = map(json.loads, done.stdout.splitlines())
        found.append([(one["task"], one["dataset"]) for one in records if one["status"] == "error"])
        assert done.exit_code == (1 if found[-1] else 0)
        rebuild_index(mirror_harness.store, mirror_harness.store.index_path)
    assert found[0] == found[1]
    return found[0]


def test_a_listing_without_end_fails_and_leaves_nothing_behind(
    bucket: EndlessBucket, tmp_path: Path
) -> None:
    mirror_harness = bucket_harness(bucket, tmp_path, depth=0, limit="max_entries = 200")
    (result,) = [one for one in mirror_harness.sync().values() if one.dataset]
    assert (result.status, result.visit) == ("error", "failed")
    assert bucket.request_count < 100
    assert failing_tasks(mirror_harness) == [("visit", "b:data")]
    assert mirror_harness.refs() == {}
    left = mirror_harness.folder / "neuromirror" / "workspaces"
    assert [one for one in left.rglob("*") if one.is_file()] == []
    bucket.pages = 3
    assert mirror_harness.sync()["b:data"].status == "ok"
    assert failing_tasks(mirror_harness) == []


def test_an_archive_of_endless_datasets_fails_as_a_list(
    bucket: EndlessBucket, tmp_path: Path
) -> None:
    limit = "max_datasets = 50"
    mirror_harness = bucket_harness(bucket, tmp_path, depth=1, limit=limit)
    (result,) = mirror_harness.sync().values()
    assert result.status == "error"
    assert limit.split(maxsplit=1)[0] in result.message
    assert bucket.request_count < 20
    assert failing_tasks(mirror_harness) == [("list", None)]


@pytest.mark.parametrize("limit", ["max_datasets = 3", "max_hours = 1e-9"])
def test_an_overview_that_never_comes_to_a_dataset_fails_as_a_list(
    bucket: EndlessBucket, tmp_path: Path, limit: str
) -> None:
    mirror_harness = bucket_harness(bucket, tmp_path, depth=2, limit=limit)
    (result,) = mirror_harness.sync().values()
    assert result.status == "error"
    assert limit.split(maxsplit=1)[0] in result.message
    assert bucket.request_count < 100
    assert failing_tasks(mirror_harness) == [("list", None)]


@pytest.mark.parametrize("limit_name", ["_MAX_EXCEPTIONS", "_MAX_COMPONENTS"])
def test_more_than_fits_in_memory_fails_only_that_dataset(
    harness: ScriptedHarness, monkeypatch: pytest.MonkeyPatch, limit_name: str
) -> None:
    monkeypatch.setattr(import_module("neuromirror.crawl.validate"), limit_name, 20)
    many = [f"n{number}" for number in range(21)]
    harness.source.zarrs = {"z": scripted_zarr(3)}
    if limit_name == "_MAX_COMPONENTS":
        harness.datasets["a"] = ScriptedDataset(files("x"), zarrs=dict.fromkeys(many, "z"))
    else:
        harness.datasets["a"] = ScriptedDataset(files("x"), exceptions=many)
    harness.datasets["b"] = ScriptedDataset(files("x"))
    results = harness.sync()
    assert (results["box:a"].status, results["box:a"].visit) == ("error", "failed")
    assert results["box:b"].status == "ok"
    assert failing_tasks(harness) == [("visit", "box:a")]


ID = "0" * 36


def record_refusals(store: Path, upstream: str, *urls: str, whole: bool = True) -> list[bool]:
    read = RefusalHistory(Memos(store), ID, upstream)
    found = [read.record(url) for url in urls]
    read.save(is_complete=whole)
    return found


def simulate_days(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Shorten the lasting period as if so many days had passed."""
    monkeypatch.setattr(listing, "LASTING_AFTER", timedelta(days=1) - timedelta(days=days))


def test_a_refusal_lasts_after_a_day_whichever_version_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert record_refusals(tmp_path, "1", "u", "v") == [False, False]
    assert record_refusals(tmp_path, "1", "u", "v") == [False, False]
    simulate_days(monkeypatch, 1)
    assert record_refusals(tmp_path, "draft", "u", "v") == [True, True]


def test_an_object_that_was_available_meanwhile_starts_a_new_period(tmp_path: Path) -> None:
    record_refusals(tmp_path, "1", "u", "v")
    memo = Memos(tmp_path).read(ID, "refused")
    assert memo is not None
    record_refusals(tmp_path, "1", whole=False)
    assert Memos(tmp_path).read(ID, "refused") == memo
    record_refusals(tmp_path, "1", "v")
    assert b'"u"' not in Memos(tmp_path).read(ID, "refused").content  # type: ignore[union-attr]
    record_refusals(tmp_path, "1")
    assert Memos(tmp_path).read(ID, "refused") is None
    assert not list(tmp_path.rglob("*.memo"))
