"""What says 'verified' covers every byte beside a lock file: edited manifests are errors."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import neuromirror
from neuromirror.cli import main
from neuromirror.lab.lock_manifests import LockManifestDamagedError, LockManifestReader
from support.lab_store import LabStore
from support.lock_folders import (
    PUBLISHED,
    ZARR,
    LockFolder,
    manifest_lines,
    replace_beside,
    restore_lock,
    rewrite_manifest,
)
from support.mirror_harness import MirrorHarness
from support.stub_server import StubServer, responds_with

DOCUMENT = "dandiset.yaml"


def forge_document(lines: list[dict[str, Any]]) -> None:
    (line,) = (one for one in lines if one.get("path") == DOCUMENT)
    line["content"] = "name: forged\n"


def forge_urls(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        if "urls" in line:
            line["urls"] = ["https://forged.example.org/x"]


def forge_key(lines: list[dict[str, Any]]) -> None:
    """Exchange the keys of two files, which the state digest does not cover."""
    first, second = [line for line in lines if "key" in line][:2]
    first["key"], second["key"] = second["key"], first["key"]


def forge_remotes(lines: list[dict[str, Any]]) -> None:
    lines[0]["remotes"] += "0d3c2a4e-0000-4000-8000-000000000001 type=web name=x timestamp=1s\n"


def run(*arguments: str) -> Result:
    """Run neuromirror without a store."""
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def commands(paper: LockFolder, folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the commands that read a manifest; those that verify or write below ``folder``."""
    lock, into = str(paper.file), str(folder)
    return {
        "verify --remote": ("verify", lock, "--remote", "--in", into),
        "verify": ("verify", lock, "--in", into),
        "restore": ("restore", lock, "--into", into, "--offline"),
        "export-lock": ("export-lock", lock, "--format", "aria2", "-o", f"{into}/list"),
        "digest": ("digest", lock),
        "cite": ("cite", lock, "-o", f"{into}/cited"),
    }


@pytest.mark.parametrize("forge", [forge_document, forge_urls, forge_remotes])
def test_commands_refuse_an_edited_manifest_beside_a_genuine_lock(
    new_lock_folder: LockFolder, tmp_path: Path, forge: Callable[[list[dict[str, Any]]], None]
) -> None:
    new_lock_folder.pin(PUBLISHED)
    manifest = rewrite_manifest(new_lock_folder, PUBLISHED, forge)
    (into := tmp_path / "into").mkdir()
    for name, command in commands(new_lock_folder, into).items():
        done = run(*command)
        assert done.exit_code == 1, (name, done.output)
        assert f"{manifest} is not the file that the lock file states" in done.output, name
        assert list(into.iterdir()) == [], name


@pytest.mark.parametrize("forge", [forge_document, forge_key])
def test_a_lock_edited_to_match_its_manifest_contradicts_its_commit(
    new_lock_folder: LockFolder, tmp_path: Path, forge: Callable[[list[dict[str, Any]]], None]
) -> None:
    new_lock_folder.pin(PUBLISHED)
    rewrite_manifest(new_lock_folder, PUBLISHED, forge, restate=True)
    (into := tmp_path / "into").mkdir()
    for name, command in commands(new_lock_folder, into).items():
        done = run(*command)
        assert done.exit_code == 1, (name, done.output)
        assert "manifest" in done.output, name
        assert list(into.iterdir()) == [], name
    with pytest.raises(LockManifestDamagedError, match="tree"):
        neuromirror.open(new_lock_folder.file, DOCUMENT)


def test_open_refuses_an_edited_manifest_beside_a_genuine_lock(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(PUBLISHED)
    with neuromirror.open(new_lock_folder.file, DOCUMENT) as file:
        genuine = file.read()
    manifest = rewrite_manifest(new_lock_folder, PUBLISHED, forge_document)
    with pytest.raises(LockManifestDamagedError, match="sha256") as caught:
        neuromirror.open(new_lock_folder.file, DOCUMENT)
    assert str(manifest) in str(caught.value)
    # another path of the same bytes is as good
    new_lock_folder.pin(PUBLISHED)
    manifest.rename(manifest.with_name("kept"))
    manifest.symlink_to("kept")
    with neuromirror.open(new_lock_folder.file, DOCUMENT) as file:
        assert file.read() == genuine


@pytest.mark.parametrize("restate", [False, True])
def test_a_lock_from_a_catalogue_has_the_manifests_that_it_states(
    new_lock_folder: LockFolder, tmp_path: Path, restate: bool
) -> None:
    new_lock_folder.pin(PUBLISHED)
    rewrite_manifest(new_lock_folder, PUBLISHED, forge_document, restate=restate)
    sent = io.BytesIO()
    with zipfile.ZipFile(sent, "w") as archive:
        for name, content in new_lock_folder.files().items():
            archive.writestr(name, content)
    lock = tmp_path / "mine" / "datasets.lock"
    with StubServer() as server:
        server.answers["/lock/datasets.lock.zip"] = responds_with(200, sent.getvalue())
        url = f"{server.url}/lock?add={PUBLISHED}"
        done = run("pin", url, "-o", str(lock))
    assert done.exit_code == 1, done.output
    assert "manifest" in done.output
    assert not lock.exists()


def test_a_published_version_that_is_another_in_the_own_store_is_an_error(
    lab: LabStore, tmp_path: Path
) -> None:
    lab.mirror_harness.sync(PUBLISHED)
    paper = LockFolder(lab.mirror_harness, tmp_path / "paper")
    paper.pin(PUBLISHED)
    pinned = paper.pin_of(PUBLISHED)
    other = lab.rewrite(PUBLISHED, pinned.resolved.version, "Mirror-Spec", "X: y\nMirror-Spec")
    (into := tmp_path / "into").mkdir()
    for name, command in commands(paper, into).items():
        if name in ("export-lock", "digest"):
            continue
        done = paper.command(*command)
        assert done.exit_code == 1, (name, done.output)
        assert pinned.commit in done.output, name
        assert other in done.output, name
        assert list(into.iterdir()) == [], name


def test_a_lock_names_the_version_of_its_commit(
    new_lock_folder: LockFolder, still_lab: LabStore, tmp_path: Path
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    new_lock_folder.pin(f"{PUBLISHED}@{old}")
    new_lock_folder.edit(f'version = "{old}"', f'version = "{new}"')
    (into := tmp_path / "into").mkdir()
    for name, command in commands(new_lock_folder, into).items():
        done = run(*command)
        assert (done.exit_code, old in done.output, new in done.output) == (1, True, True), name
        assert list(into.iterdir()) == [], name


def test_a_manifest_that_changes_after_its_check_is_refused(new_lock_folder: LockFolder) -> None:
    new_lock_folder.pin(PUBLISHED)
    reader = LockManifestReader.of_pin(new_lock_folder.lock, new_lock_folder.pin_of(PUBLISHED))
    genuine = reader.path.read_bytes()
    lines = list(reader)
    for forge in (forge_document, forge_remotes, forge_urls):
        rewrite_manifest(new_lock_folder, PUBLISHED, forge)
        with pytest.raises(LockManifestDamagedError, match="changed while it was read"):
            list(reader)
        reader.path.write_bytes(genuine)
    assert list(reader) == lines


@pytest.mark.parametrize("is_missing", [False, True])
def test_an_edited_bundle_is_not_used(
    lock_folder: LockFolder, tmp_path: Path, is_missing: bool
) -> None:
    (bundle,) = lock_folder.folder.rglob("*.bundle")
    bundle.write_bytes(bundle.read_bytes().replace(b"refs/tags/", b"refs/tAgs/"))
    if is_missing:
        lock_folder.delete_files(".jsonl.zst")
    done = restore_lock(lock_folder.lock, tmp_path / "data", offline=True)
    assert done.only().status == ("error" if is_missing else "ok")
    assert f"{bundle} is not the file that the lock file states" in done.only().message
    assert done.folder(PUBLISHED).exists() != is_missing
    cited = run("cite", str(lock_folder.file))
    assert (cited.exit_code, bundle.name in cited.output) == (1, True)


def test_an_edited_manifest_of_a_subdataset_is_refused(
    subdataset_harness: MirrorHarness, tmp_path: Path
) -> None:
    paper = LockFolder(subdataset_harness, tmp_path / "paper")
    paper.pin(ZARR)
    top = paper.lock.manifest_path(paper.pin_of(ZARR))
    (part,) = (one for one in manifest_lines(top) if "dataset" in one and "path" in one)
    inner = top.with_name(f"{part['commit']}.jsonl.zst")
    replace_beside(paper, inner, inner.read_bytes() + b"\0", restate=False)
    (into := tmp_path / "into").mkdir()
    for name, command in commands(paper, into).items():
        if name in ("verify", "cite"):
            continue  # they do not read it
        done = run(*command)
        assert (done.exit_code, inner.name in done.output) == (1, True), (name, done.output)
    with pytest.raises(LockManifestDamagedError, match=inner.name):
        neuromirror.open(paper.file, f"{part['path']}/zarr.json")
