"""Pinning versions: the lock file, the manifests and the bundles."""

import difflib
import json
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from jsonschema import Draft202012Validator

from neuromirror.lab.lock_manifests import (
    ListedSubdataset,
    LockManifestDamagedError,
    LockManifestReader,
)
from neuromirror.lab.lockfile import LockUnusableError
from neuromirror.model import ConfigurationError, Evidence, Retention
from neuromirror.store import StoreDamagedError
from neuromirror_demo.bucket_contents import RAW
from support.lab_store import LabStore
from support.lock_folders import DRAFT, PUBLISHED, ZARR, LockFolder
from support.mirror_harness import MirrorHarness

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "lock.schema.json"
BUCKET = f"demo-aind:{RAW}"


@pytest.fixture
def zarrs(subdataset_harness: MirrorHarness, tmp_path: Path) -> LockFolder:
    """A folder for a lock file of datasets with subdatasets."""
    return LockFolder(subdataset_harness, tmp_path / "zarrs")


def changed_keys(before: str, after: str) -> list[str]:
    """Return the keys of the lines that differ."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    changed = (line[2:] for line in lines if line[0] in "+-")
    return sorted({line.partition(" = ")[0] for line in changed if line[:1] not in ("", " ")})


# --- fields of a pin


def test_a_pin_says_what_the_store_has(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(PUBLISHED)
    found = new_lock_folder.pin_of(PUBLISHED)
    with new_lock_folder.mirror_harness.index() as index:
        row = index.versions.resolve(PUBLISHED)
        files = list(index.files.of(row))
    assert (found.commit, found.tree, found.state) == (row.commit, row.tree, row.state)
    assert (found.annex_commit, found.metadata) == (row.annex_commit, row.metadata)
    assert (found.requested, found.resolved.version) == ("latest", row.label)
    assert found.resolved.doi == row.doi
    assert found.swhid == f"swh:1:rev:{row.commit}"
    assert (found.files, found.bytes) == (len(files), sum(file.size or 0 for file in files))
    assert {evidence: one.claimed for evidence, one in found.evidence.items()} == Counter(
        file.evidence for file in files
    )
    assert found.durability is Retention.PUBLISHED
    assert (found.paths, found.clone, found.bundle) == ((), (), None)


def test_datasets_of_several_archives_stand_in_one_lock(
    new_lock_folder: LockFolder, bucket_harness: MirrorHarness
) -> None:
    outcomes = new_lock_folder.pin(PUBLISHED, DRAFT)
    new_lock_folder.mirror_harness = bucket_harness
    outcomes += new_lock_folder.pin(BUCKET)
    assert [dataset.name for dataset in new_lock_folder.lock.datasets] == [PUBLISHED, DRAFT, BUCKET]
    assert [dataset.durability.value for dataset in new_lock_folder.lock.datasets] == [
        *("published", "draft", "mutable-bucket")
    ]
    messages = [outcome.message for outcome in outcomes]
    assert ["may delete" in message for message in messages] == [False, True, False]
    assert "30 days" in messages[1]
    assert "mutable-bucket: content that upstream overwrites" in messages[2]
    schema = json.loads(SCHEMA.read_text("utf-8"))
    Draft202012Validator(schema).validate(tomllib.loads(new_lock_folder.file.read_text("utf-8")))


def test_equal_pins_give_equal_bytes_wherever_they_are_made(
    new_lock_folder: LockFolder, tmp_path: Path
) -> None:
    new_lock_folder.pin(PUBLISHED, DRAFT)
    other = LockFolder(new_lock_folder.mirror_harness, tmp_path / "some" / "where" / "else")
    other.pin(PUBLISHED, DRAFT)
    files = new_lock_folder.files()
    assert other.files() == files
    assert len(files) == 3
    for name, content in files.items():
        opened = content if name == new_lock_folder.name else zstandard.decompress(content, 1 << 24)
        for local_path in (str(tmp_path), str(new_lock_folder.mirror_harness.folder)):
            assert local_path.encode() not in opened, name


def test_repeated_pinning_changes_nothing_and_nothing_is_written_to_the_store(
    new_lock_folder: LockFolder, still_lab: LabStore
) -> None:
    store = still_lab.file_states()
    new_lock_folder.pin(PUBLISHED, DRAFT, bundle=True)
    assert still_lab.file_states() == store
    before = {path: path.stat().st_mtime_ns for path in new_lock_folder.folder.rglob("*.*")}
    assert {one.status for one in new_lock_folder.pin(PUBLISHED, DRAFT)} == {"notneeded"}
    after = {path: path.stat().st_mtime_ns for path in new_lock_folder.folder.rglob("*.*")}
    assert after == before


# --- adding, upgrading, removing


def test_another_version_replaces_the_previous_one(
    new_lock_folder: LockFolder, still_lab: LabStore
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    new_lock_folder.pin(
        f"{PUBLISHED}@{old}", DRAFT, bundle=True, clones=("https://m.example.org/{alias}",)
    )
    before, files = new_lock_folder.file.read_text("utf-8"), set(new_lock_folder.files())
    (outcome,) = new_lock_folder.pin(PUBLISHED)
    assert outcome.message.startswith(f"{new} (latest), 5 files, 211.1 kB, replaces {old}")
    after = new_lock_folder.file.read_text("utf-8")
    assert [dataset.name for dataset in new_lock_folder.lock.datasets] == [PUBLISHED, DRAFT]
    ids = {"commit", "annex-commit", "tree", "swhid", "state", "metadata", "manifest", "bundle"}
    moved = set(changed_keys(before, after))
    assert ids | {"requested", "resolved"} <= moved
    assert moved <= ids | {"requested", "resolved", "files", "bytes", "evidence"}
    # the other fields are kept, and the files of the old version are removed
    pinned = new_lock_folder.pin_of(PUBLISHED)
    assert pinned.clone == ("https://m.example.org/demo--000002",)
    assert pinned.bundle is not None
    gone = files - set(new_lock_folder.files())
    assert len(gone) == 2
    assert {name.rpartition(".")[2] for name in gone} == {"zst", "bundle"}
    # and the old version again
    new_lock_folder.pin(f"{PUBLISHED}@{old}")
    assert new_lock_folder.file.read_text("utf-8") == before
    assert set(new_lock_folder.files()) == files


def test_a_pin_goes_with_all_that_it_needed(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(PUBLISHED)
    before = new_lock_folder.files()
    new_lock_folder.pin(DRAFT, bundle=True)
    new_lock_folder.pin(remove=[DRAFT])
    assert new_lock_folder.files() == before
    with pytest.raises(ConfigurationError, match="demo:000004"):
        new_lock_folder.pin(remove=[DRAFT])
    new_lock_folder.pin(remove=[PUBLISHED])
    assert list(new_lock_folder.files()) == [new_lock_folder.name]
    assert new_lock_folder.lock.datasets == ()


def test_other_files_and_other_locks_in_the_folder_are_kept(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(PUBLISHED)
    note = new_lock_folder.file.with_name("datasets.lock.d") / "demo--000002" / "notes.txt"
    note.write_text("mine")
    new_lock_folder.pin(remove=[PUBLISHED])
    assert note.read_text() == "mine"
    new_lock_folder.pin(PUBLISHED)
    files = new_lock_folder.files()
    other = LockFolder(new_lock_folder.mirror_harness, new_lock_folder.folder, "other.lock")
    other.pin(PUBLISHED)
    other.pin(remove=[PUBLISHED])
    assert {
        name: text for name, text in new_lock_folder.files().items() if name != other.name
    } == files


# --- selections of files


def test_globs_pin_a_part(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(PUBLISHED, paths=("sub-201", "**/sub-101*"))
    part = new_lock_folder.pin_of(PUBLISHED)
    with new_lock_folder.mirror_harness.index() as index:
        files = [
            one
            for one in index.files.of(index.versions.resolve(PUBLISHED))
            if part.matches(one.path.encode())
        ]
    assert 0 < len(files) < 5
    assert {file.path.partition("/")[0] for file in files} == {"sub-201", "sub-101"}
    assert (part.files, part.bytes) == (len(files), sum(file.size or 0 for file in files))
    # the manifest still has the whole version
    assert len(list(LockManifestReader(new_lock_folder.lock.manifest_path(part)).entries())) == 5
    assert new_lock_folder.pin(PUBLISHED)[0].status == "notneeded"
    new_lock_folder.pin(PUBLISHED, paths=())
    assert new_lock_folder.pin_of(PUBLISHED).files == 5


def test_each_new_glob_must_match(new_lock_folder: LockFolder) -> None:
    earlier = f"{PUBLISHED}@0.240301.1026"
    with pytest.raises(ConfigurationError, match="no file matches sub-203;"):
        new_lock_folder.pin(earlier, paths=("sub-201", "sub-203"))
    assert new_lock_folder.files() == {}
    # those of an earlier pin are kept, although the new version lacks such files
    new_lock_folder.pin(earlier, paths=("sub-201", "sub-202"))
    new_lock_folder.pin(PUBLISHED)
    assert new_lock_folder.pin_of(PUBLISHED).paths == ("sub-201", "sub-202")


# --- subdatasets


def test_a_zarr_is_pinned_with_the_dataset_that_it_is_in(zarrs: LockFolder) -> None:
    zarrs.pin(ZARR, bundle=True)
    pinned = zarrs.pin_of(ZARR)
    top = LockManifestReader(zarrs.lock.manifest_path(pinned))
    (part,) = [entry for entry in top.entries() if isinstance(entry, ListedSubdataset)]
    with zarrs.mirror_harness.index() as index:
        (row,) = index.versions.subdatasets(index.versions.resolve(ZARR))
    assert (part.commit, part.state, part.dataset_id) == (row.commit, row.state, row.dataset_id)
    beside = zarrs.lock.manifest_path(pinned).with_name(f"{part.commit}.jsonl.zst")
    chunks = list(LockManifestReader(beside).entries())
    assert len(chunks) == row.files
    assert pinned.files == 2 + row.files
    assert beside.with_name(f"{part.commit}.bundle").exists()
    assert {evidence: one.claimed for evidence, one in pinned.evidence.items()} == {
        Evidence.SHA256: 2,
        Evidence.MD5: row.files,
    }


# --- manifests


def test_a_manifest_is_what_its_format_says(
    zarrs: LockFolder, bucket_harness: MirrorHarness
) -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    head, line = (
        Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]})
        for name in ("manifest-head", "manifest-line")
    )
    zarrs.pin(ZARR)
    zarrs.mirror_harness = bucket_harness
    zarrs.pin(BUCKET, "hostile:demo-hostile")
    paths = sorted(zarrs.folder.rglob("*.zst"))
    assert len(paths) == 5
    for path in paths:
        first, *others = zstandard.decompress(path.read_bytes(), 1 << 24).splitlines()
        head.validate(json.loads(first))
        for other in others:
            line.validate(json.loads(other))


# --- bundles and clone URLs


def test_secrets_are_taken_out_of_clone_urls(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(
        PUBLISHED,
        clones=(
            "https://me:hunter2@mirror.example.org/alias/{alias}?token=hunter2",
            "ria+https://hunter2@mirror.example.org/store/",
            "ssh://hunter2@mirror.example.org/srv/{id}",
        ),
    )
    pinned = new_lock_folder.pin_of(PUBLISHED)
    assert pinned.clone == (
        "https://mirror.example.org/alias/demo--000002",
        f"ria+https://mirror.example.org/store/#{pinned.dataset_id}",
        f"ssh://mirror.example.org/srv/{pinned.dataset_id}",
    )
    assert b"hunter2" not in new_lock_folder.file.read_bytes()


# --- damaged stores and lock files


def test_records_of_another_state_are_not_pinned(still_lab: LabStore, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(still_lab.mirror_harness.folder, folder, symlinks=True)
    paper = LockFolder(MirrorHarness(still_lab.mirror_harness.mirrors, folder), tmp_path / "paper")
    with paper.mirror_harness.index() as index:
        ids = {one: index.versions.resolve(one) for one in (PUBLISHED, DRAFT)}
    files = folder.glob("neuromirror/records/*/*/*")
    records = {path.name[:40]: path for path in files if ".mint." not in path.name}
    records[ids[DRAFT].commit].write_bytes(records[ids[PUBLISHED].commit].read_bytes())
    with pytest.raises(LockManifestDamagedError, match=r"demo:000004.*sync --deep"):
        paper.pin(PUBLISHED, DRAFT)
    assert paper.files() == {}
    records[ids[DRAFT].commit].write_bytes(b"")
    with pytest.raises(StoreDamagedError):
        paper.pin(DRAFT)
    # lost records are read from git
    records[ids[DRAFT].commit].unlink()
    paper.pin(DRAFT)
    assert paper.pin_of(DRAFT).state == ids[DRAFT].state


def test_a_lock_that_cannot_be_read_is_not_overwritten(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(PUBLISHED)
    new_lock_folder.edit("files = 5", "files = 5\nmine = 1")
    before = new_lock_folder.files()
    with pytest.raises(LockUnusableError, match="'mine'"):
        new_lock_folder.pin(DRAFT)
    assert new_lock_folder.files() == before
    new_lock_folder.file.write_text("lock-version = 3\n")
    with pytest.raises(LockUnusableError):
        new_lock_folder.pin(DRAFT)
    assert new_lock_folder.file.read_text() == "lock-version = 3\n"


# --- the commands


def test_the_command_pins(new_lock_folder: LockFolder) -> None:
    lock = str(new_lock_folder.file)
    options = ("--path", "sub-*", "--bundle", "--clone", "ria+https://mirror.example.org/")
    done = new_lock_folder.command("pin", PUBLISHED, DRAFT, "-o", lock, *options)
    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", PUBLISHED],
        ["ok", DRAFT],
    ]
    assert new_lock_folder.pin_of(DRAFT).paths == ("sub-*",)
    done = new_lock_folder.command("--json", "pin", PUBLISHED, "--whole", "-o", lock)
    (record,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (record["action"], record["status"], record["dataset"]) == ("pin", "ok", PUBLISHED)
    assert (new_lock_folder.pin_of(PUBLISHED).paths, new_lock_folder.pin_of(PUBLISHED).files) == (
        (),
        5,
    )
    done = new_lock_folder.command("pin", "--remove", PUBLISHED, "-o", lock)
    assert done.exit_code == 0
    assert [dataset.name for dataset in new_lock_folder.lock.datasets] == [DRAFT]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "VERSION"),
        ((PUBLISHED, PUBLISHED), "named twice"),
        ((PUBLISHED, "--remove", PUBLISHED), "named twice"),
        ((PUBLISHED, "--path", "sub", "--whole"), "one of them"),
        ((PUBLISHED, DRAFT, "--clone", "https://mirror.example.org/x"), "{alias}"),
        ((PUBLISHED, "--clone", "/srv/store"), "clone URL"),
        ((PUBLISHED, "--path", "../x"), "glob"),
        (("demo",), "is a mirror"),
        (("demo:999999",), "999999"),
    ],
)
def test_wrong_usage_of_the_command_changes_nothing(
    new_lock_folder: LockFolder, arguments: tuple[str, ...], message: str
) -> None:
    done = new_lock_folder.command("pin", *arguments, "-o", str(new_lock_folder.file))
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert new_lock_folder.files() == {}
