"""Croissant 1.0 (mlcommons.org): the dataset, and a FileObject per file with a checksum.

Croissant requires a sha256 or md5 for every file; files without one are counted in the description.
There is no RecordSet, because the content of the files is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from neuromirror.lab.cite.cited_files import CitedFile, cited_files
from neuromirror.lab.cite.json_text import compact_json, distinct, without_empty
from neuromirror.lab.cite.media_types import media_type
from neuromirror.lab.cite.person_names import family_first_name
from neuromirror.lab.cite.phrases import (
    description_or_summary,
    license_phrase,
    remarks,
    retrieval_phrase,
    unlisted_remarks,
)
from neuromirror.lab.cite.text import paragraph
from neuromirror.lab.cite.works import Agent, CitationCollection, CitedWork, Person
from neuromirror.model import count_of

_TERMS: Final = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty"),
    *("fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField"),
    *("path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform"),
)
_CONTEXT: Final[dict[str, Any]] = dict(
    sorted(
        {
            **{name: f"cr:{name}" for name in _TERMS},
            "@language": "en",
            "@vocab": "https://schema.org/",
            "conformsTo": "dct:conformsTo",
            "cr": "http://mlcommons.org/croissant/",
            "data": {"@id": "cr:data", "@type": "@json"},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
            "dct": "http://purl.org/dc/terms/",
            "examples": {"@id": "cr:examples", "@type": "@json"},
            "rai": "http://mlcommons.org/croissant/RAI/",
            "sc": "https://schema.org/",
        }.items()
    )
)
"""The JSON-LD context of the specification."""


def write_croissant(collection: CitationCollection, *, files: bool) -> Iterator[str]:
    """Yield the text of a Croissant file (JSON-LD); without ``files`` it lists no files."""
    head = without_empty({"@context": _CONTEXT, "@type": "sc:Dataset", **_about(collection)})
    yield f"{compact_json(head)[:-1]}"
    omitted = 0
    if files:
        yield ',\n"distribution": ['
        separator = ""
        for work in collection.works:
            prefix = collection.prefix(work)
            for one in cited_files(work.state):
                if isinstance(one, CitedFile):
                    entity = _file_object(one, prefix)
                    if entity is None:
                        omitted += 1
                    else:
                        yield f"{separator}\n{compact_json(entity)}"
                        separator = ","
        yield "]"
    descriptions = [_description(work, files=files) for work in collection.works]
    if omitted:
        descriptions.append(f"{count_of(omitted, 'file')} without sha256 or md5 are not listed.")
    yield f',\n"description": {compact_json(" ".join(descriptions))}}}\n'


def _about(collection: CitationCollection) -> dict[str, Any]:
    works = collection.works
    only = collection.single_work
    dates = [one.required_date for one in works]
    licenses = [one.url or one.name for work in works for one in work.licenses]
    creators = [_agent(one) for work in works for one in work.authors]
    publishers = [_agent(one.publisher) for one in works if one.publisher is not None]
    keywords = [one for work in works for one in work.keywords]
    return {
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": works[0].title if only is not None else collection.title,
        "license": list(dict.fromkeys(licenses)),
        "url": only.url if only is not None else None,
        "creator": distinct(creators),
        "publisher": distinct(publishers),
        "datePublished": max(dates).isoformat(),
        "version": only.version if only is not None else None,
        "keywords": list(dict.fromkeys(keywords)),
        "identifier": [one.qualified_swhid for one in works],
        "citeAs": "\n".join(map(paragraph, works)),
        "isLiveDataset": False,
    }


def _description(work: CitedWork, *, files: bool) -> str:
    licenses = [] if license_phrase(work) else ["Upstream states no license."]
    notes = [*licenses, *remarks(work), *(unlisted_remarks(work) if files else [])]
    return " ".join([description_or_summary(work), *notes, f"{retrieval_phrase(work)}."])


def _agent(one: Agent) -> dict[str, Any]:
    if not isinstance(one, Person):
        return without_empty({"@type": "sc:Organization", "name": one.name, "url": one.ror})
    fields = {"@type": "sc:Person", "name": family_first_name(one), "url": one.orcid_url}
    return without_empty(fields)


def _file_object(one: CitedFile, prefix: str) -> dict[str, Any] | None:
    """Return the FileObject of a file, or None without a checksum or a URL."""
    sha256, md5 = one.hex("sha256"), one.hex("md5")
    if not one.urls or not (sha256 or md5):
        return None
    path = prefix + one.path
    return without_empty(
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
