"""Read citation metadata from ``dandiset.yaml`` (Dandiset of dandischema, all releases).

The rules are those of the archive: contributors with ``includeInCitation`` are cited, and the
publisher is the instance in the prefix of the identifier (``DANDI:000027``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from neuromirror.lab.cite.person_names import make_organisation, make_person, ror_of
from neuromirror.lab.cite.text_values import day, doi_of, licenses_of, plain_texts, web_address
from neuromirror.lab.cite.upstream_documents import MAX_MEMBERS, Documents, mappings
from neuromirror.lab.cite.works import Agent, Funder, Organisation, Related, UpstreamMetadata
from neuromirror.model.plain_text import plain_text

DOCUMENT: Final = "dandiset.yaml"
_AUTHOR: Final = "dcite:Author"
_FUNDING: Final = frozenset({"dcite:Funder", "dcite:Sponsor"})
_RELATION: Final = "dcite:"


def read(documents: Documents) -> UpstreamMetadata:
    """Return the citation metadata in ``dandiset.yaml``; empty without that document."""
    about = documents.parsed(DOCUMENT)
    contributors = list(mappings(about.get("contributor")))
    cited = [one for one in contributors if one.get("includeInCitation") is True]
    if not cited:
        cited = [one for one in contributors if _AUTHOR in plain_texts(one.get("roleName"))]
    identifier = plain_text(about.get("identifier"))
    instance = identifier.partition(":")[0] if ":" in identifier else ""
    published = day(about.get("datePublished"))
    named = plain_text(about.get("id")) if published else identifier
    return UpstreamMetadata(
        authors=tuple(one for one in map(_agent, cited) if one is not None),
        publisher=Organisation(f"{instance} Archive") if instance else None,
        published=published,
        created=day(about.get("dateCreated")),
        address=web_address(about.get("url")),
        identifiers=((instance, named),) if instance and named else (),
        licenses=licenses_of(about.get("license")),
        description=plain_text(about.get("description")),
        keywords=plain_texts(about.get("keywords")),
        funders=tuple(dict.fromkeys(_funders(contributors))),
        related=tuple(dict.fromkeys(_related(about.get("relatedResource")))),
        variables=_variables(about.get("assetsSummary")),
    )


def _variables(summary: Any) -> tuple[str, ...]:
    # names, or PropertyValue objects with one
    found = summary.get("variableMeasured") if isinstance(summary, Mapping) else None
    values = found[:MAX_MEMBERS] if isinstance(found, list) else []
    names = (one.get("value") if isinstance(one, Mapping) else one for one in values)
    return tuple(dict.fromkeys(filter(None, map(plain_text, names))))


def _agent(contributor: Mapping[str, Any]) -> Agent | None:
    name, identifier = contributor.get("name"), contributor.get("identifier")
    if contributor.get("schemaKey") == "Organization" or ror_of(identifier) is not None:
        return make_organisation(name, identifier)
    affiliations = (
        make_organisation(one.get("name"), one.get("identifier"))
        for one in mappings(contributor.get("affiliation"))
    )
    return make_person(name, identifier, tuple(one for one in affiliations if one is not None))


def _funders(contributors: list[Mapping[str, Any]]) -> Iterator[Funder]:
    for one in contributors:
        found = make_organisation(one.get("name"), one.get("identifier"))
        if found is not None and _FUNDING & set(plain_texts(one.get("roleName"))):
            yield Funder(found, plain_text(one.get("awardNumber")))


def _related(value: Any) -> Iterator[Related]:
    for one in mappings(value):
        relation = plain_text(one.get("relation")).removeprefix(_RELATION)
        for stated in (one.get("identifier"), one.get("url")):
            if doi := doi_of(stated):
                yield Related(relation, doi, "DOI")
                break
            if address := web_address(stated):
                yield Related(relation, address, "URL")
                break
