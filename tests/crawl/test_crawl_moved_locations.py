"""An object that upstream writes again with the same bytes has another URL, and no new version."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neuromirror import stream
from neuromirror.annex import url_log_path
from neuromirror.crawl import load_mirrors, open_recorder
from neuromirror.crawl.recorder import rebuild_index
from neuromirror.crawl.takedown import take_down
from neuromirror.index import Index
from neuromirror.lab.lock_manifests import stored_record_lines
from neuromirror.model import AnnexBranchMoved, VersionMinted, load_snapshot_entry
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import MEAREC
from support import killed_sync
from support.foreign_pushes import problems_of
from support.index_dump import dump_index
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedDataset, ScriptedHarness, ScriptedSource, files
from support.scripted_zarrs import scripted_zarr

NAME = f"demo-aind-benchmark:{MEAREC}"
PATH = "mearec_NP1.h5"
KEY = f"{MEAREC}/{PATH}"
CONTENT = b"the same bytes"
KILLS = 4


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """A bucket that keeps the versions of its objects, with two files of one dataset."""
    with DemoBuckets(tmp_path / "buckets", empty=True) as running:
        for mirror in running.mirrors.glob("*.toml"):
            if mirror.stem != "demo-aind-benchmark":
                mirror.unlink()
        running.put(KEY, CONTENT, bucket=running.benchmark)
        running.put(f"{MEAREC}/mearec_NP2.h5", b"other bytes", bucket=running.benchmark)
        yield running


@pytest.fixture
def bucket_harness(buckets: DemoBuckets, tmp_path: Path) -> MirrorHarness:
    """A store that mirrors the bucket."""
    harness = MirrorHarness(buckets.mirrors, tmp_path / "store")
    assert harness.sync(NAME)[NAME].versions
    return harness


def write_same_bytes(buckets: DemoBuckets) -> str:
    """Delete the object with all its versions, write it again, and return its URL."""
    buckets.bucket(buckets.benchmark).expire(KEY.encode())
    version = buckets.put(KEY, CONTENT, bucket=buckets.benchmark).version_id
    assert version is not None
    return buckets.url(KEY, bucket=buckets.benchmark, version_id=version)


def stated_urls(harness: MirrorHarness) -> dict[str, list[str]]:
    """Return the URLs of the object in the index, in the records and on the git-annex branch."""
    with harness.index() as index:
        row = index.versions.resolve(NAME)
        (file,) = [one for one in index.files.of(row) if one.path == PATH]
        urls = [one.url for one in index.locations.of(file.content)]
    entries = map(load_snapshot_entry, stored_record_lines(harness.store, row))
    (record,) = [entry.record for entry in entries if entry.git_path == PATH.encode()]
    log = f"{row.annex_commit}:{url_log_path(file.key).decode()}"
    lines = run_git(harness.repository(NAME), "show", log).splitlines()
    assert row.annex_commit == harness.refs()[f"{alias()} refs/heads/git-annex"]
    return {
        "index": urls,
        "records": [location.url for location in record.locations],
        "git-annex": [line.split(" ", 2)[2] for line in lines],
    }


def dump(harness: MirrorHarness) -> list[str]:
    with harness.index() as index:
        return dump_index(index)


def alias() -> str:
    return NAME.replace(":", "--").replace("/", "--")


def test_index_records_and_git_annex_have_the_new_url(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    (old,) = stated_urls(bucket_harness)["records"]
    new = write_same_bytes(buckets)
    assert bucket_harness.sync(NAME)[NAME].versions == ()
    stated = stated_urls(bucket_harness)
    assert stated["index"] == [new, old]
    assert stated["records"] == [new]
    assert sorted(stated["git-annex"]) == sorted([new, old])
    assert len(bucket_harness.entries(VersionMinted)) == 1


def test_the_object_is_opened_by_its_new_url(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    write_same_bytes(buckets)
    bucket_harness.sync(NAME)
    with stream.open(NAME, PATH, store=bucket_harness.folder) as opened:
        assert opened.read() == CONTENT


def test_only_the_new_url_is_audited(bucket_harness: MirrorHarness, buckets: DemoBuckets) -> None:
    new = write_same_bytes(buckets)
    with bucket_harness.index() as index:
        due = len(index.locations.due(100, "9"))
    bucket_harness.sync(NAME)
    with bucket_harness.index() as index:
        urls = [one.url for one in index.locations.due(100, "9")]
    assert len(urls) == due
    assert [url for url in urls if PATH in url] == [new]


def test_a_rebuilt_index_is_the_same_and_an_unchanged_sync_writes_nothing(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    for _ in range(2):
        write_same_bytes(buckets)
        bucket_harness.sync(NAME)
    store = bucket_harness.store
    before, files = dump(bucket_harness), bucket_harness.file_digests()
    bucket_harness.sync(NAME, deep=True)
    assert bucket_harness.entries(AnnexBranchMoved)[-1].records.endswith(".2")
    assert bucket_harness.file_digests() == files
    rebuild_index(store, store.index_path)
    assert dump(bucket_harness) == before
    assert problems_of(bucket_harness) == []


def test_an_index_rebuilt_from_git_alone_has_the_new_url(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    new = write_same_bytes(buckets)
    bucket_harness.sync(NAME)
    store = bucket_harness.store
    for path in (bucket_harness.folder / "neuromirror" / "records").rglob("*.zst"):
        path.unlink()
    rebuild_index(store, store.index_path)
    stated = stated_urls(bucket_harness)
    assert all(new in urls for urls in stated.values())


def test_after_the_old_version_returned_its_url_comes_first(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    (old,) = stated_urls(bucket_harness)["records"]
    new = buckets.put(KEY, CONTENT, bucket=buckets.benchmark)
    bucket_harness.sync(NAME)
    buckets.bucket(buckets.benchmark).expire(KEY, new.version_id)
    bucket_harness.sync(NAME)
    stated = stated_urls(bucket_harness)
    assert stated["records"] == [old]
    assert stated["index"][0] == old
    assert len(stated["index"]) == 2


def test_a_killed_sync_leads_to_the_same_urls(
    bucket_harness: MirrorHarness, buckets: DemoBuckets, tmp_path: Path
) -> None:
    write_same_bytes(buckets)
    undisturbed = MirrorHarness(buckets.mirrors, copied(bucket_harness, tmp_path / "undisturbed"))
    steps = killed_sync.count_steps(buckets.mirrors, undisturbed.folder)
    killed = {
        copied(bucket_harness, tmp_path / f"killed-{step}"): step
        for step in range(steps // 2, steps, steps // KILLS // 2)
    }
    killed_sync.kill_syncs(buckets.mirrors, killed)
    for store in killed:
        harness = MirrorHarness(buckets.mirrors, store)
        harness.sync(NAME)
        assert stated_urls(harness) == stated_urls(undisturbed)
        assert problems_of(harness) == []


def copied(harness: MirrorHarness, to: Path) -> Path:
    return shutil.copytree(harness.folder, to, symlinks=True)


def test_newer_records_than_those_that_a_killed_sync_left_count(
    bucket_harness: MirrorHarness, buckets: DemoBuckets
) -> None:
    with bucket_harness.index() as index:
        row = index.versions.resolve(NAME)
    dataset_id = row.dataset_ref.dataset_id
    store = bucket_harness.store
    lines = list(store.records.lines(dataset_id, row.records))
    for name in (f"{row.commit}.1", f"{row.commit}.2"):
        store.records.write(dataset_id, name, lines[:1])
    new = write_same_bytes(buckets)
    bucket_harness.sync(NAME)
    assert stated_urls(bucket_harness)["records"] == [new]
    assert store.records.newest(dataset_id, row.commit) == f"{row.commit}.3"
    assert problems_of(bucket_harness) == []


# --- scripted archives


def test_records_to_which_another_version_refers_stay_after_a_lost_journal_entry(
    harness: ScriptedHarness, tmp_path: Path
) -> None:
    dataset = harness.datasets["a"] = ScriptedDataset(files("x.bin", "y.bin"))
    harness.sync()
    with harness.index() as index:
        row = index.versions.resolve("box:a")
    dataset_id = row.dataset_ref.dataset_id
    store = harness.store
    lines = list(store.records.lines(dataset_id, row.commit))
    store.records.write(dataset_id, f"{row.commit}.1", lines)
    assert store.records.write_changes(dataset_id, "e" * 40, f"{row.commit}.1", [])
    move(dataset, "elsewhere.example.invalid", "x.bin")
    harness.sync(deep=True)
    assert list(store.records.lines(dataset_id, "e" * 40)) == lines
    with harness.index() as index:
        assert index.versions.resolve("box:a").records == f"{row.commit}.2"
    check_records(harness, "box:a", "elsewhere.example.invalid", 1)


def test_published_versions_have_their_new_urls(harness: ScriptedHarness) -> None:
    dataset = harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    dataset.published_versions = {"1.0": files("x.bin", "y.bin"), "2.0": files("x.bin", "z.bin")}
    harness.sync()
    refs = published_refs(harness)
    for number, published in enumerate(dataset.published_versions.values(), 1):
        for path, one in published.items():
            published[path] = replace(one, host=f"moved-{number}.example.invalid")
    result = harness.sync(deep=True)["box:a"]
    assert (result.exit_code, result.versions) == (0, ())
    assert published_refs(harness) == refs
    for number in (1, 2):
        check_records(harness, "box:a", f"moved-{number}.example.invalid", 2, f"{number}.0")


def published_refs(harness: ScriptedHarness) -> dict[str, str]:
    return {one: commit for one, commit in harness.refs().items() if "git-annex" not in one}


@pytest.mark.parametrize("is_published", [False, True])
@pytest.mark.parametrize(
    "setting", ["inline_components = 4", "inline = 2", "inline_components = 9"]
)
def test_a_zarr_with_the_same_checksum_has_its_new_urls(
    tmp_path: Path, source: ScriptedSource, setting: str, is_published: bool
) -> None:
    harness = ScriptedHarness(tmp_path / "box", source, f"[zarr]\n{setting}\nindex_entries = 100\n")
    zarr = source.zarrs["z"] = scripted_zarr(8)
    dataset = source.scripted_datasets["a"] = ScriptedDataset(files("x"), zarrs={"z.zarr": "z"})
    if is_published:
        dataset.published_versions["1.0"] = files("x")
    harness.sync()
    refs = published_refs(harness)
    for host in ("first.example.invalid", "second.example.invalid"):
        for path in ("0", "1"):
            zarr.files[path] = replace(zarr.files[path], host=host)
        result = harness.sync(deep=True)["box:a"]
        assert (result.exit_code, result.versions) == (0, ()), result.message
    assert published_refs(harness) == refs
    name = "box:a" if setting == "inline_components = 9" else "box:zarr/z"
    check_records(harness, name, "second.example.invalid", 2)


def move(dataset: ScriptedDataset, host: str, *paths: str) -> None:
    for path in paths:
        dataset.files[path] = replace(dataset.files[path], host=host)


def check_records(
    harness: ScriptedHarness, name: str, host: str, count: int, label: str = "latest"
) -> None:
    """Check the records of a version, the rebuilt index, and that another sync writes nothing."""
    with harness.index() as index:
        row = index.versions.resolve(name, label)
        before = dump_index(index)
    lines = stored_record_lines(harness.store, row)
    assert sum(host.encode() in line for line in lines) == count
    rebuild_index(harness.store, harness.store.index_path)
    with harness.index() as index:
        assert dump_index(index) == before
    assert problems_of(harness) == []
    files_before = harness.file_digests()
    harness.sync(deep=True)
    assert harness.file_digests() == files_before


@pytest.mark.parametrize("setting", ["inline = 2", "inline = 2\nmanifest = 5"])
@pytest.mark.parametrize("indexed", [0, 100])
def test_chunks_of_a_zarr_have_their_new_urls(
    tmp_path: Path, source: ScriptedSource, setting: str, indexed: int
) -> None:
    """Also those that are in the manifest and not in git."""
    settings = f"[zarr]\n{setting}\nindex_entries = {indexed}\n"
    harness = ScriptedHarness(tmp_path / "box", source, settings)
    chunks = [f"z.zarr/{number}" for number in range(8)]
    dataset = source.scripted_datasets["a"] = ScriptedDataset(files("z.zarr/.zarray", *chunks))
    harness.sync()
    for host in ("first.example.invalid", "second.example.invalid"):
        move(dataset, host, *chunks[:4])
        assert harness.sync(deep=True)["box:a"].versions == ()
    check_records(harness, "box:a/z.zarr", "second.example.invalid", 4)


def test_a_draft_before_a_published_version_has_its_new_urls(harness: ScriptedHarness) -> None:
    """Its files are not the last ones of the dataset in the index."""
    dataset = harness.datasets["a"] = ScriptedDataset(files("x.bin", "y.bin"))
    harness.sync()
    dataset.published_versions["1.0"] = files("x.bin")
    assert harness.sync()["box:a"].versions == ("1.0",)
    move(dataset, "elsewhere.example.invalid", "x.bin", "y.bin")
    assert harness.sync(deep=True)["box:a"].versions == ()
    with harness.index() as index:
        draft = next(one.label for one in index.versions.of("box:a") if one.kind == "observed")
        contents = [one.content for one in index.files.of(index.versions.resolve("box:a", draft))]
        urls = [one.url for content in contents for one in index.locations.of(content)]
    assert sum("elsewhere.example.invalid" in url for url in urls) == 2
    check_records(harness, "box:a", "elsewhere.example.invalid", 2, draft)


def test_damaged_later_records_do_not_keep_other_entries_from_the_index(
    bucket_harness: MirrorHarness, buckets: DemoBuckets, tmp_path: Path
) -> None:
    store = bucket_harness.store
    backup = tmp_path / "index.sqlite"
    shutil.copy(store.index_path, backup)
    write_same_bytes(buckets)
    bucket_harness.sync(NAME)
    (later,) = (bucket_harness.folder / "neuromirror" / "records").rglob("*.1.*.zst")
    later.write_bytes(b"damaged")
    shutil.copy(backup, store.index_path)
    with Index.open(store.index_path) as index:
        index.catch_up(store)
        assert index.versions.resolve(NAME).files
        (failure,) = [one for one in index.crawl.failures() if "stated later" in one.message]
    assert failure.dataset == NAME


def test_an_index_backup_is_updated_after_a_takedown(
    bucket_harness: MirrorHarness, buckets: DemoBuckets, tmp_path: Path
) -> None:
    store = bucket_harness.store
    backup = tmp_path / "index.sqlite"
    shutil.copy(store.index_path, backup)
    write_same_bytes(buckets)
    bucket_harness.sync(NAME)
    with open_recorder(store, store.index_path) as recorder:
        mirrors = load_mirrors(bucket_harness.mirrors)
        assert list(take_down(store, recorder, NAME, "test", "me", mirrors))
    shutil.copy(backup, store.index_path)
    with Index.open(store.index_path) as index:
        index.catch_up(store)
        assert list(index.crawl.failures()) == []
