"""``neuromirror cite``: metadata of upstream and the exact state, equal for every location."""

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from neuromirror.cli.pin import _FORMATS
from neuromirror.lab import cite as public_cite
from neuromirror.lab.cite import FORMATS as KNOWN
from neuromirror.lab.cite import CitationCollection, cite, read_work, states_of_lock
from neuromirror.lab.cite.documents import parse_object, read_dandiset
from neuromirror.lab.lockfile import Lock
from support.citable_stores import (
    ASSET,
    DERIVED,
    DRAFT,
    FORMATS,
    LABELS,
    PUBLISHED,
    VOLUME,
    CitableStore,
)
from support.command_shell import PROGRAM
from support.lock_folders import LockFolder
from support.mirror_harness import run_git


def test_the_names_of_formats_are_those_of_the_library() -> None:
    assert tuple(KNOWN) == _FORMATS
    assert set(KNOWN) == set(FORMATS)
    assert public_cite is cite


# --- cited metadata


def test_upstream_comes_first_and_then_the_exact_state(citable_store: CitableStore) -> None:
    with citable_store.mirror_harness.index() as index:
        row = index.versions.resolve(PUBLISHED)
    doi = f"10.5072/dandi.000002/{row.label}"
    assert citable_store.run(PUBLISHED).stdout == (
        "Doe, Jane; Roe, Richard (2024) Sharp-wave ripples during rest and sleep (demo) "
        f"(Version {row.label}) [Data set]. DANDI Archive. https://doi.org/{doi} "
        f"(License: CC-BY-4.0). Retrieved as swh:1:rev:{row.commit}, state {row.state}\n"
    )
    assert (
        run_git(citable_store.mirror_harness.repository(PUBLISHED), "cat-file", "-t", row.commit)
        == "commit\n"
    )


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_authors_title_license_and_state_and_a_draft_no_doi(
    citable_store: CitableStore, form: str
) -> None:
    citation = citable_store.citation(form, PUBLISHED)
    work = citable_store.work(PUBLISHED)
    for text in ("Doe", "Richard", "Sharp-wave ripples", "CC-BY-4.0", work.swhid, work.digest):
        assert text in citation, text
    # the address of a person is not passed on
    assert "example.org" not in citation
    citation = citable_store.citation(form, DRAFT)
    work = citable_store.work(DRAFT)
    assert "10.5072" not in citation
    assert work.doi is None
    assert work.version == f"draft {work.state.label}"
    assert work.swhid in citation
    assert work.digest in citation


def test_missing_metadata_is_omitted(citable_store: CitableStore) -> None:
    # early assets have no investigators; a BOSS has neither authors nor dates
    assert citable_store.work(ASSET).authors == ()
    assert citable_store.citation("text", ASSET).startswith(
        f"{citable_store.work(ASSET).title} (2022) (Version "
    )
    citation = citable_store.citation("text", VOLUME)
    assert citation.startswith(
        "demo_cortex/sections/em: Electron microscopy (demo) (n.d.) (Version "
    )
    assert 'The archive asks to cite "Doe 2024, 10.0000/demo?a=1".' in citation
    (item,) = json.loads(citable_store.citation("csl", VOLUME))
    assert not {"author", "issued", "publisher"} & item.keys()
    record = json.loads(citable_store.citation("datacite", LABELS))
    assert record["creators"] == [{"name": ":unav"}]
    assert "rightsList" not in record
    assert "year" not in citable_store.citation("bibtex", LABELS)
    assert "demo" not in {
        load.get("creator") for load in json.loads(citable_store.citation("csl", LABELS))
    }


# --- the files


def test_each_file_is_listed_with_its_urls_size_and_checksum(citable_store: CitableStore) -> None:
    graph = json.loads(citable_store.citation("ro-crate", PUBLISHED))["@graph"]
    found = {one["localPath"]: one for one in graph if one["@type"] == "File"}
    with citable_store.mirror_harness.index() as index:
        rows = list(index.files.of(index.versions.resolve(PUBLISHED)))
        urls = [{location.url for location in index.locations.of(row.content)} for row in rows]
    assert found.keys() - {row.path for row in rows} == {"dandiset.yaml", ".dandi/assets.jsonl"}
    for row, expected_urls in zip(rows, urls, strict=True):
        entity = found[row.path]
        assert {entity["@id"], *entity["contentUrl"]} == expected_urls
        assert "versionId=" in entity["@id"]
        assert entity["contentSize"] == str(row.size)
        assert f"sha256:{entity['sha256']}" in {f"{d.algorithm}:{d.value}" for d in row.digests}
    (root,) = (one for one in graph if one["@id"] == "./")
    assert {one["@id"] for one in root["hasPart"]} == {one["@id"] for one in found.values()}


def test_the_same_content_at_two_paths_is_two_files(
    tmp_path: Path, citable_store: CitableStore
) -> None:
    clone = citable_store.clone(PUBLISHED, tmp_path / "clone")
    link = next((clone / "sub-201").iterdir()).readlink()
    (clone / "sub-201" / "zz.nwb").symlink_to(link)
    commit_like_mirror(clone)
    citation = citable_store.run(str(clone), "--format", "ro-crate").stdout
    ids = [load["@id"] for load in json.loads(citation)["@graph"]]
    assert len(ids) == len(set(ids))
    assert sum(one.endswith("#sub-201/zz.nwb") for one in ids) == 1


def commit_like_mirror(clone: Path) -> None:
    """Add a commit with the message and description of the mirror."""
    message = run_git(clone, "log", "-1", "--format=%B")
    run_git(clone, "add", "-A")
    run_git(clone, "commit", "-q", "-m", message)


# --- equal citations from every location


@pytest.mark.parametrize("name", [PUBLISHED, ASSET, VOLUME])
def test_a_clone_is_cited_as_the_store_is(
    citable_store: CitableStore, tmp_path: Path, name: str
) -> None:
    clone = citable_store.clone(name, tmp_path / "clone", citable_store.work(name).state.label)
    nowhere = citable_store.elsewhere(tmp_path / "nowhere")
    for form in FORMATS:
        assert nowhere.run(str(clone), "--format", form).stdout == citable_store.citation(
            form, name
        ), form


def test_later_lines_of_the_git_annex_branch_change_nothing(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    label = citable_store.work(PUBLISHED).state.label
    clone = citable_store.clone(PUBLISHED, tmp_path / "clone", label)
    before = citable_store.run(str(clone), "--format", "ro-crate").stdout
    (first, *_) = sorted((clone / "sub-201").iterdir())
    run_git(clone, "annex", "init", "-q", "mine")
    run_git(
        clone, "annex", "registerurl", first.readlink().name, "https://elsewhere.example.invalid/"
    )
    log = run_git(clone, "grep", "-h", "elsewhere", "git-annex")
    assert "https://elsewhere.example.invalid/" in log
    assert citable_store.run(str(clone), "--format", "ro-crate").stdout == before


def test_time_zone_language_and_umask_make_no_difference(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    store, target = str(citable_store.mirror_harness.folder), tmp_path / "made"
    subprocess.run(
        [*PROGRAM, "--store", store, "cite", PUBLISHED, VOLUME, "--format", "cff", "-o", target],
        env={**os.environ, "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONUTF8": "0"},
        umask=0o077,
        check=True,
        capture_output=True,
    )
    assert target.read_text("utf-8") == citable_store.citation("cff", PUBLISHED, VOLUME)


def test_foreign_commits_on_top_are_not_cited_as_the_mirrors(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    clone = citable_store.clone(PUBLISHED, tmp_path / "clone")
    (clone / "notes.txt").write_text("mine")
    run_git(clone, "add", "notes.txt")
    run_git(clone, "commit", "-q", "-m", "mine")
    done = citable_store.run(str(clone), code=1)
    assert str(clone) in done.stderr
    assert done.stdout == ""


def test_a_superdataset_cannot_be_cited(citable_store: CitableStore) -> None:
    done = citable_store.run(
        str(citable_store.mirror_harness.folder / "alias" / "demo-aind"), code=1
    )
    assert "is a superdataset" in done.stderr


def test_an_adjusted_branch_is_cited_as_what_it_is_made_of(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    clone = citable_store.clone(DRAFT, tmp_path / "clone")
    before = citable_store.run(str(clone)).stdout
    run_git(clone, "annex", "init", "-q", "mine")
    run_git(clone, "annex", "adjust", "-q", "--unlock")
    assert "adjusted/" in run_git(clone, "branch", "--show-current")
    assert citable_store.run(str(clone)).stdout == before


def test_refuses_what_is_neither_version_nor_lock_nor_clone(
    citable_store: CitableStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nothing-here", "."):
        assert "dandi:000027@0.210831.2033" in citable_store.run(name, code=2).stderr
    # an empty name does not mean the clone that is the current folder
    monkeypatch.chdir(citable_store.clone(DRAFT, tmp_path / "clone"))
    citable_store.run(".")
    assert "empty" in citable_store.run("", code=2).stderr


def test_a_tree_that_leads_out_of_its_folder_is_not_followed(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    clone = citable_store.clone(DRAFT, tmp_path / "clone")
    inside = bytes.fromhex(run_git(clone, "rev-parse", "HEAD:dandiset.yaml").strip())
    above = git_object(clone, b"100644 evil.txt\0" + inside)
    command = ["git", "-C", str(clone), "cat-file", "tree", "HEAD^{tree}"]
    whole = subprocess.run(command, capture_output=True, check=True).stdout
    tree = git_object(clone, b"40000 ..\0" + above + whole)
    content = run_git(clone, "cat-file", "commit", "HEAD")
    content = f"tree {tree.hex()}\n{content.partition(chr(10))[2]}"
    commit = git_object(clone, content.encode(), "commit")
    run_git(clone, "update-ref", "HEAD", commit.hex())
    target = str(tmp_path / "made")
    done = citable_store.run(str(clone), "--format", "ro-crate", "-o", target, code=1)
    assert commit.hex() in done.stderr
    assert list(tmp_path.rglob("evil.txt")) == []


def test_a_damaged_git_annex_branch_is_an_error_and_not_a_citation_without_urls(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    clone = citable_store.clone(DRAFT, tmp_path / "clone")
    tree = bytes.fromhex(run_git(clone, "rev-parse", "origin/git-annex^{tree}").strip())
    folders = [line.split("\t")[1] for line in run_git(clone, "ls-tree", tree.hex()).splitlines()]
    missing = b"".join(b"40000 %s\0" % folder.encode() + b"\x12" * 20 for folder in folders)
    content = run_git(clone, "cat-file", "commit", "origin/git-annex")
    content = content.replace(tree.hex(), git_object(clone, missing).hex())
    commit = git_object(clone, content.encode(), "commit")
    run_git(clone, "update-ref", "refs/heads/git-annex", commit.hex())
    done = citable_store.run(str(clone), "--format", "ro-crate", code=1)
    assert "cannot be read" in done.stderr


def git_object(repository: Path, content: bytes, kind: str = "tree") -> bytes:
    command = ["git", "-C", str(repository), "hash-object", "-w", "--literally", "-t", kind]
    done = subprocess.run([*command, "--stdin"], input=content, capture_output=True, check=True)
    return bytes.fromhex(done.stdout.decode().strip())


def test_a_symlink_to_anywhere_is_not_taken_for_a_file(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    clone = citable_store.clone(DRAFT, tmp_path / "clone")
    (clone / "link.txt").symlink_to("../../etc/passwd")
    commit_like_mirror(clone)
    done = citable_store.run(str(clone), "--format", "croissant", code=1)
    assert "'link.txt'" in done.stderr


# --- locks


@pytest.fixture
def lock_folder(citable_store: CitableStore, tmp_path: Path) -> LockFolder:
    folder = tmp_path / "paper"
    folder.mkdir()
    made = LockFolder(citable_store.mirror_harness, folder)
    made.pin(PUBLISHED, DERIVED, bundle=True)
    return made


def citations_without_store(lock: Lock) -> dict[str, str]:
    """Return the citations of a lock file by format; its files are unpacked once."""
    with ExitStack() as stack:
        read = tuple(map(read_work, states_of_lock(lock, None, stack)))
        works = CitationCollection(read, f"Datasets pinned in {lock.path.name}")
        return {form: "".join(cite(works, form)) for form in FORMATS}


def test_a_lock_is_cited_from_store_bundle_or_manifest_alike(
    citable_store: CitableStore, lock_folder: LockFolder, tmp_path: Path
) -> None:
    nowhere = citable_store.elsewhere(tmp_path / "nowhere")
    citation = {
        form: citable_store.run(str(lock_folder.file), "--format", form).stdout for form in FORMATS
    }
    for form, name in product(FORMATS, (PUBLISHED, DERIVED)):
        work = citable_store.work(name)
        title = work.title.replace("_", r"\_" if form == "bibtex" else "_")
        assert all(text in citation[form] for text in (title, work.swhid, work.digest)), form
    assert nowhere.run(str(lock_folder.file)).stdout == citation["text"]
    assert citations_without_store(lock_folder.lock) == citation
    lock_folder.delete_files(".bundle")
    assert nowhere.run(str(lock_folder.file)).stdout == citation["text"]
    assert citations_without_store(lock_folder.lock) == citation
    shutil.rmtree(lock_folder.lock.folder)
    assert citable_store.run(str(lock_folder.file)).stdout == citation["text"]
    done = nowhere.run(str(lock_folder.file), code=1)
    assert str(lock_folder.file) in done.stderr


def test_only_what_is_pinned_of_a_dataset_is_listed(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    paper = LockFolder(citable_store.mirror_harness, tmp_path)
    url = "https://example.org/alias/{alias}"
    paper.pin(PUBLISHED, paths=("sub-201/**",), clones=(url,))
    citation = citable_store.run(str(paper.file)).stdout
    assert "Selection of 2 files: sub-201/**." in citation
    origin = "origin=https://example.org/alias/demo--000002"
    assert f"{citable_store.work(PUBLISHED).swhid};{origin}, state " in citation
    graph = json.loads(citable_store.run(str(paper.file), "--format", "ro-crate").stdout)["@graph"]
    paths = [one["localPath"] for one in graph if one["@type"] == "File"]
    assert len(paths) == 2
    assert all(path.startswith("sub-201/") for path in paths)
    # CITATION.cff has no qualifiers, and a selection of files is not identical to the version
    cff = citable_store.run(str(paper.file), "--format", "cff").stdout
    assert f'value: "{citable_store.work(PUBLISHED).swhid}"' in cff
    record = json.loads(citable_store.run(str(paper.file), "--format", "datacite").stdout)
    assert record["relatedIdentifiers"][0]["relationType"] == "IsPartOf"


def test_a_lock_whose_commit_is_of_another_dataset_is_refused(
    citable_store: CitableStore, lock_folder: LockFolder
) -> None:
    one = lock_folder.lock.datasets[0]
    text = lock_folder.file.read_text("utf-8")
    text = text.replace(one.resolved.version, "9.999999.9999")
    lock_folder.file.write_text(text, "utf-8")
    assert "demo:000002" in citable_store.run(str(lock_folder.file), code=1).stderr


# --- unusual metadata


def test_roles_decide_who_is_an_author_and_who_paid(odd_metadata_store: CitableStore) -> None:
    work = odd_metadata_store.work("box:names")
    citation = odd_metadata_store.citation("text", "box:names")
    assert citation.startswith(
        "van der Berg, Anna; O'Brien, Seán; García Márquez, Ana María; de la Cruz, José, Jr.; "
        "王, 小明; Достоевский, Фёдор; hooks, bell; Sand and Stone, Rex; "
        "The {Brain} & Mind_Lab, Inc.; Doe, Jane ("
    )
    assert "Not, Cited" not in citation
    (funder,) = work.funders
    assert (funder.organisation.name, funder.award) == ("National Institutes & Co", "R01 NS1234{5}")
    (related, _) = work.related
    assert related[:2] == ("IsDescribedBy", "10.1101/2024.01.01.123")
    record = json.loads(odd_metadata_store.citation("datacite", "box:names"))
    assert "Befriends" not in json.dumps(record)
    by_name = {one["name"]: one for one in record["creators"]}
    assert by_name["The {Brain} & Mind_Lab, Inc."]["nameType"] == "Organizational"
    (orcid,) = by_name["van der Berg, Anna"]["nameIdentifiers"]
    assert orcid["nameIdentifier"] == "https://orcid.org/0000-0002-1825-0097"
    # an ORCID with a wrong check digit is ignored
    assert "nameIdentifiers" not in by_name["Doe, Jane"]
    assert by_name["Doe, Jane"]["affiliation"][0]["name"] == "Some University"


def test_markup_and_control_characters_do_not_come_through(
    odd_metadata_store: CitableStore,
) -> None:
    for form in FORMATS:
        citation = odd_metadata_store.citation(form, "box:markup")
        assert not {"\u202e", "\x1b", "<i>", "<script>", "alert(1)"} & set(citation)
        for markup in ("<i>", "<sup>", "<script>", "alert(1)", "\u202e", "\x1b", "<p>"):
            assert markup not in citation, (form, markup)
    assert odd_metadata_store.work("box:markup").title == "Of Drosophila & 2H, txt[1m"
    assert odd_metadata_store.work("box:markup").description == "One. Two three, a < b."


def test_a_broken_document_is_replaced_by_the_fields_of_the_mirror(
    odd_metadata_store: CitableStore,
) -> None:
    for name in ("no-json", "wrong", "deep", "nothing"):
        work = odd_metadata_store.work(f"box:{name}")
        assert (work.title, work.authors, work.published) == ("Scripted", (), None)
        assert [one.spdx for one in work.licenses] == ["CC0-1.0"]


# --- the command


def test_a_file_is_replaced_and_a_folder_gets_the_formats_own_name(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    target = tmp_path / "refs.bib"
    target.write_text("old")
    done = citable_store.run(PUBLISHED, "--format", "bibtex", "-o", str(target))
    assert done.stdout == f"ok  {target}\n"
    assert target.read_text("utf-8") == citable_store.citation("bibtex", PUBLISHED)
    citable_store.run(PUBLISHED, "--format", "cff", "-o", str(tmp_path))
    made = (tmp_path / "CITATION.cff").read_text("utf-8")
    assert made == citable_store.citation("cff", PUBLISHED)
    done = citable_store.run(VOLUME, "--format", "cff", "-o", str(tmp_path), code=2)
    assert "--output" in done.stderr
    assert (tmp_path / "CITATION.cff").read_text("utf-8") == made
    missing = tmp_path / "missing"
    done = citable_store.run(PUBLISHED, "-o", str(missing / "citation.txt"), code=2)
    assert str(missing) in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"refs.bib", "CITATION.cff"}


def test_nothing_is_written_of_a_damaged_repository(
    citable_store: CitableStore, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(citable_store.mirror_harness.repository(PUBLISHED), broken)
    for path in (broken / "objects" / "pack").glob("*.pack"):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:3000])
    target = str(tmp_path / "never")
    citable_store.run(str(broken), "--format", "ro-crate", "-o", target, code=1)
    assert {path.name for path in tmp_path.iterdir()} == {"broken"}


def test_of_a_million_authors_ten_thousand_are_read() -> None:
    person = {"name": "Doe, Jane", "includeInCitation": True}
    about = {"contributor": [person] * 10**6, "license": ["a"] * 10**6, "keywords": ["k"] * 10**6}
    assert len(read_dandiset(lambda path: about).authors) == 10_000
    assert parse_object(json.dumps({"pad": "x" * (8 << 20)}).encode()) == {}
