"""Metadata with an entry per file, as JSON-LD: RO-Crate 1.2 and Croissant 1.0.

The files are on the web; their entries have URLs, sizes and checksums, and are written while the
files are read from git. RO-Crate lists all ids before the entities, which are therefore buffered in
a file on disk. Croissant lists files with a sha256 or md5 and a URL; the others are counted in the
description. It has no RecordSet, because the content of the files is not read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Any, Final
from urllib.parse import quote

from neuromirror.lab.cite.bibliography import (
    license_phrase,
    paragraph,
    remarks,
    retrieval_phrase,
    unlisted_remarks,
)
from neuromirror.lab.cite.states import CitedEntry, cited_files
from neuromirror.lab.cite.values import compact_json, distinct, without_empty
from neuromirror.lab.cite.works import Agent, CitationCollection, CitedWork, Funder, License
from neuromirror.lab.export_lock import printable_url
from neuromirror.model import count_of

Entity = dict[str, Any]

_BINARY: Final = "application/octet-stream"
_TYPES: Final[dict[str, str]] = dict(
    re.findall(
        r"(\S+) (\S+)",
        """
    avi video/x-msvideo  csv text/csv  gz application/gzip  h5 application/x-hdf5
    hdf5 application/x-hdf5  htm text/html  html text/html  jpeg image/jpeg  jpg image/jpeg
    json application/json  jsonl application/jsonl  log text/plain  mat application/x-matlab-data
    md text/markdown  mkv video/x-matroska  mov video/quicktime  mp4 video/mp4
    nii application/x-nifti  npy application/x-npy  npz application/x-npz  nwb application/x-nwb
    parquet application/vnd.apache.parquet  pdf application/pdf  png image/png  py text/x-python
    svg image/svg+xml  tar application/x-tar  tif image/tiff  tiff image/tiff
    toml application/toml  tsv text/tab-separated-values  txt text/plain  wav audio/x-wav
    xml application/xml  yaml application/yaml  yml application/yaml  zip application/zip
    zst application/zstd
    """,
    )
)
"""Media types by file extension, the same on every machine."""


def media_type(path: str) -> str:
    """Return the media type (MIME type) for the extension of a file name."""
    return _TYPES.get(path.rpartition("/")[2].rpartition(".")[2].casefold(), _BINARY)


def _description(work: CitedWork, *notes: str, files: bool) -> str:
    """Return upstream's description or, without one, title, number of files and size; and notes."""
    summary = f"{work.title}: {count_of(work.files, 'file')}, {work.bytes} bytes."
    unlisted = unlisted_remarks(work) if files else []
    return " ".join([work.description or summary, *notes, *remarks(work), *unlisted])


# --- RO-Crate

_SPECIFICATION: Final = "https://w3id.org/ro/crate/1.2"
_ROOT: Final = "./"
_DOI: Final = "https://registry.identifiers.org/registry/doi"


def write_rocrate(collection: CitationCollection, *, files: bool) -> Iterator[str]:
    """Yield the text of ``ro-crate-metadata.json``; without ``files`` it lists no files."""
    crate = _Crate(collection, files=files)
    yield f'{{\n"@context": "{_SPECIFICATION}/context",\n"@graph": [\n'
    head = {"@id": "ro-crate-metadata.json", "@type": "CreativeWork", "about": {"@id": _ROOT}}
    yield compact_json({**head, "conformsTo": {"@id": _SPECIFICATION}})
    if collection.single_work is not None:
        yield from crate.dataset(_ROOT, collection.single_work)
    else:
        yield f",\n{compact_json(_collection_entity(collection))}"
        for work in collection.works:
            yield from crate.dataset(work.swhid, work)
    for entity in crate.contextual.values():
        yield f",\n{compact_json(entity)}"
    yield "\n]\n}\n"


def _collection_entity(collection: CitationCollection) -> Entity:
    works = collection.works
    licenses = sorted({license_phrase(work) or "none stated" for work in works})
    return {
        "@id": _ROOT,
        "@type": "Dataset",
        "name": collection.title,
        "description": f"{collection.title}: {', '.join(one.name for one in works)}",
        "datePublished": max(one.required_date for one in works).isoformat(),
        "license": f"Each dataset has its own: {'; '.join(licenses)}",
        "hasPart": [{"@id": one.swhid} for one in works],
    }


class _Crate:
    """The entities of a crate, of which each has an id of its own."""

    def __init__(self, collection: CitationCollection, *, files: bool) -> None:
        self._collection = collection
        self._has_files = files
        self._seen: set[int] = set()
        self.contextual: dict[str, Entity] = {}
        """Entities that others refer to, in the order of their first use."""

    def dataset(self, identity: str, work: CitedWork) -> Iterator[str]:
        """Yield the entity of a dataset, with the ids of its files, and then their entities."""
        dataset = compact_json({"@id": identity, **self._about(work)})
        if not self._has_files:
            yield f",\n{dataset}"
            return
        yield f',\n{dataset[:-1]}, "hasPart": ['
        with TemporaryFile("w+", encoding="utf-8", newline="\n") as waiting:
            for number, entity in enumerate(self._parts(work)):
                yield f"{',' if number else ''}\n{compact_json({'@id': entity['@id']})}"
                waiting.write(f",\n{compact_json(entity)}")
            yield "]}"
            waiting.seek(0)
            while block := waiting.read(1 << 20):
                yield block

    def _parts(self, work: CitedWork) -> Iterator[Entity]:
        """Yield an entity with a unique id for each file and subdataset."""
        prefix = self._collection.prefix(work)
        for one in cited_files(work.state):
            entity = _part(one, prefix + one.path, work)
            # 8 bytes of a digest instead of the URL save memory for millions of files
            short = int.from_bytes(hashlib.sha256(entity["@id"].encode()).digest()[:8], "big")
            if short in self._seen:
                # the same content at another path
                entity["@id"] += f"#{quote(prefix + one.path)}"
            self._seen.add(short)
            yield entity

    def _about(self, work: CitedWork) -> Entity:
        """Return the entity of a dataset without its id and files."""
        text = f"{_description(work, files=self._has_files)} {retrieval_phrase(work)}"
        licenses = list(map(self._license, work.licenses))
        return without_empty(
            {
                "@type": "Dataset",
                "name": work.title,
                "description": text,
                "datePublished": work.required_date.isoformat(),
                "license": (licenses[0] if len(licenses) == 1 else licenses)
                or "Upstream states no license.",
                "author": list(map(self._agent, work.authors)),
                "publisher": work.publisher and self._agent(work.publisher),
                "funder": distinct(map(self._funder, work.funders)),
                "version": work.version,
                "url": work.url,
                "identifier": distinct(self._identifiers(work)),
                "keywords": list(work.keywords),
                "isBasedOn": list(map(self._input, work.inputs)),
                "creditText": paragraph(work),
            }
        )

    def _license(self, one: License) -> Entity:
        about = f"The license that upstream states: {one.name}"
        identity = one.url or f"#license-{quote(one.name, safe='')}"
        return self._add(identity, "CreativeWork", name=one.name, description=about)

    def _input(self, one: str) -> Entity:
        about = "Upstream name of an input."
        identity = f"#input-{quote(one, safe='')}"
        return self._add(identity, "Dataset", name=one, description=about)

    def _agent(self, one: Agent) -> Entity:
        """Return a reference to a person or an organisation."""
        if not one.is_person:
            identity = one.url or f"#organisation-{quote(one.name, safe='')}"
            return self._add(identity, "Organization", name=one.name)
        spoken = filter(None, (one.given, one.particle, one.family, one.suffix))
        return self._add(
            one.url or f"#person-{quote(one.full_name, safe='')}",
            "Person",
            name=" ".join(spoken) if one.family else one.full_name,
            givenName=one.given,
            familyName=one.whole_family,
            affiliation=list(map(self._agent, one.affiliations)),
        )

    def _funder(self, one: Funder) -> Entity:
        """Return a reference to a grant, or to the funder without an award."""
        funder, award = self._agent(one.organisation), one.award
        identity = f"#grant-{quote(award, safe='')}"
        grant = {"name": award, "identifier": award, "funder": funder}
        return self._add(identity, "Grant", **grant) if award else funder

    def _identifiers(self, work: CitedWork) -> Iterator[Entity]:
        """Yield references to DOI, SWHIDs, state digest, and the identifiers of upstream."""
        if work.doi_url is not None:
            value = {"propertyID": _DOI, "value": f"doi:{work.doi}", "url": work.doi_url}
            yield self._add(work.doi_url, "PropertyValue", name="DOI", **value)
        for name, text in work.all_identifiers:
            yield self._add(f"#{quote(text, safe=':')}", "PropertyValue", name=name, value=text)

    def _add(self, identity: str, kind: str, **fields: Any) -> Entity:
        """Return a reference to a contextual entity; the first one with an id counts."""
        entity = without_empty({"@id": identity, "@type": kind, **fields})
        self.contextual.setdefault(identity, entity)
        return {"@id": identity}


def _part(one: CitedEntry, path: str, work: CitedWork) -> Entity:
    """Return the entity of a file, of a document, which is in git only, or of a subdataset."""
    local = {"name": path, "localPath": path}
    if one.content is not None:
        return {
            "@id": f"#{quote(path)}",
            "@type": "File",
            **local,
            "description": "Metadata of upstream, a plain file in git.",
            "encodingFormat": media_type(one.path),
            "contentSize": str(len(one.content)),
            "sha256": hashlib.sha256(one.content).hexdigest(),
        }
    if one.commit:
        identity = f"swh:1:rev:{one.commit}"
        return {"@id": identity, "@type": "Dataset", "name": path, "description": "A subdataset."}
    urls, sha256, time = list(map(printable_url, one.urls)), one.hex("sha256"), work.state.time
    return without_empty(
        {
            "@id": urls[0] if urls else f"#{quote(path)}",
            "@type": "File",
            **local,
            "encodingFormat": media_type(one.path),
            "contentSize": None if one.size is None else str(one.size),
            "sha256": sha256,
            "identifier": None if sha256 or one.digest is None else ":".join(one.digest),
            "contentUrl": urls[1:],
            "sdDatePublished": time and time.isoformat(),
        }
    )


# --- Croissant

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
    works, only = collection.works, collection.single_work
    head = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": only.title if only is not None else collection.title,
        "license": distinct(one.url or one.name for work in works for one in work.licenses),
        "url": only and only.url,
        "creator": distinct(_party(one) for work in works for one in work.authors),
        "publisher": distinct(_party(one.publisher) for one in works if one.publisher is not None),
        "datePublished": max(one.required_date for one in works).isoformat(),
        "version": only and only.version,
        "keywords": list(dict.fromkeys(one for work in works for one in work.keywords)),
        "identifier": [one.qualified_swhid for one in works],
        "citeAs": "\n".join(map(paragraph, works)),
        "isLiveDataset": False,
    }
    yield compact_json(without_empty(head))[:-1]
    omitted, separator = 0, ""
    if files:
        yield ',\n"distribution": ['
        for work in works:
            prefix = collection.prefix(work)
            for one in cited_files(work.state):
                if entity := _file_object(one, prefix + one.path):
                    yield f"{separator}\n{compact_json(entity)}"
                    separator = ","
                else:
                    omitted += one.content is None and not one.commit
        yield "]"
    descriptions = [
        _description(work, *["Upstream states no license."] * (not work.licenses), files=files)
        + f" {retrieval_phrase(work)}."
        for work in works
    ]
    if omitted:
        descriptions.append(f"{count_of(omitted, 'file')} without sha256 or md5 are not listed.")
    yield f',\n"description": {compact_json(" ".join(descriptions))}}}\n'


def _party(one: Agent) -> Entity:
    kind = "sc:Person" if one.is_person else "sc:Organization"
    return without_empty({"@type": kind, "name": one.name, "url": one.url})


def _file_object(one: CitedEntry, path: str) -> Entity | None:
    """Return the FileObject of a file, or None without a checksum or a URL."""
    sha256, md5 = one.hex("sha256"), one.hex("md5")
    if not one.urls or not (sha256 or md5):
        return None
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
