"""Read citation metadata from the sidecars of an AIND asset (all versions of aind-data-schema).

The source is ``data_description.json`` or, if it is missing, its copy in ``metadata.nd.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from neuromirror.lab.cite.person_names import make_organisation, make_person
from neuromirror.lab.cite.text_values import day, licenses_of, plain_texts
from neuromirror.lab.cite.upstream_documents import Documents, mapping
from neuromirror.lab.cite.works import Agent, Funder, Organisation, UpstreamMetadata
from neuromirror.model.person_names import split_person_names
from neuromirror.model.plain_text import plain_text

DOCUMENTS: Final = ("data_description.json", "metadata.nd.json")
_NAME: Final = "AIND asset"


def read(documents: Documents) -> UpstreamMetadata:
    """Return the citation metadata in the sidecars of an AIND asset; empty without sidecars."""
    joined = documents.parsed(DOCUMENTS[1])
    about = documents.parsed(DOCUMENTS[0]) or mapping(joined.get("data_description"))
    others = mapping(joined.get("other_identifiers")) or mapping(joined.get("external_links"))
    name = plain_text(about.get("name")) or plain_text(joined.get("name"))
    modality = about.get("modalities") or about.get("modality")
    modalities = plain_texts([_name_of(one) for one in _as_list(modality)])
    return UpstreamMetadata(
        authors=tuple(dict.fromkeys(_people(about.get("investigators")))),
        publisher=_organisation(about.get("institution")),
        created=day(about.get("creation_time")) or day(about.get("creation_date")),
        cite_created=True,
        identifiers=(
            *(((_NAME, name),) if name else ()),
            *(
                (plain_text(kind), one)
                for kind, values in others.items()
                for one in plain_texts(values)
            ),
        ),
        licenses=licenses_of(about.get("license")),
        description=plain_text(about.get("data_summary")),
        keywords=(
            *plain_texts(about.get("tags")),
            *modalities,
        ),
        funders=tuple(dict.fromkeys(_funders(about.get("funding_source")))),
        variables=tuple(dict.fromkeys(modalities)),
    )


def _people(value: Any) -> Iterator[Agent]:
    """Yield the investigators: one per object with a name, one or several per text."""
    for one in _as_list(value):
        if isinstance(one, Mapping):
            named = [(one.get("name"), one.get("registry_identifier"))]
        else:
            named = [(name, None) for name in split_person_names(plain_text(one))]
        yield from filter(None, (make_person(name, orcid) for name, orcid in named))


def _funders(value: Any) -> Iterator[Funder]:
    for one in _as_list(value):
        funding = one if isinstance(one, Mapping) and "funder" in one else {"funder": one}
        if (found := _organisation(funding.get("funder"))) is not None:
            yield Funder(found, plain_text(funding.get("grant_number")))


def _organisation(value: Any) -> Organisation | None:
    if isinstance(value, Mapping):
        name = value.get("name") or value.get("abbreviation")
        return make_organisation(name, value.get("registry_identifier"))
    return make_organisation(value)


def _name_of(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
