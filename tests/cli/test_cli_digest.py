"""``neuromirror digest``: one read per file, nothing kept, wrong bytes are an error."""

import signal
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from neuromirror.index import Index
from neuromirror.model import LEAF_SIZE, BlockDigests
from neuromirror.store import Store
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror_demo import DemoArchive, DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR
from support.block_digests import digests_of
from support.command_shell import Shell
from support.dataset_clones import clone_dataset, fetch_content, overwrite
from support.index_dump import dump_index
from support.mirror_harness import MirrorHarness

NAME = "demo:000004"
FINE = ("--piece-size", "16KiB")


def split(records: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the records of files, and the summary."""
    *files, summary = records
    assert summary["kind"] == "summary"
    return files, summary


def stored(folder: BlockDigestsFolder, records: list[dict[str, Any]]) -> dict[str, BlockDigests]:
    """Return the digests of the files of records, which must agree with the records."""
    found = {}
    for record in records:
        digests = folder.read(record["key"])
        assert digests is not None
        assert (record["sha256"], record["root"]) == (digests.sha256, digests.root.hex())
        assert record["piece_size"] == digests.piece_size
        found[record["path"]] = digests
    return found


def store_folder(shell: Shell) -> BlockDigestsFolder:
    return BlockDigestsFolder.of_store(Store.open(shell.store))


def content(url: str) -> bytes:
    with urlopen(url) as reply:
        found: bytes = reply.read()
    return found


def test_digests_are_those_of_the_bytes_and_are_found_in_the_index(copied: Shell) -> None:
    files, summary = split(copied.records("digest", NAME, *FINE))
    assert {one["status"] for one in files} == {"ok"}
    assert (summary["digested"], summary["bytes"]) == (3, 143_400)
    found = stored(store_folder(copied), files)
    for file in files:
        # the archive states a dandi-etag of each file, whatever its key is
        assert found[file["path"]] == digests_of(content(file["url"]), LEAF_SIZE, 64 << 20)
        assert file["checked"] == "checked"
        for query in (f"btv2:{file['root']}", f"sha256:{file['sha256']}"):
            paths = {row["path"] for row in copied.records("find", query)}
            assert file["path"] in paths
    with Index.open_readonly(Store.open(copied.store).index_path) as index:
        stated = {
            one.path: digest.value
            for one in index.files.of(index.versions.resolve(NAME))
            for digest in one.digests
            if digest.algorithm == "etag"
        }
    assert {path: digests.parts_etag() for path, digests in found.items()} == stated
    # the index is a function of the store
    before = index_rows(copied)
    copied.run("rebuild-index")
    assert index_rows(copied) == before
    copied.run("fsck")


def index_rows(shell: Shell) -> list[str]:
    return dump_index(Store.open(shell.store).index_path)


def test_a_second_run_sends_no_request_and_smaller_pieces_are_read_again(
    shell: Shell, demo: DemoArchive
) -> None:
    shell.run("sync", NAME)
    # a run that was interrupted continues with the other files
    files, _ = split(shell.records("digest", NAME, "sub-401", "--piece-size", "32KiB"))
    assert len(files) == 2
    demo.clear_requests()
    files, summary = split(shell.records("digest", NAME, "--piece-size", "32KiB"))
    assert (summary["digested"], summary["notneeded"]) == (1, 2)
    assert demo.count_requests("^GET /demo-dandiarchive/") == 1
    demo.clear_requests()
    files, summary = split(shell.records("digest", NAME, "--piece-size", "32KiB"))
    assert {file["status"] for file in files} == {"notneeded"}
    assert (summary["digested"], summary["notneeded"]) == (0, 3)
    assert demo.count_requests(".") == 0
    files, summary = split(shell.records("digest", NAME, *FINE))
    assert summary["digested"] == 3
    assert {file["piece_size"] for file in files} == {LEAF_SIZE}


def test_wrong_bytes_are_an_error_and_are_not_recorded(shell: Shell, demo: DemoArchive) -> None:
    shell.run("sync", NAME)
    path = demo.paths("000004")[0]
    demo.corrupt_blob("000004", path)
    files, summary = split(shell.records("digest", NAME, *FINE, code=1))
    failed = [file for file in files if file["status"] == "error"]
    assert {one["path"] for one in failed} == {path}
    assert summary["status"] == "error"
    assert summary["digested"] == 2
    folder = store_folder(shell)
    assert not folder.has(failed[0]["key"])
    assert len(list(folder.paths())) == 2
    demo.corrupt_blob("000004", path, heal=True)
    files, _ = split(shell.records("digest", NAME, *FINE))
    assert [file["path"] for file in files if file["status"] == "ok"] == [path]


def test_a_lock_without_a_store_is_digested_into_the_folder_of_the_user(
    copied: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = tmp_path / "paper"
    paper.mkdir()
    copied.run("pin", NAME, "--path", "sub-401", "-o", str(paper / "datasets.lock"))
    monkeypatch.chdir(paper)
    without_store = copied.with_changes(store=Path("store"), mirrors=paper)
    files, _ = split(without_store.records("digest", "datasets.lock", "**/*ses-01*", *FINE))
    assert [file["path"] for file in files] == ["sub-401/sub-401_ses-01_ecephys.nwb"]
    assert stored(BlockDigestsFolder.of_user(), files)
    assert not (paper / "store").exists()
    _, summary = split(without_store.records("digest", "datasets.lock", *FINE))
    assert (summary["digested"], summary["notneeded"]) == (1, 1)


def test_a_lock_of_another_store_is_not_recorded_in_this_one(
    copied: Shell, shell: Shell, tmp_path: Path
) -> None:
    lock = str(tmp_path / "datasets.lock")
    copied.run("pin", NAME, "-o", lock)
    shell.run("sync", "demo:000001")  # a public store, which must not publish what it has not
    files, _ = split(shell.records("digest", lock, *FINE))
    assert list(store_folder(shell).paths()) == []
    assert len(stored(BlockDigestsFolder.of_user(), files)) == 3


def test_content_of_a_clone_is_read_from_disk(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    shell.run("sync", NAME)
    harness = MirrorHarness(shell.mirrors, shell.store)
    clone = fetch_content(clone_dataset(harness, NAME, tmp_path / "clone"))
    paths = demo.paths("000004")
    overwrite(clone / paths[0], b"x" * 52_776)
    (clone / paths[1]).resolve().unlink()
    demo.clear_requests()
    files, summary = split(shell.records("digest", str(clone), *FINE, code=1))
    assert {file["path"]: file["status"] for file in files} == dict(
        zip(paths, ("error", "notneeded", "ok"), strict=True)
    )
    assert demo.count_requests(".") == 0
    assert set(stored(store_folder(shell), [one for one in files if "root" in one])) == {paths[2]}
    assert summary["digested"] == 1


def test_verify_full_records_digests_and_part_md5s_prove_themselves(tmp_path: Path) -> None:
    lock = str(tmp_path / "datasets.lock")
    with DemoBuckets(tmp_path / "buckets") as buckets:
        shell = Shell(buckets.mirrors, tmp_path / "store")
        shell.run("sync", f"demo-aind:{BEHAVIOR}")
        (video,) = [
            record
            for record in shell.records("files", f"demo-aind:{BEHAVIOR}")
            if record.get("path", "").endswith("Camera.mp4")
        ]
        version, key = f"demo-aind:{BEHAVIOR}@{video['version']}", video["key"]
        shell.run("pin", version, "-o", lock)
        shell.run("verify", "--full", lock)
        digests = store_folder(shell).read(key)
        assert digests is not None
        assert (digests.piece_size, digests.piece_count) == (1 << 20, 6)
        assert digests.part_size == 5 << 20
        assert len(digests.part_md5s) == 32
        assert f"--{digests.parts_etag()}-{5 << 20}" in key
        _, summary = split(shell.records("digest", version))
        assert summary["digested"] == 0
        assert summary["notneeded"] >= 1


@pytest.mark.parametrize(
    "arguments",
    [
        (NAME, "--piece-size", "3MiB"),
        (NAME, "--piece-size", "8KiB"),
        (NAME, "--piece-size", "128MiB"),
        (NAME, "--piece-size", "9" * 5000),
        (NAME, "--piece-size", "-1"),
        (NAME, "a//b"),
        ("demo:999999",),
        ("missing.lock",),
    ],
)
def test_wrong_usage_is_one_line(copied: Shell, arguments: tuple[str, ...]) -> None:
    done = copied.run_any("digest", *arguments)
    assert done.code in (1, 2)
    assert done.error_line
    assert list(store_folder(copied).paths()) == []


def test_an_interrupt_leaves_complete_digests_only(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    shell.run("sync", NAME)
    with shell.start("digest", NAME, *FINE) as process:
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    shell.run("fsck")
    _, summary = split(shell.records("digest", NAME, *FINE))
    assert summary["failed"] == 0
    assert len(list(store_folder(shell).paths())) == 3
