"""Precomputed layers from end to end: a bucket on loopback, a store, git-annex, CloudVolume."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from crawl_place import Place, git

from neuromirror.model import VersionMinted
from neuromirror_demo import DemoBuckets
from neuromirror_demo.layer_contents import CELLS, EM, GCAMP, LAYERS
from neuromirror_demo.layers import packed

MIRROR = "demo-precomputed"
READER = Path(__file__).with_name("read_layers.py")


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """The demo's layers, and no other mirror."""
    with DemoBuckets(tmp_path / "buckets", layers=True) as running:
        for path in running.mirrors.iterdir():
            if path.stem != MIRROR:
                path.unlink()
        yield running


@pytest.fixture
def mirrored(buckets: DemoBuckets, tmp_path: Path) -> Place:
    """A store beside the bucket."""
    return Place(buckets.mirrors, tmp_path / "store")


def name_of(layer: str) -> str:
    return f"{MIRROR}:{layer}"


def read_by_cloudvolume(*clones: tuple[Path, str]) -> list[dict[str, object]]:
    arguments = [str(one) for clone in clones for one in clone]
    done = subprocess.run(
        [sys.executable, str(READER), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def cloned(mirrored: Place, layer: str, target: Path) -> Path:
    git(target.parent, "clone", "-q", str(mirrored.repository(name_of(layer))), str(target))
    return target


def test_cloudvolume_reads_what_git_annex_got(
    mirrored: Place, buckets: DemoBuckets, tmp_path: Path
) -> None:
    results = mirrored.sync()
    assert {name: one.status for name, one in results.items() if one.status == "ok"} == {
        name_of(layer): "ok" for layer in LAYERS
    }
    mirrored.fsck()
    clones = [
        (cloned(mirrored, layer, tmp_path / layer.replace("/", "-")), layer) for layer in LAYERS
    ]
    for clone, layer in clones:
        head = buckets.data(f"{layer}/info", bucket=buckets.precomputed)
        assert (clone / "info").read_bytes() == head  # without a get
        git(clone, "annex", "get", "-q", "-J2", ".")
    chunk = clones[LAYERS.index(EM)][0] / "4_4_40" / "64-128_0-64_12-28.br"
    assert chunk.is_symlink()
    stored = buckets.data(f"{EM}/4_4_40/64-128_0-64_12-28", bucket=buckets.precomputed)
    assert chunk.read_bytes() == stored
    told = read_by_cloudvolume(*((clone, layer) for clone, layer in clones))
    assert {one["layer"]: (one["same"], one["missing"]) for one in told} == {
        GCAMP: ([True, True], False),
        CELLS: ([True, True], False),
        EM: ([True, True, True], True),  # its empty corner has no objects
    }
    (cells,) = [one for one in told if one["layer"] == CELLS]
    assert (cells["vertices"], cells["joints"]) == (8, 3)


def test_a_second_sync_asks_about_no_object_and_makes_nothing_new(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    mirrored.sync()
    before, refs = mirrored.content(), mirrored.refs()
    buckets.clear_requests()
    assert {one.status for one in mirrored.sync().values()} == {"notneeded"}
    assert (mirrored.content(), mirrored.refs()) == (before, refs)
    asked = [one for one in buckets.requests if one.startswith("HEAD")]
    # but what the bucket is tried with in each run
    assert len([one for one in asked if "/4_4_40/" in one]) == 0, asked


def test_a_chunk_put_again_in_another_encoding_is_the_next_version(
    mirrored: Place, buckets: DemoBuckets, tmp_path: Path
) -> None:
    name, chunk = name_of(EM), "4_4_40/64-128_0-64_12-28"
    mirrored.sync(name)
    voxels = bytes(64 * 64 * 16)
    buckets._later()
    key, again = f"{EM}/{chunk}", packed(voxels, "gzip")
    buckets.put(key, again.data, bucket=buckets.precomputed, encoding="gzip")
    assert mirrored.sync(name)[name].status == "ok"
    assert len(mirrored.entries(VersionMinted)) == 2
    with mirrored.index() as index:
        files = {one.path: one for one in index.files(index.resolve(name))}
    assert f"{chunk}.gz" in files
    assert not {chunk, f"{chunk}.br"} & files.keys()
    clone = cloned(mirrored, EM, tmp_path / "clone")
    assert '"gzip"' in (clone / ".precomputed" / "encodings.json").read_text()
    git(clone, "annex", "get", "-q", f"{chunk}.gz")
    assert (clone / f"{chunk}.gz").read_bytes() == again.data
    assert mirrored.sync(name)[name].status == "notneeded"


@pytest.mark.parametrize("key", [f"{EM}/4_4_40/64-128_0-64_12-28", f"{EM}/info"])
def test_what_a_listing_drops_is_not_deleted(
    mirrored: Place, buckets: DemoBuckets, key: str
) -> None:
    name = name_of(EM)
    mirrored.sync(name)
    refs = mirrored.refs()
    with buckets.drop_key_from_listing(key, bucket=buckets.precomputed):
        assert mirrored.sync(name)[name].exit_code == 1
    assert mirrored.refs() == refs
    assert mirrored.sync(name)[name].status == "notneeded"


def test_a_layer_that_lost_its_info_is_a_tombstone(mirrored: Place, buckets: DemoBuckets) -> None:
    mirrored.sync()
    refs = {one: sha for one, sha in mirrored.refs().items() if "gcamp" in one}
    buckets.delete_object(f"{GCAMP}/info", bucket=buckets.precomputed)
    assert mirrored.sync()[name_of(GCAMP)].visit == "not_found"
    assert {one: sha for one, sha in mirrored.refs().items() if "gcamp" in one} == refs


def test_a_layer_above_the_limit_keeps_its_documents_in_git_and_its_chunks_in_a_manifest(
    mirrored: Place, buckets: DemoBuckets
) -> None:
    mirror = buckets.mirrors / f"{MIRROR}.toml"
    mirror.write_text(mirror.read_text() + "\n[zarr]\ninline = 5\nmanifest = 30\n")
    assert mirrored.sync()[name_of(EM)].status == "ok"
    mirrored.fsck()
    in_git = git(mirrored.repository(name_of(EM)), "ls-tree", "-r", "--name-only", "main")
    assert sorted(in_git.split()) == [
        *(".datalad/config", ".gitattributes", ".neuromirror/dataset.json"),
        *(".precomputed/encodings.json", "info", "provenance"),
    ]
    with mirrored.index() as index:
        row = index.resolve(name_of(EM))
        assert (row.form, index.resolve(name_of(GCAMP)).form) == ("manifest", "files")
        assert row.files == len(buckets.present(f"{EM}/", bucket=buckets.precomputed)) - 2
    assert {one.status for one in mirrored.sync().values()} == {"notneeded"}
