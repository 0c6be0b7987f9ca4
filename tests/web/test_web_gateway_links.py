"""Pages lead viewers and downloads to the pinned state, through the gateway where it is on."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from support.gateway_site import ServedFile
from support.mirror_harness import MirrorHarness
from support.running_catalogue import links, run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource
from support.volume_archives import LAYER, VolumeArchives

PUBLIC = "https://mirror.example.org"


def sources(page: str) -> list[str]:
    """Return the sources of the layers of all links to Neuroglancer."""
    states = [one.partition("#!")[2] for one in links(page) if "neuroglancer" in one]
    return [json.loads(unquote(one))["layers"][0]["source"] for one in states if one]


@pytest.mark.parametrize(("mode", "boss"), [("redirect", 0), ("proxy", 1), ("off", 0)])
def test_viewers_of_volumes_show_the_version(volumes: VolumeArchives, mode: str, boss: int) -> None:
    layer, channel = f"demo-precomputed:{LAYER}", "b:demo_cortex/sections/em"
    with run_catalogue(
        volumes.mirror_harness.store, f"--gateway={mode}", f"--address={PUBLIC}"
    ) as site:
        with volumes.mirror_harness.index() as index:
            row = index.resolve(layer)
        found = sources(site.page(f"/dataset/{row.name}"))
        at = f"precomputed://{PUBLIC}/at/{row.name}"
        assert found == ([] if mode == "off" else [at])
        assert len(sources(site.page(f"/dataset/{channel}@latest"))) == boss


def test_viewers_get_no_address_that_they_cannot_read(volumes: VolumeArchives) -> None:
    with run_catalogue(volumes.mirror_harness.store, "--gateway=proxy") as site:
        assert sources(site.page(f"/dataset/demo-precomputed:{LAYER}@latest")) == []


def test_viewers_get_no_address_that_redirects_nowhere(tmp_path: Path) -> None:
    source = ScriptedSource()
    harness = ScriptedHarness(tmp_path / "box", source)
    private, public = "http://10.1.2.3/a", "https://bucket.example.org/b"
    source.scripted_datasets["data"] = ScriptedDataset(
        {
            "private.nwb": ServedFile(b"a", sha256=True, urls=(private,)),
            "public.nwb": ServedFile(b"b", sha256=True, urls=(private, public)),
        }
    )
    harness.sync()
    with run_catalogue(harness.store, "--gateway=redirect", f"--address={PUBLIC}") as site:
        for path, count in (("private.nwb", 0), ("public.nwb", 1)):
            page = site.page(f"/file/box:data@latest?path={path}")
            viewers = [one for one in links(page) if "neurosift" in one]
            assert len(viewers) == count, path
            assert all("/at/" in unquote(one) for one in viewers)


def test_a_command_to_download_is_of_the_gateway_where_it_verifies(
    demo_harness: MirrorHarness,
) -> None:
    with demo_harness.index() as index:
        row = index.resolve("demo:000002")
        file = next(one for one in index.files(row) if one.path.endswith(".nwb"))
    own = f"/at/{row.name}/{file.path}"
    for mode, is_own in (("proxy", True), ("redirect", False), ("off", False)):
        with run_catalogue(demo_harness.store, f"--gateway={mode}") as site:
            page = site.page(f"/file/{row.name}?path={quote(file.path)}")
            assert (f"{site.address}{own}" in page) == is_own
            shown = site.page(f"/dataset/{row.name}")
            assert (f"/at/{row.name}/" in links(shown)) == (mode != "off")
