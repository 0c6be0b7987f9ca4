"""Assets of a bucket, their ancestors and derivatives, and Zarrs that are not in the index."""

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
from neuromirror_demo import DemoArchive
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
        self.store.journal.append(MirrorSeen("aind", "s3", "s3://aind/", "2024"))
        self._minted = 0

    def mint(self, local_id: str, label: str, files: list[SnapshotEntry], **changes: Any) -> str:
        self._minted += 1
        commit = f"{self._minted:040x}"
        dataset = DatasetRef("aind", local_id, f"s3://aind/{local_id}/")
        lines = [dump_snapshot_entry(file) for file in files]
        self.store.records.write(dataset.dataset_id, commit, lines)
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
        self.store.journal.append(VersionMinted(**{**values, **changes}))
        return commit

    def visit(self, local_id: str, status: str) -> None:
        uri = f"s3://aind/{local_id}/"
        self.store.journal.append(
            VisitEnded("aind", local_id, uri, "v", "", "2024", "2024", status, "", 0, "")
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
    bucket.store.journal.append(
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


DATASET = "demo:000005"
NOTHING = "0" * 64


@pytest.fixture
def zarrs(shell: Shell, demo: DemoArchive) -> Shell:
    """A store whose index has no files of Zarrs."""
    setting(shell, 0)
    shell.run("sync", DATASET)
    return shell


def setting(shell: Shell, entries: int) -> None:
    path = shell.mirrors / "demo.toml"
    text = path.read_text().partition("[zarr]")[0]
    path.write_text(f"{text}\n[zarr]\ninline_components = 0\nindex_entries = {entries}\n")


def zarr(shell: Shell) -> tuple[str, int]:
    """Return the name of the largest Zarr of the dandiset, and the number of its files."""
    found = shell.records("list", "--subdatasets")
    return max(
        ((one["dataset"], one["files"]) for one in found if one["is_subdataset"]),
        key=lambda x: x[1],
    )


def test_files_of_a_zarr_come_from_the_store_as_they_would_from_the_index(zarrs: Shell) -> None:
    name, count = zarr(zarrs)
    text, found = zarrs.run("files", name).lines, zarrs.records("files", name)
    assert len(text) == len(found) == count > 1
    assert zarrs.records("show", name)[0]["indexed"] is False
    assert "  index " in zarrs.run("show", name).out
    setting(zarrs, count)
    zarrs.run("rebuild-index")
    assert zarrs.run("files", name).lines == text
    second = zarrs.records("files", name)
    # the index adds the URLs of other files with the same content
    assert all(one["urls"][0].split("?")[0].endswith(one["path"]) for one in found)
    assert [one | {"urls": []} for one in second] == [one | {"urls": []} for one in found]
    assert zarrs.records("show", name)[0]["indexed"] is True
    assert "  index " not in zarrs.run("show", name).out


def test_find_reports_zarrs_that_are_not_searched_and_the_setting_to_change(zarrs: Shell) -> None:
    name, count = zarr(zarrs)
    one = next(record for record in zarrs.records("files", DATASET) if record["type"] == "file")
    digest = zarrs.records("files", name)[-1]["digest"]
    missed = zarrs.run("find", digest, code=1)
    assert missed.out == ""
    not_found, message = missed.err.splitlines()
    assert digest in not_found
    assert f"[zarr] index_entries = {count}" in message
    assert "neuromirror rebuild-index" in message
    failed, note = zarrs.records("find", digest, code=1)
    assert failed["status"] == "impossible"
    assert note == {
        "action": "find",
        "type": "not-indexed",
        "status": "notneeded",
        "message": message,
        "mirror": "demo",
        "zarrs": 1,
        "files": count,
        "largest": count,
        "setting": "[zarr] index_entries",
    }
    # the message is printed after a match too
    there = zarrs.run("find", one["digest"])
    assert one["path"] in there.out
    assert there.err == f"{message}\n"
    assert [one["type"] for one in zarrs.records("find", one["digest"])] == ["file", "not-indexed"]
    setting(zarrs, count)
    zarrs.run("rebuild-index")
    assert name in {record["dataset"] for record in zarrs.records("find", digest)}
    assert zarrs.run("find", NOTHING, code=1).error_line.count(NOTHING) == 1
