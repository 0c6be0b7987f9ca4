"""The demo buckets answer as S3 documents it: objects, parts, versions, listings."""

from __future__ import annotations

import base64
import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
import requests

from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import (
    ASSETS,
    BEHAVIOR,
    HOSTILE_KEYS,
    MEAREC,
    MIB,
    NOT_UTF8,
    RAW,
    RAW_2025,
    SESSIONS,
)
from support.bucket_client import anonymous, listed

SAMPLES = f"{RAW}/si_folder/traces_cached_seg0.raw"
VIDEO = f"{BEHAVIOR}/behavior-videos/Face Camera.mp4"
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=300)


def head(url: str, **headers: str) -> requests.Response:
    return requests.head(url, headers=headers, timeout=300)


# -- objects


def test_multipart_object_reports_its_part_size(still_buckets: DemoBuckets) -> None:
    url = still_buckets.url(SAMPLES)
    data = still_buckets.data(SAMPLES)
    assert head(url).headers["Content-Length"] == str(len(data))
    first = head(f"{url}?partNumber=1")
    assert first.status_code == 206
    assert first.headers["Content-Length"] == str(8 * MIB)
    assert first.headers["x-amz-mp-parts-count"] == "2"
    assert first.headers["Content-Range"] == f"bytes 0-{8 * MIB - 1}/{len(data)}"
    assert first.headers["ETag"] == head(url).headers["ETag"]
    second = get(f"{url}?partNumber=2")
    assert second.content == data[8 * MIB :]
    assert head(f"{url}?partNumber=3").status_code == 416
    parts = [hashlib.md5(data[: 8 * MIB]).digest(), hashlib.md5(data[8 * MIB :]).digest()]
    etag = f"{hashlib.md5(b''.join(parts)).hexdigest()}-2"
    assert first.headers["ETag"] == f'"{etag}"'


def test_boto_reads_part_sizes_ranges_and_checksums(still_buckets: DemoBuckets) -> None:
    client = anonymous(still_buckets)
    where = {"Bucket": still_buckets.open_data}
    part = client.head_object(**where, Key=VIDEO, PartNumber=1, ChecksumMode="ENABLED")
    assert (part["ContentLength"], part["PartsCount"]) == (5 * MIB, 2)
    assert part["ChecksumType"] == "COMPOSITE"
    assert part["ChecksumSHA256"].endswith("-2")
    whole = client.head_object(
        **where, Key=f"{RAW_2025}/behavior/Licks.csv", ChecksumMode="ENABLED"
    )
    assert whole["ChecksumType"] == "FULL_OBJECT"
    data = still_buckets.data(f"{RAW_2025}/behavior/Licks.csv")
    assert base64.b64decode(whole["ChecksumSHA256"]) == hashlib.sha256(data).digest()
    body = client.get_object(**where, Key=VIDEO, Range="bytes=-3")["Body"].read()
    assert body == still_buckets.data(VIDEO)[-3:]


def test_conditions_and_ranges_that_cannot_be_met_are_refused(still_buckets: DemoBuckets) -> None:
    url = still_buckets.url(SAMPLES)
    etag = head(url).headers["ETag"]
    assert head(url, **{"If-Match": etag}).status_code == 200
    assert get(url, **{"If-Match": '"other"'}).status_code == 412
    assert get(url, **{"If-None-Match": etag}).status_code == 304
    size = head(url).headers["Content-Length"]
    assert get(url, Range=f"bytes={size}-").status_code == 416
    middle = get(url, Range="bytes=100-199")
    assert (middle.status_code, middle.content) == (206, still_buckets.data(SAMPLES)[100:200])


# -- versions


def test_versions_and_delete_markers_are_listed_and_read(still_buckets: DemoBuckets) -> None:
    client = anonymous(still_buckets)
    bucket = still_buckets.benchmark
    pages = client.get_paginator("list_object_versions").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": 2}
    )
    versions: list[Any] = []
    markers: list[Any] = []
    for page in pages:
        versions += page.get("Versions", [])
        markers += page.get("DeleteMarkers", [])
    ours = [
        one
        for key in {row["Key"] for row in [*versions, *markers]}
        for one in still_buckets.versions(key, bucket=bucket)
    ]
    assert len(ours) == len(versions) + len(markers)
    assert {row["VersionId"] for row in [*versions, *markers]} == {one.version_id for one in ours}
    assert {row["Key"]: row["IsLatest"] for row in markers} == {
        f"{SESSIONS[1]}/notes.txt": True,
        f"{MEAREC}/mearec_NP2.h5": False,
    }
    for row in versions:
        body = client.get_object(Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"])
        assert body["ContentLength"] == row["Size"]
        assert body["VersionId"] == row["VersionId"]
    old = [row for row in versions if row["Key"] == f"{SESSIONS[1]}/provenance.json"]
    assert [row["IsLatest"] for row in old] == [True, False]


def test_a_deleted_object_is_404_with_a_marker_and_its_marker_405(
    still_buckets: DemoBuckets,
) -> None:
    key = f"{SESSIONS[1]}/notes.txt"
    gone = head(still_buckets.url(key, bucket=still_buckets.benchmark))
    assert gone.status_code == 404
    assert gone.headers["x-amz-delete-marker"] == "true"
    marker, version = still_buckets.versions(key, bucket=still_buckets.benchmark)
    bucket = still_buckets.benchmark
    for one, status in ((marker, 405), (version, 200)):
        assert one.version_id is not None
        url = still_buckets.url(key, bucket=bucket, version_id=one.version_id)
        assert get(url).status_code == status
    none = still_buckets.url(key, bucket=bucket, version_id="0" * 32)
    assert get(none).status_code == 404
    assert get(still_buckets.url(key, bucket=bucket, version_id="nonsense")).status_code == 400


# -- listings


@pytest.mark.parametrize("page_size", [1, 3, 1000])
def test_boto_lists_every_key_once_and_in_order(still_buckets: DemoBuckets, page_size: int) -> None:
    for bucket in (still_buckets.open_data, still_buckets.hostile):
        keys = listed(still_buckets, bucket, page_size)
        expected = still_buckets.present(bucket=bucket)
        # boto reads names as UTF-8; the one that is not comes as U+FFFD.
        assert keys == [key.decode("utf-8", "replace") for key in expected]


def test_names_come_as_s3_encodes_them(still_buckets: DemoBuckets) -> None:
    url = f"{still_buckets.endpoint}/{still_buckets.hostile}?list-type=2&encoding-type=url"
    found = ET.fromstring(get(url).content)
    assert found.findtext(f"{NAMESPACE}EncodingType") == "url"
    names = [row.text or "" for row in found.iter(f"{NAMESPACE}Key")]
    odd = ["a+space", "plus%2Bplus", "%2541", "tab%09here", "new%0Aline", "latin%E91"]
    assert {*odd, "a//b", "up/../x", "%7Etilde*%28star%29", "/leading"} <= set(names)
    decoded = [unquote_plus(name, errors="surrogateescape") for name in names]
    expected = still_buckets.present(bucket=still_buckets.hostile)
    assert [name.encode("utf-8", "surrogateescape") for name in decoded] == expected


def test_prefixes_are_rolled_up_page_by_page(still_buckets: DemoBuckets) -> None:
    client = anonymous(still_buckets)
    for page_size in (1, 2, 1000):
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=still_buckets.open_data, Delimiter="/", PaginationConfig={"PageSize": page_size}
        )
        prefixes = [row["Prefix"] for page in pages for row in page.get("CommonPrefixes", [])]
        assert prefixes == sorted(f"{asset}/" for asset in ASSETS)
    below = client.list_objects_v2(
        Bucket=still_buckets.benchmark, Delimiter="/", Prefix="ephys-compression/"
    )
    assert [row["Prefix"] for row in below["CommonPrefixes"]] == [
        f"ephys-compression/{name}/" for name in ("aind-np1", "aind-np2", "ibl-np1", "mearec")
    ]


def test_every_hostile_key_can_be_read(still_buckets: DemoBuckets) -> None:
    keys = still_buckets.present(bucket=still_buckets.hostile)
    assert set(keys) == {*HOSTILE_KEYS, NOT_UTF8}
    session = requests.Session()
    for key in keys:
        request = requests.Request("GET", still_buckets.endpoint).prepare()
        # requests itself would take `..` and `%41` for something else
        request.url = still_buckets.url(key, bucket=still_buckets.hostile)
        answer = session.send(request, timeout=20)
        assert answer.status_code == 200
        assert answer.content == (b"" if key in {b"marker/", b"folder/"} else key)


# -- contents


def test_the_samples_are_readable_by_numpy(still_buckets: DemoBuckets, tmp_path: Path) -> None:
    import numpy

    path = tmp_path / "traces_cached_seg0.raw"
    path.write_bytes(still_buckets.data(SAMPLES))
    binary = json.loads(still_buckets.data(f"{RAW}/si_folder/binary.json"))["kwargs"]
    found = numpy.memmap(path, binary["dtype"], "r").reshape(-1, binary["num_channels"])
    assert found.shape == (300_000, 16)
    assert found.min() < -100  # the spikes
    assert abs(float(found.mean())) < 2
    gains = numpy.load(
        _local(still_buckets, f"{RAW}/si_folder/properties/gain_to_uV.npy", tmp_path)
    )
    assert gains.shape == (16,)


def test_the_zarrs_are_readable(still_buckets: DemoBuckets, tmp_path: Path) -> None:
    import zarr

    for key in still_buckets.present(""):
        if b".zarr/" in key:
            _local(still_buckets, key.decode(), tmp_path)
    second = zarr.open(str(next(tmp_path.glob(f"{RAW}/ecephys_compressed/*.zarr"))), mode="r")
    assert second["traces_seg0"].shape == (3000, 16)
    third = zarr.open(str(next(tmp_path.glob("exaSPIM*/fused.zarr"))), mode="r")
    assert third["0"][1, 31, 31] == (2 * 32 * 32 - 1) * 13 % 50_000


def _local(buckets: DemoBuckets, key: str, folder: Path) -> Path:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buckets.data(key))
    return path


def test_equal_starts_give_equal_buckets(still_buckets: DemoBuckets, tmp_path: Path) -> None:
    def state(one: DemoBuckets) -> list[Any]:
        return [
            list(one.versions(key, bucket=bucket))
            for bucket in (one.open_data, one.benchmark, one.hostile)
            for key in one.bucket(bucket).names()
        ]

    with DemoBuckets(tmp_path) as other:
        assert state(other) == state(still_buckets)
