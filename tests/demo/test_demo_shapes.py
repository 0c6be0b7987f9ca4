"""The demo answers in the shapes of a real archive server's recorded replies."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror_demo import SHARED, ZARR, DemoArchive

REPLIES: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "replies.json").read_text())


def shape(value: object) -> object:
    """Keys and types; of a list, the shapes it holds, each once."""
    if isinstance(value, dict):
        # the recorded files name no technique
        return {
            key: type(one).__name__ if key in ("approach", "measurementTechnique") else shape(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return sorted({json.dumps(shape(one), sort_keys=True) for one in value})
    return type(value).__name__


def ask(demo: DemoArchive, path: str, token: str | None = None, **options: Any) -> Any:
    headers = {} if token is None else {"Authorization": f"token {token}"}
    headers.update(options.pop("headers", {}))
    method = options.pop("method", "GET")
    return requests.request(
        method, demo.api_url + path, headers=headers, allow_redirects=False, timeout=20, **options
    )


def placeholders(demo: DemoArchive) -> dict[str, str]:
    """What stands in for the ids of the recorded requests."""
    published = demo.dandisets["000002"].published
    draft = demo.dandisets["000002"].draft.assets
    image = demo.dandisets["000005"].draft.assets[ZARR]
    assert image.zarr is not None
    return {
        "v1": published[0].label,
        "v2": published[1].label,
        "text": draft["dataset notes.txt"].asset_id,
        "zarr_asset": image.asset_id,
        "zarr": image.zarr.zarr_id,
        "none": "00000000-0000-4000-8000-000000000000",
    }


SAME_SHAPE = [
    ("info", "/info/"),
    ("d000001", "/dandisets/000001/"),
    ("d000002", "/dandisets/000002/"),
    ("d000002_versions", "/dandisets/000002/versions/"),
    ("d000002_versions_p2", "/dandisets/000002/versions/?page_size=2&page=2"),
    ("v000001_draft_info", "/dandisets/000001/versions/draft/info/"),
    ("v000002_draft", "/dandisets/000002/versions/draft/"),
    ("v000002_draft_info", "/dandisets/000002/versions/draft/info/"),
    ("v000002_0.261121.0904", "/dandisets/000002/versions/{v1}/"),
    ("v000002_0.261121.0904_info", "/dandisets/000002/versions/{v1}/info/"),
    ("v000002_draft_assets_nometa", "/dandisets/000002/versions/draft/assets/?page_size=1000"),
    ("v000002_0.261121.0904_assets", "/dandisets/000002/versions/{v1}/assets/?metadata=true"),
    ("v000005_draft", "/dandisets/000007/versions/draft/"),
    ("a2_p1", "/dandisets/000002/versions/draft/assets/?page_size=2&order=path"),
    ("a2_p2", "/dandisets/000002/versions/draft/assets/?page_size=2&order=path&page=2"),
    ("a3_zarr", "/dandisets/000005/versions/draft/assets/?zarr=true"),
    ("asset", "/assets/{text}/"),
    ("asset_info", "/assets/{text}/info/"),
    ("asset_published", "/dandisets/000002/versions/draft/assets/{text}/"),
    ("asset_zarr", "/assets/{zarr_asset}/"),
    ("asset_zarr_info", "/assets/{zarr_asset}/info/"),
    ("zarr_one", "/zarr/{zarr}/"),
    ("zf_all", "/zarr/{zarr}/files/"),
    ("zf_limit10", "/zarr/{zarr}/files/?limit=10"),
]


@pytest.mark.parametrize(("name", "path"), SAME_SHAPE)
def test_a_document_has_the_keys_and_types_of_the_real_one(
    shared_demo: DemoArchive, name: str, path: str
) -> None:
    got = ask(shared_demo, path.format(**placeholders(shared_demo)))
    real = REPLIES[name]
    assert got.status_code == real["status"]
    assert got.headers["Content-Type"] == "application/json"
    assert shape(got.json()) == shape(real["body"])


SAME_BODY = [
    ("ds_page_beyond", "/dandisets/?page_size=3&page=99"),
    ("ds_page_zero", "/dandisets/?page=0"),
    ("ds_page_text", "/dandisets/?page=abc"),
    ("ds_embargoed_anon", "/dandisets/?embargoed=true"),
    ("d000004", "/dandisets/000006/"),
    ("d999999", "/dandisets/999999/"),
    ("d000002_versions_p9", "/dandisets/000002/versions/?page_size=2&page=9"),
    ("v000002_0.200101.0000", "/dandisets/000002/versions/0.200101.0000/"),
    ("v000005_draft_assets", "/dandisets/000007/versions/draft/assets/"),
    ("a2_p_zero", "/dandisets/000002/versions/draft/assets/?page=0"),
    ("a2_p_last", "/dandisets/000002/versions/draft/assets/?page=last"),
    ("a2_order_bad", "/dandisets/000002/versions/draft/assets/?order=size"),
    ("a2_meta_bad", "/dandisets/000002/versions/draft/assets/?metadata=maybe"),
    ("asset_404", "/assets/{none}/"),
    ("asset_zarr_dl", "/assets/{zarr_asset}/download/"),
    ("zarr_404", "/zarr/{none}/"),
    ("zf_limit0", "/zarr/{zarr}/files/?limit=0"),
    ("zf_limit5000", "/zarr/{zarr}/files/?limit=5000"),
    ("zf_prefix_none", "/zarr/{zarr}/files/?prefix=nope"),
]


def test_errors_and_empty_answers_are_the_real_ones(shared_demo: DemoArchive) -> None:
    names = placeholders(shared_demo)
    for name, path in SAME_BODY:
        got = ask(shared_demo, path.format(**names))
        assert (name, got.status_code, got.json()) == (
            name,
            REPLIES[name]["status"],
            REPLIES[name]["body"],
        )


def test_the_list_of_all_has_the_real_rows(shared_demo: DemoArchive) -> None:
    body = ask(shared_demo, "/dandisets/?page_size=1000").json()
    real = REPLIES["ds_all"]["body"]
    assert shape(body) == shape(real)
    assert [row["identifier"] for row in body["results"]] == [
        *("000001", "000002", "000003", "000004", "000005", "000007", "000008")
    ]


def test_the_pages_of_a_list_link_to_one_another(shared_demo: DemoArchive) -> None:
    first = ask(shared_demo, "/dandisets/?page_size=3").json()
    second = requests.get(first["next"], timeout=300).json()
    assert first["next"] == f"{shared_demo.api_url}/dandisets/?page=2&page_size=3"
    assert second["previous"] == f"{shared_demo.api_url}/dandisets/?page_size=3"
    assert second["count"] == 7
    assert second["results"][0]["identifier"] == "000004"


def test_asset_pages_lose_their_count_and_go_on_past_the_end(shared_demo: DemoArchive) -> None:
    assets = "/dandisets/000002/versions/draft/assets/?page_size=2"
    assert ask(shared_demo, assets).json()["count"] == 6
    assert ask(shared_demo, f"{assets}&page=2").json()["count"] is None
    beyond = ask(shared_demo, f"{assets}&page=99").json()
    real = REPLIES["a2_p_beyond"]["body"]
    assert beyond | {"previous": ""} == real | {"previous": ""}
    assert beyond["previous"].endswith("?page=98&page_size=2")


def test_an_nwb_asset_has_the_metadata_of_a_real_one(shared_demo: DemoArchive) -> None:
    rows = ask(shared_demo, "/dandisets/000001/versions/draft/assets/?metadata=true").json()[
        "results"
    ]
    real = next(
        row
        for row in REPLIES["v000001_draft_assets"]["body"]["results"]
        if row["path"].endswith(".nwb")
    )
    assert shape(next(row for row in rows if row["path"] == SHARED)) == shape(real)


def test_embargoed_dandiset_is_visible_only_to_its_owner(shared_demo: DemoArchive) -> None:
    asset = next(iter(shared_demo.dandisets["000006"].draft.assets.values())).asset_id
    for path in (
        "/dandisets/000006/",
        "/dandisets/000006/versions/draft/info/",
        f"/assets/{asset}/info/",
    ):
        anonymous = ask(shared_demo, path)
        assert anonymous.status_code == 401
        assert anonymous.headers["WWW-Authenticate"] == 'Bearer realm="api"'
        other = ask(shared_demo, path, shared_demo.other_token)
        assert (other.status_code, other.json()) == (403, REPLIES["d000004_other"]["body"])
        assert ask(shared_demo, path, shared_demo.token).status_code == 200
    real = REPLIES["v000004_draft_owner_info"]["body"]
    got = ask(shared_demo, "/dandisets/000006/versions/draft/info/", shared_demo.token).json()
    assert shape(got) == shape(real)


def test_a_bad_token_is_refused_even_where_all_is_public(shared_demo: DemoArchive) -> None:
    got = ask(shared_demo, "/dandisets/", "wrong")
    assert (got.status_code, got.json()) == (401, REPLIES["ds_bad_token"]["body"])


def test_head_and_gzip_are_answered(shared_demo: DemoArchive) -> None:
    whole = ask(shared_demo, "/dandisets/", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in whole.headers
    head = ask(shared_demo, "/dandisets/", method="HEAD", headers={"Accept-Encoding": "identity"})
    assert head.content == b""
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]
    packed = ask(shared_demo, "/dandisets/")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.json() == whole.json()


def test_zarr_entries_are_listed_by_cursor_and_by_a_careless_prefix(
    shared_demo: DemoArchive,
) -> None:
    url = f"/zarr/{placeholders(shared_demo)['zarr']}/files/"
    keys: list[str] = []
    following: str | None = f"{shared_demo.api_url}{url}?limit=10"
    while following:
        body = requests.get(following, timeout=300).json()
        keys += [row["Key"] for row in body["results"]]
        following = body["next"]
    assert keys == [row["Key"] for row in ask(shared_demo, url).json()["results"]]
    assert keys == sorted(keys, key=str.encode)
    assert len(keys) == 36
    inside = [row["Key"] for row in ask(shared_demo, f"{url}?prefix=0/1/").json()["results"]]
    assert "0/10/0" in inside
