"""The demo's Zarrs are real ones, and what the archive says of them is what DANDI says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror_demo import DemoArchive, DemoError
from support.zarrs_of_every_kind import add_zarrs, pixel

IMAGES = ("v2x40", "v3x40")
BUCKET = "demo-dandiarchive"

Made = dict[str, dict[str, str]]


@pytest.fixture
def zarrs(tmp_path: Path, demo_files: Path) -> Iterator[tuple[DemoArchive, Made]]:
    """An archive of nothing but the dandisets with Zarrs, and where these are."""
    with DemoArchive(tmp_path / "demo", cache=demo_files, empty=True) as running:
        yield running, add_zarrs(running)


@pytest.fixture(scope="module")
def still(
    tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[tuple[DemoArchive, Made]]:
    """The same for all tests that only read."""
    folder = tmp_path_factory.mktemp("zarrs")
    with DemoArchive(folder, cache=demo_files, empty=True) as running:
        yield running, add_zarrs(running)


def get(demo: DemoArchive, path: str, token: str = "", **options: Any) -> requests.Response:
    headers = {"Authorization": f"token {token}"} if token else {}
    return requests.get(demo.api_url + path, headers=headers, timeout=20, **options)


def row_of(demo: DemoArchive, one: dict[str, str], token: str = "") -> Any:
    url = f"/dandisets/{one['dandiset']}/versions/draft/assets/?metadata=true"
    rows = get(demo, url, token).json()["results"]
    (row,) = [row for row in rows if row["path"] == one["path"]]
    return row


def listed(demo: DemoArchive, zarr_id: str, query: str = "") -> list[dict[str, Any]]:
    """All entries by the archive's own list, page by page."""
    found: list[dict[str, Any]] = []
    url: str | None = f"{demo.api_url}/zarr/{zarr_id}/files/{query}"
    while url is not None:
        page = requests.get(url, timeout=300).json()
        found += page["results"]
        url = page["next"]
    return found


def on_disk(demo: DemoArchive, zarr_id: str, folder: Path) -> Path:
    for name, entry in demo.zarrs[zarr_id].entries.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(entry.data)
    return folder


def s3(demo: DemoArchive) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}, proxies={})
    return boto3.client("s3", endpoint_url=demo.s3_url, region_name="us-east-1", config=config)


def test_zarr_open_reads_images_of_both_formats_and_all_their_entries(
    still: tuple[DemoArchive, Made], tmp_path: Path
) -> None:
    import zarr

    demo, made = still
    for seed, name in enumerate(IMAGES, 1):
        count = int(name.partition("x")[2])
        assert len(demo.zarrs[made[name]["zarr"]].entries) == count
        image = zarr.open(on_disk(demo, made[name]["zarr"], tmp_path / name), mode="r")
        assert image.metadata.zarr_format == int(name[1])
        assert sorted(image) == ["0", "1", "10"]
        for level, array in enumerate(("0", "1", "10")):
            data = image[array][:]
            height, width = data.shape
            assert data[height - 1, width - 1] == pixel(seed, level, height - 1, width - 1)
            assert data.min() == pixel(seed, level, 0, 0) > 0  # no chunk is missing


def test_the_stated_checksums_are_those_of_the_fields_library(
    still: tuple[DemoArchive, Made],
) -> None:
    from zarr_checksum.tree import ZarrChecksumTree

    demo, made = still
    for name, one in made.items():
        zarr = demo.zarrs[one["zarr"]]
        tree = ZarrChecksumTree()
        for path, entry in zarr.entries.items():
            tree.add_leaf(Path(path), len(entry.data), entry.etag)
        true = str(tree.process())
        stated = row_of(demo, one, demo.token)["metadata"]["digest"]["dandi:dandi-zarr-checksum"]
        if name == "pending":
            assert stated is None
        else:
            assert (stated == true) is (name != "wrong")
            assert stated.split("-", 1)[1] == true.split("-", 1)[1]


def test_two_archives_have_the_same_zarrs_ids_and_versions(
    still: tuple[DemoArchive, Made], tmp_path: Path, demo_files: Path
) -> None:
    demo, made = still

    def all_of(one: DemoArchive) -> Any:
        return [
            (zarr.zarr_id, name, entry.etag, entry.version_id, str(entry.modified))
            for zarr in one.zarrs.values()
            for name, entry in zarr.entries.items()
        ]

    with DemoArchive(tmp_path / "other", cache=demo_files, empty=True) as other:
        assert add_zarrs(other) == made
        assert all_of(other) == all_of(demo)


def test_the_bucket_lists_a_zarrs_versions_with_encoded_names(
    still: tuple[DemoArchive, Made],
) -> None:
    demo, made = still
    zarr = demo.zarrs[made["odd"]["zarr"]]
    url = f"{demo.s3_url}/{BUCKET}?versions&prefix={zarr.key()}"
    text = requests.get(f"{url}&encoding-type=url", timeout=300).text
    assert "<EncodingType>url</EncodingType>" in text
    assert "/a+%231+%26+b%2Bc%3Dd%7Ee+%28f%29%2Cg/0/0</Key>" in text
    assert text.count("<IsLatest>true</IsLatest>") == len(zarr.entries)
    keys: list[str] = []
    pages = s3(demo).get_paginator("list_object_versions")
    shared = demo.zarrs[made["v2x40"]["zarr"]]
    for page in pages.paginate(Bucket=BUCKET, Prefix=shared.key()):
        keys += [one["Key"] for one in page["Versions"]]
    assert keys == sorted(shared.key(name) for name in shared.entries)


def test_a_never_finalized_zarr_has_files_and_nothing_else(
    zarrs: tuple[DemoArchive, Made],
) -> None:
    demo, made = zarrs
    one = made["pending"]
    document = get(demo, f"/zarr/{one['zarr']}/").json()
    assert (document["status"], document["checksum"], document["file_count"], document["size"]) == (
        *("Pending", None),
        *(0, 0),
    )
    row = row_of(demo, one)
    assert (row["size"], row["metadata"]["contentSize"]) == (0, 0)
    assert len(listed(demo, one["zarr"])) == 40
    checksum = demo.finalize_zarr(one["dandiset"], one["path"])
    document = get(demo, f"/zarr/{one['zarr']}/").json()
    assert (document["status"], document["checksum"], document["file_count"]) == (
        "Complete",
        checksum,
        40,
    )
    assert row_of(demo, one)["modified"] > row["modified"]
    # the upload removes the checksum; neither asset nor draft shows a change
    row = row_of(demo, one)
    demo.change_zarr(one["dandiset"], one["path"], "0/0/0", "half done", finalize=False)
    assert get(demo, f"/zarr/{one['zarr']}/").json()["checksum"] is None
    assert row_of(demo, one)["modified"] == row["modified"]


def test_an_embargoed_zarr_is_404_but_its_list_answers_anybody(
    zarrs: tuple[DemoArchive, Made],
) -> None:
    demo, made = zarrs
    one = made["closed"]
    for token in ("", demo.other_token):
        assert get(demo, f"/zarr/{one['zarr']}/", token).status_code == 404
    assert get(demo, f"/zarr/{one['zarr']}/", demo.token).json()["file_count"] == 40
    asset = demo.dandisets[one["dandiset"]].draft.assets[one["path"]].asset_id
    assert [
        get(demo, f"/assets/{asset}/", token).status_code
        for token in ("", demo.other_token, demo.token)
    ] == [401, 403, 200]
    assert len(listed(demo, one["zarr"])) == 40
    named = [row["zarr_id"] for row in get(demo, "/zarr/?page_size=100").json()["results"]]
    assert one["zarr"] not in named
    assert len(named) == 7


def test_embargoed_entries_are_listed_not_read_and_stay_closed_where_replaced(
    zarrs: tuple[DemoArchive, Made],
) -> None:
    demo, made = zarrs
    one = made["closed"]
    zarr = demo.zarrs[one["zarr"]]
    new, old = demo.bucket.versions(zarr.key("0/c/0/0"))
    urls = [
        f"{demo.s3_url}/{BUCKET}/{zarr.key('0/c/0/0')}{query}"
        for query in ("", f"?versionId={new.version_id}", f"?versionId={old.version_id}")
    ]

    def statuses() -> list[int]:
        return [requests.get(url, timeout=300).status_code for url in urls]

    page = s3(demo).list_object_versions(Bucket=BUCKET, Prefix=zarr.key())
    assert len(page["Versions"]) == 41
    assert statuses() == [403, 403, 403]
    draft = demo.dandisets[one["dandiset"]].draft
    modified, asset = draft.modified, row_of(demo, one, demo.token)
    assert asset["metadata"]["access"][0]["status"] == "dandi:EmbargoedAccess"
    demo.unembargo(one["dandiset"])
    # upstream takes the tags off current objects alone
    assert statuses() == [200, 200, 403]
    opened = row_of(demo, one)
    assert opened["metadata"]["access"][0]["status"] == "dandi:OpenAccess"
    assert opened["modified"] == asset["modified"]
    assert draft.modified > modified
    assert get(demo, f"/zarr/{one['zarr']}/").json()["file_count"] == 40
    with pytest.raises(DemoError, match="no embargo"):
        demo.unembargo(one["dandiset"])


def test_the_redirect_of_a_download_is_good_for_one_object_one_method_and_six_hours(
    zarrs: tuple[DemoArchive, Made],
) -> None:
    demo, made = zarrs
    assets = demo.dandisets[made["closed"]["dandiset"]].draft.assets
    secret = assets["notes.txt"].blob
    assert secret is not None
    plain = f"{demo.s3_url}/{BUCKET}/{secret.key}"
    download = f"/assets/{assets['notes.txt'].asset_id}/download/"
    assert [
        get(demo, download, token, allow_redirects=False).status_code
        for token in ("", demo.other_token, "nonsense", demo.token)
    ] == [401, 403, 401, 302]
    signed = get(demo, download, demo.token, allow_redirects=False).headers["Location"]
    assert requests.get(plain, timeout=300).status_code == 403
    assert requests.get(signed, timeout=300).content == secret.data
    assert requests.head(signed, timeout=300).status_code == 403
    other = requests.get(signed.replace(secret.key, f"{secret.key}0"), timeout=300)
    assert "SignatureDoesNotMatch" in other.text
    assert requests.get(f"{plain}?X-Amz-Signature={'0' * 64}", timeout=300).status_code == 403
    both = requests.get(signed, headers={"Authorization": f"token {demo.token}"}, timeout=300)
    assert (both.status_code, "Only one auth" in both.text) == (400, True)
    demo.let_time_pass(7)
    assert "expired" in requests.get(signed, timeout=300).text
