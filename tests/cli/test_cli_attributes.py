"""Assets of a bucket: attributes, ancestors, derivatives and subdatasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuromirror.index import Index
from neuromirror.model import (
    DatasetRef,
    Digest,
    FileRecord,
    MirrorProbed,
    MirrorSeen,
    SnapshotEntry,
    Subdataset,
    VersionMinted,
    VisitEnded,
    dump_snapshot_entry,
)
from neuromirror.store import Store
from support.command_shell import Shell

RAW = "ecephys_625749_2022-08-03_15-15-06"
SORTED = f"{RAW}_sorted_2023-02-01_10-11-12"
CURATED = f"{SORTED}_curated_2023-03-01_10-11-12"
ZARR = f"{RAW}--zarr-1"
MD5 = "5" * 32


class _Bucket:
    """Writes versions to the journal of a store, like visits of a bucket."""

    def __init__(self, root: Path) -> None:
        self.store = Store.open(root, create=True)
        self.store.append_entries(MirrorSeen("aind", "s3", "s3://aind/", "2024"))
        self._minted = 0

    def mint(self, local_id: str, label: str, files: list[SnapshotEntry], **changes: Any) -> str:
        self._minted += 1
        commit = f"{self._minted:040x}"
        dataset = DatasetRef("aind", local_id, f"s3://aind/{local_id}/")
        lines = [dump_snapshot_entry(file) for file in files]
        self.store.write_records(dataset.dataset_id, commit, lines)
        values: dict[str, Any] = {
            "mirror": "aind",
            "local_id": local_id,
            "source_uri": dataset.source_uri,
            "label": label,
            "upstream": "current",
            "kind": "observed",
            "state": f"sha256:{commit:0>64}",
            "commit": commit,
            "tree": commit,
            "annex_commit": commit,
            "time": f"{label[:10]}T00:00:00+00:00",
            "files": sum(file.subdataset is None for file in files),
            "bytes": sum(file.record.size or 0 for file in files),
            "exceptions": [],
            "evidence": {},
            "title": "",
            "license": [],
            "doi": None,
            "metadata_only": False,
            "at": "2024",
        }
        self.store.append_entries(VersionMinted(**{**values, **changes}))
        return commit

    def visit(self, local_id: str, status: str) -> None:
        uri = f"s3://aind/{local_id}/"
        self.store.append_entries(
            VisitEnded("v", "aind", local_id, uri, "", "2024", "2024", status, "", 0, "")
        )


def _file(path: str) -> SnapshotEntry:
    record = FileRecord(path.encode(), 7, (Digest("md5", MD5, "s3"),))
    return SnapshotEntry(path.encode(), f"MD5E-s7--{MD5}", record)


def _part(path: str, commit: str) -> SnapshotEntry:
    part = Subdataset("id", ZARR, commit, "sha256:9", 60_000, 5_000_000_000)
    return SnapshotEntry(path.encode(), "", FileRecord(path.encode(), None), part)


@pytest.fixture
def bucket(tmp_path: Path) -> _Bucket:
    return _Bucket(tmp_path / "store")


@pytest.fixture
def assets(bucket: _Bucket, tmp_path: Path) -> Shell:
    """A raw asset with a Zarr as a subdataset, a sorted asset derived from it, a curated one."""
    zarr = bucket.mint(ZARR, "2022-08-04", [_file("0.0")], within=RAW)
    about = {"subject": ["625749"], "modality": ["behavior", "ecephys"]}
    files = [_file("a.bin"), _part("ecephys.zarr", zarr)]
    bucket.mint(RAW, "2022-08-04", files, attributes=about, metadata="sha256:1")
    bucket.mint(
        RAW,
        "2022-09-01",
        files,
        attributes={**about, "project": ["Ephys Platform"]},
        metadata="sha256:2",
        metadata_only=True,
    )
    bucket.mint(SORTED, "2023-02-02", [_file("a.bin")], inputs=[RAW], attributes=about)
    bucket.mint(CURATED, "2023-03-02", [], inputs=[SORTED, "elsewhere"])
    bucket.store.append_entries(
        MirrorProbed("aind", {"versions": "not listable", "checksums": "returned"}, "2024")
    )
    bucket.visit(RAW, "full")
    bucket.visit(SORTED, "waiting")
    with Index.open(bucket.store.index_path) as index:
        index.catch_up(bucket.store)
    return Shell(tmp_path / "mirrors", bucket.store.root)


def test_show_prints_attributes_subdatasets_and_the_metadata_digest(assets: Shell) -> None:
    out = assets.run("show", f"aind:{RAW}").out
    for line in (
        r"  kind         observed (current), metadata only",
        r"  subject      625749",
        r"  modality     behavior, ecephys",
        r"  project      Ephys Platform",
        r"  subdatasets  1 with 60000 files, 5.0 GB",
        r"               ecephys.zarr: 2022-08-04, 60000 files, 5.0 GB",
        r"  metadata     sha256:2",
    ):
        assert f"{line}\n" in out
    (record,) = assets.records("show", f"aind:{RAW}")
    assert record["attributes"]["modality"] == ["behavior", "ecephys"]
    assert record["metadata"] == "sha256:2"
    assert record["superdatasets"] == []
    (subdataset,) = record["subdatasets"]
    assert (subdataset["dataset"], subdataset["version"], subdataset["files"]) == (
        f"aind:{ZARR}",
        "2022-08-04",
        60000,
    )
    (old,) = assets.records("show", f"aind:{RAW}@2022-08-04")
    assert "project" not in old["attributes"]
    out = assets.run("show", f"aind:{ZARR}").out
    assert f"  superdataset aind:{RAW}\n" in out
    assert "derived from" not in out


def test_show_prints_ancestors_and_derivatives(assets: Shell) -> None:
    tail = assets.run("show", f"aind:{CURATED}").out.partition("  derived from:\n")[2]
    assert tail.splitlines() == [
        f"    aind:{SORTED}@2023-02-02",
        f"      aind:{RAW}@2022-09-01",
        "    elsewhere (not mirrored)",
    ]
    tail = assets.run("show", f"aind:{RAW}").out.partition("  derivatives:\n")[2]
    assert tail.splitlines() == [
        f"    aind:{SORTED}@2023-02-02",
        f"      aind:{CURATED}@2023-03-02",
    ]
    tail = assets.run("show", f"aind:{RAW}@2022-08-04").out.partition("  derivatives:\n")[2]
    assert tail.splitlines()[0] == f"    aind:{SORTED}@2023-02-02 (of 2022-09-01)"
    (record,) = assets.records("show", f"aind:{SORTED}")
    (above,), (below,) = record["derived_from"], record["derivatives"]
    assert (above["name"], above["version"], above["derived_from"]) == (RAW, "2022-09-01", [])
    assert (below["dataset"], below["ancestor_version"]) == (f"aind:{CURATED}", "2023-02-02")
