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
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from neuromirror.lab.cite.states import CitedEntry, cited_files
from neuromirror.lab.cite.works import Agent, CitationCollection, CitedWork, Funder
from neuromirror.lab.export_lock import printable_url
from neuromirror.lab.output_files import write_file
from neuromirror.model import ConfigurationError, count_of
from neuromirror.model.archive_metadata import SPDX

Json = dict[str, Any]

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


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return JSON values in their order, without duplicates."""
    return list({compact_json(value): value for value in values}.values())


def without_empty(table: Json) -> Json:
    """Return a JSON object without its members that are null or an empty text, list or object."""
    return {name: value for name, value in table.items() if value not in (None, "", [], {}, ())}


def reference(url: str | None, kind: str, name: str) -> str:
    """Return an id for JSON-LD: a URL or, without one, an anchor in the same file."""
    return url or f"#{kind}-{quote(name, safe='')}"


# --- sentences of several formats


def license_phrase(work: CitedWork) -> str:
    """Return ``License: CC-BY-4.0``, or an empty text without a license."""
    names = ", ".join(license_.name for license_ in work.licenses)
    return f"License{'s' * (len(work.licenses) > 1)}: {names}" if names else ""


def retrieval_phrase(work: CitedWork) -> str:
    """Return ``Retrieved as <SWHID>, state <digest>``, the ids of the retrieved state.

    It has no full stop at its end, which readers could copy with the digest.
    """
    return f"Retrieved as {work.qualified_swhid}, state {work.digest}"


def note(work: CitedWork, *, names_license: bool = True) -> str:
    """Return the license, the remarks and the ids of the retrieved state as one text."""
    license_ = f"{license_phrase(work)}." if names_license and work.licenses else None
    return _joined(license_, *remarks(work), retrieval_phrase(work))


def remarks(work: CitedWork) -> list[str]:
    """Return sentences that follow a citation: requests to cite, derivation, selected files."""
    mirror, paths = work.state.name.partition(":")[0], ", ".join(work.state.paths)
    requests = "; ".join(f'"{text}"' for text in work.citation_requests)
    sentences = {
        f"The archive asks to cite {requests}.": requests,
        f"It is a subdataset of {mirror}:{work.within}.": work.within,
        f"Derived from {'; '.join(work.inputs)}.": work.inputs,
        f"Selection of {count_of(work.files, 'file')}: {paths}.": paths,
    }
    return [sentence for sentence, applies in sentences.items() if applies]


def unlisted_remarks(work: CitedWork) -> list[str]:
    """Return sentences with the number of files that the citation's list of files omits.

    They are in subdatasets, outside the git tree, or not mirrored.
    """
    inside = count_of(sum(files for _, files, _ in work.subdatasets), "file")
    outside, left_out = work.manifest_only_files, work.left_out
    items = f"{count_of(left_out, 'item')} of the upstream listing"
    sentences = {
        f"{inside} in {count_of(len(work.subdatasets), 'subdataset')} are not listed.": (
            work.subdatasets
        ),
        f"{count_of(outside, 'file')} outside the git tree are not listed.": outside,
        f"{items} {'has' if left_out == 1 else 'have'} not been mirrored.": left_out,
    }
    return [sentence for sentence, applies in sentences.items() if applies]


def paragraph(work: CitedWork) -> str:
    """Return one citation on one line, in the style of DANDI and journals."""
    title, publisher = work.title.rstrip("."), work.publisher
    year = work.citation_date.year if work.citation_date else "n.d."
    authors = "; ".join(author.name for author in work.authors)
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
        **{sign: f"\\{sign}" for sign in "#$%&_"},
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
            "keywords": ", ".join(_tex(keyword.replace(",", " ")) for keyword in work.keywords),
            "note": _tex(note(work)),
        }
        lines = (f"  {name:<9} = {{{value}}},\n" for name, value in fields.items() if value)
        yield f"\n@dataset{{{key},\n{''.join(lines)}}}\n"


def _bibtex_author(author: Agent) -> str:
    if not author.family:
        return f"{{{_tex(author.name)}}}"
    family = _braced(author.family)
    family = f"{{{family}}}" if author.family[:1].islower() else family
    last = f"{_tex(author.particle)} {family}".strip()
    return ", ".join(filter(None, (last, _tex(author.suffix), _braced(author.given))))


def _braced(name: str) -> str:
    """Return a component of a name, in braces if BibTeX would split it."""
    escaped = _tex(name)
    return f"{{{escaped}}}" if " and " in f" {name.casefold()} " or "," in name else escaped


def _tex(text: str) -> str:
    return text.translate(_TEX)


# --- CSL-JSON (csl-data.json of CSL 1.0.2), as Zotero, pandoc and citeproc read it


def write_csl(collection: CitationCollection) -> Iterator[str]:
    """Yield the text of a CSL-JSON file: one list with one item per work."""
    items = []
    for key, work in zip(collection.keys(), collection.works, strict=True):
        day = work.citation_date
        item = {
            **{"id": key, "type": "dataset", "title": work.title},
            "author": list(map(_csl_name, work.authors)),
            "issued": day and {"date-parts": [[day.year, day.month, day.day]]},
            "version": work.version,
            "publisher": work.publisher and work.publisher.name,
            **{"DOI": work.doi, "URL": work.url, "abstract": work.description},
            **{"keyword": ", ".join(work.keywords), "note": note(work)},
        }
        items.append(without_empty(item))
    yield indented_json(items)


def _csl_name(author: Agent) -> Json:
    if not author.family:
        return {"literal": author.name}
    names = {"family": author.family, "given": author.given}
    particle = {"non-dropping-particle": author.particle, "suffix": author.suffix}
    return without_empty(names | particle)


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


def _known_license(work: CitedWork) -> str | None:
    """Return the SPDX id of the only license of a work if the format has it."""
    spdx = work.licenses[0].spdx if len(work.licenses) == 1 else None
    return spdx if spdx in SPDX else None


def _cff_note(work: CitedWork) -> str:
    return note(work, names_license=_known_license(work) is None)


def _cff_fields(work: CitedWork) -> Json:
    """Return the fields of a work, for a file or for a reference."""
    doi = work.doi if work.doi is not None and _CFF_DOI.match(work.doi) else None
    spdx = _known_license(work)
    other_license = work.licenses[0].url if len(work.licenses) == 1 and not spdx else None
    directory = "The directory tree, whose identifier depends on every file"
    identifiers = [
        ("swh", work.swhid, "The commit of the DataLad dataset that these data were retrieved as"),
        ("swh", f"swh:1:dir:{work.state.tree}", directory),
        ("other", work.digest, "The digest of its state"),
        *(
            ("other", value, f"Identifier at the archive ({kind})")
            for kind, value in work.identifiers
        ),
    ]
    if doi is not None:
        of_version = " of this version" * work.is_published
        identifiers.insert(0, ("doi", doi, f"Upstream's DOI{of_version}"))
    elif work.doi is not None:
        identifiers.insert(0, ("other", f"doi:{work.doi}", "Upstream's DOI"))
    return without_empty(
        {
            "title": work.title,
            "authors": _cff_authors([work]),
            "version": work.version,
            "date-released": work.citation_date and work.citation_date.isoformat(),
            "doi": doi,
            "url": work.address if _WEB.match(work.address) else None,
            "license": spdx,
            "license-url": other_license,
            "keywords": list(work.keywords),
            "abstract": work.description,
            "commit": work.state.commit,
            "identifiers": [
                {"type": kind, "value": value, "description": about}
                for kind, value, about in identifiers
            ],
        }
    )


def _cff_authors(works: Sequence[CitedWork]) -> list[Json]:
    """Return all authors without duplicates; the format requires at least one."""
    found = distinct(_cff_author(author) for work in works for author in work.authors)
    publishers = dict.fromkeys(work.publisher.name for work in works if work.publisher)
    others = [{"name": name} for name in publishers or ["Authors not stated upstream"]]
    return found or others


def _cff_author(author: Agent) -> Json:
    if not author.is_person:
        return without_empty({"name": author.name, "website": author.url})
    names = {"family-names": author.family or author.full_name, "given-names": author.given}
    parts = {"name-particle": author.particle, "name-suffix": author.suffix}
    affiliation = "; ".join(place.name for place in author.affiliations)
    return without_empty(names | parts | {"affiliation": affiliation, "orcid": author.url})


def _block(table: Json, depth: int) -> Iterator[str]:
    """Yield the lines of a mapping."""
    space = "  " * depth
    for name, value in table.items():
        if not isinstance(value, list):
            yield f"{space}{name}: {_yaml(value)}\n"
            continue
        yield f"{space}{name}:\n"
        for item in value:
            is_table = isinstance(item, dict)
            lines = list(_block(item, depth + 2)) if is_table else [f"{_yaml(item)}\n"]
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
_SPDX_SCHEME: Final = {"rightsIdentifierScheme": "SPDX", "schemeUri": "https://spdx.org/licenses/"}
_INPUT: Final = {"relatedItemType": "Dataset", "relationType": "IsDerivedFrom"}
_RELATIONS: Final = frozenset(
    re.findall(
        r"\w+",
        """
    IsCitedBy Cites IsSupplementTo IsSupplementedBy IsContinuedBy Continues IsDescribedBy Describes
    HasMetadata IsMetadataFor HasVersion IsVersionOf IsNewVersionOf IsPreviousVersionOf IsPartOf
    HasPart IsPublishedIn IsReferencedBy References IsDocumentedBy Documents IsCompiledBy Compiles
    IsVariantFormOf IsOriginalFormOf IsIdenticalTo IsReviewedBy Reviews IsDerivedFrom IsSourceOf
    IsRequiredBy Requires IsObsoletedBy Obsoletes Collects IsCollectedBy
    """,
    )
)


def write_datacite(collection: CitationCollection) -> Iterator[str]:
    """Yield DataCite JSON: one record, or a list of records for several works."""
    records = list(map(_record, collection.works))
    yield indented_json(records if collection.single_work is None else records[0])


def _record(work: CitedWork) -> Json:
    host = work.source.partition("://")[2].partition("/")[0]
    dates = {"Issued": work.published, "Created": work.created, "Updated": work.modified}
    info = _joined(*remarks(work), *unlisted_remarks(work), retrieval_phrase(work))
    texts = {"Abstract": work.description, "TechnicalInfo": info}
    return without_empty(
        {
            "types": {"resourceTypeGeneral": "Dataset", "resourceType": "Dataset"},
            "creators": list(map(_creator, work.authors)) or [{"name": _UNKNOWN}],
            "titles": [{"title": work.title}],
            "publisher": _place(work.publisher or Agent(host or _UNKNOWN), "publisher"),
            "publicationYear": f"{work.required_date.year:04d}",
            "version": work.version,
            "subjects": [{"subject": keyword} for keyword in work.keywords],
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
            "relatedItems": [{"titles": [{"title": title}], **_INPUT} for title in work.inputs],
            "sizes": [count_of(work.files, "file"), f"{work.bytes} bytes"],
            "rightsList": [
                without_empty({"rights": license_.name, "rightsUri": license_.url})
                | ({"rightsIdentifier": license_.spdx, **_SPDX_SCHEME} if license_.spdx else {})
                for license_ in work.licenses
            ],
            "descriptions": [
                {"description": text, "descriptionType": kind}
                for kind, text in texts.items()
                if text
            ],
            "fundingReferences": list(map(_funding, work.funders)),
            "url": work.address if work.address.startswith(("http://", "https://")) else None,
            "schemaVersion": "http://datacite.org/schema/kernel-4",
        }
    )


def _funding(funder: Funder) -> Json:
    name, ror = funder.organisation.name, funder.organisation.url
    identifier = {"funderIdentifier": ror, "funderIdentifierType": "ROR"} if ror else {}
    return without_empty({"funderName": name, **identifier, "awardNumber": funder.award})


def _creator(author: Agent) -> Json:
    kind = "Personal" if author.is_person else "Organizational"
    scheme, uri = ("ORCID", "https://orcid.org") if author.is_person else ("ROR", _ROR)
    identifier = {"nameIdentifier": author.url, "nameIdentifierScheme": scheme, "schemeUri": uri}
    return without_empty(
        {
            **{"name": author.name, "nameType": kind},
            **{"givenName": author.given, "familyName": author.whole_family},
            "nameIdentifiers": [identifier] if author.url else [],
            "affiliation": [_place(place, "affiliation") for place in author.affiliations],
        }
    )


def _place(place: Agent, role: str) -> Json:
    scheme = {f"{role}IdentifierScheme": "ROR", "schemeUri": _ROR} if place.url else {}
    return without_empty({"name": place.name, f"{role}Identifier": place.url, **scheme})


def _related(work: CitedWork) -> Iterator[tuple[str, str, str]]:
    """Yield relation, identifier and its kind."""
    is_whole = work.is_published and not work.left_out and not work.state.paths
    copied = "IsIdenticalTo" if is_whole else "IsPartOf" if work.state.paths else "IsVariantFormOf"
    if work.doi is not None:
        yield copied, work.doi, "DOI"
    elif work.address != work.source:
        yield copied, work.address, "URL"
    yield "IsVersionOf", work.source, "URL"
    yield from (related for related in work.related if related[0] in _RELATIONS)


# --- files of any version

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
    works = collection.works
    if collection.single_work is not None:
        yield from crate.dataset(_ROOT, works[0])
    else:
        licenses = sorted({license_phrase(work) or "none stated" for work in works})
        whole = {
            **{"@id": _ROOT, "@type": "Dataset", "name": collection.title},
            "description": f"{collection.title}: {', '.join(work.name for work in works)}",
            "datePublished": max(work.required_date for work in works).isoformat(),
            "license": f"Each dataset has its own: {'; '.join(licenses)}",
            "hasPart": [{"@id": work.swhid} for work in works],
        }
        yield f",\n{compact_json(whole)}"
        for work in works:
            yield from crate.dataset(work.swhid, work)
    for entity in crate.contextual.values():
        yield f",\n{compact_json(entity)}"
    yield "\n]\n}\n"


class _Crate:
    """The entities of a crate, of which each has an id of its own."""

    def __init__(self, collection: CitationCollection, *, files: bool) -> None:
        self._collection = collection
        self._has_files = files
        self._seen: set[int] = set()
        self.contextual: dict[str, Json] = {}
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

    def _parts(self, work: CitedWork) -> Iterator[Json]:
        """Yield an entity with a unique id for each file and subdataset."""
        prefix = self._collection.prefix(work)
        for entry in cited_files(work.state):
            entity = _part(entry, prefix + entry.path, work)
            # 8 bytes of a digest instead of the URL save memory for millions of files
            short = int.from_bytes(hashlib.sha256(entity["@id"].encode()).digest()[:8], "big")
            if short in self._seen:
                # the same content at another path
                entity["@id"] += f"#{quote(prefix + entry.path)}"
            self._seen.add(short)
            yield entity

    def _about(self, work: CitedWork) -> Json:
        """Return the entity of a dataset without its id and files."""
        text = f"{_description(work, files=self._has_files)} {retrieval_phrase(work)}"
        licenses = [
            self._add(
                *(reference(stated.url, "license", stated.name), "CreativeWork"),
                name=stated.name,
                description=f"The license that upstream states: {stated.name}",
            )
            for stated in work.licenses
        ]
        fields = {
            **{"@type": "Dataset", "name": work.title, "description": text},
            "datePublished": work.required_date.isoformat(),
            "license": (licenses[0] if len(licenses) == 1 else licenses)
            or "Upstream states no license.",
            "author": list(map(self._agent, work.authors)),
            "publisher": work.publisher and self._agent(work.publisher),
            "funder": distinct(map(self._funder, work.funders)),
            **{"version": work.version, "url": work.url},
            "identifier": distinct(self._identifiers(work)),
            "keywords": list(work.keywords),
            "isBasedOn": [
                self._add(
                    *(reference(None, "input", name), "Dataset"),
                    name=name,
                    description="Upstream name of an input.",
                )
                for name in work.inputs
            ],
            "creditText": paragraph(work),
        }
        return without_empty(fields)

    def _agent(self, agent: Agent) -> Json:
        """Return a reference to a person or an organisation."""
        if not agent.is_person:
            identity = reference(agent.url, "organisation", agent.name)
            return self._add(identity, "Organization", name=agent.name)
        spoken = filter(None, (agent.given, agent.particle, agent.family, agent.suffix))
        return self._add(
            reference(agent.url, "person", agent.full_name),
            "Person",
            name=" ".join(spoken) if agent.family else agent.full_name,
            givenName=agent.given,
            familyName=agent.whole_family,
            affiliation=list(map(self._agent, agent.affiliations)),
        )

    def _funder(self, funder: Funder) -> Json:
        """Return a reference to a grant, or to the funder without an award."""
        organisation, award = self._agent(funder.organisation), funder.award
        grant = {"name": award, "identifier": award, "funder": organisation}
        return (
            self._add(reference(None, "grant", award), "Grant", **grant) if award else organisation
        )

    def _identifiers(self, work: CitedWork) -> Iterator[Json]:
        """Yield references to DOI, SWHIDs, state digest, and the identifiers of upstream."""
        if work.doi_url is not None:
            value = {"propertyID": _DOI, "value": f"doi:{work.doi}", "url": work.doi_url}
            yield self._add(work.doi_url, "PropertyValue", name="DOI", **value)
        for name, text in work.all_identifiers:
            yield self._add(f"#{quote(text, safe=':')}", "PropertyValue", name=name, value=text)

    def _add(self, identity: str, kind: str, **fields: Any) -> Json:
        """Return a reference to a contextual entity; the first one with an id counts."""
        entity = without_empty({"@id": identity, "@type": kind, **fields})
        self.contextual.setdefault(identity, entity)
        return {"@id": identity}


def _part(entry: CitedEntry, path: str, work: CitedWork) -> Json:
    """Return the entity of a file, of a document, which is in git only, or of a subdataset."""
    anchor, time = f"#{quote(path)}", work.state.time
    if entry.commit:
        identity = f"swh:1:rev:{entry.commit}"
        return {"@id": identity, "@type": "Dataset", "name": path, "description": "A subdataset."}
    file = {"@type": "File", "name": path, "localPath": path}
    form = {"encodingFormat": media_type(entry.path)}
    if entry.content is not None:
        sha256 = hashlib.sha256(entry.content).hexdigest()
        about = {"description": "Metadata of upstream, a plain file in git.", **form}
        size = {"contentSize": str(len(entry.content)), "sha256": sha256}
        return {"@id": anchor, **file, **about, **size}
    urls, digest = list(map(printable_url, entry.urls)), entry.hex("sha256")
    other = None if digest or entry.digest is None else ":".join(entry.digest)
    return without_empty(
        {
            **{"@id": urls[0] if urls else anchor, **file, **form},
            "contentSize": None if entry.size is None else str(entry.size),
            **{"sha256": digest, "identifier": other, "contentUrl": urls[1:]},
            "sdDatePublished": time and time.isoformat(),
        }
    )


# --- Croissant

_TERMS: Final = re.findall(
    r"\w+",
    """
    citeAs column equivalentProperty extract field fileObject fileProperty fileSet format includes
    isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
    samplingRate separator source subField transform
    """,
)
_CONTEXT: Final[Json] = dict(
    sorted(
        {
            **{name: f"cr:{name}" for name in _TERMS},
            **{"@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/"},
            **{"cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/"},
            **{name: {"@id": f"cr:{name}", "@type": "@json"} for name in ("data", "examples")},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
            **{"conformsTo": "dct:conformsTo", "rai": "http://mlcommons.org/croissant/RAI/"},
        }.items()
    )
)
"""The JSON-LD context of the specification."""


def write_croissant(collection: CitationCollection, *, files: bool) -> Iterator[str]:
    """Yield the text of a Croissant file (JSON-LD); without ``files`` it lists no files."""
    works, only = collection.works, collection.single_work
    publishers = (work.publisher for work in works if work.publisher is not None)
    head = {
        **{"@context": _CONTEXT, "@type": "sc:Dataset"},
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": only.title if only is not None else collection.title,
        "license": distinct(each.url or each.name for work in works for each in work.licenses),
        "url": only and only.url,
        "creator": distinct(_party(author) for work in works for author in work.authors),
        "publisher": distinct(map(_party, publishers)),
        "datePublished": max(work.required_date for work in works).isoformat(),
        "version": only and only.version,
        "keywords": distinct(keyword for work in works for keyword in work.keywords),
        "identifier": [work.qualified_swhid for work in works],
        "citeAs": "\n".join(map(paragraph, works)),
        "isLiveDataset": False,
    }
    yield compact_json(without_empty(head))[:-1]
    omitted, separator = 0, ""
    if files:
        yield ',\n"distribution": ['
        for work in works:
            prefix = collection.prefix(work)
            for entry in cited_files(work.state):
                if entity := _file_object(entry, prefix + entry.path):
                    yield f"{separator}\n{compact_json(entity)}"
                    separator = ","
                else:
                    omitted += entry.content is None and not entry.commit
        yield "]"
    descriptions = []
    for work in works:
        notes = [] if work.licenses else ["Upstream states no license."]
        about = _description(work, *notes, files=files)
        descriptions.append(f"{about} {retrieval_phrase(work)}.")
    if omitted:
        descriptions.append(f"{count_of(omitted, 'file')} without sha256 or md5 are not listed.")
    yield f',\n"description": {compact_json(" ".join(descriptions))}}}\n'


def _party(agent: Agent) -> Json:
    kind = "sc:Person" if agent.is_person else "sc:Organization"
    return without_empty({"@type": kind, "name": agent.name, "url": agent.url})


def _file_object(entry: CitedEntry, path: str) -> Json | None:
    """Return the FileObject of a file, or None without a checksum or a URL."""
    digests = {name: entry.hex(name) for name in ("sha256", "md5")}
    if not entry.urls or not any(digests.values()):
        return None
    size = None if entry.size is None else f"{entry.size} B"
    return without_empty(
        {
            **{"@type": "cr:FileObject", "@id": quote(path), "name": path},
            **{"contentUrl": entry.urls[0], "contentSize": size},
            **{"encodingFormat": media_type(entry.path), **digests},
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
    ConfigurationError
        The citation cannot be written to the path.
    UnsafePathError
        ``target`` is a relative path, and one of its folders is a symlink.
    """
    if target.is_dir():
        target /= FORMATS[form].file_name
        if target.exists():
            raise ConfigurationError(
                f"{target} exists; specify the file itself with --output to replace it"
            )
    write_file(cite(collection, form, files=files), target)
    return target
