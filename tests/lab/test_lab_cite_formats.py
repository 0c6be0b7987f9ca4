"""Independent programs read each citation format."""

import hashlib
import json
import logging
import re
import urllib.request
from collections.abc import Callable, Iterator
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import pytest

from neuromirror.lab.cite.formats import compact_json, indented_json
from neuromirror.model.archive_metadata import SPDX
from support.citable_stores import (
    ASSET,
    DERIVED,
    DRAFT,
    LABELS,
    NAMES,
    ODD_METADATA,
    PUBLISHED,
    SPECIALS,
    VOLUME,
    CitableStore,
)

pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated")

SINGLE = [(name,) for name in (PUBLISHED, DRAFT, ASSET, DERIVED, VOLUME, LABELS)]
TOGETHER = (PUBLISHED, DERIVED, LABELS)
ODD_ONES = [(f"box:{name}",) for name in ODD_METADATA]
SHAPES = Path(__file__).parent / "data" / "ro-crate-1.2"


def _id_of(names: tuple[str, ...]) -> str:
    return "+".join(one.rpartition(":")[2] for one in names)


@pytest.fixture
def format_citation(
    citable_store: CitableStore, odd_metadata_store: CitableStore
) -> Callable[..., str]:
    """Cite datasets from the store that has them."""

    def write(form: str, *names: str, files: bool = True) -> str:
        return (odd_metadata_store if names[0].startswith("box:") else citable_store).citation(
            form, *names, files=files
        )

    return write


everything = pytest.mark.parametrize("names", [*SINGLE, TOGETHER, *ODD_ONES], ids=_id_of)


# --- CITATION.cff


@pytest.fixture(scope="module")
def cff_schema() -> dict[str, Any]:
    """The schema of Citation File Format 1.2.0, from check-jsonschema."""
    from check_jsonschema.builtin_schemas import get_builtin_schema

    schema: dict[str, Any] = get_builtin_schema("vendor.citation-file-format")
    assert schema["properties"]["cff-version"]["examples"] == ["1.2.0"]
    return schema


@everything
def test_a_citation_cff_fits_its_schema(
    format_citation: Callable[..., str], cff_schema: dict[str, Any], names: tuple[str, ...]
) -> None:
    from jsonschema import Draft7Validator, FormatChecker
    from ruamel.yaml import YAML

    document = YAML(typ="safe", pure=True).load(format_citation("cff", *names))
    checker = Draft7Validator(cff_schema, format_checker=FormatChecker())
    assert [error.message for error in checker.iter_errors(document)] == []
    assert document["type"] == "dataset"


def test_every_license_that_is_recognised_is_one_of_cff(cff_schema: dict[str, Any]) -> None:
    assert set(SPDX) <= set(cff_schema["definitions"]["license-enum"]["enum"])


def test_the_texts_of_a_citation_cff_come_back(format_citation: Callable[..., str]) -> None:
    from ruamel.yaml import YAML

    document = YAML(typ="safe", pure=True).load(format_citation("cff", "box:specials"))
    assert document["title"] == document["abstract"] == SPECIALS
    document = YAML(typ="safe", pure=True).load(format_citation("cff", "box:names"))
    assert document["authors"][0] == {
        "family-names": "Berg",
        "given-names": "Anna",
        "name-particle": "van der",
        "orcid": "https://orcid.org/0000-0002-1825-0097",
    }
    assert document["authors"][3]["name-suffix"] == "Jr."
    assert document["authors"][8]["name"] == "The {Brain} & Mind_Lab, Inc."


# --- CSL


@everything
@pytest.mark.filterwarnings("error:The following arguments")  # fields that CSL does not have
def test_csl_is_rendered_by_citeproc(
    format_citation: Callable[..., str], names: tuple[str, ...]
) -> None:
    from citeproc import (
        Citation,
        CitationItem,
        CitationStylesBibliography,
        CitationStylesStyle,
        formatter,
    )
    from citeproc.source.json import CiteProcJSON

    items = json.loads(format_citation("csl", *names))
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
    format_citation: Callable[..., str], names: tuple[str, ...]
) -> None:
    from pybtex.database import parse_string

    bibtex = format_citation("bibtex", *names)
    string = parse_string(bibtex, "bibtex")
    items = json.loads(format_citation("csl", *names))
    assert list(string.entries) == [one["id"] for one in items]
    for item, entry in zip(items, string.entries.values(), strict=True):
        assert entry.type == "dataset"
        assert untexed(entry.fields["title"]) == item["title"]
        assert untexed(entry.fields["note"]) == item["note"]
        assert entry.fields.get("doi") == item.get("DOI")
        people = entry.persons.get("author", [])
        assert len(people) == len(item.get("author", []))


def untexed(text: str) -> str:
    """Return the text that TeX prints."""
    characters = {"backslash": "\\", "braceleft": "{", "braceright": "}"}
    characters |= {"asciitilde": "~", "asciicircum": "^"}
    pattern = re.compile(r"\\text([a-z]+)\{\}|\\([#$%&_])|([{}])")
    return pattern.sub(lambda found: characters[found[1]] if found[1] else found[2] or "", text)


def test_bibtex_splits_names_as_intended(format_citation: Callable[..., str]) -> None:
    from pybtex.database import parse_string

    (entry,) = parse_string(format_citation("bibtex", "box:names"), "bibtex").entries.values()
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
def test_datacite_fits_its_schema(
    format_citation: Callable[..., str], names: tuple[str, ...]
) -> None:
    from jsonschema import Draft201909Validator, FormatChecker

    name = "inveniosoftware-4.5-81-g160250d.json"
    text = (resources("dandischema") / "datacite" / "schema" / name).read_text("utf-8")
    checker = Draft201909Validator(json.loads(text), format_checker=FormatChecker())
    document = json.loads(format_citation("datacite", *names))
    records = document if len(names) > 1 else [document]
    assert len(records) == len(names)
    for record in records:
        assert [error.message for error in checker.iter_errors(record)] == []
    del records[0]["creators"]
    assert not checker.is_valid(records[0])


# --- RO-Crate


def context() -> dict[str, Any]:
    """The terms of RO-Crate, from the reader of its authors."""
    text = (resources("rocrate") / "data" / "ro-crate.jsonld").read_text("utf-8")
    terms: dict[str, Any] = json.loads(text)["@context"]
    return terms


@pytest.fixture
def queries_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rdflib parse each query of the shapes once, which takes most of a validation."""
    from rdflib.plugins.sparql import processor

    parse, translate = processor.parseQuery, processor.translateQuery
    translated: dict[tuple[str, str | None, str], Any] = {}

    def translate_once(text: str, base: str | None, prefixes: dict[str, Any]) -> Any:
        key = (text, base, str(prefixes))
        if key not in translated:
            translated[key] = translate(parse(text), base, prefixes)
        return translated[key]

    monkeypatch.setattr(processor, "parseQuery", lambda text: text)
    monkeypatch.setattr(processor, "translateQuery", translate_once)


@pytest.mark.usefixtures("queries_parsed_once")
def test_crates_have_what_ro_crate_demands(format_citation: Callable[..., str]) -> None:
    import pyshacl
    from rdflib import Graph

    shapes, terms = Graph(), Graph().parse(SHAPES / "ontology.ttl")
    for path in sorted(SHAPES.glob("*.ttl")):
        shapes.parse(path, format="turtle", publicID="https://shapes.example.invalid/")

    def validate(crate: dict[str, Any]) -> tuple[bool, str]:
        base = "https://crate.example.invalid/"
        text = json.dumps({**crate, "@context": context()})
        graph = Graph().parse(data=text, format="json-ld", publicID=base, base=base)
        valid, _, report = pyshacl.validate(
            graph, shacl_graph=shapes, ont_graph=terms, advanced=True, inplace=True
        )
        return valid, report

    crates = (
        format_citation("ro-crate", PUBLISHED),
        format_citation("ro-crate", *TOGETHER, files=False),
    )
    for crate in crates:
        valid, report = validate(json.loads(crate))
        assert valid, report
    # persons, organisations and grants; the only violation is the missing license
    unlicensed = json.loads(format_citation("ro-crate", "box:names"))
    (root,) = (one for one in unlicensed["@graph"] if one["@id"] == "./")
    del root["license"]
    valid, report = validate(unlicensed)
    assert not valid
    assert report.count("Constraint Violation") == 1
    assert "MUST have a `license`" in report


@pytest.mark.parametrize("write", [indented_json, compact_json])
def test_characters_that_are_not_seen_are_escaped(write: Callable[[object], str]) -> None:
    value = {"na\u202eme": "a\u2066b\u200f\ufeff\x9b\U000e0041 ümläut"}
    text = write(value)
    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()
    assert "ümläut" in text


@everything
def test_a_crate_is_flat_and_all_its_terms_are_known(
    format_citation: Callable[..., str], names: tuple[str, ...], tmp_path: Path
) -> None:
    from rocrate.rocrate import ROCrate

    text = format_citation("ro-crate", *names)
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


# --- Croissant


@pytest.fixture
def quiet() -> Iterator[None]:
    """mlcroissant logs recommendations."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@everything
@pytest.mark.usefixtures("quiet")
def test_croissant_is_loaded_by_mlcroissant(
    format_citation: Callable[..., str], names: tuple[str, ...]
) -> None:
    import mlcroissant

    document = json.loads(format_citation("croissant", *names))
    metadata = mlcroissant.Dataset(jsonld=document).metadata
    assert metadata.ctx.issues.errors == set()
    warnings = {one for one in metadata.ctx.issues.warnings if "MAJOR.MINOR.PATCH" not in one}
    recommended = re.compile('"https://schema.org/(license|version)" is recommended')
    assert all(map(recommended.search, warnings)), warnings
    assert metadata.name == document["name"]
    listed = {one.name: one for one in metadata.distribution}
    assert listed.keys() == {one["name"] for one in document["distribution"]}
    assert all(one.sha256 or one.md5 for one in listed.values())


@pytest.mark.usefixtures("quiet")
def test_files_of_croissant_are_downloaded_and_checked(citable_store: CitableStore) -> None:
    document = json.loads(citable_store.citation("croissant", ASSET))
    for one in document["distribution"][:3]:
        with urllib.request.urlopen(one["contentUrl"], timeout=30) as reply:
            content = reply.read()
        assert one["contentSize"] == f"{len(content)} B"
        assert one["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    # the largest file is a multipart upload without sha256 and md5
    assert "1 file without sha256 or md5 are not listed." in document["description"]
