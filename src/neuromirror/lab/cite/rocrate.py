"""RO-Crate 1.2: a crate whose files are on the web, with their URLs, sizes and sha256.

Files are written while they are read from git. Their entities are buffered in a file on disk,
because the crate lists all ids before the entities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile
from typing import Any, Final
from urllib.parse import quote

from neuromirror.lab.cite.cited_files import CitedDocument, CitedEntry, CitedFile, cited_files
from neuromirror.lab.cite.json_text import compact_json, distinct, without_empty
from neuromirror.lab.cite.media_types import media_type
from neuromirror.lab.cite.phrases import (
    description_or_summary,
    license_phrase,
    remarks,
    retrieval_phrase,
    unlisted_remarks,
)
from neuromirror.lab.cite.text import paragraph
from neuromirror.lab.cite.works import (
    Agent,
    CitationCollection,
    CitedWork,
    Funder,
    License,
    Person,
)
from neuromirror.lab.export_formats import printable_url

Entity = dict[str, Any]

_SPECIFICATION: Final = "https://w3id.org/ro/crate/1.2"
_ROOT: Final = "./"
_DOI: Final = "https://registry.identifiers.org/registry/doi"


def write_rocrate(collection: CitationCollection, *, files: bool) -> Iterator[str]:
    """Yield the text of ``ro-crate-metadata.json``; without ``files`` it lists no files."""
    context = _Context()
    seen: set[int] = set()
    only = collection.single_work
    yield f'{{\n"@context": "{_SPECIFICATION}/context",\n"@graph": [\n'
    yield compact_json(
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "about": {"@id": _ROOT},
            "conformsTo": {"@id": _SPECIFICATION},
        }
    )
    if only is not None:
        root = {"@id": _ROOT, **_dataset(only, context, files=files)}
        yield from _with_parts(root, only, collection, seen if files else None)
    else:
        parts = [work.swhid for work in collection.works]
        yield f",\n{compact_json(_collection_entity(collection, parts))}"
        for work in collection.works:
            dataset = {"@id": work.swhid, **_dataset(work, context, files=files)}
            yield from _with_parts(dataset, work, collection, seen if files else None)
    for entity in context.entities():
        yield f",\n{compact_json(entity)}"
    yield "\n]\n}\n"


def _with_parts(
    dataset: Entity, work: CitedWork, collection: CitationCollection, seen: set[int] | None
) -> Iterator[str]:
    """Yield the entity of a dataset, which has the ids of its files, and then their entities.

    ``seen`` has the ids in the crate; None for a crate without files.
    """
    if seen is None:
        yield f",\n{compact_json(dataset)}"
        return
    yield f',\n{compact_json(dataset)[:-1]}, "hasPart": ['
    with TemporaryFile("w+", encoding="utf-8", newline="\n") as waiting:
        for number, entity in enumerate(_parts(work, collection, seen)):
            yield f"{',' if number else ''}\n{compact_json({'@id': entity['@id']})}"
            waiting.write(f",\n{compact_json(entity)}")
        yield "]}"
        waiting.seek(0)
        while block := waiting.read(1 << 20):
            yield block


def _parts(work: CitedWork, collection: CitationCollection, seen: set[int]) -> Iterator[Entity]:
    """Yield an entity with a unique id for each file and subdataset."""
    prefix = collection.prefix(work)
    for one in cited_files(work.state):
        entity = _part(one, prefix, work)
        # 8 bytes of a digest instead of the URL save memory for millions of files
        short = int.from_bytes(hashlib.sha256(entity["@id"].encode()).digest()[:8], "big")
        if short in seen:
            # the same content at another path
            entity["@id"] += f"#{quote(prefix + one.path)}"
        seen.add(short)
        yield entity


def _part(one: CitedEntry, prefix: str, work: CitedWork) -> Entity:
    if isinstance(one, CitedFile):
        return _file(one, prefix, work)
    if isinstance(one, CitedDocument):
        return _document(one, prefix)
    return {
        "@id": f"swh:1:rev:{one.commit}",
        "@type": "Dataset",
        "name": prefix + one.path,
        "description": "A subdataset.",
    }


def _file(one: CitedFile, prefix: str, work: CitedWork) -> Entity:
    path = prefix + one.path
    sha256 = one.hex("sha256")
    others = None if sha256 or one.digest is None else f"{one.digest[0]}:{one.digest[1]}"
    return without_empty(
        {
            "@id": printable_url(one.urls[0]) if one.urls else f"#{quote(path)}",
            "@type": "File",
            "name": path,
            "localPath": path,
            "encodingFormat": media_type(one.path),
            "contentSize": None if one.size is None else str(one.size),
            "sha256": sha256,
            "identifier": others,
            "contentUrl": [printable_url(url) for url in one.urls[1:]],
            "sdDatePublished": None if work.state.time is None else work.state.time.isoformat(),
        }
    )


def _document(one: CitedDocument, prefix: str) -> Entity:
    """Return the entity of a document, which is in git only."""
    return {
        "@id": f"#{quote(prefix + one.path)}",
        "@type": "File",
        "name": prefix + one.path,
        "localPath": prefix + one.path,
        "description": "Metadata of upstream, a plain file in git.",
        "encodingFormat": media_type(one.path),
        "contentSize": str(len(one.content)),
        "sha256": hashlib.sha256(one.content).hexdigest(),
    }


def _dataset(work: CitedWork, context: _Context, *, files: bool) -> Entity:
    """Return the entity of a dataset without its id and files."""
    notes = [*remarks(work), *(unlisted_remarks(work) if files else [])]
    date = work.required_date
    return without_empty(
        {
            "@type": "Dataset",
            "name": work.title,
            "description": " ".join([description_or_summary(work), *notes, retrieval_phrase(work)]),
            "datePublished": date.isoformat(),
            "license": context.licenses(work),
            "author": [context.agent(one) for one in work.authors],
            "publisher": None if work.publisher is None else context.agent(work.publisher),
            "funder": distinct(context.funder(one) for one in work.funders),
            "version": work.version,
            "url": work.url,
            "identifier": context.identifiers(work),
            "keywords": list(work.keywords),
            "isBasedOn": [context.derived_from(one) for one in work.inputs],
            "creditText": paragraph(work),
        }
    )


def _collection_entity(collection: CitationCollection, parts: Iterable[str]) -> Entity:
    dates = [one.required_date for one in collection.works]
    licenses = sorted({license_phrase(work) or "none stated" for work in collection.works})
    return {
        "@id": _ROOT,
        "@type": "Dataset",
        "name": collection.title,
        "description": f"{collection.title}: {', '.join(one.name for one in collection.works)}",
        "datePublished": max(dates).isoformat(),
        "license": f"Each dataset has its own: {'; '.join(licenses)}",
        "hasPart": [{"@id": one} for one in parts],
    }


class _Context:
    """The contextual entities of the crate, without duplicates."""

    def __init__(self) -> None:
        self._by_id: dict[str, Entity] = {}

    def entities(self) -> Iterator[Entity]:
        """Yield the entities in the order of their first use."""
        yield from self._by_id.values()

    def agent(self, one: Agent) -> Entity:
        """Return a reference to a person or an organisation."""
        if isinstance(one, Person):
            return self._add(
                one.orcid_url or f"#person-{quote(one.full_name, safe='')}",
                {
                    "@type": "Person",
                    "name": one.full_name if not one.family else _spoken_name(one),
                    "givenName": one.given,
                    "familyName": f"{one.particle} {one.family}".strip(),
                    "affiliation": [self.agent(affiliation) for affiliation in one.affiliations],
                },
            )
        return self._add(
            one.ror or f"#organisation-{quote(one.name, safe='')}",
            {"@type": "Organization", "name": one.name},
        )

    def funder(self, one: Funder) -> Entity:
        """Return a reference to a grant, or to the funder without an award."""
        if not one.award:
            return self.agent(one.organisation)
        return self._add(
            f"#grant-{quote(one.award, safe='')}",
            {
                "@type": "Grant",
                "name": one.award,
                "identifier": one.award,
                "funder": self.agent(one.organisation),
            },
        )

    def licenses(self, work: CitedWork) -> list[Entity] | Entity | str:
        """Return references to the licenses, or a sentence without licenses."""
        found = [self._license(one) for one in work.licenses]
        if not found:
            return "Upstream states no license."
        return found[0] if len(found) == 1 else found

    def _license(self, one: License) -> Entity:
        return self._add(
            one.url or f"#license-{quote(one.name, safe='')}",
            {
                "@type": "CreativeWork",
                "name": one.name,
                "description": f"The license that upstream states: {one.name}",
            },
        )

    def identifiers(self, work: CitedWork) -> list[Entity]:
        """Return references to DOI, SWHIDs, state digest, and the identifiers of upstream."""
        found = []
        if work.doi is not None:
            fields = {"propertyID": _DOI, "value": f"doi:{work.doi}", "url": work.doi_url}
            found.append(self._value(work.doi_url or work.doi, "DOI", fields))
        for name, value in work.all_identifiers:
            found.append(self._value(f"#{quote(value, safe=':')}", name, {"value": value}))
        return distinct(found)

    def derived_from(self, name: str) -> Entity:
        """Return a reference to an input of the dataset, by its upstream name."""
        return self._add(
            f"#input-{quote(name, safe='')}",
            {"@type": "Dataset", "name": name, "description": "Upstream name of an input."},
        )

    def _value(self, identity: str, name: str, fields: Entity) -> Entity:
        return self._add(identity, {"@type": "PropertyValue", "name": name, **fields})

    def _add(self, identity: str, entity: Entity) -> Entity:
        self._by_id.setdefault(identity, without_empty({"@id": identity, **entity}))
        return {"@id": identity}


def _spoken_name(one: Person) -> str:
    """Return a name in spoken order."""
    return " ".join(part for part in (one.given, one.particle, one.family, one.suffix) if part)
