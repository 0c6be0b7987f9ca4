"""The demo's bucket serves bytes as S3 does, also to curl and git-annex."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import requests

from neuromirror_demo import SHARED, ZARR, DemoArchive
from neuromirror_demo.records import Blob


def shared_blob(demo: DemoArchive) -> Blob:
    blob = demo.dandisets["000001"].draft.assets[SHARED].blob
    assert blob is not None
    return blob


def url_of(demo: DemoArchive, blob: Blob, exact: bool = True) -> str:
    plain = f"{demo.s3_url}/demo-dandiarchive/{blob.key}"
    return f"{plain}?versionId={blob.version_id}" if exact else plain


def test_an_object_is_served_whole_in_part_and_by_head(demo: DemoArchive) -> None:
    blob = shared_blob(demo)
    for url in (url_of(demo, blob), url_of(demo, blob, exact=False)):
        whole = requests.get(url, timeout=300)
        assert whole.content == blob.data
        head = requests.head(url, timeout=300)
        assert head.status_code == 200
        for answer in (whole, head):
            assert answer.headers["Content-Length"] == str(blob.size)
            assert answer.headers["ETag"] == f'"{blob.etag}"'
            assert answer.headers["x-amz-version-id"] == blob.version_id
            assert answer.headers["Content-Type"] == "application/x-nwb"
        assert head.headers["Last-Modified"] == "Fri, 01 Mar 2024 09:14:26 GMT"
        part = requests.get(url, headers={"Range": "bytes=100-199"}, timeout=300)
        assert part.status_code == 206
        assert part.content == blob.data[100:200]
        assert part.headers["Content-Range"] == f"bytes 100-199/{blob.size}"


def test_the_bucket_can_be_listed_with_all_versions(demo: DemoArchive) -> None:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    zarr = demo.dandisets["000005"].draft.assets[ZARR].zarr
    assert zarr is not None
    before = zarr.entries["0/0/0"].version_id
    demo.change_zarr("000005", ZARR, "0/0/0", b"\x01" * 128)
    demo.change_zarr("000005", ZARR, "0/11/1", None)
    client = boto3.client(
        "s3",
        endpoint_url=demo.s3_url,
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
    )
    listed = client.list_objects_v2(Bucket="demo-dandiarchive", Prefix=zarr.key())
    assert listed["Name"] == "demo-dandiarchive"
    assert len(listed["Contents"]) == 35
    versions = client.list_object_versions(Bucket="demo-dandiarchive", Prefix=zarr.key())
    ids = {one["VersionId"] for one in versions["Versions"] if one["Key"].endswith("/0/0/0")}
    assert ids == {before, zarr.entries["0/0/0"].version_id}
    assert [one["Key"] for one in versions["DeleteMarkers"]] == [zarr.key("0/11/1")]


def test_an_embargoed_object_is_refused_unless_signed(demo: DemoArchive) -> None:
    asset = demo.dandisets["000006"].draft.assets["notes.txt"]
    assert asset.blob is not None
    assert requests.get(url_of(demo, asset.blob), timeout=300).status_code == 403
    download = f"{demo.api_url}/assets/{asset.asset_id}/download/"
    assert requests.get(download, timeout=300).status_code == 401
    owner = {"Authorization": f"token {demo.token}"}
    assert requests.get(download, headers=owner, timeout=300).content == asset.blob.data
    demo.unembargo("000006")
    assert requests.get(url_of(demo, asset.blob), timeout=300).content == asset.blob.data


def test_a_download_is_a_redirect_to_a_signed_url_that_works(demo: DemoArchive) -> None:
    asset = demo.dandisets["000001"].draft.assets[SHARED]
    url = f"{demo.api_url}/assets/{asset.asset_id}/download/"
    for method in ("GET", "HEAD"):
        answer = requests.request(method, url, allow_redirects=False, timeout=300)
        assert answer.status_code == 302
        location = answer.headers["Location"]
        assert "X-Amz-Signature=" in location
        assert "versionId" not in location
    got = requests.get(location, timeout=300)
    assert got.content == shared_blob(demo).data
    assert got.headers["Content-Disposition"] == f'attachment; filename="{Path(SHARED).name}"'


def test_git_annex_gets_and_verifies_an_exact_version(demo: DemoArchive, tmp_path: Path) -> None:
    blob = shared_blob(demo)
    key = f"SHA256E-s{blob.size}--{blob.sha256}.nwb"

    def git(*argv: str) -> None:
        subprocess.run(["git", *argv], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    git("init", "-q")
    git("annex", "init", "-q")
    git("annex", "fromkey", "--force", key, "file.nwb")
    git("annex", "registerurl", key, url_of(demo, blob))
    git("annex", "get", "file.nwb")
    assert hashlib.sha256((tmp_path / "file.nwb").read_bytes()).hexdigest() == blob.sha256
