"""What can happen to the demo buckets, and the faults that can be switched on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror_demo import DemoArchive, DemoBuckets
from neuromirror_demo.bucket_contents import (
    BEHAVIOR,
    CCF,
    FUSION,
    MIB,
    RAW,
    RAW_2025,
    SESSIONS,
    SORTED_1,
)
from support.bucket_client import anonymous, listed

VIDEO = f"{BEHAVIOR}/behavior-videos/Face Camera.mp4"


def test_an_overwrite_keeps_key_size_and_parts_and_changes_the_etag(buckets: DemoBuckets) -> None:
    before = buckets.head(VIDEO)
    after = buckets.overwrite(VIDEO)
    assert (after.key, after.size, after.parts) == (before.key, before.size, before.parts)
    assert after.etag != before.etag
    assert after.modified > before.modified
    answer = requests.head(buckets.url(VIDEO), timeout=300)
    assert answer.headers["ETag"] == f'"{after.etag}"'


def test_an_overwrite_in_the_versioned_bucket_keeps_the_old_version(buckets: DemoBuckets) -> None:
    key = f"{SESSIONS[2]}/binary.json"
    before = buckets.head(key, bucket=buckets.benchmark)
    old = before.data
    buckets.overwrite(key, b"{}", bucket=buckets.benchmark)
    assert before.version_id is not None
    url = buckets.url(key, bucket=buckets.benchmark, version_id=before.version_id)
    assert requests.get(url, timeout=300).content == old
    assert buckets.data(key, bucket=buckets.benchmark) == b"{}"


def test_an_edited_sidecar_changes_documents_and_no_data(buckets: DemoBuckets) -> None:
    def etags() -> dict[bytes, str]:
        return {key: buckets.head(key).etag for key in buckets.present(f"{SORTED_1}/")}

    before = etags()
    buckets.edit_sidecar(SORTED_1, "quality_control.json")
    changed = {key.decode() for key, etag in etags().items() if before[key] != etag}
    assert changed == {f"{SORTED_1}/quality_control.json", f"{SORTED_1}/metadata.nd.json"}
    record = json.loads(buckets.data(f"{SORTED_1}/metadata.nd.json"))
    quality = json.loads(buckets.data(f"{SORTED_1}/quality_control.json"))
    assert record["quality_control"] == quality
    assert quality["notes"].startswith("edited")


def test_reindexing_changes_only_last_modified(buckets: DemoBuckets) -> None:
    key = f"{RAW_2025}/metadata.nd.json"
    before = json.loads(buckets.data(key))
    buckets.reindex(RAW_2025)
    after = json.loads(buckets.data(key))
    assert after.pop("_last_modified") > before.pop("_last_modified")
    assert after == before


def test_an_asset_goes_and_comes_back_with_the_same_bytes(buckets: DemoBuckets) -> None:
    before = {key: buckets.head(key) for key in buckets.present(f"{BEHAVIOR}/")}
    assert buckets.remove_asset(BEHAVIOR) == len(before)
    assert BEHAVIOR not in buckets.assets()
    assert f"{BEHAVIOR}/" not in {
        row["Prefix"]
        for row in anonymous(buckets).list_objects_v2(Bucket=buckets.open_data, Delimiter="/")[
            "CommonPrefixes"
        ]
    }
    buckets.return_asset(BEHAVIOR)
    for key, one in before.items():
        assert buckets.head(key).etag == one.etag
        assert buckets.head(key).modified > one.modified


def test_a_session_goes_and_comes_back_in_the_versioned_bucket(buckets: DemoBuckets) -> None:
    session, bucket = SESSIONS[0], buckets.benchmark
    before = {key: buckets.head(key, bucket=bucket).etag for key in buckets.present(bucket=bucket)}
    buckets.remove_asset(session, bucket=bucket)
    assert not any(key.startswith(session) for key in listed(buckets, bucket))
    buckets.return_asset(session, bucket=bucket)
    after = {key: buckets.head(key, bucket=bucket).etag for key in buckets.present(bucket=bucket)}
    assert after == before


def test_multipart_overwrite_keeps_its_part_size(buckets: DemoBuckets) -> None:
    sizes = [6 * MIB, 5 * MIB]
    made = buckets.put("odd/parts", bytes(13 * MIB), part_size=sizes)
    assert made.parts == (6 * MIB, 5 * MIB, 2 * MIB)
    one = buckets.put("odd/one", b"short", part_size=50 * MIB)
    assert one.etag.endswith("-1")
    buckets.remove_asset("odd")
    buckets.return_asset("odd")
    assert buckets.head("odd/parts").etag == made.etag
    assert buckets.head("odd/one").etag == one.etag
    assert buckets.overwrite("odd/parts").parts == made.parts
    assert buckets.overwrite("odd/one").etag.endswith("-1")


def test_asset_gains_and_loses_files(buckets: DemoBuckets) -> None:
    made = buckets.add_file(CCF, "later/part.bin", b"x" * 10)
    assert made.modified - buckets.head(f"{CCF}/notes.txt").modified >= timedelta(hours=1)
    assert f"{CCF}/later/part.bin" in listed(buckets, buckets.open_data)
    buckets.delete_object(f"{CCF}/later/part.bin")
    assert f"{CCF}/later/part.bin" not in listed(buckets, buckets.open_data)
    buckets.make_many(CCF, 1200)
    assert len(buckets.present(f"{CCF}/many/")) == 1200
    assert sum(key.startswith(f"{CCF}/many/") for key in listed(buckets, buckets.open_data)) == 1200


# -- the document database


def records(buckets: DemoBuckets, version: str = "v2", **query: Any) -> list[Any]:
    given = {name: json.dumps(value) for name, value in query.items()}
    answer = requests.get(buckets.docdb_url(version), params=given, timeout=300)
    answer.raise_for_status()
    found = answer.json()
    assert isinstance(found, list)
    return found


def every(buckets: DemoBuckets, version: str = "v2", **query: Any) -> Iterator[Any]:
    """All records, by pages of what came."""
    skip = 0
    while page := records(buckets, version, **query, limit=1000, skip=skip):
        yield from page
        skip += len(page)


def test_document_database_limits_its_records(buckets: DemoBuckets) -> None:
    assert len(records(buckets, limit=1000)) == buckets.docdb_most
    names = [one["name"] for one in every(buckets)]
    assert len(names) == len(set(names)) > buckets.docdb_most
    # Some assets it has never heard of.
    assert set(buckets.assets()) - set(names) >= {CCF, FUSION}
    older = {one["name"] for one in every(buckets, "v1")}
    assert older < set(names)
    assert RAW_2025 not in older


def test_the_document_database_filters_and_projects(buckets: DemoBuckets) -> None:
    shown = {"name": 1, "_last_modified": 1}
    (found,) = records(buckets, filter={"name": RAW}, projection=shown)
    assert found.keys() == {"_id", "name", "_last_modified"}
    where = {"location": {"$regex": f"^s3://{buckets.open_data}/{RAW}_"}}
    assert len(records(buckets, filter=where)) == 2
    for wrong in ("{", '{"name": {"$nor": 1}}'):
        bad = requests.get(buckets.docdb_url(), params={"filter": wrong}, timeout=300)
        assert bad.status_code == 400


def test_the_document_database_may_know_more_or_less_than_the_bucket(buckets: DemoBuckets) -> None:
    (before,) = records(buckets, filter={"name": RAW})
    objects = buckets.present()
    buckets.touch_docdb(RAW)
    (after,) = records(buckets, filter={"name": RAW})
    assert after["_last_modified"] > before["_last_modified"]
    assert buckets.present() == objects
    buckets.forget_in_docdb(RAW)
    assert records(buckets, filter={"name": RAW}) == []
    buckets.remove_asset(BEHAVIOR)
    assert len(records(buckets, filter={"name": BEHAVIOR})) == 1


# -- over HTTP, and beside the DANDI archive


def test_the_buckets_are_controlled_over_http(buckets: DemoBuckets) -> None:
    def post(verb: str, **given: object) -> requests.Response:
        return requests.post(f"{buckets.control_url}/{verb}", json=given, timeout=300)

    assert (
        post("sha256", key=VIDEO).json()["result"]
        == hashlib.sha256(buckets.data(VIDEO)).hexdigest()
    )
    assert post("remove_asset", asset=CCF).json()["result"] == 2
    assert post("return_asset", asset=CCF).status_code == 200
    assert post("overwrite", key=f"{CCF}/notes.txt", content="other\n").json() == {"result": None}
    assert buckets.data(f"{CCF}/notes.txt") == b"other\n"
    assert post("slow_down", times=1).status_code == 200
    assert requests.get(buckets.url("x"), timeout=300).status_code == 503
    post("cut_listing", ends="cut")
    post("clear_faults")
    assert listed(buckets, buckets.open_data)
    log = requests.get(f"{buckets.control_url}/requests", timeout=300).json()
    assert log == buckets.requests
    assert not any("_demo" in one for one in log)
    for refused in (post("close"), post("remove_asset", asset="x"), post("edit_sidecar")):
        assert refused.status_code == 400
        assert refused.json()["detail"]


def test_archive_has_buckets_only_if_enabled(tmp_path: Path, demo_files: Path) -> None:
    with DemoArchive(tmp_path / "one", cache=demo_files, empty=True) as demo:
        assert demo.buckets is None
        assert "buckets" not in demo.addresses()
        assert [path.name for path in demo.mirrors.iterdir()] == ["demo.toml"]
    with DemoArchive(tmp_path / "two", cache=demo_files, empty=True, buckets=True) as demo:
        assert demo.buckets is not None
        addresses = demo.addresses()["buckets"]
        assert addresses["names"] == [
            "demo-aind-open-data",
            "demo-aind-benchmark-data",
            "demo-hostile",
        ]
        names = {path.name for path in demo.mirrors.iterdir()}
        assert names == {"demo.toml", "demo-aind.toml", "demo-aind-benchmark.toml"}
        assert addresses["endpoint"] in (demo.mirrors / "demo-aind.toml").read_text()
        assert requests.get(addresses["docdb"]["v2"], timeout=300).json()
    assert list(demo.mirrors.iterdir()) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(addresses["endpoint"], timeout=5)
