"""The synthetic archive has the true distributions, and says nothing that it takes back."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import requests
from benchmarks.big_archive import BigArchive
from benchmarks.big_keys import BUCKET
from benchmarks.big_plan import ArchivePlan
from benchmarks.big_zarrs import BigZarr, ReadableZarr

SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
SCALE = 0.002


SCRIPTS = Path(__file__).parents[2] / "scripts"


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.big_archive", *options],
        cwd=SCRIPTS,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            yield running, json.loads(running.stdout.readline())
        finally:
            if running.poll() is None:
                running.kill()


@pytest.fixture(scope="module")
def big() -> Iterator[BigArchive]:
    with BigArchive(ArchivePlan.at_scale(SCALE)) as running:
        yield running


def get(url: str, **query: object) -> requests.Response:
    return requests.get(url, params={key: str(value) for key, value in query.items()}, timeout=300)


def pages(big: BigArchive, path: str, **query: object) -> list[Any]:
    """All rows of a list of the API, by the links between its pages."""
    rows: list[Any] = []
    url: str | None = get(f"{big.api_url}{path}", **query).url
    while url is not None:
        page = requests.get(url, timeout=300).json()
        rows += page["results"]
        url = page["next"]
    return rows


def assets(big: BigArchive, identifier: str, label: str = "draft", size: int = 1000) -> list[Any]:
    path = f"/dandisets/{identifier}/versions/{label}/assets/"
    return pages(big, path, page_size=size, metadata="true", order="path")


def versions(big: BigArchive, prefix: str, most: int = 1000) -> list[dict[str, str]]:
    """All versions below a prefix, page by page."""
    rows: list[dict[str, str]] = []
    marker: dict[str, str] = {}
    while True:
        url = f"{big.about()['s3']['endpoint']}/{BUCKET}?versions"
        root = ET.fromstring(get(url, prefix=prefix, **marker, **{"max-keys": most}).content)
        found = root.findall(f"{SPACE}Version")
        assert len(found) <= most
        rows += [{one.tag.removeprefix(SPACE): one.text or "" for one in row} for row in found]
        if root.findtext(f"{SPACE}IsTruncated") == "false":
            return rows
        marker = {
            "key-marker": root.findtext(f"{SPACE}NextKeyMarker") or "",
            "version-id-marker": root.findtext(f"{SPACE}NextVersionIdMarker") or "",
        }


def zarr_rows(big: BigArchive) -> Iterator[Any]:
    for one in big.plan.dandisets:
        if one.zarrs:
            yield from (row for row in assets(big, f"{one.number + 1:06d}") if row["zarr"])


def test_at_scale_one_it_has_the_sizes_of_the_dandi_archive() -> None:
    plan = ArchivePlan.at_scale(1.0)
    sizes = [one.assets for one in plan.dandisets]
    assert len(sizes) == 1251
    assert sum(sizes) == plan.assets == 600_000
    assert max(sizes) == pytest.approx(68_210, rel=0.001)
    entries = sorted(plan.entries)
    assert len(entries) == 29_061
    assert sum(entries) == pytest.approx(369e6, rel=0.01)
    assert entries[len(entries) // 2] == 147
    assert entries[int(len(entries) * 0.99)] == pytest.approx(115_668, rel=0.01)
    assert entries[-1] == pytest.approx(1.3e6, rel=0.01)
    assert sum(one > 100_000 for one in entries) == 1401


@pytest.mark.parametrize("scale", [0.001, 0.01])
def test_a_smaller_one_has_the_same_shape(scale: float) -> None:
    plan = ArchivePlan.at_scale(scale)
    assert plan.assets == round(600_000 * scale)
    assert len(plan.entries) == round(29_061 * scale)
    assert sorted(plan.entries)[len(plan.entries) // 2] == pytest.approx(147, abs=20)
    if scale > 0.001:
        assert sum(plan.entries) == pytest.approx(369e6 * scale, rel=0.02)
    assert all(not one.published for one in plan.dandisets if one.zarrs)
    for ids in (plan.blobs, plan.zarrs):
        every = range(min(ids.count, 3000))
        uuids = [ids.uuid(rank) for rank in every]
        assert uuids == sorted(set(uuids))
        assert [ids.find(uuid) for uuid in uuids] == list(every)
        assert sorted({ids.rank(number) for number in range(ids.count)}) == list(range(ids.count))


def test_two_dandisets_can_be_had_of_just_these_sizes() -> None:
    with process("--two", "30", "117") as (_, addresses):
        found = (
            addresses["dandisets"],
            addresses["assets"],
            addresses["versions"],
            addresses["entries"],
        )
        assert found == (2, 31, 2, 117)
        listed = [
            get(f"{addresses['dandi']['api']}/dandisets/{number}/versions/draft/assets/").json()
            for number in ("000001", "000002")
        ]
        assert [one["count"] for one in listed] == [30, 1]
        (zarr,) = listed[1]["results"]
        below = f"{addresses['s3']['endpoint']}/{BUCKET}"
        rows = get(below, prefix=f"zarr/{zarr['zarr']}/", **{"list-type": 2}).content
        assert rows.count(b"<Contents>") == 117


def test_the_lists_hold_what_the_overview_counts(big: BigArchive) -> None:
    overview = big.about()
    rows = pages(big, "/dandisets/", page_size=1, ordering="id")
    assert len(rows) == overview["dandisets"]
    assert sum(row["draft_version"]["asset_count"] for row in rows) == overview["assets"]
    for row in rows:
        for brief in (row["draft_version"], row["most_recent_published_version"]):
            if brief is None:
                continue
            listed = assets(big, row["identifier"], brief["version"], size=333)
            assert len(listed) == brief["asset_count"]
            assert sum(one["size"] for one in listed) == brief["size"]
            paths = [one["path"] for one in listed]
            assert paths == sorted(set(paths))


def test_every_blob_is_in_the_bucket_as_the_lists_say_and_no_other(big: BigArchive) -> None:
    listed = {
        row["metadata"]["contentUrl"][1].partition(f"/{BUCKET}/")[2]: row
        for one in big.plan.dandisets
        for row in assets(big, f"{one.number + 1:06d}")
        if row["blob"]
    }
    swept = versions(big, "blobs/", most=311)
    keys = [one["Key"] for one in swept]
    assert keys == sorted(listed)
    assert len({one["VersionId"] for one in swept}) == len(swept)
    for one in swept:
        row = listed[one["Key"]]
        assert int(one["Size"]) == row["size"] == row["metadata"]["contentSize"]
        assert one["ETag"].strip('"') == row["metadata"]["digest"]["dandi:dandi-etag"]
        assert len(row["metadata"]["digest"]["dandi:sha2-256"]) == 64
    below = [one["Key"] for digit in "0123456789abcdef" for one in versions(big, f"blobs/{digit}")]
    assert below == keys
    url = listed[keys[0]]["metadata"]["contentUrl"][1]
    head = requests.head(url, timeout=300)
    assert head.headers["x-amz-version-id"] == swept[0]["VersionId"]
    assert head.headers["Content-Length"] == swept[0]["Size"]
    assert requests.head(f"{url}?versionId={swept[1]['VersionId']}", timeout=300).status_code == 404
    assert requests.head(f"{url[:-1]}x", timeout=300).status_code == 404


def test_a_stated_zarr_checksum_is_that_of_what_the_bucket_lists(big: BigArchive) -> None:
    from zarr_checksum.tree import ZarrChecksumTree

    rows = sorted(zarr_rows(big), key=lambda row: int(row["size"]))
    assert len(rows) == len(big.plan.entries)
    for row in (rows[0], rows[len(rows) // 2], rows[len(rows) * 3 // 4]):
        prefix = f"zarr/{row['zarr']}/"
        tree = ZarrChecksumTree()
        listed = versions(big, prefix, most=97)
        for one in listed:
            path = Path(one["Key"].removeprefix(prefix))
            tree.add_leaf(path, int(one["Size"]), one["ETag"].strip('"'))
        true = str(tree.process())
        assert row["metadata"]["digest"]["dandi:dandi-zarr-checksum"] == true
        assert row["size"] == sum(int(one["Size"]) for one in listed)
        zarr = get(f"{big.api_url}/zarr/{row['zarr']}/").json()
        assert zarr["checksum"] == true
        assert (zarr["file_count"], zarr["name"]) == (len(listed), row["path"])
        assert [one["Key"] for one in listed] == sorted({one["Key"] for one in listed})


@pytest.mark.parametrize("entries", [4, 5, 43, 44, 45, 147, 1004])
def test_checksums_are_right_at_every_edge(entries: int) -> None:
    from zarr_checksum.tree import ZarrChecksumTree

    zarr = BigZarr(3, entries, b"z/")
    tree = ZarrChecksumTree()
    for at, key in enumerate(zarr):
        size, etag, _ = zarr.facts(at)
        tree.add_leaf(PurePosixPath(key[2:].decode()), size, etag)  # type: ignore[arg-type]
    assert zarr.checksum() == str(tree.process())
    assert list(zarr) == sorted(set(zarr))


def test_objects_and_versions_are_listed_alike_from_any_key_on(big: BigArchive) -> None:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    row = max(zarr_rows(big), key=lambda row: int(row["size"]))
    prefix = f"zarr/{row['zarr']}/"
    zarr = big._keys.zarr(big.plan.zarrs.number(big.plan.zarrs.find(row["zarr"]) or 0))
    client = boto3.client(
        "s3",
        endpoint_url=big.about()["s3"]["endpoint"],
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}, proxies={}),
    )
    for start in (0, 2, 997, 1003, len(zarr) - 3):
        arguments: dict[str, Any] = {"Bucket": BUCKET, "Prefix": prefix}
        if start:
            arguments["StartAfter"] = zarr[start - 1].decode()
        page = client.list_objects_v2(**arguments)
        found = [one["Key"].encode() for one in page["Contents"]]
        assert found == zarr[start : start + 1000]
        assert page["IsTruncated"] is (start + 1000 < len(zarr))
    plane = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}0/1/")
    assert len(plane["Contents"]) == 1000
    several = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix, MaxKeys=5)
    second = client.list_objects_v2(
        Bucket=BUCKET, Prefix=prefix, ContinuationToken=several["NextContinuationToken"]
    )
    assert second["Contents"][0]["Key"].encode() == zarr[5]
    head = client.head_object(Bucket=BUCKET, Key=found[0].decode())
    assert head["ETag"] == f'"{zarr.facts(start)[1]}"'


def test_another_process_lists_the_same(big: BigArchive, tmp_path: Path) -> None:
    def listings(api: str, endpoint: str) -> tuple[str, list[Any]]:
        listing = get(f"{endpoint}/{BUCKET}?versions&prefix=blobs/")
        query = "versions/draft/assets/?page_size=1000&metadata=true"
        rows = [
            row | {"metadata": row["metadata"]["digest"]}
            for number in range(1, len(big.plan.dandisets) + 1)
            for row in get(f"{api}/dandisets/{number:06d}/{query}").json()["results"]
        ]
        return hashlib.sha256(listing.content).hexdigest(), rows

    with process("--scale", str(SCALE), "--dir", str(tmp_path), "--warm") as (running, line):
        mirror = Path(line["mirror"])
        assert line["dandi"]["api"] in mirror.read_text()
        found = listings(line["dandi"]["api"], line["s3"]["endpoint"])
        assert found == listings(big.api_url, big.about()["s3"]["endpoint"])
        assert sum(row["zarr"] is not None for row in found[1]) == line["zarrs"]
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=30) == 0
    assert not mirror.exists()


def test_requests_are_counted_and_memory_stays_flat() -> None:
    with process("--scale", "0.004") as (_, line):
        api, control = line["dandi"]["api"], line["control"]

        def count() -> Any:
            return get(f"{control}/requests").json()

        get(f"{api}/info/")
        first = count()
        assert first["asked"] == {"api info": 1}
        with requests.Session() as session:
            for number in range(1, line["dandisets"] + 1):
                url = f"{api}/dandisets/{number:06d}/versions/draft/assets/"
                session.get(f"{url}?metadata=true&page_size=1000", timeout=120)
            for _ in range(2):
                url = f"{line['s3']['endpoint']}/{BUCKET}?versions&prefix=blobs/"
                for digit in "0123456789abcdef":
                    session.get(f"{url}{digit}", timeout=60)
        last = count()
        assert last["asked"]["api assets"] == line["dandisets"]
        assert last["asked"]["s3 versions"] == 32
        # All Zarrs of some pages were read for their checksums: more than a million entries.
        assert last["peak_bytes"] - first["peak_bytes"] < 60 * 2**20
        get(f"{control}/clear_requests")
        assert count()["asked"] == {}


def test_the_projects_own_source_lists_it_whole(big: BigArchive, tmp_path: Path) -> None:
    from benchmarks.big_archive import write_mirror

    from neuromirror.crawl import load_mirrors
    from neuromirror.model import FileRecord
    from neuromirror.sources import ComponentEntry

    write_mirror(tmp_path, big.api_url, zarrs=True)
    source = load_mirrors(tmp_path)["big"].open()

    class Nothing:
        memo = None
        workspace = tmp_path / "none"

        def locations(self, urls: Any) -> list[None]:
            return [None] * len(urls)

        def record_refusal(self, url: str) -> bool:
            return False

        def contents(self, etags: Any) -> list[None]:
            return [None] * len(etags)

    files, parts = 0, []
    for hint in source.datasets():
        for version in source.versions(hint.dataset):
            listing = source.listing(version, Nothing())  # type: ignore[arg-type]
            for entry in listing.entries():
                files += isinstance(entry, FileRecord)
                parts += [entry] if isinstance(entry, ComponentEntry) else []
            listing.confirm_version()
    assert files + len(parts) == big.about()["listed"]
    listing = parts[0].listing(Nothing())  # type: ignore[arg-type]
    entries = list(listing.entries())
    assert all(isinstance(one, FileRecord) for one in entries)
    assert listing.version.claimed_totals is not None
    assert len(entries) == listing.version.claimed_totals.files


def test_a_readable_zarr_has_the_contents_that_its_listing_states() -> None:
    plan = ArchivePlan.of_two(1, 1020)
    keys = ReadableZarr(0, 1020, f"zarr/{plan.zarrs.uuid(plan.zarrs.rank(0))}/".encode())
    with BigArchive(plan, readable=True) as running:
        endpoint = f"{running.about()['s3']['endpoint']}/{BUCKET}"
        for at in (0, 2, 3, 500, 1019):
            content = get(f"{endpoint}/{keys[at].decode()}").content
            size, etag, _ = keys.facts(at)
            assert len(content) == size
            assert hashlib.md5(content, usedforsecurity=False).hexdigest() == etag
        part = requests.get(
            f"{endpoint}/{keys[500].decode()}", headers={"Range": "bytes=3-9"}, timeout=60
        )
        assert (part.status_code, part.content) == (206, keys.content(500)[3:10])
    first = keys.find(keys.prefix + b"0/0/0/0")
    assert first is not None
    assert keys.region(0, 8, 8) == keys.content(first)
