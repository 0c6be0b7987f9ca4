"""The formats of citations.

Citations for people and reference managers: text, BibTeX, CSL-JSON, CFF and DataCite JSON.

Metadata with an entry per file, as JSON-LD: RO-Crate 1.2 and Croissant 1.0.

The files are on the web; their entries have URLs, sizes and checksums, and are written while the
files are read from git. RO-Crate lists all ids before the entities, which are therefore buffered in
a file on disk. Croissant lists files with a sha256 or md5 and a URL; the others are counted in the
description. It has no RecordSet, because the content of the files is not read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from neuromirror.lab.cite.states import CitedEntry, cited_files
from neuromirror.lab.cite.works import Agent, CitationCollection, CitedWork, Funder, License
from neuromirror.lab.export_lock import printable_url
from neuromirror.lab.output_files import OutputUnsuitableError, write_file
from neuromirror.model import count_of
from neuromirror.model.archive_metadata import SPDX

_Value = TypeVar("_Value")

_UNSEEN: Final = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Invisible characters, and those that change the writing direction."""

# --- JSON, as UTF-8 with invisible characters escaped; equal values give equal bytes


def indented_json(value: Any) -> str:
    """Encode a value indented, with a newline at the end."""
    # json's encoder that is written in C does not indent
    encoded = compact_json(value).encode("utf-8", "surrogatepass")
    return msgspec.json.format(encoded, indent=2).decode("utf-8", "surrogatepass") + "\n"


def compact_json(value: Any) -> str:
    """Encode a value on one line."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def distinct(values: Iterable[_Value]) -> list[_Value]:
    """Return JSON values in their order, without duplicates."""
    found: list[_Value] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object without its members that are null or an empty text, list or object."""
    empty: tuple[Any, ...] = (None, "", [], {}, ())
    return {name: value for name, value in table.items() if value not in empty}


# --- sentences of several formats


def license_phrase(work: CitedWork) -> str:
    """Return ``License: CC-BY-4.0``, or an empty text without a license."""
    names = ", ".join(one.name for one in work.licenses)
    return f"License{'s' * (len(work.licenses) > 1)}: {names}" if names else ""


def retrieval_phrase(work: CitedWork) -> str:
    """Return ``Retrieved as <SWHID>, state <digest>``, the ids of the retrieved state.

    It has no full stop at its end, which readers could copy with the digest.
    """
    return f"Retrieved as {work.qualified_swhid}, state {work.digest}"


def note(work: CitedWork, *, names_license: bool = True) -> str:
    """Return the license, the remarks and the ids of the retrieved state as one text."""
    license_ = license_phrase(work) if names_license else ""
    return _joined(license_ and f"{license_}.", *remarks(work), retrieval_phrase(work))


def remarks(work: CitedWork) -> list[str]:
    """Return sentences that follow a citation: requests to cite, derivation, selected files."""
    mirror = work.state.name.partition(":")[0]
    requests = "; ".join(f'"{one}"' for one in work.citation_requests)
    chosen = ", ".join(work.state.paths)
    found = [
        requests and f"The archive asks to cite {requests}.",
        work.within and f"It is a subdataset of {mirror}:{work.within}.",
        work.inputs and f"Derived from {'; '.join(work.inputs)}.",
        chosen and f"Selection of {count_of(work.files, 'file')}: {chosen}.",
    ]
    return [one for one in found if one]


def unlisted_remarks(work: CitedWork) -> list[str]:
    """Return sentences with the number of files that the citation's list of files omits.

    They are in subdatasets, outside the git tree, or not mirrored.
    """
    inside = count_of(sum(files for _, files, _ in work.subdatasets), "file")
    subdatasets = count_of(len(work.subdatasets), "subdataset")
    outside = count_of(work.manifest_only_files, "file")
    have = "has" if work.left_out == 1 else "have"
    left_out = count_of(work.left_out, "item")
    found = [
        work.subdatasets and f"{inside} in {subdatasets} are not listed.",
        work.manifest_only_files and f"{outside} outside the git tree are not listed.",
        work.left_out and f"{left_out} of the upstream listing {have} not been mirrored.",
    ]
    return [one for one in found if one]


def paragraph(work: CitedWork) -> str:
    """Return one citation on one line, in the style of DANDI and journals."""
    title, publisher = work.title.rstrip("."), work.publisher
    year = work.citation_date.year if work.citation_date else "n.d."
    authors = "; ".join(one.name for one in work.authors)
    head = f"{authors} ({year}) {title}" if authors else f"{title} ({year})"
    return _joined(
        f"{head} (Version {work.version}) [Data set].",
        f"{publisher.name.rstrip('.')}." if publisher else None,
        # a full stop directly after a URL would be read as part of it
        f"{work.url} ({license_phrase(work)})." if work.licenses else f"{work.url} .",
        *remarks(work),
        retrieval_phrase(work),
    )


def _joined(*sentences: str | None) -> str:
    return " ".join(filter(None, sentences))


def write_text(collection: CitationCollection) -> Iterator[str]:
    """Yield a paragraph per work, separated by empty lines."""
    yield "\n".join(f"{paragraph(work)}\n" for work in collection.works)


# --- BibTeX for biblatex (``@dataset``, manual of biblatex 3.20) and the styles of BibTeX: UTF-8,
# as biber and current styles read it. ``doi`` and ``url`` are verbatim fields.

# no at sign: for BibTeX it starts an entry even in a comment
_BIBTEX_HEAD: Final = (
    "% The entry type 'dataset' is biblatex's. BibTeX's own styles print it as 'misc', with\n"
    "% a warning; write 'misc' instead to avoid the warning.\n"
)
# BibTeX counts braces even after a backslash
_TEX: Final = str.maketrans(
    {
        **{one: f"\\{one}" for one in "#$%&_"},
        **{"\\": r"\textbackslash{}", "{": r"\textbraceleft{}", "}": r"\textbraceright{}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    }
)
_VERBATIM: Final = str.maketrans({"{": "%7B", "}": "%7D", "\\": "%5C", " ": "%20"})


def write_bibtex(collection: CitationCollection) -> Iterator[str]:
    """Yield the text of a ``.bib`` file: a head of comments, and one entry per work."""
    yield _BIBTEX_HEAD
    for key, work in zip(collection.keys(), collection.works, strict=True):
        fields = {
            "author": " and ".join(map(_bibtex_author, work.authors)),
            "title": f"{{{_tex(work.title)}}}",  # extra braces keep the case of letters
            "year": work.citation_date and work.citation_date.year,
            "version": _tex(work.version),
            "publisher": _tex(work.publisher.name) if work.publisher else "",
            "doi": (work.doi or "").translate(_VERBATIM),
            "url": "" if work.doi else work.url.translate(_VERBATIM),
            "keywords": ", ".join(_tex(one.replace(",", " ")) for one in work.keywords),
            "note": _tex(note(work)),
        }
        lines = (f"  {name:<9} = {{{value}}},\n" for name, value in fields.items() if value)
        yield f"\n@dataset{{{key},\n{''.join(lines)}}}\n"


def _bibtex_author(one: Agent) -> str:
    if not one.family:
        return f"{{{_tex(one.name)}}}"
    family = _braced(one.family)
    if one.family[:1].islower():
        family = f"{{{family}}}"
    last = f"{_tex(one.particle)} {family}".strip()
    return ", ".join(filter(None, (last, _tex(one.suffix), _braced(one.given))))


def _braced(name: str) -> str:
    """Return a component of a name, in braces if BibTeX would split it."""
    escaped = _tex(name)
    return f"{{{escaped}}}" if " and " in f" {name.casefold()} " or "," in name else escaped


def _tex(text: str) -> str:
    return text.translate(_TEX)


# --- CSL-JSON (csl-data.json of CSL 1.0.2), as Zotero, pandoc and citeproc read it


def write_csl(collection: CitationCollection) -> Iterator[str]:
    """Yield the text of a CSL-JSON file: one list with one item per work."""
    yield indented_json(list(map(_csl, collection.keys(), collection.works)))


def _csl(key: str, work: CitedWork) -> dict[str, Any]:
    day = work.citation_date
    return without_empty(
        {
            "id": key,
            "type": "dataset",
            "title": work.title,
            "author": list(map(_csl_name, work.authors)),
            "issued": day and {"date-parts": [[day.year, day.month, day.day]]},
            "version": work.version,
            "publisher": work.publisher and work.publisher.name,
            "DOI": work.doi,
            "URL": work.url,
            "abstract": work.description,
            "keyword": ", ".join(work.keywords),
            "note": note(work),
        }
    )


def _csl_name(one: Agent) -> dict[str, str]:
    if not one.family:
        return {"literal": one.name}
    names = {"family": one.family, "given": one.given, "non-dropping-particle": one.particle}
    return without_empty({**names, "suffix": one.suffix})


# --- CITATION.cff, Citation File Format 1.2.0 (schema-guide of citation-file-format): YAML in block
# style, with texts in double quotes, which JSON and YAML parse in the same way. Several works are
# the references of one file with the title of the collection.

_CFF_DOI: Final = re.compile(r"10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-.()\[\]\\]+\Z")
_WEB: Final = re.compile(r"(?:https?|s?ftp)://\S+\Z")
_CITE: Final = "If you use these data, please cite"
# printable for JSON, not for YAML
_NOT_YAML: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def write_cff(collection: CitationCollection) -> Iterator[str]:
    """Yield the text of a ``CITATION.cff`` file."""
    only = collection.single_work
    if only is not None:
        message, about = f"them as below. {_cff_note(only)}", _cff_fields(only)
    else:
        message = "each of the references below."
        about = {"title": collection.title, "authors": _cff_authors(collection.works)}
        about["references"] = [
            {"type": "data", **_cff_fields(work), "notes": _cff_note(work)}
            for work in collection.works
        ]
    head = {"cff-version": "1.2.0", "message": f"{_CITE} {message}", "type": "dataset"}
    yield from _block(head | about, 0)


def _cff_fields(work: CitedWork) -> dict[str, Any]:
    """Return the fields of a work, for a file or for a reference."""
    is_doi = work.doi is not None and _CFF_DOI.match(work.doi)
    license_ = work.licenses[0] if len(work.licenses) == 1 else None
    spdx = license_.spdx if license_ and _has_known_license(work) else None
    return without_empty(
        {
            "title": work.title,
            "authors": _cff_authors([work]),
            "version": work.version,
            "date-released": work.citation_date and work.citation_date.isoformat(),
            "doi": work.doi if is_doi else None,
            "url": work.address if _WEB.match(work.address) else None,
            "license": spdx,
            "license-url": license_.url if license_ and not spdx else None,
            "keywords": list(work.keywords),
            "abstract": work.description,
            "commit": work.state.commit,
            "identifiers": [
                {"type": kind, "value": value, "description": about}
                for kind, value, about in _cff_identifiers(work, named_doi=bool(is_doi))
            ],
        }
    )


def _has_known_license(work: CitedWork) -> bool:
    return len(work.licenses) == 1 and work.licenses[0].spdx in SPDX


def _cff_note(work: CitedWork) -> str:
    return note(work, names_license=not _has_known_license(work))


def _cff_identifiers(work: CitedWork, *, named_doi: bool) -> Iterator[tuple[str, str, str]]:
    if work.doi is not None and named_doi:
        yield "doi", work.doi, f"Upstream's DOI{' of this version' * work.is_published}"
    elif work.doi is not None:
        yield "other", f"doi:{work.doi}", "Upstream's DOI"
    yield "swh", work.swhid, "The commit of the DataLad dataset that these data were retrieved as"
    directory = "The directory tree, whose identifier depends on every file"
    yield "swh", f"swh:1:dir:{work.state.tree}", directory
    yield "other", work.digest, "The digest of its state"
    for kind, value in work.identifiers:
        yield "other", value, f"Identifier at the archive ({kind})"


def _cff_authors(works: Sequence[CitedWork]) -> list[dict[str, str]]:
    """Return all authors without duplicates; the format requires at least one."""
    found = distinct(_cff_author(one) for work in works for one in work.authors)
    publishers = (work.publisher.name for work in works if work.publisher is not None)
    others = [{"name": name} for name in dict.fromkeys(publishers)]
    return found or others or [{"name": "Authors not stated upstream"}]


def _cff_author(one: Agent) -> dict[str, str]:
    if not one.is_person:
        return without_empty({"name": one.name, "website": one.url})
    return without_empty(
        {
            "family-names": one.family or one.full_name,
            "given-names": one.given,
            "name-particle": one.particle,
            "name-suffix": one.suffix,
            "affiliation": "; ".join(affiliation.name for affiliation in one.affiliations),
            "orcid": one.url,
        }
    )


def _block(table: dict[str, Any], depth: int) -> Iterator[str]:
    """Yield the lines of a mapping."""
    space = "  " * depth
    for name, value in table.items():
        if not isinstance(value, list):
            yield f"{space}{name}: {_yaml(value)}\n"
            continue
        yield f"{space}{name}:\n"
        for one in value:
            lines = list(_block(one, depth + 2)) if isinstance(one, dict) else [f"{_yaml(one)}\n"]
            yield f"{space}  - {lines[0].lstrip()}"
            yield from lines[1:]


def _yaml(value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found.group()):04x}", quoted)


# --- DataCite JSON (metadata schema 4.5). The record describes a copy without a DOI. It is related
# to the DOI of upstream: as identical if a published version was mirrored completely, else as a
# variant form. Required fields that upstream does not have are ``:unav``, as DataCite recommends.

_UNKNOWN: Final = ":unav"
_ROR: Final = "https://ror.org"
_SPDX_SCHEME: Final = {
    "rightsIdentifierScheme": "SPDX",
    "schemeUri": "https://spdx.org/licenses/",
}
_INPUT: Final = {"relatedItemType": "Dataset", "relationType": "IsDerivedFrom"}
_RELATIONS: Final = frozenset(
    (
        *("IsCitedBy", "Cites", "IsSupplementTo", "IsSupplementedBy", "IsContinuedBy", "Continues"),
        *("IsDescribedBy", "Describes", "HasMetadata", "IsMetadataFor", "HasVersion"),
        *("IsVersionOf", "IsNewVersionOf", "IsPreviousVersionOf", "IsPartOf", "HasPart"),
        *("IsPublishedIn", "IsReferencedBy", "References", "IsDocumentedBy", "Documents"),
        *("IsCompiledBy", "Compiles", "IsVariantFormOf", "IsOriginalFormOf", "IsIdenticalTo"),
        *("IsReviewedBy", "Reviews", "IsDerivedFrom", "IsSourceOf", "IsRequiredBy", "Requires"),
        *("IsObsoletedBy", "Obsoletes", "Collects", "IsCollectedBy"),
    )
)


def write_datacite(collection: CitationCollection) -> Iterator[str]:
    """Yield DataCite JSON: one record, or a list of records for several works."""
    records = [_record(work) for work in collection.works]
    yield indented_json(records if collection.single_work is None else records[0])


def _record(work: CitedWork) -> dict[str, Any]:
    host = work.source.partition("://")[2].partition("/")[0]
    dates = {"Issued": work.published, "Created": work.created, "Updated": work.modified}
    info = _joined(*remarks(work), *unlisted_remarks(work), retrieval_phrase(work))
    return without_empty(
        {
            "types": {"resourceTypeGeneral": "Dataset", "resourceType": "Dataset"},
            "creators": list(map(_creator, work.authors)) or [{"name": _UNKNOWN}],
            "titles": [{"title": work.title}],
            "publisher": _place(work.publisher or Agent(host or _UNKNOWN), "publisher"),
            "publicationYear": f"{work.required_date.year:04d}",
            "version": work.version,
            "subjects": [{"subject": one} for one in work.keywords],
            "dates": [
                {"date": day.isoformat(), "dateType": kind} for kind, day in dates.items() if day
            ],
            "alternateIdentifiers": [
                {"alternateIdentifier": value, "alternateIdentifierType": kind}
                for kind, value in dict.fromkeys(work.all_identifiers)
            ],
            "relatedIdentifiers": distinct(
                {"relatedIdentifier": value, "relatedIdentifierType": kind, "relationType": name}
                for name, value, kind in _related(work)
            ),
            "relatedItems": [{"titles": [{"title": one}], **_INPUT} for one in work.inputs],
            "sizes": [count_of(work.files, "file"), f"{work.bytes} bytes"],
            "rightsList": [
                {
                    **without_empty({"rights": one.name, "rightsUri": one.url}),
                    **({"rightsIdentifier": one.spdx, **_SPDX_SCHEME} if one.spdx else {}),
                }
                for one in work.licenses
            ],
            "descriptions": [
                {"description": text, "descriptionType": kind}
                for text, kind in ((work.description, "Abstract"), (info, "TechnicalInfo"))
                if text
            ],
            "fundingReferences": list(map(_funding, work.funders)),
            "url": work.address if work.address.startswith(("http://", "https://")) else None,
            "schemaVersion": "http://datacite.org/schema/kernel-4",
        }
    )


def _funding(one: Funder) -> dict[str, Any]:
    name, ror = one.organisation.name, one.organisation.url
    identifier = {"funderIdentifier": ror, "funderIdentifierType": "ROR"} if ror else {}
    return without_empty({"funderName": name, **identifier, "awardNumber": one.award})


def _creator(one: Agent) -> dict[str, Any]:
    scheme, uri = ("ORCID", "https://orcid.org") if one.is_person else ("ROR", _ROR)
    identifier = {"nameIdentifier": one.url, "nameIdentifierScheme": scheme, "schemeUri": uri}
    return without_empty(
        {
            "name": one.name,
            "nameType": "Personal" if one.is_person else "Organizational",
            "givenName": one.given,
            "familyName": one.whole_family,
            "nameIdentifiers": [identifier] if one.url else [],
            "affiliation": [_place(place, "affiliation") for place in one.affiliations],
        }
    )


def _place(one: Agent, role: str) -> dict[str, str]:
    scheme = {f"{role}IdentifierScheme": "ROR", "schemeUri": _ROR} if one.url else {}
    return without_empty({"name": one.name, f"{role}Identifier": one.url, **scheme})


def _related(work: CitedWork) -> Iterator[tuple[str, str, str]]:
    """Yield relation, identifier and its kind."""
    is_whole = work.is_published and not work.left_out and not work.state.paths
    copied = "IsIdenticalTo" if is_whole else "IsPartOf" if work.state.paths else "IsVariantFormOf"
    if work.doi is not None:
        yield copied, work.doi, "DOI"
    elif work.address != work.source:
        yield copied, work.address, "URL"
    yield "IsVersionOf", work.source, "URL"
    yield from (one for one in work.related if one[0] in _RELATIONS)


# --- files of any version

Entity = dict[str, Any]

_BINARY: Final = "application/octet-stream"
_TYPES: Final[dict[str, str]] = dict(
    re.findall(
        r"(\S+) (\S+)",
        """
    avi video/x-msvideo  csv text/csv  gz application/gzip  h5 application/x-hdf5
    hdf5 application/x-hdf5  htm text/html  html text/html  jpeg image/jpeg  jpg image/jpeg
    json application/json  jsonl application/jsonl  log text/plain  mat application/x-matlab-data
    md text/markdown  mkv video/x-matroska  mov video/quicktime  mp4 video/mp4
    nii application/x-nifti  npy application/x-npy  npz application/x-npz  nwb application/x-nwb
    parquet application/vnd.apache.parquet  pdf application/pdf  png image/png  py text/x-python
    svg image/svg+xml  tar application/x-tar  tif image/tiff  tiff image/tiff
    toml application/toml  tsv text/tab-separated-values  txt text/plain  wav audio/x-wav
    xml application/xml  yaml application/yaml  yml application/yaml  zip application/zip
    zst application/zstd
    """,
    )
)
"""Media types by file extension, the same on every machine."""


def media_type(path: str) -> str:
    """Return the media type (MIME type) for the extension of a file name."""
    return _TYPES.get(path.rpartition("/")[2].rpartition(".")[2].casefold(), _BINARY)


def _description(work: CitedWork, *notes: str, files: bool) -> str:
    """Return upstream's description or, without one, title, number of files and size; and notes."""
    summary = f"{work.title}: {count_of(work.files, 'file')}, {work.bytes} bytes."
    unlisted = unlisted_remarks(work) if files else []
    return " ".join([work.description or summary, *notes, *remarks(work), *unlisted])


# --- RO-Crate

_SPECIFICATION: Final = "https://w3id.org/ro/crate/1.2"
_ROOT: Final = "./"
_DOI: Final = "https://registry.identifiers.org/registry/doi"


def write_rocrate(collection: CitationCollection, *, files: bool) -> Iterator[str]:
    """Yield the text of ``ro-crate-metadata.json``; without ``files`` it lists no files."""
    crate = _Crate(collection, files=files)
    yield f'{{\n"@context": "{_SPECIFICATION}/context",\n"@graph": [\n'
    head = {"@id": "ro-crate-metadata.json", "@type": "CreativeWork", "about": {"@id": _ROOT}}
    yield compact_json({**head, "conformsTo": {"@id": _SPECIFICATION}})
    if collection.single_work is not None:
        yield from crate.dataset(_ROOT, collection.single_work)
    else:
        yield f",\n{compact_json(_collection_entity(collection))}"
        for work in collection.works:
            yield from crate.dataset(work.swhid, work)
    for entity in crate.contextual.values():
        yield f",\n{compact_json(entity)}"
    yield "\n]\n}\n"


def _collection_entity(collection: CitationCollection) -> Entity:
    works = collection.works
    licenses = sorted({license_phrase(work) or "none stated" for work in works})
    return {
        "@id": _ROOT,
        "@type": "Dataset",
        "name": collection.title,
        "description": f"{collection.title}: {', '.join(one.name for one in works)}",
        "datePublished": max(one.required_date for one in works).isoformat(),
        "license": f"Each dataset has its own: {'; '.join(licenses)}",
        "hasPart": [{"@id": one.swhid} for one in works],
    }


class _Crate:
    """The entities of a crate, of which each has an id of its own."""

    def __init__(self, collection: CitationCollection, *, files: bool) -> None:
        self._collection = collection
        self._has_files = files
        self._seen: set[int] = set()
        self.contextual: dict[str, Entity] = {}
        """Entities that others refer to, in the order of their first use."""

    def dataset(self, identity: str, work: CitedWork) -> Iterator[str]:
        """Yield the entity of a dataset, with the ids of its files, and then their entities."""
        dataset = compact_json({"@id": identity, **self._about(work)})
        if not self._has_files:
            yield f",\n{dataset}"
            return
        yield f',\n{dataset[:-1]}, "hasPart": ['
        with TemporaryFile("w+", encoding="utf-8", newline="\n") as waiting:
            for number, entity in enumerate(self._parts(work)):
                yield f"{',' if number else ''}\n{compact_json({'@id': entity['@id']})}"
                waiting.write(f",\n{compact_json(entity)}")
            yield "]}"
            waiting.seek(0)
            while block := waiting.read(1 << 20):
                yield block

    def _parts(self, work: CitedWork) -> Iterator[Entity]:
        """Yield an entity with a unique id for each file and subdataset."""
        prefix = self._collection.prefix(work)
        for one in cited_files(work.state):
            entity = _part(one, prefix + one.path, work)
            # 8 bytes of a digest instead of the URL save memory for millions of files
            short = int.from_bytes(hashlib.sha256(entity["@id"].encode()).digest()[:8], "big")
            if short in self._seen:
                # the same content at another path
                entity["@id"] += f"#{quote(prefix + one.path)}"
            self._seen.add(short)
            yield entity

    def _about(self, work: CitedWork) -> Entity:
        """Return the entity of a dataset without its id and files."""
        text = f"{_description(work, files=self._has_files)} {retrieval_phrase(work)}"
        licenses = list(map(self._license, work.licenses))
        return without_empty(
            {
                "@type": "Dataset",
                "name": work.title,
                "description": text,
                "datePublished": work.required_date.isoformat(),
                "license": (licenses[0] if len(licenses) == 1 else licenses)
                or "Upstream states no license.",
                "author": list(map(self._agent, work.authors)),
                "publisher": work.publisher and self._agent(work.publisher),
                "funder": distinct(map(self._funder, work.funders)),
                "version": work.version,
                "url": work.url,
                "identifier": distinct(self._identifiers(work)),
                "keywords": list(work.keywords),
                "isBasedOn": list(map(self._input, work.inputs)),
                "creditText": paragraph(work),
            }
        )

    def _license(self, one: License) -> Entity:
        about = f"The license that upstream states: {one.name}"
        identity = one.url or f"#license-{quote(one.name, safe='')}"
        return self._add(identity, "CreativeWork", name=one.name, description=about)

    def _input(self, one: str) -> Entity:
        about = "Upstream name of an input."
        identity = f"#input-{quote(one, safe='')}"
        return self._add(identity, "Dataset", name=one, description=about)

    def _agent(self, one: Agent) -> Entity:
        """Return a reference to a person or an organisation."""
        if not one.is_person:
            identity = one.url or f"#organisation-{quote(one.name, safe='')}"
            return self._add(identity, "Organization", name=one.name)
        spoken = filter(None, (one.given, one.particle, one.family, one.suffix))
        return self._add(
            one.url or f"#person-{quote(one.full_name, safe='')}",
            "Person",
            name=" ".join(spoken) if one.family else one.full_name,
            givenName=one.given,
            familyName=one.whole_family,
            affiliation=list(map(self._agent, one.affiliations)),
        )

    def _funder(self, one: Funder) -> Entity:
        """Return a reference to a grant, or to the funder without an award."""
        funder, award = self._agent(one.organisation), one.award
        identity = f"#grant-{quote(award, safe='')}"
        grant = {"name": award, "identifier": award, "funder": funder}
        return self._add(identity, "Grant", **grant) if award else funder

    def _identifiers(self, work: CitedWork) -> Iterator[Entity]:
        """Yield references to DOI, SWHIDs, state digest, and the identifiers of upstream."""
        if work.doi_url is not None:
            value = {"propertyID": _DOI, "value": f"doi:{work.doi}", "url": work.doi_url}
            yield self._add(work.doi_url, "PropertyValue", name="DOI", **value)
        for name, text in work.all_identifiers:
            yield self._add(f"#{quote(text, safe=':')}", "PropertyValue", name=name, value=text)

    def _add(self, identity: str, kind: str, **fields: Any) -> Entity:
        """Return a reference to a contextual entity; the first one with an id counts."""
        entity = without_empty({"@id": identity, "@type": kind, **fields})
        self.contextual.setdefault(identity, entity)
        return {"@id": identity}


def _part(one: CitedEntry, path: str, work: CitedWork) -> Entity:
    """Return the entity of a file, of a document, which is in git only, or of a subdataset."""
    local = {"name": path, "localPath": path}
    if one.content is not None:
        return {
            "@id": f"#{quote(path)}",
            "@type": "File",
            **local,
            "description": "Metadata of upstream, a plain file in git.",
            "encodingFormat": media_type(one.path),
            "contentSize": str(len(one.content)),
            "sha256": hashlib.sha256(one.content).hexdigest(),
        }
    if one.commit:
        identity = f"swh:1:rev:{one.commit}"
        return {"@id": identity, "@type": "Dataset", "name": path, "description": "A subdataset."}
    urls, sha256, time = list(map(printable_url, one.urls)), one.hex("sha256"), work.state.time
    return without_empty(
        {
            "@id": urls[0] if urls else f"#{quote(path)}",
            "@type": "File",
            **local,
            "encodingFormat": media_type(one.path),
            "contentSize": None if one.size is None else str(one.size),
            "sha256": sha256,
            "identifier": None if sha256 or one.digest is None else ":".join(one.digest),
            "contentUrl": urls[1:],
            "sdDatePublished": time and time.isoformat(),
        }
    )


# --- Croissant

_TERMS: Final = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty"),
    *("fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField"),
    *("path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform"),
)
_CONTEXT: Final[dict[str, Any]] = dict(
    sorted(
        {
            **{name: f"cr:{name}" for name in _TERMS},
            "@language": "en",
            "@vocab": "https://schema.org/",
            "conformsTo": "dct:conformsTo",
            "cr": "http://mlcommons.org/croissant/",
            "data": {"@id": "cr:data", "@type": "@json"},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
            "dct": "http://purl.org/dc/terms/",
            "examples": {"@id": "cr:examples", "@type": "@json"},
            "rai": "http://mlcommons.org/croissant/RAI/",
            "sc": "https://schema.org/",
        }.items()
    )
)
"""The JSON-LD context of the specification."""


def write_croissant(collection: CitationCollection, *, files: bool) -> Iterator[str]:
    """Yield the text of a Croissant file (JSON-LD); without ``files`` it lists no files."""
    works, only = collection.works, collection.single_work
    head = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": only.title if only is not None else collection.title,
        "license": distinct(one.url or one.name for work in works for one in work.licenses),
        "url": only and only.url,
        "creator": distinct(_party(one) for work in works for one in work.authors),
        "publisher": distinct(_party(one.publisher) for one in works if one.publisher is not None),
        "datePublished": max(one.required_date for one in works).isoformat(),
        "version": only and only.version,
        "keywords": list(dict.fromkeys(one for work in works for one in work.keywords)),
        "identifier": [one.qualified_swhid for one in works],
        "citeAs": "\n".join(map(paragraph, works)),
        "isLiveDataset": False,
    }
    yield compact_json(without_empty(head))[:-1]
    omitted, separator = 0, ""
    if files:
        yield ',\n"distribution": ['
        for work in works:
            prefix = collection.prefix(work)
            for one in cited_files(work.state):
                if entity := _file_object(one, prefix + one.path):
                    yield f"{separator}\n{compact_json(entity)}"
                    separator = ","
                else:
                    omitted += one.content is None and not one.commit
        yield "]"
    descriptions = [
        _description(work, *["Upstream states no license."] * (not work.licenses), files=files)
        + f" {retrieval_phrase(work)}."
        for work in works
    ]
    if omitted:
        descriptions.append(f"{count_of(omitted, 'file')} without sha256 or md5 are not listed.")
    yield f',\n"description": {compact_json(" ".join(descriptions))}}}\n'


def _party(one: Agent) -> Entity:
    kind = "sc:Person" if one.is_person else "sc:Organization"
    return without_empty({"@type": kind, "name": one.name, "url": one.url})


def _file_object(one: CitedEntry, path: str) -> Entity | None:
    """Return the FileObject of a file, or None without a checksum or a URL."""
    sha256, md5 = one.hex("sha256"), one.hex("md5")
    if not one.urls or not (sha256 or md5):
        return None
    return without_empty(
        {
            "@type": "cr:FileObject",
            "@id": quote(path),
            "name": path,
            "contentUrl": one.urls[0],
            "contentSize": None if one.size is None else f"{one.size} B",
            "encodingFormat": media_type(one.path),
            "sha256": sha256,
            "md5": md5,
        }
    )


# --- all formats


class CitationFormat(NamedTuple):
    """A format: the default name of its file, what yields its text, and if it lists the files."""

    file_name: str
    write: Callable[..., Iterator[str]]
    lists_files: bool = False


FORMATS: Final = {
    "text": CitationFormat("citation.txt", write_text),
    "bibtex": CitationFormat("citation.bib", write_bibtex),
    "csl": CitationFormat("citation.csl.json", write_csl),
    "cff": CitationFormat("CITATION.cff", write_cff),
    "datacite": CitationFormat("datacite.json", write_datacite),
    "ro-crate": CitationFormat("ro-crate-metadata.json", write_rocrate, lists_files=True),
    "croissant": CitationFormat("croissant.json", write_croissant, lists_files=True),
}


def cite(collection: CitationCollection, form: str, *, files: bool = True) -> Iterator[str]:
    """Return the text of a citation in pieces, to be written one after the other.

    Parameters
    ----------
    collection
        The works to cite.
    form
        A name in :data:`FORMATS`.
    files
        Whether ro-crate and croissant list the files.
    """
    layout = FORMATS[form]
    return layout.write(collection, **({"files": files} if layout.lists_files else {}))


def write_citation(
    collection: CitationCollection, form: str, target: Path, *, files: bool = True
) -> Path:
    """Write a citation to a file, and return its path.

    An existing file at ``target`` is replaced atomically. If ``target`` is a folder, a file with
    the default name of the format is created in it; if this file exists, it is not replaced.

    Parameters
    ----------
    collection
        The works to cite.
    form
        A name in :data:`FORMATS`.
    target
        The file or folder to write.
    files
        Whether ro-crate and croissant list the files.

    Raises
    ------
    OutputUnsuitableError
        The citation cannot be written to the path.
    UnsafePathError
        ``target`` is a relative path, and one of its folders is a symlink.
    """
    if target.is_dir():
        target /= FORMATS[form].file_name
        if target.exists():
            raise OutputUnsuitableError(
                f"{target} exists; specify the file itself with --output to replace it"
            )
    write_file(cite(collection, form, files=files), target)
    return target
