"""Each format of a citation is read by programs that know nothing of neuromirror."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import pytest
from lab_cite import ASSET, DERIVED, DRAFT, LABELS, NAMES, ODD, PUBLISHED, SPECIALS, VOLUME, Shelf

from neuromirror.lab.cite.json_text import compact, dumped
from neuromirror.lab.cite.plain import SPDX

pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated")

ALONE = [(name,) for name in (PUBLISHED, DRAFT, ASSET, DERIVED, VOLUME, LABELS)]
TOGETHER = (PUBLISHED, DERIVED, LABELS)
ODD_ONES = [(f"box:{name}",) for name in ODD]
SHAPES = Path(__file__).parent / "data" / "ro-crate-1.2"


def named(names: tuple[str, ...]) -> str:
    return "+".join(one.rpartition(":")[2] for one in names)


@pytest.fixture
def made(shelf: Shelf, odd: Shelf) -> Callable[..., str]:
    """Cites from the store that has the datasets."""

    def cite(form: str, *names: str, files: bool = True) -> str:
        return (odd if names[0].startswith("box:") else shelf).cited(form, *names, files=files)

    return cite


everything = pytest.mark.parametrize("names", [*ALONE, TOGETHER, *ODD_ONES], ids=named)
some = pytest.mark.parametrize(
    "names", [(PUBLISHED,), (DERIVED,), (VOLUME,), (LABELS,), TOGETHER, ("box:names",)], ids=named
)


# --- CITATION.cff


@pytest.fixture(scope="module")
def cff_schema() -> dict[str, Any]:
    """The schema of Citation File Format 1.2.0, as check-jsonschema carries it."""
    from check_jsonschema.builtin_schemas import get_builtin_schema

    schema: dict[str, Any] = get_builtin_schema("vendor.citation-file-format")
    assert schema["properties"]["cff-version"]["examples"] == ["1.2.0"]
    return schema


@everything
def test_a_citation_cff_fits_its_schema(
    made: Callable[..., str], cff_schema: dict[str, Any], names: tuple[str, ...]
) -> None:
    from jsonschema import Draft7Validator, FormatChecker
    from ruamel.yaml import YAML

    told = YAML(typ="safe", pure=True).load(made("cff", *names))
    checker = Draft7Validator(cff_schema, format_checker=FormatChecker())
    assert [error.message for error in checker.iter_errors(told)] == []
    assert told["type"] == "dataset"


def test_a_citation_cff_passes_as_a_program_sees_it(
    made: Callable[..., str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    command += ["vendor.citation-file-format", str(tmp_path / "CITATION.cff")]
    for text, code in ((made("cff", *TOGETHER), 0), ("cff-version: 1.2.0\ntitle: x\n", 1)):
        (tmp_path / "CITATION.cff").write_text(text, "utf-8")
        assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_every_license_that_is_recognised_is_one_of_cff(cff_schema: dict[str, Any]) -> None:
    assert set(SPDX) <= set(cff_schema["definitions"]["license-enum"]["enum"])


def test_the_texts_of_a_citation_cff_come_back(made: Callable[..., str]) -> None:
    from ruamel.yaml import YAML

    told = YAML(typ="safe", pure=True).load(made("cff", "box:specials"))
    assert told["title"] == told["abstract"] == SPECIALS
    told = YAML(typ="safe", pure=True).load(made("cff", "box:names"))
    assert told["authors"][0] == {
        "family-names": "Berg",
        "given-names": "Anna",
        "name-particle": "van der",
        "orcid": "https://orcid.org/0000-0002-1825-0097",
    }
    assert told["authors"][3]["name-suffix"] == "Jr."
    assert told["authors"][8]["name"] == "The {Brain} & Mind_Lab, Inc."


# --- CSL


@everything
@pytest.mark.filterwarnings("error:The following arguments")  # fields that CSL does not have
def test_csl_is_rendered_by_citeproc(made: Callable[..., str], names: tuple[str, ...]) -> None:
    from citeproc import (
        Citation,
        CitationItem,
        CitationStylesBibliography,
        CitationStylesStyle,
        formatter,
    )
    from citeproc.source.json import CiteProcJSON

    items = json.loads(made("csl", *names))
    source = CiteProcJSON(items)
    style = CitationStylesStyle("harvard-cite-them-right", validate=False)
    bibliography = CitationStylesBibliography(style, source, formatter.plain)
    bibliography.register(Citation([CitationItem(one["id"]) for one in items]))
    shown = [str(entry) for entry in bibliography.bibliography()]
    assert len(shown) == len(items)
    for item, text in zip(items, shown, strict=True):
        assert item["title"] in text
        for author in item.get("author", [])[:1]:
            assert (author.get("family") or author["literal"]) in text


# --- BibTeX


@everything
def test_bibtex_is_parsed_and_says_the_same(
    made: Callable[..., str], names: tuple[str, ...]
) -> None:
    from pybtex.database import parse_string

    told = made("bibtex", *names)
    found = parse_string(told, "bibtex")
    items = json.loads(made("csl", *names))
    assert list(found.entries) == [one["id"] for one in items]
    for item, entry in zip(items, found.entries.values(), strict=True):
        assert entry.type == "dataset"
        assert untexed(entry.fields["title"]) == item["title"]
        assert untexed(entry.fields["note"]) == item["note"]
        assert entry.fields.get("doi") == item.get("DOI")
        people = entry.persons.get("author", [])
        assert len(people) == len(item.get("author", []))


def untexed(text: str) -> str:
    """What TeX prints."""
    words = {"backslash": "\\", "braceleft": "{", "braceright": "}"}
    words |= {"asciitilde": "~", "asciicircum": "^"}
    pattern = re.compile(r"\\text([a-z]+)\{\}|\\([#$%&_])|([{}])")
    return pattern.sub(lambda found: words[found[1]] if found[1] else found[2] or "", text)


def test_names_are_taken_apart_by_bibtex_as_they_are_meant(made: Callable[..., str]) -> None:
    from pybtex.database import parse_string

    (entry,) = parse_string(made("bibtex", "box:names"), "bibtex").entries.values()
    people = entry.persons["author"]
    assert len(people) == len(NAMES) + 1
    berg, brien, *_ = people
    assert (berg.prelast_names, berg.last_names) == (["van", "der"], ["Berg"])
    assert brien.first_names == ["Seán"]
    assert people[3].lineage_names == ["Jr."]
    assert people[6].last_names == ["{hooks}"]
    assert people[7].last_names == ["{Sand and Stone}"]
    assert people[8].last_names == [
        r"{The \textbraceleft{}Brain\textbraceright{} \& Mind\_Lab, Inc.}"
    ]


# --- DataCite


@everything
def test_datacite_fits_its_schema(made: Callable[..., str], names: tuple[str, ...]) -> None:
    from jsonschema import Draft201909Validator, FormatChecker

    name = "inveniosoftware-4.5-81-g160250d.json"
    text = (resources("dandischema") / "datacite" / "schema" / name).read_text("utf-8")
    checker = Draft201909Validator(json.loads(text), format_checker=FormatChecker())
    told = json.loads(made("datacite", *names))
    records = told if len(names) > 1 else [told]
    assert len(records) == len(names)
    for record in records:
        assert [error.message for error in checker.iter_errors(record)] == []
    del records[0]["creators"]
    assert not checker.is_valid(records[0])


# --- RO-Crate


def context() -> dict[str, Any]:
    """RO-Crate's terms, as its authors' own reader carries them."""
    text = (resources("rocrate") / "data" / "ro-crate.jsonld").read_text("utf-8")
    terms: dict[str, Any] = json.loads(text)["@context"]
    return terms


def conforms(crate: dict[str, Any]) -> tuple[bool, str]:
    """Whether a crate has what RO-Crate 1.2 demands, by roc-validator's shapes."""
    import pyshacl
    from rdflib import Graph

    shapes, terms = Graph(), Graph().parse(SHAPES / "ontology.ttl")
    for path in sorted(SHAPES.glob("*.ttl")):
        shapes.parse(path, format="turtle", publicID="https://shapes.example.invalid/")
    base = "https://crate.example.invalid/"
    text = json.dumps({**crate, "@context": context()})
    graph = Graph().parse(data=text, format="json-ld", publicID=base, base=base)
    found, _, report = pyshacl.validate(
        graph, shacl_graph=shapes, ont_graph=terms, advanced=True, inplace=True
    )
    return found, report


@some
def test_a_crate_has_what_ro_crate_demands(
    made: Callable[..., str], names: tuple[str, ...]
) -> None:
    crate = json.loads(made("ro-crate", *names, files=names != TOGETHER))
    found, report = conforms(crate)
    assert found, report


@pytest.mark.parametrize("write", [dumped, compact])
def test_characters_that_are_not_seen_are_escaped(write: Callable[[object], str]) -> None:
    value = {"na\u202eme": "a\u2066b\u200f\ufeff\x9b\U000e0041 ümläut"}
    text = write(value)
    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()
    assert "ümläut" in text


def test_a_crate_without_a_license_would_not_pass(made: Callable[..., str]) -> None:
    crate = json.loads(made("ro-crate", PUBLISHED, files=False))
    (root,) = (one for one in crate["@graph"] if one["@id"] == "./")
    del root["license"]
    found, report = conforms(crate)
    assert not found
    assert "MUST have a `license`" in report


@everything
def test_a_crate_is_flat_and_all_its_terms_are_known(
    made: Callable[..., str], names: tuple[str, ...], tmp_path: Path
) -> None:
    from rocrate.rocrate import ROCrate

    text = made("ro-crate", *names)
    (tmp_path / "ro-crate-metadata.json").write_text(text, "utf-8")
    crate = ROCrate(tmp_path)
    graph = json.loads(text)["@graph"]
    ids = [one["@id"] for one in graph]
    assert len(ids) == len(set(ids))
    assert all(" " not in one for one in ids)
    known = context()
    for entity in graph:
        assert crate.get(entity["@id"]) is not None
        assert {name for name in entity if not name.startswith("@")} <= known.keys()
        assert entity["@type"] in known
        for value in entity.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict):
                    assert one.keys() == {"@id"}
                    assert one["@id"] in ids or one["@id"].startswith("https://w3id.org/ro/")


# --- BagIt


@pytest.mark.parametrize("names", [*ALONE, TOGETHER, ("box:names",)], ids=named)
def test_a_bag_is_whole_once_it_is_fetched(
    shelf: Shelf, odd: Shelf, tmp_path: Path, names: tuple[str, ...]
) -> None:
    import bagit

    chosen = odd if names[0].startswith("box:") else shelf
    folder = chosen.bag(tmp_path / "bag", *names)
    bag = bagit.Bag(str(folder))
    bag.validate_fetch()
    wanted = list(bag.fetch_entries())
    if chosen is odd:
        # nobody serves these
        assert {name for _, _, name in wanted} == bag.payload_entries().keys() - {
            "data/dandiset.yaml"
        }
        return
    for url, size, name in wanted:
        with urllib.request.urlopen(url, timeout=30) as reply:
            content = reply.read()
        assert size in ("-", str(len(content)))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert bag.validate()
    left_out = (folder / "not-in-this-bag.txt").exists()
    assert left_out is bool({ASSET, VOLUME, LABELS, DRAFT} & set(names))
    files = sum(shelf.work(name).files for name in names)
    documents = len(bag.payload_entries()) - len(wanted)
    number = (
        len((folder / "not-in-this-bag.txt").read_text("utf-8").splitlines()) if left_out else 0
    )
    assert len(wanted) + number == files
    assert documents > 0
    # one wrong byte is found
    (folder / next(iter(bag.payload_entries()))).write_bytes(b"x")
    assert not bagit.Bag(str(folder)).is_valid()


def test_a_name_that_a_bag_cannot_have_is_left_out_in_words(shelf: Shelf, tmp_path: Path) -> None:
    from test_lab_cite import commit_as_minted

    clone = shelf.clone(PUBLISHED, tmp_path / "clone")
    link = next((clone / "sub-201").iterdir()).readlink()
    for name in ("line%0Abreak.nwb", " space.nwb", "50%.nwb"):
        (clone / "sub-201" / name).symlink_to(link)
    commit_as_minted(clone)
    folder = tmp_path / "bag"
    shelf.run(str(clone), "--format", "bagit", "-o", str(folder))
    told = (folder / "not-in-this-bag.txt").read_text("utf-8")
    assert told.splitlines() == [
        "sub-201/line%0Abreak.nwb: no list of a bag can hold its name",
    ]
    fetched = (folder / "fetch.txt").read_text("utf-8")
    assert " data/sub-201/50%.nwb\n" in fetched
    assert hashlib.sha256((folder / "fetch.txt").read_bytes()).hexdigest() in (
        folder / "tagmanifest-sha256.txt"
    ).read_text("utf-8")


def test_no_name_adds_a_line_to_a_bag(shelf: Shelf, tmp_path: Path) -> None:
    """A bag's reader would fetch what a line names: any address, to any place."""
    import bagit
    from test_lab_cite import commit_as_minted

    clone = shelf.clone(PUBLISHED, tmp_path / "clone")
    link = next((clone / "sub-201").iterdir()).readlink()
    for byte in ("\n", "\r", "\x0b", "\x1c", "\x1b"):
        folder = clone / "sub-201" / f"x{byte}file:"
        folder.mkdir()
        (folder / "victim 3 data y").symlink_to(f"../../{link}")
    commit_as_minted(clone)
    folder = tmp_path / "bag"
    shelf.run(str(clone), "--format", "bagit", "-o", str(folder))
    bag = bagit.Bag(str(folder))
    assert all(url.startswith("http") for url, _, _ in bag.fetch_entries())
    assert not any("victim" in name for name in bag.payload_entries())
    for path in folder.glob("*.txt"):
        assert path.read_text("utf-8").replace("\n", "").isprintable()
    assert (folder / "not-in-this-bag.txt").read_text("utf-8").count("victim") == 5


# --- Croissant


@pytest.fixture
def quiet() -> Iterator[None]:
    """mlcroissant logs what it recommends."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@everything
@pytest.mark.usefixtures("quiet")
def test_croissant_is_loaded_by_mlcroissant(
    made: Callable[..., str], names: tuple[str, ...]
) -> None:
    import mlcroissant

    told = json.loads(made("croissant", *names))
    metadata = mlcroissant.Dataset(jsonld=told).metadata
    assert metadata.ctx.issues.errors == set()
    warnings = {one for one in metadata.ctx.issues.warnings if "MAJOR.MINOR.PATCH" not in one}
    recommended = re.compile('"https://schema.org/(license|version)" is recommended')
    assert all(map(recommended.search, warnings)), warnings
    assert metadata.name == told["name"]
    listed = {one.name: one for one in metadata.distribution}
    assert listed.keys() == {one["name"] for one in told["distribution"]}
    assert all(one.sha256 or one.md5 for one in listed.values())


@pytest.mark.usefixtures("quiet")
def test_croissants_files_are_had_and_checked_by_their_hashes(shelf: Shelf) -> None:
    told = json.loads(shelf.cited("croissant", ASSET))
    for one in told["distribution"][:3]:
        with urllib.request.urlopen(one["contentUrl"], timeout=30) as reply:
            content = reply.read()
        assert one["contentSize"] == f"{len(content)} B"
        assert one["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    # its largest file came in parts, and has no checksum that Croissant knows
    assert "1 file without sha256 or md5 are not listed." in told["description"]
