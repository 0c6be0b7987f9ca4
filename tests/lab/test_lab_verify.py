"""Verification of local content against a clone's own commit."""

import hashlib
import os
import re
import shutil
import zlib
from pathlib import Path

import pytest

from neuromirror.lab.digest import digest_clone
from neuromirror.model import LEAF_SIZE
from neuromirror.transfer.annex_objects import BlockDigestsRecorder
from neuromirror.transfer.content_bodies import key_checksum
from neuromirror.transfer.outcomes import NOT_HERE, Finding
from neuromirror.transfer.verified_repository import NotADatasetError
from support.dataset_clones import (
    clone_dataset,
    copy_folder,
    evidence_counts,
    failures,
    fetch_content,
    overwrite,
    run_annex,
    verify_all,
)
from support.lab_store import LabStore
from support.mirror_harness import run_git
from support.scripted_source import ScriptedDataset, ScriptedSource, files
from support.synced_mirror import flip_bit

NWB = "demo:000004"
ZARR = "demo:000005"


@pytest.fixture(scope="session")
def filled_clones(still_lab: LabStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clones of two datasets with all their content; copy before changing them."""
    folder = tmp_path_factory.mktemp("filled")
    for name in (NWB, ZARR):
        fetch_content(
            clone_dataset(still_lab.mirror_harness, name, folder / name.partition(":")[2])
        )
    return folder


@pytest.fixture
def nwb_clone(filled_clones: Path, tmp_path: Path) -> Path:
    """A clone with three NWB files, one of which has an ETag only."""
    return copy_folder(filled_clones / "000004", tmp_path / "000004")


def nwb_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("sub-*/*.nwb"))


def finding_for_file(folder: Path, file: Path, **options: object) -> Finding:
    """Return the finding for one file."""
    path = str(file.relative_to(folder))
    (found,) = [one for one in verify_all(folder, **options) if one.path == path]
    return found


def test_a_complete_clone_has_no_failures(filled_clones: Path, still_lab: LabStore) -> None:
    found = verify_all(filled_clones / "000004")
    assert failures(found) == []
    assert evidence_counts(found) == {("sha256", "checked"): 2, ("etag", "checked"): 1}
    with still_lab.mirror_harness.index() as index:
        row = index.versions.resolve(NWB)
    whole = {one.kind: one.message for one in found if one.path == "."}
    assert whole == {"commit": row.commit, "tree": row.tree, "state": row.state}
    assert {(one.dataset, one.version) for one in found} == {(NWB, row.label)}
    assert {one.path for one in found if one.kind == "document"} >= {"dandiset.yaml"}
    found = verify_all(filled_clones / "000005", jobs=5)
    assert evidence_counts(found) == {("md5", "checked"): 36, ("sha256", "checked"): 2}
    # in the order of paths, for any number of jobs
    names = [one.path for one in found if one.path != "."]
    assert names == sorted(set(names))


def test_one_flipped_bit_is_found(nwb_clone: Path) -> None:
    for number, file in enumerate(nwb_files(nwb_clone)):
        flip_bit(file)
        assert len(failures(verify_all(nwb_clone))) == number + 1
        found = finding_for_file(nwb_clone, file)
        assert (found.status, found.evidence, found.checked) == ("error", None, None)
        content = file.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        if "XS3ETAG" in str(found.key):
            checksum = hashlib.md5(hashlib.md5(content).digest()).hexdigest() + "-1"
        assert checksum in found.message
    assert evidence_counts(verify_all(nwb_clone)) == {}


def test_content_of_another_size_is_an_error(nwb_clone: Path) -> None:
    first = nwb_files(nwb_clone)[0]
    overwrite(first, first.read_bytes() + b"!")
    found = finding_for_file(nwb_clone, first)
    assert (found.status, found.checked) == ("error", None)
    assert {"52776", "52777"} <= set(re.findall(r"\d+", found.message))


def test_missing_content_is_a_failure_unless_allowed(nwb_clone: Path) -> None:
    first, second, _ = nwb_files(nwb_clone)
    shutil.rmtree(first.resolve().parent)
    found = finding_for_file(nwb_clone, first)
    assert (found.status, found.message, found.size) == ("impossible", NOT_HERE, 52776)
    assert failures(verify_all(nwb_clone)) == [
        ("file", str(first.relative_to(nwb_clone)), "impossible")
    ]
    flip_bit(second)
    found = finding_for_file(nwb_clone, first, allow_missing=True)
    assert (found.status, found.evidence) == ("notneeded", None)
    # missing content must not hide wrong content
    assert failures(verify_all(nwb_clone, allow_missing=True)) == [
        ("file", str(second.relative_to(nwb_clone)), "error")
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_an_error_not_missing(nwb_clone: Path) -> None:
    first = nwb_files(nwb_clone)[0]
    first.resolve().chmod(0)
    assert finding_for_file(nwb_clone, first).status == "error"


def test_pipes_and_folders_are_errors_without_blocking(nwb_clone: Path) -> None:
    first, second, _ = nwb_files(nwb_clone)
    for file, make in ((first, os.mkfifo), (second, os.mkdir)):
        there = file.resolve()
        shutil.rmtree(there.parent)
        there.parent.mkdir()
        make(there)
        assert finding_for_file(nwb_clone, file).status == "error"
    (nwb_clone / "dandiset.yaml").unlink()
    os.mkfifo(nwb_clone / "dandiset.yaml")
    assert finding_for_file(nwb_clone, nwb_clone / "dandiset.yaml").status == "error"


def test_a_file_replacing_a_link_is_verified(nwb_clone: Path) -> None:
    first, second, third = nwb_files(nwb_clone)
    content = first.read_bytes()
    first.unlink()
    assert finding_for_file(nwb_clone, first).status == "error"
    first.write_bytes(content)
    assert (
        finding_for_file(nwb_clone, first).status,
        finding_for_file(nwb_clone, first).checked,
    ) == ("ok", "checked")
    first.write_bytes(content[::-1])
    assert finding_for_file(nwb_clone, first).status == "error"
    # a link to the right bytes that differs from the committed link
    second.rename(nwb_clone / "other")
    second.symlink_to(os.path.relpath((nwb_clone / "other").resolve(), second.parent))
    third.unlink()
    third.symlink_to("/dev/zero")
    assert finding_for_file(nwb_clone, third).status == "error"
    assert len(failures(verify_all(nwb_clone))) == 2 + (
        finding_for_file(nwb_clone, second).status == "error"
    )


def test_files_stored_in_git_are_hashed(nwb_clone: Path) -> None:
    document = nwb_clone / "dandiset.yaml"
    document.write_bytes(document.read_bytes() + b"\n")
    (nwb_clone / ".datalad" / "config").unlink()
    assert failures(verify_all(nwb_clone)) == [
        ("document", ".datalad/config", "error"),
        ("document", "dandiset.yaml", "error"),
    ]


def test_a_removed_file_contradicts_the_state_digest(nwb_clone: Path) -> None:
    run_git(nwb_clone, "rm", "-q", str(nwb_files(nwb_clone)[0].relative_to(nwb_clone)))
    run_git(nwb_clone, "commit", "-qm", "one less")
    assert failures(verify_all(nwb_clone)) == [("state", ".", "error")]


@pytest.mark.parametrize("kind", ["commit", "tree", "blob"])
def test_a_damaged_git_object_is_reported(nwb_clone: Path, kind: str) -> None:
    # a commit of its own, so that its objects lie loose
    (nwb_clone / "more").mkdir()
    (nwb_clone / "more" / "notes.txt").write_text("notes")
    run_git(nwb_clone, "add", "more")
    run_git(nwb_clone, "commit", "-qm", "more")
    name = {"commit": "HEAD", "tree": "HEAD:more", "blob": "HEAD:more/notes.txt"}[kind]
    sha = run_git(nwb_clone, "rev-parse", name).strip()
    path = nwb_clone / ".git" / "objects" / sha[:2] / sha[2:]
    content = zlib.decompress(path.read_bytes())
    assert content.startswith(kind.encode())
    # of the same length, and still an object that git reads
    other = content.replace(b"notes", b"votes").replace(b"more\n", b"core\n")
    assert other != content
    overwrite(path, zlib.compress(other))
    found = [one for one in verify_all(nwb_clone) if one.failed]
    assert any(sha in one.message for one in found)


def test_a_tree_entry_with_dots_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "clone"
    run_git(tmp_path, "init", "-q", "clone")
    blob = run_git(folder, "hash-object", "-w", str(secret)).strip()
    raw = b"100644 ..\0" + bytes.fromhex(blob)
    draft = tmp_path / "tree"
    draft.write_bytes(raw)
    tree = run_git(folder, "hash-object", "-t", "tree", "-w", "--literally", str(draft)).strip()
    commit = run_git(folder, "commit-tree", "-m", "x", tree).strip()
    run_git(folder, "update-ref", "HEAD", commit)
    (found,) = [one for one in verify_all(folder) if one.failed]
    assert (found.kind, "'..'" in found.message) == ("tree", True)


# --- other repositories


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path, nwb_clone: Path) -> None:
    for folder in (tmp_path, nwb_clone / "sub-401"):
        with pytest.raises(NotADatasetError, match=re.escape(str(folder))) as error:
            verify_all(folder)
        assert error.value.exit_code == 2
    run_git(tmp_path, "init", "-q", "empty")
    with pytest.raises(NotADatasetError, match="/empty "):
        verify_all(tmp_path / "empty")
    run_git(tmp_path, "clone", "-q", "--bare", str(nwb_clone), str(tmp_path / "bare"))
    with pytest.raises(NotADatasetError, match="/bare "):
        verify_all(tmp_path / "bare")


BACKENDS = (
    *("MD5E", "SHA1E", "SHA224", "SHA256", "SHA384E", "SHA512", "SHA3_256E", "SHA3_512"),
    *("BLAKE2B160E", "BLAKE2B512", "BLAKE2S256E", "XS3ETAG", "WORM", "SKEIN256"),
)
UNPROVED = {"WORM", "SKEIN256"}


def test_every_kind_of_key_is_hashed(tmp_path: Path) -> None:
    folder = tmp_path / "any"
    run_git(tmp_path, "init", "-q", str(folder))
    run_annex(folder, "init", "-q")
    rules = []
    for backend in BACKENDS:
        (folder / f"{backend}.bin").write_bytes(backend.encode() * 100)
        rules.append(f"{backend}.bin annex.backend={backend}\n")
    (folder / ".gitattributes").write_text("".join(rules))
    output = run_annex(folder, "add", "-q", *(f"{one}.bin" for one in BACKENDS))
    run_git(folder, "add", ".gitattributes")
    run_git(folder, "commit", "-qm", "all")
    for backend in BACKENDS:
        assert f"/{backend}-s" in os.readlink(folder / f"{backend}.bin"), output
    found = {one.path: one for one in verify_all(folder) if one.kind == "file"}
    assert len(found) == len(BACKENDS)
    for backend in BACKENDS:
        one = found[f"{backend}.bin"]
        assert one.status == "ok"
        assert one.checked == ("claimed" if backend in UNPROVED else "checked")
        evidence = {"SHA256": "sha256", "MD5E": "md5", "XS3ETAG": "etag"}.get(backend)
        assert (one.evidence and one.evidence.value) == (
            "size" if backend in UNPROVED else evidence
        )
        flip_bit(folder / one.path)
    for one in verify_all(folder):
        if one.kind == "file":
            assert one.failed == (one.path.removesuffix(".bin") not in UNPROVED), one


def test_git_annex_fsck_finds_the_same_files(nwb_clone: Path) -> None:
    run_annex(nwb_clone, "init", "-q")
    first, second, third = nwb_files(nwb_clone)
    flip_bit(first)
    overwrite(second, second.read_bytes()[:-1])
    found = {path for what, path, _ in failures(verify_all(nwb_clone)) if what == "file"}
    output = run_annex(nwb_clone, "fsck", "--json", "--json-error-messages")
    failed_lines = [line for line in output.splitlines() if '"success":false' in line]
    assert len(failed_lines) == len(found) == 2
    for path in found:
        assert any(path in line for line in failed_lines)
    # git-annex has moved them to its "bad" folder
    assert {finding_for_file(nwb_clone, one).message for one in (first, second)} == {NOT_HERE}
    assert finding_for_file(nwb_clone, third).status == "ok"


def test_unlocked_files_are_verified_by_their_keys(nwb_clone: Path) -> None:
    run_annex(nwb_clone, "init", "-q")
    head = run_git(nwb_clone, "rev-parse", "HEAD").strip()
    run_annex(nwb_clone, "adjust", "--unlock", "-q")
    assert run_git(nwb_clone, "rev-parse", "HEAD").strip() != head
    first, second, third = nwb_files(nwb_clone)
    assert not first.is_symlink()
    found = verify_all(nwb_clone)
    assert failures(found) == []
    assert next(one.message for one in found if one.kind == "commit") == head
    assert evidence_counts(found) == {("sha256", "checked"): 2, ("etag", "checked"): 1}
    flip_bit(first)
    # the pointer that git-annex writes for missing content
    key = finding_for_file(nwb_clone, second).key
    assert key is not None
    (there,) = (nwb_clone / ".git" / "annex" / "objects").glob(f"*/*/{key}/{key}")
    second.write_bytes(f"/annex/objects/{key}\n".encode())
    # a pointer in the work tree, but the content is in the annex
    assert failures(verify_all(nwb_clone)) == [("file", str(first.relative_to(nwb_clone)), "error")]
    shutil.rmtree(there.parent)
    assert (
        finding_for_file(nwb_clone, second).message,
        finding_for_file(nwb_clone, third).status,
    ) == (NOT_HERE, "ok")
    # committed unlocked, the state is the same
    flip_bit(first)
    run_git(nwb_clone, "commit", "-qam", "unlocked", "--allow-empty")
    run_git(nwb_clone, "checkout", "-q", "--detach")
    states = [one for one in verify_all(nwb_clone, allow_missing=True) if one.kind == "state"]
    assert [state.status for state in states] == ["ok"]


def test_the_equivalent_key_of_a_url_detects_changes_but_is_no_evidence(
    nwb_clone: Path, still_lab: LabStore, tmp_path: Path
) -> None:
    from neuromirror.transfer.verified_repository import VerifiedRepository

    with VerifiedRepository.at(nwb_clone) as opened:
        url = opened.urls(nwb_files(nwb_clone)[0].resolve().name)[0]
    folder = tmp_path / "url"
    run_git(tmp_path, "init", "-q", str(folder))
    run_annex(folder, "init", "-q")
    run_annex(folder, "addurl", "-q", "--fast", "--file", "x.nwb", url)
    run_git(folder, "commit", "-qm", "x")
    assert finding_for_file(folder, folder / "x.nwb").message == NOT_HERE
    run_annex(folder, "get", "-q", ".")
    found = finding_for_file(folder, folder / "x.nwb")
    assert (found.status, found.evidence, found.checked) == ("ok", "size", "claimed")
    content = (folder / "x.nwb").read_bytes()
    flip_bit(folder / "x.nwb")
    assert finding_for_file(folder, folder / "x.nwb").status == "error"
    # nor are block digests of other bytes recorded for the key
    for status, digest in (("error", None), ("ok", hashlib.sha256(content).hexdigest())):
        with BlockDigestsRecorder(piece_size=LEAF_SIZE) as recorder:
            (made,) = digest_clone(folder, (), recorder, jobs=1)
        assert (made.status, made.sha256) == (status, digest)
        overwrite(folder / "x.nwb", content)


# --- subdatasets


def zarr_clone(box: LabStore, source: ScriptedSource) -> Path:
    """Clone a dataset with two subdatasets: a small and a huge Zarr."""
    names = [f"one.zarr/{name}" for name in (".zarray", *map(str, range(5)))]
    huge = [f"huge.zarr/{name}" for name in (".zarray", *map(str, range(20)))]
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin", *names, *huge))
    box.mirror_harness.sync()
    folder = clone_dataset(box.mirror_harness, "box:a", box.folder / "clone")
    for name in ("one.zarr", "huge.zarr"):
        (folder / name).rmdir()
        clone_dataset(box.mirror_harness, f"box:a/{name}", folder / name)
    add_content(folder)
    return folder


def add_content(folder: Path) -> None:
    """Fills links of the scripted source, whose files hold their names."""
    for link in [*folder.glob("*"), *folder.glob("*.zarr/*"), *folder.glob("*.zarr/.z*")]:
        if link.is_symlink():
            target = link.parent / os.readlink(link)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(str(link.relative_to(folder)).encode())


def test_subdatasets_are_compared_recursively(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    folder = zarr_clone(scripted_lab, source)
    found = verify_all(folder, allow_missing=True)
    assert failures(found) == []
    # of the huge one only its metadata is in git
    assert evidence_counts(found) == {("md5", "checked"): 8}
    assert {one.dataset for one in found} == {"box:a"}
    assert [one.path for one in found if one.kind == "state" and one.status == "ok"] == [
        ".",
        "one.zarr",
    ]
    (manifest,) = [one for one in found if one.kind == "state" and one.status != "ok"]
    assert (manifest.path, manifest.status) == ("huge.zarr", "notneeded")
    assert "20" in manifest.message
    assert failures(verify_all(folder)) == [("state", "huge.zarr", "impossible")]
    flip_bit(folder / "one.zarr" / "3")
    assert failures(verify_all(folder, allow_missing=True)) == [("file", "one.zarr/3", "error")]


def test_a_missing_or_foreign_subdataset_is_reported(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    folder = zarr_clone(scripted_lab, source)
    shutil.rmtree(folder / "huge.zarr" / ".git")
    inner = folder / "one.zarr"
    run_git(inner, "rm", "-q", "4")
    run_git(inner, "commit", "-qm", "one less")
    found = {one.path: one for one in verify_all(folder) if one.kind == "subdataset"}
    assert found["huge.zarr"].status == "impossible"
    assert found["huge.zarr"].message.startswith(NOT_HERE)
    assert "21" in found["huge.zarr"].message
    assert found["one.zarr"].status == "error"
    assert run_git(inner, "rev-parse", "HEAD").strip() in found["one.zarr"].message
    # the expected commit of the subdataset is verified all the same
    assert ("file", "one.zarr/4", "error") in failures(verify_all(folder))


# --- hashing


def test_both_etags_of_empty_content_are_accepted() -> None:
    for etag in ("d41d8cd98f00b204e9800998ecf8427e-0", "59adb24ef3cdbe0297f05b395827453f-1"):
        proof = key_checksum(f"XS3ETAG-s0--{etag}-67108864")
        hashing = proof.hasher()
        assert hashing is not None
        assert proof.matches(hashing.hexdigest(), 0)
    assert not key_checksum("XS3ETAG-s0--" + "0" * 32 + "-1-67108864").matches("x", 0)
