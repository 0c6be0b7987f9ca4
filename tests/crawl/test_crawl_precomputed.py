"""Precomputed layers end to end: a bucket on loopback, a store, git-annex, CloudVolume."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.model import VersionMinted
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import CELLS, EM, FUSED, GCAMP, LAYERS, STACK
from neuromirror_demo.volumes import encode_object
from support.mirror_harness import MirrorHarness, run_git
from support.private_buckets import run_here

MIRROR = "demo-precomputed"
READER = Path(__file__).with_name("read_layers.py")


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """The demo's layers, as the only mirror."""
    with DemoBuckets(tmp_path / "buckets", layers=True) as running:
        for path in running.mirrors.iterdir():
            if path.stem != MIRROR:
                path.unlink()
        yield running


@pytest.fixture
def layers_harness(buckets: DemoBuckets, tmp_path: Path) -> MirrorHarness:
    """A store that mirrors the bucket."""
    return MirrorHarness(buckets.mirrors, tmp_path / "store")


def name_of(layer: str) -> str:
    return f"{MIRROR}:{layer}"


def read_by_cloudvolume(*clones: tuple[Path, str]) -> list[dict[str, object]]:
    arguments = [str(one) for clone in clones for one in clone]
    done = subprocess.run(
        [sys.executable, str(READER), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def clone_layer(mirrored: MirrorHarness, layer: str, target: Path) -> Path:
    run_git(target.parent, "clone", "-q", str(mirrored.repository(name_of(layer))), str(target))
    return target


def check_second_sync(layers_harness: MirrorHarness, buckets: DemoBuckets) -> None:
    """Check that another sync requests no object and adds nothing."""
    before, refs = layers_harness.file_digests(), layers_harness.refs()
    buckets.clear_requests()
    assert {one.status for one in layers_harness.sync().values()} == {"notneeded"}
    assert (layers_harness.file_digests(), layers_harness.refs()) == (before, refs)
    requested = [request for request in buckets.requests if request.startswith("HEAD")]
    # except for the probe of the bucket in each run
    assert len([one for one in requested if "/4_4_40/" in one]) == 0, requested


def test_cloudvolume_reads_what_was_got_and_a_second_sync_adds_nothing(
    layers_harness: MirrorHarness, buckets: DemoBuckets, tmp_path: Path
) -> None:
    results = layers_harness.sync()
    assert {name: one.status for name, one in results.items() if one.status == "ok"} == {
        name_of(layer): "ok" for layer in (*LAYERS, FUSED, STACK)
    }
    layers_harness.fsck()
    check_second_sync(layers_harness, buckets)
    clones = [
        (clone_layer(layers_harness, layer, tmp_path / layer.replace("/", "-")), layer)
        for layer in LAYERS
    ]
    for clone, layer in clones:
        head = buckets.data(f"{layer}/info", bucket=buckets.precomputed)
        assert (clone / "info").read_bytes() == head  # without a get
        if layer == EM:
            run_git(clone, "annex", "get", "-q", "-J2", ".")
        else:  # without a process per layer
            assert run_here(clone, "get", environment={}).returncode == 0
    chunk = clones[LAYERS.index(EM)][0] / "4_4_40" / "64-128_0-64_12-28.br"
    assert chunk.is_symlink()
    stored = buckets.data(f"{EM}/4_4_40/64-128_0-64_12-28", bucket=buckets.precomputed)
    assert chunk.read_bytes() == stored
    records = read_by_cloudvolume(*((clone, layer) for clone, layer in clones))
    assert {record["layer"]: (record["same"], record["missing"]) for record in records} == {
        GCAMP: ([True, True], False),
        CELLS: ([True, True], False),
        EM: ([True, True, True], True),  # its empty corner has no objects
    }
    (cells,) = [record for record in records if record["layer"] == CELLS]
    assert cells["vertices"] == 8


def test_a_chunk_replaced_in_another_encoding_is_the_next_version(
    layers_harness: MirrorHarness, buckets: DemoBuckets, tmp_path: Path
) -> None:
    name, chunk = name_of(EM), "4_4_40/64-128_0-64_12-28"
    layers_harness.sync(name)
    voxels = bytes(64 * 64 * 16)
    buckets._later()
    key, replacement = f"{EM}/{chunk}", encode_object(voxels, "gzip")
    buckets.put(key, replacement.data, bucket=buckets.precomputed, encoding="gzip")
    assert layers_harness.sync(name)[name].status == "ok"
    assert len(layers_harness.entries(VersionMinted)) == 2
    with layers_harness.index() as index:
        files = {one.path: one for one in index.files.of(index.versions.resolve(name))}
    assert f"{chunk}.gz" in files
    assert not {chunk, f"{chunk}.br"} & files.keys()
    clone = clone_layer(layers_harness, EM, tmp_path / "clone")
    assert '"gzip"' in (clone / ".precomputed" / "encodings.json").read_text()
    run_git(clone, "annex", "get", "-q", f"{chunk}.gz")
    assert (clone / f"{chunk}.gz").read_bytes() == replacement.data
    assert layers_harness.sync(name)[name].status == "notneeded"


def test_a_layer_that_lost_its_info_is_a_tombstone(
    layers_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    for key in buckets.present(bucket=buckets.precomputed):
        if not key.startswith(GCAMP.encode()):
            buckets.bucket(buckets.precomputed).expire(key)
    layers_harness.sync()
    refs = {one: sha for one, sha in layers_harness.refs().items() if "gcamp" in one}
    assert refs
    buckets.delete_object(f"{GCAMP}/info", bucket=buckets.precomputed)
    assert layers_harness.sync()[name_of(GCAMP)].visit == "not_found"
    assert {one: sha for one, sha in layers_harness.refs().items() if "gcamp" in one} == refs


def test_a_layer_above_the_limit_keeps_its_documents_in_git_and_its_chunks_in_a_manifest(
    layers_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    mirror = buckets.mirrors / f"{MIRROR}.toml"
    mirror.write_text(mirror.read_text() + "\n[zarr]\ninline = 5\nmanifest = 30\n")
    assert layers_harness.sync()[name_of(EM)].status == "ok"
    layers_harness.fsck()
    in_git = run_git(layers_harness.repository(name_of(EM)), "ls-tree", "-r", "--name-only", "main")
    assert sorted(in_git.split()) == [
        *(".datalad/config", ".gitattributes", ".neuromirror/dataset.json"),
        *(".precomputed/encodings.json", "info", "provenance"),
    ]
    with layers_harness.index() as index:
        row = index.versions.resolve(name_of(EM))
        assert (row.form, index.versions.resolve(name_of(GCAMP)).form) == ("manifest", "files")
        assert row.files == len(buckets.present(f"{EM}/", bucket=buckets.precomputed)) - 2
    assert {one.status for one in layers_harness.sync().values()} == {"notneeded"}
