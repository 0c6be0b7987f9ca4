"""DataCite JSON (metadata schema 4.5) of a retrieved state.

The record describes a copy without a DOI. It is related to the DOI of upstream: as identical if a
published version was mirrored completely, else as a variant form. Required fields that upstream
does not have are ``:unav``, as DataCite recommends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from neuromirror.lab.cite.json_text import distinct, indented_json, without_empty
from neuromirror.lab.cite.person_names import family_first_name
from neuromirror.lab.cite.phrases import remarks, retrieval_phrase, unlisted_remarks
from neuromirror.lab.cite.works import (
    Agent,
    CitationCollection,
    CitedWork,
    Funder,
    Organisation,
    Person,
)
from neuromirror.model import count_of

_UNKNOWN: Final = ":unav"
_ROR: Final = "https://ror.org"
_ORCID: Final = "https://orcid.org"
_SPDX: Final = "https://spdx.org/licenses/"
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
    year = work.required_date
    publisher = work.publisher or Organisation(_host(work.source) or _UNKNOWN)
    return without_empty(
        {
            "types": {"resourceTypeGeneral": "Dataset", "resourceType": "Dataset"},
            "creators": [_creator(one) for one in work.authors] or [{"name": _UNKNOWN}],
            "titles": [{"title": work.title}],
            "publisher": _organisation(publisher, "publisher"),
            "publicationYear": f"{year.year:04d}",
            "version": work.version,
            "subjects": [{"subject": one} for one in work.keywords],
            "dates": list(_dates(work)),
            "alternateIdentifiers": list(_identifiers(work)),
            "relatedIdentifiers": _related(work),
            "relatedItems": [
                {
                    "titles": [{"title": one}],
                    "relatedItemType": "Dataset",
                    "relationType": "IsDerivedFrom",
                }
                for one in work.inputs
            ],
            "sizes": [count_of(work.files, "file"), f"{work.bytes} bytes"],
            "rightsList": [
                without_empty(
                    {
                        "rights": one.name,
                        "rightsUri": one.url,
                        "rightsIdentifier": one.spdx,
                        "rightsIdentifierScheme": "SPDX" if one.spdx else None,
                        "schemeUri": _SPDX if one.spdx else None,
                    }
                )
                for one in work.licenses
            ],
            "descriptions": list(_descriptions(work)),
            "fundingReferences": [_funding(one) for one in work.funders],
            "url": work.address if work.address.startswith(("http://", "https://")) else None,
            "schemaVersion": "http://datacite.org/schema/kernel-4",
        }
    )


def _creator(one: Agent) -> dict[str, Any]:
    if not isinstance(one, Person):
        return without_empty(
            {
                "name": one.name,
                "nameType": "Organizational",
                "nameIdentifiers": _name_identifier("ROR", _ROR, one.ror),
            }
        )
    return without_empty(
        {
            "name": family_first_name(one),
            "nameType": "Personal",
            "givenName": one.given,
            "familyName": f"{one.particle} {one.family}".strip(),
            "nameIdentifiers": _name_identifier("ORCID", _ORCID, one.orcid_url),
            "affiliation": [_organisation(place, "affiliation") for place in one.affiliations],
        }
    )


def _name_identifier(scheme: str, uri: str, value: str | None) -> list[dict[str, str]]:
    identifier = {"nameIdentifier": value or "", "nameIdentifierScheme": scheme, "schemeUri": uri}
    return [identifier] if value else []


def _organisation(one: Organisation, role: str) -> dict[str, str]:
    scheme = {f"{role}IdentifierScheme": "ROR", "schemeUri": _ROR} if one.ror else {}
    return without_empty({"name": one.name, f"{role}Identifier": one.ror, **scheme})


def _funding(one: Funder) -> dict[str, str]:
    return without_empty(
        {
            "funderName": one.organisation.name,
            "funderIdentifier": one.organisation.ror,
            "funderIdentifierType": "ROR" if one.organisation.ror else None,
            "awardNumber": one.award,
        }
    )


def _dates(work: CitedWork) -> Iterator[dict[str, str]]:
    dates = {"Issued": work.published, "Created": work.created, "Updated": work.modified}
    for kind, date in dates.items():
        if date is not None:
            yield {"date": date.isoformat(), "dateType": kind}


def _identifiers(work: CitedWork) -> Iterator[dict[str, str]]:
    for kind, value in dict.fromkeys(work.all_identifiers):
        yield {"alternateIdentifier": value, "alternateIdentifierType": kind}


def _related(work: CitedWork) -> list[dict[str, str]]:
    is_whole = work.is_published and not work.left_out and not work.state.paths
    copied = "IsIdenticalTo" if is_whole else "IsPartOf" if work.state.paths else "IsVariantFormOf"
    found = []
    if work.doi is not None:
        found.append(_relation(copied, work.doi, "DOI"))
    elif work.address != work.source:
        found.append(_relation(copied, work.address, "URL"))
    found.append(_relation("IsVersionOf", work.source, "URL"))
    found += [
        _relation(one.relation, one.identifier, one.kind)
        for one in work.related
        if one.relation in _RELATIONS
    ]
    return distinct(found)


def _relation(relation: str, identifier: str, kind: str) -> dict[str, str]:
    return {
        "relatedIdentifier": identifier,
        "relatedIdentifierType": kind,
        "relationType": relation,
    }


def _descriptions(work: CitedWork) -> Iterator[dict[str, str]]:
    if work.description:
        yield {"description": work.description, "descriptionType": "Abstract"}
    technical_info = " ".join([*remarks(work), *unlisted_remarks(work), retrieval_phrase(work)])
    yield {"description": technical_info, "descriptionType": "TechnicalInfo"}


def _host(source: str) -> str:
    return source.partition("://")[2].partition("/")[0]
