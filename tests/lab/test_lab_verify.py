"""Bytes that are here beside what a clone's own commit says of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from pathlib import Path

import pytest
from crawl_place import git
from lab_again import Lab
from lab_clones import annex, clone, copied, failed, fill, flip, looked_at, proved, put
from scripted import Scripted, Thing, files

from neuromirror.annex import EtagDigest, etag_of
from neuromirror.lab.verify import NOT_HERE, Finding, NotADataset, verify
from neuromirror.lab.verify.proofs import proof_of

NWB = "demo:000004"
ZARR = "demo:000005"


@pytest.fixture(scope="session")
def filled(still_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clones of two datasets with all their content; to be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("filled")
    for name in (NWB, ZARR):
        fill(clone(still_lab.place, name, folder / name.partition(":")[2]))
    return folder


@pytest.fixture
def nwb(filled: Path, tmp_path: Path) -> Path:
    """Three NWB files, one of which is known by its ETag alone."""
    return copied(filled / "000004", tmp_path / "000004")


def nwb_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("sub-*/*.nwb"))


def of(folder: Path, file: Path, **options: object) -> Finding:
    """What is found of one file."""
    path = str(file.relative_to(folder))
    (found,) = [one for one in looked_at(folder, **options) if one.path == path]
    return found


def test_a_clone_with_all_its_content_holds(filled: Path, still_lab: Lab) -> None:
    found = looked_at(filled / "000004")
    assert failed(found) == []
    assert proved(found) == {("sha256", "checked"): 2, ("etag", "checked"): 1}
    with still_lab.place.index() as index:
        row = index.resolve(NWB)
    whole = {one.what: one.message for one in found if one.path == "."}
    assert whole == {"commit": row.commit, "tree": row.tree, "state": row.state}
    assert {(one.dataset, one.version) for one in found} == {(NWB, row.label)}
    assert {one.path for one in found if one.what == "document"} >= {"dandiset.yaml"}
    assert proved(looked_at(filled / "000005")) == {
        ("md5", "checked"): 36,
        ("sha256", "checked"): 2,
    }


def test_files_come_in_order_of_path_however_many_look(filled: Path) -> None:
    names = [one.path for one in looked_at(filled / "000005", jobs=5) if one.path != "."]
    assert names == sorted(names)
    assert len(names) == len(set(names)) > 38


def test_one_flipped_bit_is_found_and_the_others_hold(nwb: Path) -> None:
    for number, file in enumerate(nwb_files(nwb)):
        flip(file)
        assert len(failed(looked_at(nwb))) == number + 1
        found = of(nwb, file)
        assert (found.status, found.evidence, found.checked) == ("error", None, None)
        content = file.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        if "XS3ETAG" in str(found.key):
            checksum = hashlib.md5(hashlib.md5(content).digest()).hexdigest() + "-1"
        assert checksum in found.message
    assert proved(looked_at(nwb)) == {}


def test_content_of_another_length_is_not_even_hashed(nwb: Path) -> None:
    first = nwb_files(nwb)[0]
    put(first, first.read_bytes() + b"!")
    assert of(nwb, first).message == "other bytes: 52777 of them, not 52776"


def test_missing_content_is_named_and_allowed_where_one_says_so(nwb: Path) -> None:
    first, second, _ = nwb_files(nwb)
    shutil.rmtree(first.resolve().parent)
    found = of(nwb, first)
    assert (found.status, found.message, found.size) == ("impossible", NOT_HERE, 52776)
    assert failed(looked_at(nwb)) == [("file", str(first.relative_to(nwb)), "impossible")]
    flip(second)
    found = of(nwb, first, allow_missing=True)
    assert (found.status, found.evidence) == ("notneeded", None)
    # missing is no reason to pass over what is wrong
    assert failed(looked_at(nwb, allow_missing=True)) == [
        ("file", str(second.relative_to(nwb)), "error")
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_called_missing(nwb: Path) -> None:
    first = nwb_files(nwb)[0]
    first.resolve().chmod(0)
    assert of(nwb, first).status == "error"


def test_what_is_no_regular_file_does_not_make_it_wait(nwb: Path) -> None:
    first, second, _ = nwb_files(nwb)
    for file, make in ((first, os.mkfifo), (second, os.mkdir)):
        there = file.resolve()
        shutil.rmtree(there.parent)
        there.parent.mkdir()
        make(there)
        assert of(nwb, file).status == "error"
    (nwb / "dandiset.yaml").unlink()
    os.mkfifo(nwb / "dandiset.yaml")
    assert of(nwb, nwb / "dandiset.yaml").status == "error"


def test_what_lies_in_the_place_of_a_link_is_looked_at(nwb: Path) -> None:
    first, second, third = nwb_files(nwb)
    content = first.read_bytes()
    first.unlink()
    assert of(nwb, first).message == "missing from the work tree"
    first.write_bytes(content)
    assert (of(nwb, first).status, of(nwb, first).checked) == ("ok", "checked")
    first.write_bytes(content[::-1])
    assert of(nwb, first).status == "error"
    # a link that leads to the right bytes is not the one that was committed
    second.rename(nwb / "other")
    second.symlink_to(os.path.relpath((nwb / "other").resolve(), second.parent))
    third.unlink()
    third.symlink_to("/dev/zero")
    assert {of(nwb, one).message for one in (third,)} == {"it is not as it was committed"}
    assert len(failed(looked_at(nwb))) == 2 + (of(nwb, second).status == "error")


def test_documents_are_hashed_too(nwb: Path) -> None:
    document = nwb / "dandiset.yaml"
    document.write_bytes(document.read_bytes() + b"\n")
    (nwb / ".datalad" / "config").unlink()
    assert failed(looked_at(nwb)) == [
        ("document", ".datalad/config", "error"),
        ("document", "dandiset.yaml", "error"),
    ]


def test_a_commit_of_other_files_is_not_the_state_that_it_names(nwb: Path) -> None:
    git(nwb, "rm", "-q", str(nwb_files(nwb)[0].relative_to(nwb)))
    git(nwb, "commit", "-qm", "one less")
    assert failed(looked_at(nwb)) == [("state", ".", "error")]


@pytest.mark.parametrize("kind", ["commit", "tree", "blob"])
def test_an_object_of_git_that_is_not_what_its_id_says_is_not_believed(
    nwb: Path, kind: str
) -> None:
    # a commit of its own, so that its objects lie loose
    (nwb / "more").mkdir()
    (nwb / "more" / "notes.txt").write_text("notes")
    git(nwb, "add", "more")
    git(nwb, "commit", "-qm", "more")
    name = {"commit": "HEAD", "tree": "HEAD:more", "blob": "HEAD:more/notes.txt"}[kind]
    sha = git(nwb, "rev-parse", name).strip()
    path = nwb / ".git" / "objects" / sha[:2] / sha[2:]
    content = zlib.decompress(path.read_bytes())
    assert content.startswith(kind.encode())
    # of the same length, and still an object that git reads
    other = content.replace(b"notes", b"votes").replace(b"more\n", b"core\n")
    assert other != content
    put(path, zlib.compress(other))
    found = [one for one in looked_at(nwb) if one.failed]
    assert any(sha in one.message for one in found)


def test_hostile_trees_do_not_lead_out_of_the_dataset(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "clone"
    git(tmp_path, "init", "-q", "clone")
    blob = git(folder, "hash-object", "-w", str(secret)).strip()
    raw = b"100644 ..\0" + bytes.fromhex(blob)
    draft = tmp_path / "tree"
    draft.write_bytes(raw)
    tree = git(folder, "hash-object", "-t", "tree", "-w", "--literally", str(draft)).strip()
    commit = git(folder, "commit-tree", "-m", "x", tree).strip()
    git(folder, "update-ref", "HEAD", commit)
    (found,) = [one for one in looked_at(folder) if one.failed]
    assert (found.what, "'..'" in found.message) == ("tree", True)


# --- what is no clone of a mirror's


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path, nwb: Path) -> None:
    for folder in (tmp_path, nwb / "sub-401"):
        with pytest.raises(NotADataset, match="no dataset") as error:
            looked_at(folder)
        assert error.value.exit_code == 2
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(NotADataset, match="no commit"):
        looked_at(tmp_path / "empty")
    git(tmp_path, "clone", "-q", "--bare", str(nwb), str(tmp_path / "bare"))
    with pytest.raises(NotADataset, match="bare"):
        looked_at(tmp_path / "bare")


BACKENDS = (
    *("MD5E", "SHA1E", "SHA224", "SHA256", "SHA384E", "SHA512", "SHA3_256E", "SHA3_512"),
    *("BLAKE2B160E", "BLAKE2B512", "BLAKE2S256E", "XS3ETAG", "WORM", "SKEIN256"),
)
UNPROVED = {"WORM", "SKEIN256"}


def test_every_kind_of_key_is_hashed(tmp_path: Path) -> None:
    folder = tmp_path / "any"
    git(tmp_path, "init", "-q", str(folder))
    annex(folder, "init", "-q")
    rules = []
    for backend in BACKENDS:
        (folder / f"{backend}.bin").write_bytes(backend.encode() * 100)
        rules.append(f"{backend}.bin annex.backend={backend}\n")
    (folder / ".gitattributes").write_text("".join(rules))
    said = annex(folder, "add", "-q", *(f"{one}.bin" for one in BACKENDS))
    git(folder, "add", ".gitattributes")
    git(folder, "commit", "-qm", "all")
    for backend in BACKENDS:
        assert f"/{backend}-s" in os.readlink(folder / f"{backend}.bin"), said
    found = {one.path: one for one in looked_at(folder) if one.what == "file"}
    assert len(found) == len(BACKENDS)
    for backend in BACKENDS:
        one = found[f"{backend}.bin"]
        assert one.status == "ok"
        assert one.checked == ("claimed" if backend in UNPROVED else "checked")
        word = {"SHA256": "sha256", "MD5E": "md5", "XS3ETAG": "etag"}.get(backend)
        assert (one.evidence and one.evidence.value) == ("size" if backend in UNPROVED else word)
        flip(folder / one.path)
    for one in looked_at(folder):
        if one.what == "file":
            assert one.failed == (one.path.removesuffix(".bin") not in UNPROVED), one


def test_what_fsck_finds_is_found(nwb: Path) -> None:
    annex(nwb, "init", "-q")
    first, second, third = nwb_files(nwb)
    flip(first)
    put(second, second.read_bytes()[:-1])
    found = {path for what, path, _ in failed(looked_at(nwb)) if what == "file"}
    said = annex(nwb, "fsck", "--json", "--json-error-messages")
    told = [line for line in said.splitlines() if '"success":false' in line]
    assert len(told) == len(found) == 2
    for path in found:
        assert any(path in line for line in told)
    # git-annex has put them aside
    assert {of(nwb, one).message for one in (first, second)} == {NOT_HERE}
    assert of(nwb, third).status == "ok"


def test_unlocked_files_count_as_what_they_stand_for(nwb: Path) -> None:
    annex(nwb, "init", "-q")
    head = git(nwb, "rev-parse", "HEAD").strip()
    annex(nwb, "adjust", "--unlock", "-q")
    assert git(nwb, "rev-parse", "HEAD").strip() != head
    first, second, third = nwb_files(nwb)
    assert not first.is_symlink()
    found = looked_at(nwb)
    assert failed(found) == []
    assert next(one.message for one in found if one.what == "commit") == head
    assert proved(found) == {("sha256", "checked"): 2, ("etag", "checked"): 1}
    flip(first)
    # the pointer that git-annex leaves where content is not here
    key = of(nwb, second).key
    assert key is not None
    (there,) = (nwb / ".git" / "annex" / "objects").glob(f"*/*/{key}/{key}")
    second.write_bytes(f"/annex/objects/{key}\n".encode())
    # not filled, but in the annex all the same
    assert failed(looked_at(nwb)) == [("file", str(first.relative_to(nwb)), "error")]
    shutil.rmtree(there.parent)
    assert (of(nwb, second).message, of(nwb, third).status) == (NOT_HERE, "ok")
    # committed unlocked, the state is the same
    flip(first)
    git(nwb, "commit", "-qam", "unlocked", "--allow-empty")
    git(nwb, "checkout", "-q", "--detach")
    states = [one for one in looked_at(nwb, allow_missing=True) if one.what == "state"]
    assert [one.status for one in states] == ["ok"]


def test_the_hash_that_git_annex_learnt_of_a_url_counts_but_proves_nothing(
    nwb: Path, still_lab: Lab, tmp_path: Path
) -> None:
    from neuromirror.lab.verify import Clone

    with Clone.at(nwb) as opened:
        url = opened.urls(nwb_files(nwb)[0].resolve().name)[0]
    folder = tmp_path / "url"
    git(tmp_path, "init", "-q", str(folder))
    annex(folder, "init", "-q")
    annex(folder, "addurl", "-q", "--fast", "--file", "x.nwb", url)
    git(folder, "commit", "-qm", "x")
    assert of(folder, folder / "x.nwb").message == NOT_HERE
    annex(folder, "get", "-q", ".")
    found = of(folder, folder / "x.nwb")
    assert (found.status, found.evidence, found.checked) == ("ok", "size", "claimed")
    assert "first got" in found.message
    flip(folder / "x.nwb")
    assert of(folder, folder / "x.nwb").status == "error"


# --- sub-datasets


def zarr_clone(box: Lab, source: Scripted) -> Path:
    """A dataset with a Zarr of its own, and a huge one, cloned with both."""
    names = [f"one.zarr/{name}" for name in (".zarray", *map(str, range(5)))]
    huge = [f"huge.zarr/{name}" for name in (".zarray", *map(str, range(20)))]
    source.things["a"] = Thing(files("x.bin", *names, *huge))
    box.place.sync()
    folder = clone(box.place, "box:a", box.folder / "clone")
    for name in ("one.zarr", "huge.zarr"):
        (folder / name).rmdir()
        clone(box.place, f"box:a/{name}", folder / name)
    with_content(folder)
    return folder


def with_content(folder: Path) -> None:
    """Fills links of the scripted source, whose files hold their names."""
    for link in [*folder.glob("*"), *folder.glob("*.zarr/*"), *folder.glob("*.zarr/.z*")]:
        if link.is_symlink():
            target = link.parent / os.readlink(link)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(str(link.relative_to(folder)).encode())


def test_sub_datasets_are_opened(box: Lab, source: Scripted) -> None:
    folder = zarr_clone(box, source)
    found = looked_at(folder, allow_missing=True)
    assert failed(found) == []
    # of the huge one only its metadata is in git
    assert proved(found) == {("md5", "checked"): 8}
    assert {one.dataset for one in found} == {"box:a"}
    assert [one.path for one in found if one.what == "state" and one.status == "ok"] == [
        ".",
        "one.zarr",
    ]
    (manifest,) = [one for one in found if one.what == "state" and one.status != "ok"]
    assert (manifest.path, manifest.status) == ("huge.zarr", "notneeded")
    assert "20 of its files are not in git" in manifest.message
    assert failed(looked_at(folder)) == [("state", "huge.zarr", "impossible")]
    flip(folder / "one.zarr" / "3")
    assert failed(looked_at(folder, allow_missing=True)) == [("file", "one.zarr/3", "error")]


def test_a_sub_dataset_that_is_not_here_or_elsewhere_is_told(box: Lab, source: Scripted) -> None:
    folder = zarr_clone(box, source)
    shutil.rmtree(folder / "huge.zarr" / ".git")
    inner = folder / "one.zarr"
    git(inner, "rm", "-q", "4")
    git(inner, "commit", "-qm", "one less")
    found = {one.path: one for one in looked_at(folder) if one.what == "part"}
    assert found["huge.zarr"].status == "impossible"
    assert found["huge.zarr"].message == f"{NOT_HERE}: a sub-dataset of 21 files"
    assert found["one.zarr"].status == "error"
    assert git(inner, "rev-parse", "HEAD").strip() in found["one.zarr"].message
    # what is to be there is looked at all the same
    assert ("file", "one.zarr/4", "error") in failed(looked_at(folder))


# --- hashing


@pytest.mark.parametrize("part_size", [1, 7, 64, 100, 1000])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 999])
def test_an_etag_is_the_same_in_whatever_pieces_the_bytes_come(part_size: int, size: int) -> None:
    import io

    content = bytes(range(256)) * 4
    content = content[:size]
    wanted = etag_of(io.BytesIO(content), part_size)
    for piece in (1, 10, 64, 1000):
        hashing = EtagDigest(part_size)
        for start in range(0, size, piece):
            hashing.update(memoryview(content)[start : start + piece])
        assert hashing.hexdigest() == wanted


def test_no_bytes_have_the_etag_of_dandi_or_of_s3() -> None:
    for etag in ("d41d8cd98f00b204e9800998ecf8427e-0", "59adb24ef3cdbe0297f05b395827453f-1"):
        proof = proof_of(f"XS3ETAG-s0--{etag}-67108864")
        hashing = proof.hashing()
        assert hashing is not None
        assert proof.agrees(hashing.hexdigest(), 0)
    assert not proof_of("XS3ETAG-s0--" + "0" * 32 + "-1-67108864").agrees("x", 0)


@pytest.mark.parametrize(
    "key",
    ["XS3ETAG-s5--nonsense", "BLAKE2B999-s5--00", "XFOO-s5--00", "WORM-s5-m1--x", "URL-s5--x"],
)
def test_a_key_that_names_no_checksum_we_know_proves_nothing(key: str) -> None:
    proof = proof_of(key)
    assert (proof.hashing(), proof.size, proof.evidence) == (None, 5, "size")


def test_looking_can_be_given_up(filled: Path) -> None:
    findings = verify(filled / "000005")
    assert next(findings).what == "commit"
    findings.close()  # type: ignore[attr-defined]
