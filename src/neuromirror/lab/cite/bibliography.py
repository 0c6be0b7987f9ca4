"""Citations for people and reference managers: text, BibTeX, CSL-JSON, CFF and DataCite JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from neuromirror.lab.cite.values import distinct, indented_json, without_empty
from neuromirror.lab.cite.works import Agent, CitationCollection, CitedWork, Funder
from neuromirror.model import count_of
from neuromirror.model.archive_metadata import SPDX

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
