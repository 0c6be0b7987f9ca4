"""Each verb changes the archive as the real thing would have changed."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import requests

from neuromirror_demo import SHARED, ZARR, DemoArchive, DemoError

LIVING = "000008"
NOTES = "notes.txt"


def get(demo: DemoArchive, path: str) -> Any:
    return requests.get(demo.api_url + path, timeout=300).json()


def draft(demo: DemoArchive, dandiset: str = LIVING) -> Any:
    return get(demo, f"/dandisets/{dandiset}/")["draft_version"]


def rows(demo: DemoArchive, dandiset: str = LIVING, version: str = "draft") -> dict[str, Any]:
    url = f"/dandisets/{dandiset}/versions/{version}/assets/?metadata=true&page_size=1000"
    return {row["path"]: row for row in get(demo, url)["results"]}


def served(demo: DemoArchive, row: Any) -> bytes:
    return requests.get(row["metadata"]["contentUrl"][1], timeout=300).content


def test_a_changed_file_is_a_new_asset_and_the_old_one_stays_readable(demo: DemoArchive) -> None:
    before, seen = rows(demo)[NOTES], draft(demo)
    demo.change_file(LIVING, NOTES, "Second week.\n")
    after = rows(demo)[NOTES]
    assert after["asset_id"] != before["asset_id"]
    assert after["blob"] != before["blob"]
    assert served(demo, after) == b"Second week.\n"
    assert draft(demo)["modified"] > seen["modified"]
    assert get(demo, f"/assets/{before['asset_id']}/")["path"] == NOTES
    assert served(demo, before) == b"First week.\n"


def test_a_changed_nwb_file_is_another_real_nwb_file(demo: DemoArchive) -> None:
    path = "sub-801/sub-801_ses-01_ecephys.nwb"
    before = demo.sha256(LIVING, path)
    demo.change_file(LIVING, path)
    assert demo.sha256(LIVING, path) != before
    assert served(demo, rows(demo)[path])[:4] == b"\x89HDF"


def test_files_are_added_removed_and_renamed(demo: DemoArchive) -> None:
    demo.add_file(LIVING, "new.txt", "new\n")
    demo.remove_file(LIVING, NOTES)
    old = rows(demo)["sub-801/sub-801_ses-02_behavior.nwb"]
    demo.rename_file(LIVING, "sub-801/sub-801_ses-02_behavior.nwb", "moved.nwb")
    after = rows(demo)
    assert sorted(after) == ["moved.nwb", "new.txt", "sub-801/sub-801_ses-01_ecephys.nwb"]
    assert after["moved.nwb"]["blob"] == old["blob"]
    assert after["moved.nwb"]["asset_id"] != old["asset_id"]
    assert draft(demo)["asset_count"] == 3


def test_a_touch_changes_only_the_draft(demo: DemoArchive) -> None:
    row, listed = draft(demo), rows(demo)
    dandiset = get(demo, f"/dandisets/{LIVING}/")["modified"]
    demo.touch(LIVING)
    after = draft(demo)
    assert after["modified"] > row["modified"]
    assert {**after, "modified": "", "status": ""} == {**row, "modified": "", "status": ""}
    assert rows(demo) == listed
    assert get(demo, f"/dandisets/{LIVING}/")["modified"] == dandiset


def test_publishing_keeps_asset_ids_and_rewrites_what_was_not_published(demo: DemoArchive) -> None:
    demo.add_file(LIVING, "new.txt", "new\n")
    before = rows(demo)
    label = demo.publish(LIVING)
    after, published = rows(demo), rows(demo, version=label)
    assert after == published
    assert {path: row["asset_id"] for path, row in after.items()} == {
        path: row["asset_id"] for path, row in before.items()
    }
    assert after[NOTES] == before[NOTES]
    assert after["new.txt"]["modified"] > before["new.txt"]["modified"]
    assert "publishedBy" not in before["new.txt"]["metadata"]
    assert after["new.txt"]["metadata"]["publishedBy"]
    version = get(demo, f"/dandisets/{LIVING}/versions/{label}/")
    assert version["doi"].endswith(f"/dandi.{LIVING}/{label}")
    newest = get(demo, f"/dandisets/{LIVING}/")["most_recent_published_version"]
    assert newest["version"] == label
    assert len(get(demo, f"/dandisets/{LIVING}/versions/")["results"]) == 3


def test_a_zarr_an_embargo_or_nothing_is_not_published(demo: DemoArchive) -> None:
    for dandiset in ("000005", "000006", "000007"):
        with pytest.raises(DemoError, match=dandiset):
            demo.publish(dandiset)


def test_title_changes_only_in_the_draft(demo: DemoArchive) -> None:
    demo.set_metadata(LIVING, title="Another title")
    body = get(demo, f"/dandisets/{LIVING}/")
    assert body["draft_version"]["name"] == "Another title"
    assert body["most_recent_published_version"]["name"] == "A study in progress (demo)"


def test_a_deleted_dandiset_is_404_and_out_of_the_list(demo: DemoArchive) -> None:
    asset = rows(demo)[NOTES]["asset_id"]
    demo.delete_dandiset(LIVING)
    for path in (f"/dandisets/{LIVING}/", f"/assets/{asset}/"):
        assert requests.get(demo.api_url + path, timeout=300).status_code == 404
    listed = get(demo, "/dandisets/")
    assert LIVING not in [row["identifier"] for row in listed["results"]]


def test_an_unpublished_version_is_404_and_its_assets_are_not(demo: DemoArchive) -> None:
    (label,) = [one.label for one in demo.dandisets[LIVING].published]
    row = rows(demo, version=label)[NOTES]
    demo.unpublish(LIVING, label)
    assert get(demo, f"/dandisets/{LIVING}/versions/{label}/") == {"detail": "Not found."}
    assert get(demo, f"/dandisets/{LIVING}/")["most_recent_published_version"] is None
    assert get(demo, f"/assets/{row['asset_id']}/")["path"] == NOTES
    with pytest.raises(DemoError, match="has not published its draft"):
        demo.unpublish(LIVING, "draft")


def test_replaced_blobs_expire_and_those_of_a_version_stay(demo: DemoArchive) -> None:
    published = rows(demo)[NOTES]
    demo.change_file(LIVING, NOTES, "Second week.\n")
    replaced, modified = rows(demo)[NOTES], draft(demo)["modified"]
    demo.change_file(LIVING, NOTES, "Third week.\n")
    assert draft(demo)["modified"] > modified
    modified = draft(demo)["modified"]
    assert demo.expire_blobs() == 1
    assert draft(demo)["modified"] == modified
    assert requests.get(replaced["metadata"]["contentUrl"][1], timeout=300).status_code == 404
    assert get(demo, f"/assets/{replaced['asset_id']}/") == {"detail": "Not found."}
    assert served(demo, published) == b"First week.\n"
    assert served(demo, rows(demo)[NOTES]) == b"Third week.\n"
    assert demo.expire_blobs() == 0


def test_members_only_archive_requires_a_token(demo: DemoArchive) -> None:
    demo.members_only = True
    for path in ("/info/", "/dandisets/", f"/dandisets/{LIVING}/", "/zarr/"):
        assert requests.get(demo.api_url + path, timeout=300).status_code == 401
        headers = {"Authorization": f"token {demo.other_token}"}
        assert requests.get(demo.api_url + path, headers=headers, timeout=300).status_code == 200


def test_an_opened_embargo_is_in_the_list(demo: DemoArchive) -> None:
    demo.unembargo("000006")
    body = get(demo, "/dandisets/")
    (row,) = [one for one in body["results"] if one["identifier"] == "000006"]
    assert row["embargo_status"] == "OPEN"
    assert draft(demo, "000006")["asset_count"] == 2


@pytest.mark.parametrize("quiet", [False, True])
def test_tampering_puts_other_bytes_under_a_published_asset(demo: DemoArchive, quiet: bool) -> None:
    label = demo.dandisets[LIVING].published[0].label
    url = f"/dandisets/{LIVING}/versions/{label}/info/"
    before, info = rows(demo, version=label)[NOTES], get(demo, url)
    demo.tamper_published(LIVING, label, NOTES, "Rewritten history.\n", quiet=quiet)
    after = rows(demo, version=label)[NOTES]
    assert after["asset_id"] == before["asset_id"]
    assert after["metadata"]["digest"] != before["metadata"]["digest"]
    assert served(demo, after) == b"Rewritten history.\n"
    assert (get(demo, url)["modified"] == info["modified"]) is quiet


def test_a_corrupt_blob_has_the_size_and_etag_of_the_right_one(demo: DemoArchive) -> None:
    row = rows(demo)[NOTES]
    url = row["metadata"]["contentUrl"][1]
    good = requests.get(url, timeout=300)
    demo.corrupt_blob(LIVING, NOTES)
    exact = f"{url}?versionId={good.headers['x-amz-version-id']}"
    bad = requests.get(exact, timeout=300)
    assert bad.content != good.content
    for name in ("Content-Length", "ETag", "x-amz-version-id"):
        assert bad.headers[name] == good.headers[name]
    demo.heal_blob(LIVING, NOTES)
    assert requests.get(exact, timeout=300).content == good.content


def test_a_zarr_keeps_its_ids_while_its_checksum_changes(demo: DemoArchive) -> None:
    before = rows(demo, "000005")[ZARR]
    demo.change_zarr("000005", ZARR, "0/0/0", b"\x07" * 128)
    after = rows(demo, "000005")[ZARR]
    assert (after["asset_id"], after["zarr"]) == (before["asset_id"], before["zarr"])
    assert after["metadata"]["digest"] != before["metadata"]["digest"]
    assert after["modified"] > before["modified"]
    demo.change_zarr("000005", ZARR, "1/0/0", None, quiet=True)
    gone = rows(demo, "000005")[ZARR]
    assert gone["modified"] == after["modified"]
    assert gone["metadata"]["digest"]["dandi:dandi-zarr-checksum"].split("-")[1] == "35"


def test_thousands_of_files_are_made_with_or_without_objects(demo: DemoArchive) -> None:
    demo.make_many("000100", 2000, objects=False)
    assert draft(demo, "000100")["asset_count"] == 2000
    demo.make_many("000101", 5)
    listed = rows(demo, "000101")
    for row in listed.values():
        got = served(demo, row)
        assert row["metadata"]["digest"]["dandi:sha2-256"] == hashlib.sha256(got).hexdigest()
    assert len(listed) == 5
    made = demo.make_dandisets(3)
    assert made == ["000102", "000103", "000104"]
    assert draft(demo, made[-1])["asset_count"] == 1


def test_what_is_not_there_is_named(demo: DemoArchive) -> None:
    with pytest.raises(DemoError, match="999999"):
        demo.touch("999999")
    with pytest.raises(DemoError, match=r"no\.txt"):
        demo.change_file(LIVING, "no.txt")
    with pytest.raises(DemoError, match="change_file"):
        demo.add_file("000001", SHARED)
    modified = draft(demo)["modified"]
    with pytest.raises(DemoError):
        demo.remove_file(LIVING, "no.txt")
    assert draft(demo)["modified"] == modified
