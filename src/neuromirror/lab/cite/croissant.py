"""Croissant 1.0 (mlcommons.org): the dataset, and a FileObject for each file with a checksum.

Croissant asks a sha256 or md5 of every file; files without one are counted in the description.
There is no RecordSet: what is inside the files is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from neuromirror.lab.cite.json_text import compact, kept
from neuromirror.lab.cite.listing import CitedFile, cited_files
from neuromirror.lab.cite.media import media_type
from neuromirror.lab.cite.names import inverted
from neuromirror.lab.cite.phrases import described, licensed, remarks, retrieved, unlisted
from neuromirror.lab.cite.plain import counted
from neuromirror.lab.cite.text import paragraph
from neuromirror.lab.cite.works import Agent, Collection, Person, Work

_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification gives."""


def write_croissant(collection: Collection, *, files: bool) -> Iterator[str]:
    """Yields the file; without ``files`` it has no distribution."""
    head = kept({"@context": _CONTEXT, "@type": "sc:Dataset", **_about(collection)})
    yield f"{compact(head)[:-1]}"
    left_out = 0
    if files:
        yield ',\n"distribution": ['
        number = 0
        for work in collection.works:
            prefix = collection.prefix(work)
            for one in cited_files(work.state):
                if not isinstance(one, CitedFile):
                    continue
                entity = _file_object(one, prefix)
                if entity is None:
                    left_out += 1
                    continue
                yield f"{',' if number else ''}\n{compact(entity)}"
                number += 1
        yield "]"
    told = [_described(work, files=files) for work in collection.works]
    if left_out:
        told.append(f"{counted(left_out, 'file')} without sha256 or md5 are not listed.")
    yield f',\n"description": {compact(" ".join(told))}}}\n'


def _about(collection: Collection) -> dict[str, Any]:
    works = collection.works
    only = collection.only
    dates = [one.any_date for one in works]
    licenses = [one.url or one.name for work in works for one in work.licenses]
    creators = [_agent(one) for work in works for one in work.authors]
    publishers = [_agent(one.publisher) for one in works if one.publisher is not None]
    keywords = [one for work in works for one in work.keywords]
    return {
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": works[0].title if only is not None else collection.title,
        "license": list(dict.fromkeys(licenses)),
        "url": only.url if only is not None else None,
        "creator": _each_once(creators),
        "publisher": _each_once(publishers),
        "datePublished": max(dates).isoformat(),
        "version": only.version if only is not None else None,
        "keywords": list(dict.fromkeys(keywords)),
        "identifier": [one.located for one in works],
        "citeAs": "\n".join(map(paragraph, works)),
        "isLiveDataset": False,
    }


def _described(work: Work, *, files: bool) -> str:
    licenses = [] if licensed(work) else ["Upstream states no license."]
    told = [*licenses, *remarks(work), *(unlisted(work) if files else [])]
    return " ".join([described(work), *told, f"{retrieved(work)}."])


def _agent(one: Agent) -> dict[str, Any]:
    if not isinstance(one, Person):
        return kept({"@type": "sc:Organization", "name": one.name, "url": one.ror})
    orcid = None if one.orcid is None else f"https://orcid.org/{one.orcid}"
    return kept({"@type": "sc:Person", "name": inverted(one), "url": orcid})


def _each_once(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for at, one in enumerate(found) if one not in found[:at]]


def _file_object(one: CitedFile, prefix: str) -> dict[str, Any] | None:
    """A file; None for one that Croissant cannot have: without a checksum or a place."""
    sha256, md5 = one.hex("sha256"), one.hex("md5")
    if not one.urls or not (sha256 or md5):
        return None
    path = prefix + one.path
    return kept(
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
