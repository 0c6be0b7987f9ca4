"""``neuromirror cite``: upstream first, then the exact state; the same from wherever it is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from crawl_place import Place, git
from lab_cite import (
    ASSET,
    DERIVED,
    DRAFT,
    FORMATS,
    INPUT,
    LABELS,
    ODD,
    PUBLISHED,
    VOLUME,
    Shelf,
)
from lab_pins import Paper

from neuromirror.cli.cite import _FORMATS
from neuromirror.lab import cite as public_cite
from neuromirror.lab.cite import FORMATS as KNOWN
from neuromirror.lab.cite import cite, of_dandi
from neuromirror.lab.cite import told as told_reading


def test_the_names_of_formats_are_those_of_the_library() -> None:
    assert tuple(KNOWN) == _FORMATS
    assert set(KNOWN) == {*FORMATS, "bagit"}
    assert public_cite is cite


# --- what is cited


def test_upstream_comes_first_and_then_the_exact_state(shelf: Shelf) -> None:
    with shelf.place.index() as index:
        row = index.resolve(PUBLISHED)
    doi = f"10.5072/dandi.000002/{row.label}"
    assert shelf.run(PUBLISHED).stdout == (
        "Doe, Jane; Roe, Richard (2024) Sharp-wave ripples during rest and sleep (demo) "
        f"(Version {row.label}) [Data set]. DANDI Archive. https://doi.org/{doi} "
        f"(License: CC-BY-4.0). Retrieved as swh:1:rev:{row.commit}, state {row.state}\n"
    )
    assert git(shelf.place.repository(PUBLISHED), "cat-file", "-t", row.commit) == "commit\n"


@pytest.mark.parametrize("form", FORMATS)
def test_a_draft_is_given_no_doi(shelf: Shelf, form: str) -> None:
    told = shelf.cited(form, DRAFT)
    work = shelf.work(DRAFT)
    assert "10.5072" not in told
    assert work.doi is None
    assert work.version == f"draft {work.state.label}"
    assert work.swhid in told
    assert work.digest in told


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_authors_title_license_and_state(shelf: Shelf, form: str) -> None:
    told = shelf.cited(form, PUBLISHED)
    work = shelf.work(PUBLISHED)
    for text in ("Doe", "Richard", "Sharp-wave ripples", "CC-BY-4.0", work.swhid, work.digest):
        assert text in told, text


def test_the_address_of_a_person_is_not_passed_on(shelf: Shelf) -> None:
    assert "jane.doe@" in git(shelf.place.repository(PUBLISHED), "show", "main:dandiset.yaml")
    for form in FORMATS:
        assert "example.org" not in shelf.cited(form, PUBLISHED)


def test_an_asset_is_cited_by_its_investigators_institution_and_input(shelf: Shelf) -> None:
    work = shelf.work(DERIVED)
    told = shelf.cited("text", DERIVED)
    assert told.startswith(f"Doe, Jane (2025) {work.title} (Version ")
    assert "Allen Institute for Neural Dynamics." in told
    assert f"Derived from {INPUT}." in told
    (item,) = json.loads(shelf.cited("datacite", DERIVED))["relatedItems"]
    assert item["relationType"] == "IsDerivedFrom"
    assert item["titles"] == [{"title": INPUT}]
    (funder,) = json.loads(shelf.cited("datacite", DERIVED))["fundingReferences"]
    assert funder["funderName"] == "Allen Institute"


def test_what_upstream_does_not_say_is_left_out(shelf: Shelf) -> None:
    # early assets name no investigators; a BOSS names neither authors nor dates
    assert shelf.work(ASSET).authors == ()
    assert shelf.cited("text", ASSET).startswith(f"{shelf.work(ASSET).title} (2022) (Version ")
    told = shelf.cited("text", VOLUME)
    assert told.startswith("demo_cortex/sections/em: Electron microscopy (demo) (n.d.) (Version ")
    assert 'Upstream asks to cite "Doe 2024, 10.0000/demo?a=1".' in told
    (item,) = json.loads(shelf.cited("csl", VOLUME))
    assert not {"author", "issued", "publisher"} & item.keys()
    record = json.loads(shelf.cited("datacite", LABELS))
    assert record["creators"] == [{"name": ":unav"}]
    assert "rightsList" not in record
    assert "year" not in shelf.cited("bibtex", LABELS)
    assert "demo" not in {one.get("creator") for one in json.loads(shelf.cited("csl", LABELS))}


def test_a_copy_is_related_to_upstreams_doi_and_has_none_itself(shelf: Shelf) -> None:
    record = json.loads(shelf.cited("datacite", PUBLISHED))
    assert not {"doi", "prefix", "suffix", "event"} & record.keys()
    first, second = record["relatedIdentifiers"]
    assert (first["relationType"], first["relatedIdentifierType"]) == ("IsIdenticalTo", "DOI")
    assert second["relationType"] == "IsVersionOf"
    # a volume is made into another form; of an asset not everything could be mirrored
    for name in (VOLUME, ASSET):
        told = json.loads(shelf.cited("datacite", name))["relatedIdentifiers"]
        assert "IsIdenticalTo" not in {one["relationType"] for one in told}


# --- the files


def test_each_file_is_listed_with_its_place_size_and_checksum(shelf: Shelf) -> None:
    graph = json.loads(shelf.cited("ro-crate", PUBLISHED))["@graph"]
    found = {one["localPath"]: one for one in graph if one["@type"] == "File"}
    with shelf.place.index() as index:
        rows = list(index.files(index.resolve(PUBLISHED)))
        urls = [{place.url for place in index.locations(row.content)} for row in rows]
    assert found.keys() - {row.path for row in rows} == {"dandiset.yaml", ".dandi/assets.jsonl"}
    for row, places in zip(rows, urls, strict=True):
        entity = found[row.path]
        assert {entity["@id"], *entity["contentUrl"]} == places
        assert "versionId=" in entity["@id"]
        assert entity["contentSize"] == str(row.size)
        assert f"sha256:{entity['sha256']}" in {f"{d.algorithm}:{d.value}" for d in row.digests}
    (root,) = (one for one in graph if one["@id"] == "./")
    assert {one["@id"] for one in root["hasPart"]} == {one["@id"] for one in found.values()}


def test_without_files_only_the_dataset_is_described(shelf: Shelf) -> None:
    for form in ("ro-crate", "croissant"):
        told = shelf.run(PUBLISHED, "--format", form, "--no-files").stdout
        assert ".nwb" not in told
        assert shelf.work(PUBLISHED).digest in told
    shelf.run(PUBLISHED, "--format", "bibtex", "--no-files", code=2)


def test_the_same_content_at_two_paths_is_two_files(tmp_path: Path, shelf: Shelf) -> None:
    clone = shelf.clone(PUBLISHED, tmp_path / "clone")
    link = next((clone / "sub-201").iterdir()).readlink()
    (clone / "sub-201" / "zz.nwb").symlink_to(link)
    commit_as_minted(clone)
    told = shelf.run(str(clone), "--format", "ro-crate").stdout
    ids = [one["@id"] for one in json.loads(told)["@graph"]]
    assert len(ids) == len(set(ids))
    assert sum(one.endswith("#sub-201/zz.nwb") for one in ids) == 1


def commit_as_minted(clone: Path) -> None:
    """A commit on top that says what the mirror's says."""
    message = git(clone, "log", "-1", "--format=%B")
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", message)


def test_parts_and_what_is_outside_git_are_told_in_words(odd: Shelf) -> None:
    with odd.place.index() as index:
        found = list(index.parts(index.resolve("box:parts")))
    whole = json.loads(odd.cited("ro-crate", "box:parts"))["@graph"]
    entities = {one["name"]: one for one in whole if one["@id"].startswith("swh:1:rev:")}
    assert {name: one["@id"] for name, one in entities.items()} == {
        one.path: f"swh:1:rev:{one.commit}" for one in found
    }
    words = "24 files in 2 sub-datasets, which are datasets of their own, are not listed."
    assert words in odd.cited("croissant", "box:parts")
    of_part = odd.cited("croissant", "box:zarr/huge")
    work = odd.work("box:zarr/huge")
    assert 0 < work.only_files < work.files == 15
    assert f"{work.only_files} files outside the git tree are not listed." in of_part
    with odd.place.index() as index:
        (part,) = index.parts(index.resolve("box:bucket"))
    assert "It is a part of box:bucket." in odd.cited("text", part.dataset)


# --- the same from everywhere


@pytest.mark.parametrize("name", [PUBLISHED, ASSET, VOLUME])
def test_a_clone_is_cited_as_the_store_is(shelf: Shelf, tmp_path: Path, name: str) -> None:
    clone = shelf.clone(name, tmp_path / "clone", shelf.work(name).state.label)
    nowhere = Shelf(Place(shelf.place.mirrors, tmp_path / "nowhere"))
    for form in FORMATS:
        assert nowhere.run(str(clone), "--format", form).stdout == shelf.cited(form, name), form
    shelf.bag(tmp_path / "one", name)
    nowhere.run(str(clone), "--format", "bagit", "-o", str(tmp_path / "two"))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_the_git_annex_branch_learns_later_changes_nothing(
    shelf: Shelf, tmp_path: Path
) -> None:
    label = shelf.work(PUBLISHED).state.label
    clone = shelf.clone(PUBLISHED, tmp_path / "clone", label)
    before = shelf.run(str(clone), "--format", "ro-crate").stdout
    (first, *_) = sorted((clone / "sub-201").iterdir())
    git(clone, "annex", "init", "-q", "mine")
    git(clone, "annex", "registerurl", first.readlink().name, "https://elsewhere.example.invalid/")
    log = git(clone, "grep", "-h", "elsewhere", "git-annex")
    assert "https://elsewhere.example.invalid/" in log
    assert shelf.run(str(clone), "--format", "ro-crate").stdout == before


def test_time_zone_language_and_umask_make_no_difference(shelf: Shelf, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neuromirror", "--store", str(shelf.place.folder), "cite"]
    for number, form in enumerate(("bibtex", "cff")):
        target = tmp_path / f"made-{number}"
        subprocess.run(
            [*command, PUBLISHED, VOLUME, "--format", form, "-o", str(target)],
            env={**os.environ, "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONUTF8": "0"},
            umask=0o077,
            check=True,
            capture_output=True,
        )
        assert target.read_text("utf-8") == shelf.cited(form, PUBLISHED, VOLUME)


def test_commits_of_somebody_else_on_top_are_not_cited_as_the_mirrors(
    shelf: Shelf, tmp_path: Path
) -> None:
    clone = shelf.clone(PUBLISHED, tmp_path / "clone")
    (clone / "notes.txt").write_text("mine")
    git(clone, "add", "notes.txt")
    git(clone, "commit", "-q", "-m", "mine")
    done = shelf.run(str(clone), code=1)
    assert "no state that a mirror made" in done.stderr
    assert done.stdout == ""


def test_a_super_dataset_is_not_a_dataset_to_cite(shelf: Shelf) -> None:
    done = shelf.run(str(shelf.place.folder / "alias" / "demo-aind"), code=1)
    assert "is a super-dataset" in done.stderr


def test_an_adjusted_branch_is_cited_as_what_it_is_made_of(shelf: Shelf, tmp_path: Path) -> None:
    clone = shelf.clone(DRAFT, tmp_path / "clone")
    before = shelf.run(str(clone)).stdout
    git(clone, "annex", "init", "-q", "mine")
    git(clone, "annex", "adjust", "-q", "--unlock")
    assert "adjusted/" in git(clone, "branch", "--show-current")
    assert shelf.run(str(clone)).stdout == before


@pytest.mark.parametrize("name", ["nothing-here", "", "."])
def test_what_is_neither_version_nor_lock_nor_clone_is_refused_in_words(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = shelf.run(name, code=2)
    assert ("dandi:000027@0.210831.2033" if name else "empty") in done.stderr


def test_an_empty_name_does_not_mean_the_clone_one_is_in(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shelf.clone(DRAFT, tmp_path / "clone"))
    shelf.run(".")
    shelf.run("", code=2)


def test_a_tree_that_leads_out_of_its_folder_is_not_followed(shelf: Shelf, tmp_path: Path) -> None:
    clone = shelf.clone(DRAFT, tmp_path / "clone")
    inside = bytes.fromhex(git(clone, "rev-parse", "HEAD:dandiset.yaml").strip())
    above = git_object(clone, b"100644 evil.txt\0" + inside)
    command = ["git", "-C", str(clone), "cat-file", "tree", "HEAD^{tree}"]
    whole = subprocess.run(command, capture_output=True, check=True).stdout
    tree = git_object(clone, b"40000 ..\0" + above + whole)
    content = git(clone, "cat-file", "commit", "HEAD")
    content = f"tree {tree.hex()}\n{content.partition(chr(10))[2]}"
    commit = git_object(clone, content.encode(), "commit")
    git(clone, "update-ref", "HEAD", commit.hex())
    for form in ("ro-crate", "bagit"):
        target = str(tmp_path / "made")
        done = shelf.run(str(clone), "--format", form, "-o", target, code=1)
        assert "which no mirror makes" in done.stderr
    assert list(tmp_path.rglob("evil.txt")) == []


def git_object(repository: Path, content: bytes, kind: str = "tree") -> bytes:
    command = ["git", "-C", str(repository), "hash-object", "-w", "--literally", "-t", kind]
    done = subprocess.run([*command, "--stdin"], input=content, capture_output=True, check=True)
    return bytes.fromhex(done.stdout.decode().strip())


def test_a_symlink_to_anywhere_is_not_taken_for_a_file(shelf: Shelf, tmp_path: Path) -> None:
    clone = shelf.clone(DRAFT, tmp_path / "clone")
    (clone / "link.txt").symlink_to("../../etc/passwd")
    commit_as_minted(clone)
    done = shelf.run(str(clone), "--format", "croissant", code=1)
    assert "'link.txt' is a symlink, and not to a file of git-annex" in done.stderr


# --- locks


@pytest.fixture
def paper(shelf: Shelf, tmp_path: Path) -> Paper:
    folder = tmp_path / "paper"
    folder.mkdir()
    made = Paper(shelf.place, folder)
    made.pin(PUBLISHED, DERIVED, bundle=True)
    return made


@pytest.mark.parametrize("form", FORMATS)
def test_a_lock_is_one_file_for_all(shelf: Shelf, paper: Paper, form: str) -> None:
    told = shelf.run(str(paper.file), "--format", form).stdout
    for name in (PUBLISHED, DERIVED):
        work = shelf.work(name)
        assert work.title.replace("_", r"\_" if form == "bibtex" else "_") in told
        assert work.swhid in told
        assert work.digest in told


def test_a_lock_is_cited_from_store_bundle_or_manifest_alike(
    shelf: Shelf, paper: Paper, tmp_path: Path
) -> None:
    nowhere = Shelf(Place(shelf.place.mirrors, tmp_path / "nowhere"))
    told = {form: shelf.run(str(paper.file), "--format", form).stdout for form in FORMATS}
    for form in FORMATS:
        assert nowhere.run(str(paper.file), "--format", form).stdout == told[form], form
    paper.without(".bundle")
    for form in FORMATS:
        assert nowhere.run(str(paper.file), "--format", form).stdout == told[form], form
    shutil.rmtree(paper.lock.folder)
    assert shelf.run(str(paper.file)).stdout == told["text"]
    done = nowhere.run(str(paper.file), code=1)
    assert "neither the store nor a bundle or manifest" in done.stderr


def test_only_what_is_pinned_of_a_dataset_is_listed(shelf: Shelf, tmp_path: Path) -> None:
    paper = Paper(shelf.place, tmp_path)
    url = "https://example.org/alias/{alias}"
    paper.pin(PUBLISHED, paths=("sub-201/**",), clones=(url,))
    told = shelf.run(str(paper.file)).stdout
    assert "Of it 2 files: sub-201/**." in told
    origin = "origin=https://example.org/alias/demo--000002"
    assert f"{shelf.work(PUBLISHED).swhid};{origin}, state " in told
    graph = json.loads(shelf.run(str(paper.file), "--format", "ro-crate").stdout)["@graph"]
    paths = [one["localPath"] for one in graph if one["@type"] == "File"]
    assert len(paths) == 2
    assert all(path.startswith("sub-201/") for path in paths)
    # CITATION.cff takes no qualifiers, and a part of a version is not identical to it
    cff = shelf.run(str(paper.file), "--format", "cff").stdout
    assert f'value: "{shelf.work(PUBLISHED).swhid}"' in cff
    record = json.loads(shelf.run(str(paper.file), "--format", "datacite").stdout)
    assert record["relatedIdentifiers"][0]["relationType"] == "IsPartOf"


def test_a_lock_whose_commit_is_of_another_dataset_is_refused(shelf: Shelf, paper: Paper) -> None:
    one = paper.lock.datasets[0]
    text = paper.file.read_text("utf-8")
    text = text.replace(one.resolved.version, "9.999999.9999")
    paper.file.write_text(text, "utf-8")
    assert "was the lock edited by hand?" in shelf.run(str(paper.file), code=1).stderr


def test_two_versions_of_one_dataset_do_not_get_in_each_others_way(shelf: Shelf) -> None:
    with shelf.place.index() as index:
        names = [f"{PUBLISHED}@{row.label}" for row in index.versions(PUBLISHED)][:2]
    assert len(set(shelf.collection(*names).keys())) == 2
    graph = json.loads(shelf.cited("ro-crate", *names))["@graph"]
    ids = [one["@id"] for one in graph]
    assert len(ids) == len(set(ids))
    twice = json.loads(shelf.cited("csl", names[0], names[0]))
    assert len({one["id"] for one in twice}) == 2


# --- odd upstreams


def test_roles_decide_who_is_an_author_and_who_paid(odd: Shelf) -> None:
    work = odd.work("box:names")
    told = odd.cited("text", "box:names")
    assert told.startswith(
        "van der Berg, Anna; O'Brien, Seán; García Márquez, Ana María; de la Cruz, José, Jr.; "
        "王, 小明; Достоевский, Фёдор; hooks, bell; Sand and Stone, Rex; "
        "The {Brain} & Mind_Lab, Inc.; Doe, Jane ("
    )
    assert "Not, Cited" not in told
    (funder,) = work.funders
    assert (funder.organisation.name, funder.award) == ("National Institutes & Co", "R01 NS1234{5}")
    (related, _) = work.related
    assert (related.relation, related.identifier) == ("IsDescribedBy", "10.1101/2024.01.01.123")
    record = json.loads(odd.cited("datacite", "box:names"))
    assert "Befriends" not in json.dumps(record)
    by_name = {one["name"]: one for one in record["creators"]}
    assert by_name["The {Brain} & Mind_Lab, Inc."]["nameType"] == "Organizational"
    (orcid,) = by_name["van der Berg, Anna"]["nameIdentifiers"]
    assert orcid["nameIdentifier"] == "https://orcid.org/0000-0002-1825-0097"
    # a wrong check digit is nobody's
    assert "nameIdentifiers" not in by_name["Doe, Jane"]
    assert by_name["Doe, Jane"]["affiliation"][0]["name"] == "Some University"


def test_markup_and_control_characters_do_not_come_through(odd: Shelf) -> None:
    for form in FORMATS:
        told = odd.cited(form, "box:markup")
        assert not {"\u202e", "\x1b", "<i>", "<script>", "alert(1)"} & set(told)
        for word in ("<i>", "<sup>", "<script>", "alert(1)", "\u202e", "\x1b", "<p>"):
            assert word not in told, (form, word)
    assert odd.work("box:markup").title == "Of Drosophila & 2H, txt[1m"
    assert odd.work("box:markup").description == "One. Two three, a < b."


def test_a_very_long_title_and_list_of_authors_is_whole(odd: Shelf) -> None:
    for form in FORMATS:
        told = odd.cited(form, "box:long")
        assert ("Very long " * 400).strip() in told
        assert "N299" in told


@pytest.mark.parametrize("name", sorted(ODD))
@pytest.mark.parametrize("form", FORMATS)
def test_whatever_a_document_holds_there_is_a_citation(odd: Shelf, form: str, name: str) -> None:
    told = odd.cited(form, f"box:{name}")
    work = odd.work(f"box:{name}")
    assert work.swhid in told
    assert work.digest in told


def test_what_a_broken_document_does_not_say_the_mirror_does(odd: Shelf) -> None:
    for name in ("no-json", "wrong", "deep", "nothing"):
        work = odd.work(f"box:{name}")
        assert (work.title, work.authors, work.published) == ("Scripted", (), None)
        assert [one.spdx for one in work.licenses] == ["CC0-1.0"]


# --- the command


def test_a_file_is_replaced_and_a_folder_gets_the_formats_own_name(
    shelf: Shelf, tmp_path: Path
) -> None:
    target = tmp_path / "refs.bib"
    target.write_text("old")
    done = shelf.run(PUBLISHED, "--format", "bibtex", "-o", str(target))
    assert done.stdout == f"ok  {target}\n"
    assert target.read_text("utf-8") == shelf.cited("bibtex", PUBLISHED)
    shelf.run(PUBLISHED, "--format", "cff", "-o", str(tmp_path))
    made = (tmp_path / "CITATION.cff").read_text("utf-8")
    assert made == shelf.cited("cff", PUBLISHED)
    done = shelf.run(VOLUME, "--format", "cff", "-o", str(tmp_path), code=2)
    assert "is there already" in done.stderr
    assert (tmp_path / "CITATION.cff").read_text("utf-8") == made
    missing = tmp_path / "missing"
    done = shelf.run(PUBLISHED, "-o", str(missing / "citation.txt"), code=2)
    assert f"there is no folder {missing}" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"refs.bib", "CITATION.cff"}


def test_a_bag_goes_into_an_empty_folder_and_nothing_is_left_of_one_that_failed(
    shelf: Shelf, tmp_path: Path
) -> None:
    assert "-o" in shelf.run(PUBLISHED, "--format", "bagit", code=2).stderr
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    shelf.run(PUBLISHED, "--format", "bagit", "-o", str(full), code=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    shelf.run(PUBLISHED, "--format", "bagit", "-o", str(empty))
    assert (empty / "bagit.txt").exists()
    # a store that lost an object
    broken = tmp_path / "broken"
    shutil.copytree(shelf.place.repository(PUBLISHED), broken)
    for path in (broken / "objects" / "pack").glob("*.pack"):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:3000])
    shelf.run(str(broken), "--format", "bagit", "-o", str(tmp_path / "never"), code=1)
    assert {path.name for path in tmp_path.iterdir()} == {"full", "empty", "broken"}


def test_in_json_the_citation_is_one_record(shelf: Shelf, tmp_path: Path) -> None:
    (line,) = shelf.run("--json", PUBLISHED, "--format", "bibtex").stdout.splitlines()
    record = json.loads(line)
    assert (record["action"], record["status"], record["path"]) == ("cite", "ok", None)
    assert record["citation"] == shelf.cited("bibtex", PUBLISHED)
    assert record["swhids"] == [shelf.work(PUBLISHED).swhid]
    shelf.run("--json", PUBLISHED, "--format", "ro-crate", code=2)
    target = tmp_path / "crate.json"
    (line,) = shelf.run(
        "--json", PUBLISHED, "--format", "ro-crate", "-o", str(target)
    ).stdout.splitlines()
    assert json.loads(line)["path"] == str(target)


def test_of_a_million_authors_ten_thousand_are_read() -> None:
    person = {"name": "Doe, Jane", "includeInCitation": True}
    about = {"contributor": [person] * 10**6, "license": ["a"] * 10**6, "keywords": ["k"] * 10**6}

    class Documents:
        def parsed(self, path: str) -> dict[str, Any]:
            return about

    assert len(of_dandi.read(Documents()).authors) == 10_000
    assert told_reading.parse(json.dumps({"pad": "x" * (8 << 20)}).encode()) == {}
