"""DataCite's JSON (metadata schema 4.5) of a retrieved state.

It has no DOI of its own: what is described is a copy, and the DOI is upstream's, to which the copy
is related: identical, where a published version was mirrored as a whole; else a variant form. What
DataCite wants and upstream does not say has DataCite's own word for that (``:unav``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from neuromirror.lab.cite.json_text import dumped, kept
from neuromirror.lab.cite.names import inverted
from neuromirror.lab.cite.phrases import remarks, retrieved, unlisted
from neuromirror.lab.cite.plain import counted
from neuromirror.lab.cite.works import Agent, Collection, Funder, Organisation, Person, Work

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


def write_datacite(collection: Collection) -> Iterator[str]:
    """Yields one record, or a list of records where there are several works."""
    records = [_record(work) for work in collection.works]
    yield dumped(records if collection.only is None else records[0])


def _record(work: Work) -> dict[str, Any]:
    year = work.any_date
    publisher = work.publisher or Organisation(_host(work.source) or _UNKNOWN)
    return kept(
        {
            "types": {"resourceTypeGeneral": "Dataset", "resourceType": "Dataset"},
            "creators": [_creator(one) for one in work.authors] or [{"name": _UNKNOWN}],
            "titles": [{"title": work.title}],
            "publisher": _publisher(publisher),
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
            "sizes": [counted(work.files, "file"), f"{work.bytes} bytes"],
            "rightsList": [
                kept(
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
        return kept(
            {
                "name": one.name,
                "nameType": "Organizational",
                "nameIdentifiers": _name_identifier("ROR", _ROR, one.ror),
            }
        )
    orcid = None if one.orcid is None else f"{_ORCID}/{one.orcid}"
    return kept(
        {
            "name": inverted(one),
            "nameType": "Personal",
            "givenName": one.given,
            "familyName": f"{one.particle} {one.family}".strip(),
            "nameIdentifiers": _name_identifier("ORCID", _ORCID, orcid),
            "affiliation": [_affiliation(place) for place in one.affiliations],
        }
    )


def _name_identifier(scheme: str, uri: str, value: str | None) -> list[dict[str, str]]:
    told = {"nameIdentifier": value or "", "nameIdentifierScheme": scheme, "schemeUri": uri}
    return [told] if value else []


def _affiliation(place: Organisation) -> dict[str, str]:
    ror = place.ror
    scheme = {"affiliationIdentifierScheme": "ROR", "schemeUri": _ROR} if ror else {}
    return kept({"name": place.name, "affiliationIdentifier": ror, **scheme})


def _publisher(one: Organisation) -> dict[str, str]:
    scheme = {"publisherIdentifierScheme": "ROR", "schemeUri": _ROR} if one.ror else {}
    return kept({"name": one.name, "publisherIdentifier": one.ror, **scheme})


def _funding(one: Funder) -> dict[str, str]:
    return kept(
        {
            "funderName": one.organisation.name,
            "funderIdentifier": one.organisation.ror,
            "funderIdentifierType": "ROR" if one.organisation.ror else None,
            "awardNumber": one.award,
        }
    )


def _dates(work: Work) -> Iterator[dict[str, str]]:
    if work.published is not None:
        yield {"date": work.published.isoformat(), "dateType": "Issued"}
    if work.created is not None:
        yield {"date": work.created.isoformat(), "dateType": "Created"}
    if work.modified is not None:
        yield {"date": work.modified.isoformat(), "dateType": "Updated"}


def _identifiers(work: Work) -> Iterator[dict[str, str]]:
    named = [("SWHID", work.located), ("SWHID", work.directory), ("State digest", work.digest)]
    for kind, value in dict.fromkeys([*named, *work.identifiers]):
        yield {"alternateIdentifier": value, "alternateIdentifierType": kind}


def _related(work: Work) -> list[dict[str, str]]:
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
    return [one for at, one in enumerate(found) if one not in found[:at]]


def _relation(relation: str, identifier: str, kind: str) -> dict[str, str]:
    return {
        "relatedIdentifier": identifier,
        "relatedIdentifierType": kind,
        "relationType": relation,
    }


def _descriptions(work: Work) -> Iterator[dict[str, str]]:
    if work.description:
        yield {"description": work.description, "descriptionType": "Abstract"}
    told = " ".join([*remarks(work), *unlisted(work), retrieved(work)])
    yield {"description": told, "descriptionType": "TechnicalInfo"}


def _host(source: str) -> str:
    return source.partition("://")[2].partition("/")[0]
