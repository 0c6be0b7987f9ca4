"""RO-Crate 1.2: a crate whose files are all on the web, each by its address, size and sha256.

The files are written as they are read from git; only their entities wait in a file on disk, since
the crate names all its parts before it describes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile
from typing import Any, Final
from urllib.parse import quote

from neuromirror.lab.cite.json_text import compact, kept
from neuromirror.lab.cite.listing import Cited, CitedDocument, CitedFile, cited_files
from neuromirror.lab.cite.media import media_type
from neuromirror.lab.cite.phrases import described, licensed, remarks, retrieved, unlisted
from neuromirror.lab.cite.text import paragraph
from neuromirror.lab.cite.works import (
    Agent,
    Collection,
    Funder,
    License,
    Person,
    Work,
)

Entity = dict[str, Any]

_SPECIFICATION: Final = "https://w3id.org/ro/crate/1.2"
_ROOT: Final = "./"
_DOI: Final = "https://registry.identifiers.org/registry/doi"
_SAFE: Final = "/:@!$&'()*+,;=~?#[]%"


def write_rocrate(collection: Collection, *, files: bool) -> Iterator[str]:
    """Yields ``ro-crate-metadata.json``; without ``files`` it describes the works alone."""
    context = _Context()
    seen: set[int] = set()
    only = collection.only
    yield f'{{\n"@context": "{_SPECIFICATION}/context",\n"@graph": [\n'
    yield compact(
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
        yield f",\n{compact(_whole(collection, parts))}"
        for work in collection.works:
            dataset = {"@id": work.swhid, **_dataset(work, context, files=files)}
            yield from _with_parts(dataset, work, collection, seen if files else None)
    for entity in context.entities():
        yield f",\n{compact(entity)}"
    yield "\n]\n}\n"


def _with_parts(
    dataset: Entity, work: Work, collection: Collection, seen: set[int] | None
) -> Iterator[str]:
    """Yields a dataset's entity, which names its parts, and then theirs.

    ``seen`` is what ids there are in the crate, None where it shall have no files.
    """
    if seen is None:
        yield f",\n{compact(dataset)}"
        return
    yield f',\n{compact(dataset)[:-1]}, "hasPart": ['
    with TemporaryFile("w+", encoding="utf-8", newline="\n") as waiting:
        for number, entity in enumerate(_parts(work, collection, seen)):
            yield f"{',' if number else ''}\n{compact({'@id': entity['@id']})}"
            waiting.write(f",\n{compact(entity)}")
        yield "]}"
        waiting.seek(0)
        while block := waiting.read(1 << 20):
            yield block


def _parts(work: Work, collection: Collection, seen: set[int]) -> Iterator[Entity]:
    """Yields an entity for each file and sub-dataset, each with an id of its own."""
    prefix = collection.prefix(work)
    for one in cited_files(work.state):
        entity = _part(one, prefix, work)
        # 8 bytes of a digest and not the address: there may be millions
        short = int.from_bytes(hashlib.sha256(entity["@id"].encode()).digest()[:8], "big")
        if short in seen:
            # the same content under another name
            entity["@id"] += f"#{quote(prefix + one.path)}"
        seen.add(short)
        yield entity


def _part(one: Cited, prefix: str, work: Work) -> Entity:
    if isinstance(one, CitedFile):
        return _file(one, prefix, work)
    if isinstance(one, CitedDocument):
        return _document(one, prefix)
    return {
        "@id": f"swh:1:rev:{one.commit}",
        "@type": "Dataset",
        "name": prefix + one.path,
        "description": "A sub-dataset, which is a dataset of its own.",
    }


def _file(one: CitedFile, prefix: str, work: Work) -> Entity:
    path = prefix + one.path
    sha256 = one.hex("sha256")
    others = None if sha256 or one.digest is None else f"{one.digest[0]}:{one.digest[1]}"
    return kept(
        {
            "@id": quote(one.urls[0], safe=_SAFE) if one.urls else f"#{quote(path)}",
            "@type": "File",
            "name": path,
            "localPath": path,
            "encodingFormat": media_type(one.path),
            "contentSize": None if one.size is None else str(one.size),
            "sha256": sha256,
            "identifier": others,
            "contentUrl": [quote(url, safe=_SAFE) for url in one.urls[1:]],
            "sdDatePublished": None if work.state.time is None else work.state.time.isoformat(),
        }
    )


def _document(one: CitedDocument, prefix: str) -> Entity:
    """A document that is in git and nowhere else as it is there."""
    return {
        "@id": f"#{quote(prefix + one.path)}",
        "@type": "File",
        "name": prefix + one.path,
        "localPath": prefix + one.path,
        "description": "Upstream's metadata, held by git itself.",
        "encodingFormat": media_type(one.path),
        "contentSize": str(len(one.content)),
        "sha256": hashlib.sha256(one.content).hexdigest(),
    }


def _dataset(work: Work, context: _Context, *, files: bool) -> Entity:
    """All of a dataset's entity but its id and parts."""
    told = [*remarks(work), *(unlisted(work) if files else [])]
    date = work.any_date
    return kept(
        {
            "@type": "Dataset",
            "name": work.title,
            "description": " ".join([described(work), *told, retrieved(work)]),
            "datePublished": date.isoformat(),
            "license": context.licenses(work),
            "author": [context.agent(one) for one in work.authors],
            "publisher": None if work.publisher is None else context.agent(work.publisher),
            "funder": list(_each(context.funder(one) for one in work.funders)),
            "version": work.version,
            "url": work.url,
            "identifier": context.identifiers(work),
            "keywords": list(work.keywords),
            "isBasedOn": [context.based_on(one) for one in work.inputs],
            "creditText": paragraph(work),
        }
    )


def _whole(collection: Collection, parts: Iterable[str]) -> Entity:
    dates = [one.any_date for one in collection.works]
    licenses = sorted({licensed(work) or "none stated" for work in collection.works})
    return {
        "@id": _ROOT,
        "@type": "Dataset",
        "name": collection.title,
        "description": f"{collection.title}: {', '.join(one.name for one in collection.works)}",
        "datePublished": max(dates).isoformat(),
        "license": f"Each dataset has its own: {'; '.join(licenses)}",
        "hasPart": [{"@id": one} for one in parts],
    }


def _each(entities: Iterable[Entity]) -> Iterator[Entity]:
    seen: set[str] = set()
    for one in entities:
        if one["@id"] not in seen:
            seen.add(one["@id"])
            yield one


class _Context:
    """The contextual entities that datasets refer to, each once."""

    def __init__(self) -> None:
        self._by_id: dict[str, Entity] = {}

    def entities(self) -> Iterator[Entity]:
        """Yields them in the order in which they were met."""
        yield from self._by_id.values()

    def agent(self, one: Agent) -> Entity:
        """A person or an organisation."""
        if isinstance(one, Person):
            identity = one.orcid and f"https://orcid.org/{one.orcid}"
            return self._add(
                identity or f"#person-{quote(one.whole, safe='')}",
                {
                    "@type": "Person",
                    "name": one.whole if not one.family else _spoken(one),
                    "givenName": one.given,
                    "familyName": f"{one.particle} {one.family}".strip(),
                    "affiliation": [self.agent(place) for place in one.affiliations],
                },
            )
        return self._add(
            one.ror or f"#organisation-{quote(one.name, safe='')}",
            {"@type": "Organization", "name": one.name},
        )

    def funder(self, one: Funder) -> Entity:
        """Who paid, with the award where one is named."""
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

    def licenses(self, work: Work) -> list[Entity] | Entity | str:
        """The licenses; a sentence where upstream states none."""
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

    def identifiers(self, work: Work) -> list[Entity]:
        """DOI, SWHIDs, state digest, and upstream's own names."""
        found = []
        if work.doi is not None:
            told = {"propertyID": _DOI, "value": f"doi:{work.doi}", "url": work.doi_url}
            found.append(self._value(work.doi_url or work.doi, "DOI", told))
        for name, value in [
            ("SWHID", work.located),
            ("SWHID", work.directory),
            ("State digest", work.digest),
            *work.identifiers,
        ]:
            found.append(self._value(f"#{quote(value, safe=':')}", name, {"value": value}))
        return list(_each(found))

    def based_on(self, name: str) -> Entity:
        """What a dataset was derived from, by upstream's name of it."""
        return self._add(
            f"#input-{quote(name, safe='')}",
            {"@type": "Dataset", "name": name, "description": "Upstream's name of an input."},
        )

    def _value(self, identity: str, name: str, told: Entity) -> Entity:
        return self._add(identity, {"@type": "PropertyValue", "name": name, **told})

    def _add(self, identity: str, entity: Entity) -> Entity:
        self._by_id.setdefault(identity, kept({"@id": identity, **entity}))
        return {"@id": identity}


def _spoken(one: Person) -> str:
    """A name in the order in which it is spoken."""
    return " ".join(part for part in (one.given, one.particle, one.family, one.suffix) if part)
