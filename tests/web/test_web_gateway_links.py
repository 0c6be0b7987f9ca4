"""Pages lead viewers and downloads to the pinned state, through the gateway where it is on."""

import json
from urllib.parse import quote, unquote

import pytest

from neuromirror.web.pages.folders import is_public
from support.mirror_harness import MirrorHarness
from support.running_catalogue import links, run_catalogue
from support.volume_archives import LAYER, VolumeArchives


def sources(page: str) -> list[str]:
    """Return the sources of the layers of all links to Neuroglancer."""
    states = [link.partition("#!")[2] for link in links(page) if "neuroglancer" in link]
    return [json.loads(unquote(state))["layers"][0]["source"] for state in states if state]


def test_viewers_get_no_address_that_they_cannot_read(volumes: VolumeArchives) -> None:
    with run_catalogue(volumes.mirror_harness.store, "--gateway=proxy") as site:
        assert sources(site.page(f"/dataset/demo-precomputed:{LAYER}@latest")) == []


def test_a_command_to_download_is_of_the_gateway_where_it_verifies(
    demo_harness: MirrorHarness,
) -> None:
    with demo_harness.index() as index:
        row = index.versions.resolve("demo:000002")
        file = next(one for one in index.files.of(row) if one.path.endswith(".nwb"))
    own = f"/at/{row.name}/{file.path}"
    for mode, is_own in (("demo=proxy", True), ("redirect", False), ("off", False)):
        with run_catalogue(demo_harness.store, f"--gateway={mode}") as site:
            page = site.page(f"/file/{row.name}?path={quote(file.path)}")
            assert (f"{site.address}{own}" in page) == is_own
            shown = site.page(f"/dataset/{row.name}")
            assert (f"/at/{row.name}/" in links(shown)) == (mode != "off")
            if mode == "off":
                reply = site.get(f"/at/{row.name}/dandiset.yaml")
                assert reply.status_code == 403
                assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://bucket.s3.amazonaws.com/a.nwb", True),
        ("http://bucket.s3.amazonaws.com/a.nwb", False),
        ("https://localhost/a.nwb", False),
        ("https://archive.local/a.nwb", False),
        ("https://192.168.0.1/a.nwb", False),
        ("https://[::1]/a.nwb", False),
        ("s3://bucket/a.nwb", False),
        ("https://", False),
        ("https://[bad/a.nwb", False),
    ],
)
def test_only_the_open_web_is_public(url: str, public: bool) -> None:
    assert is_public(url) is public
