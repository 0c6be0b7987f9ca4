"""What the sidecars of an AIND asset say for a citation (aind-data-schema, all generations).

``data_description.json``, or where that is missing its part in ``metadata.nd.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from neuromirror.lab.cite.names import organisation, person
from neuromirror.lab.cite.plain import day, licenses_of, plain, texts
from neuromirror.lab.cite.told import Documents, mapping
from neuromirror.lab.cite.works import Agent, Funder, Organisation, Told
from neuromirror.model.people import split_person_names

DOCUMENTS: Final = ("data_description.json", "metadata.nd.json")
_NAME: Final = "AIND asset"


def read(documents: Documents) -> Told:
    """What the sidecars say; nothing where there are none."""
    joined = documents.parsed(DOCUMENTS[1])
    about = documents.parsed(DOCUMENTS[0]) or mapping(joined.get("data_description"))
    others = mapping(joined.get("other_identifiers")) or mapping(joined.get("external_links"))
    name = plain(about.get("name")) or plain(joined.get("name"))
    modality = about.get("modalities") or about.get("modality")
    return Told(
        authors=tuple(dict.fromkeys(_people(about.get("investigators")))),
        publisher=_organisation(about.get("institution")),
        created=day(about.get("creation_time")) or day(about.get("creation_date")),
        cite_created=True,
        identifiers=(
            *(((_NAME, name),) if name else ()),
            *((plain(kind), one) for kind, values in others.items() for one in texts(values)),
        ),
        licenses=licenses_of(about.get("license")),
        description=plain(about.get("data_summary")),
        keywords=(
            *texts(about.get("tags")),
            *texts([_named(one) for one in _listed(modality)]),
        ),
        funders=tuple(dict.fromkeys(_funders(about.get("funding_source")))),
    )


def _people(value: Any) -> Iterator[Agent]:
    """Yield the investigators: one per object with a name, one or several per text."""
    for one in _listed(value):
        if isinstance(one, Mapping):
            named = [(one.get("name"), one.get("registry_identifier"))]
        else:
            named = [(name, None) for name in split_person_names(plain(one))]
        yield from filter(None, (person(name, orcid) for name, orcid in named))


def _funders(value: Any) -> Iterator[Funder]:
    for one in _listed(value):
        told = one if isinstance(one, Mapping) and "funder" in one else {"funder": one}
        if (found := _organisation(told.get("funder"))) is not None:
            yield Funder(found, plain(told.get("grant_number")))


def _organisation(value: Any) -> Organisation | None:
    if isinstance(value, Mapping):
        name = value.get("name") or value.get("abbreviation")
        return organisation(name, value.get("registry_identifier"))
    return organisation(value)


def _named(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
