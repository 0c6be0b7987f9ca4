"""The JSON of the catalogue, version 1: versions, their files, and what differs between them.

A label may mean another version tomorrow (``latest``), so the address of a next page names the
version by its commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Literal, cast
from urllib.parse import quote

import msgspec

from neuromirror.index import Index, VersionRow
from neuromirror.model import alias_of
from neuromirror.volume import NotAVolume
from neuromirror.web import volume_shapes
from neuromirror.web.addresses import file_address, version_address
from neuromirror.web.api import replies
from neuromirror.web.api.operations import ROOT, Given, Operation, Parameter, following
from neuromirror.web.asked import Asked, NoSuchPage, Wrong
from neuromirror.web.comparing import compared, named_version
from neuromirror.web.records import (
    told_file,
    told_level,
    told_others,
    told_part,
    told_place,
    told_relative,
    told_span,
    told_version,
    told_volume,
)
from neuromirror.web.works import FORMATS, citation_of

MOST = 1000
_OTHERS = 100

LIMIT = Parameter("limit", "how many there are in a page at most", default="100", most=MOST)
AFTER = Parameter("after", "where the page before ended, as its `next` has it")
CHECKSUM = Parameter(
    "checksum",
    "which bytes: sha256:…, md5:…, etag:…, a bare checksum, or a git-annex key",
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    needed=True,
)
_UNDER = Parameter("under", "a folder to stay in", "sub-01")
_PATH = Parameter("path", "the file's path", "sub-01/sub-01_ecephys.nwb", needed=True)
_IN_PATHS = Parameter(
    "q", "words that a path has, all of them, whatever their case", "nwb", needed=True
)
_FORMAT = Parameter("format", "how the citation is written", default="text", words=FORMATS)
_DEPTH = Parameter("depth", "how many generations are followed", default="1", most=5)
_OLD = Parameter(
    "a", "the old version, as <dataset>@<label>", "dandi:000027@0.1", needed=True, names=True
)
_NEW = Parameter("b", "the new version, likewise", "dandi:000027@0.2", needed=True, names=True)

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


def dataset_path(name: str) -> str:
    """A dataset's address below the API's root."""
    return f"/datasets/{quote(name, safe=':')}"


def _version_path(row: VersionRow, rest: str) -> str:
    """An address of what belongs to a version, whatever its label may mean tomorrow."""
    return f"{dataset_path(row.dataset_name)}@{row.commit}{rest}"


async def version(asked: Asked, given: Given) -> replies.WholeVersion:
    """One version, and what can be had of it."""

    def look(index: Index) -> replies.WholeVersion:
        row = index.resolve(given["name"], given["version"])
        page = version_address(row.dataset_name, row.label)
        manifest = asked.site.store.manifest_path(row.state)
        kept = manifest.relative_to(asked.site.store.root) if manifest.exists() else None
        return {
            **told_version(row),
            "attributes": index.attributes(row),
            "left_out": index.exceptions(row),
            "parts": [told_part(one) for one in index.parts(row)],
            "clone": f"ria+{asked.address}/#~{alias_of(row.dataset_name)}@{row.label}",
            "sums": asked.address + page.replace("/dataset/", "/sums/", 1),
            "manifest": None if kept is None else f"{asked.address}/{kept}",
            "page": asked.address + page,
        }

    return await asked.ask(look)


async def files(asked: Asked, given: Given) -> replies.Files:
    """The files of a version, by the bytes of their paths."""
    under, limit = given["under"], given.whole("limit")
    last = given.place(str, "")

    def look(index: Index) -> replies.Files:
        row = index.resolve(given["name"], given["version"])
        found = list(index.files(row, under, last, limit + 1))
        more = None
        if len(found) > limit:
            path, place = _version_path(row, "/files"), found[limit - 1].path
            more = following(asked, path, place, under=under, limit=limit)
        return {
            "version": row.name,
            "files": [told_file(one) for one in found[:limit]],
            "next": more,
        }

    return await asked.ask(look)


async def levels(asked: Asked, given: Given) -> replies.Levels:
    """What stands in a folder of a version: files, and folders with what is below them.

    Parts that are datasets of their own are told by the version.
    """
    under, limit = given["under"].strip("/"), given.whole("limit")
    last = given.place(str, "")

    def look(index: Index) -> replies.Levels:
        row = index.resolve(given["name"], given["version"])
        found = list(islice(index.level(row, under, last), limit + 1))
        more = None
        if len(found) > limit:
            path, place = _version_path(row, "/levels"), found[limit - 1].next
            more = following(asked, path, place, under=under, limit=limit)
        return {
            "version": row.name,
            "under": under,
            "level": [told_level(one) for one in found[:limit]],
            "next": more,
        }

    return await asked.ask(look)


async def paths(asked: Asked, given: Given) -> replies.Paths:
    """The files of a version whose paths have all the words, 200 in a page at most."""
    words, start = given["q"], given.place(str, "")

    def look(index: Index) -> replies.Paths:
        row = index.resolve(given["name"], given["version"])
        found = index.matching_paths(row, words, start)
        more = None
        if found.next:
            more = following(asked, _version_path(row, "/paths"), found.next, q=words)
        return {
            "version": row.name,
            "files": [told_file(one) for one in found.files],
            "next": more,
            "whole": found.whole,
        }

    return await asked.ask(look)


async def file(asked: Asked, given: Given) -> replies.WholeFile:
    """One file: its places with their last probe, its past, and where else its bytes are."""

    def look(index: Index) -> replies.WholeFile:
        row = index.resolve(given["name"], given["version"])
        found = index.file(row, given["path"])
        others, more = told_others(index, row, found, _OTHERS)
        everywhere = f"{asked.address}{ROOT}/find?checksum={quote(found.key, safe='')}"
        return {
            **told_file(found),
            "version": row.name,
            "places": [told_place(one) for one in index.locations(found.content, limit=_OTHERS)],
            "history": [told_span(one) for one in index.spans(row, found.path)],
            "others": others,
            "more_others": everywhere if more else None,
            "page": asked.address + file_address(row.dataset_name, row.label, found.path),
        }

    return await asked.ask(look)


async def volume(asked: Asked, given: Given) -> volume_shapes.Volume:
    """What a version is as a volume, read from its own documents."""
    row = await asked.ask(lambda index: index.resolve(given["name"], given["version"]))
    try:
        found = await asked.site.reader.do(lambda: asked.site.cutouts.described(row))
    except NotAVolume as error:
        raise NoSuchPage(str(error)) from error
    return told_volume(found)


async def citation(asked: Asked, given: Given) -> replies.Citation:
    """A citation of a version, upstream's own first."""
    row = await asked.ask(lambda index: index.resolve(given["name"], given["version"]))
    store, form = asked.site.store, given["format"]
    text = await asked.site.reader.do(lambda: citation_of(store, row, form))
    return {
        "version": row.name,
        "format": cast("Literal['text', 'bibtex', 'csl', 'cff']", form),
        "citation": text,
    }


async def ancestry(asked: Asked, given: Given) -> replies.Ancestry:
    """What a version was derived from, and what was derived from its dataset."""
    depth = given.whole("depth")

    def look(index: Index) -> replies.Ancestry:
        row = index.resolve(given["name"], given["version"])
        return {
            "version": row.name,
            "ancestors": [told_relative(one) for one in index.ancestors(row, depth)],
            "descendants": [told_relative(one) for one in index.descendants(row, depth)],
        }

    return await asked.ask(look)


async def diff(asked: Asked, given: Given) -> replies.Difference:
    """What became of one version in another, by path."""
    limit, first = given.whole("limit"), given.place(_Count, 0)
    names = [_named(given[one]) for one in ("a", "b")]

    def look(index: Index) -> replies.Difference:
        old, new = (index.resolve(*one) for one in names)
        found = compared(asked.site.store, index, old, new, first, limit)
        more = None
        if found.all > first + limit:
            a, b = (f"{row.dataset_name}@{row.commit}" for row in (old, new))
            more = following(asked, "/diff", first + limit, a=a, b=b, limit=limit)
        return {
            "old": old.name,
            "new": new.name,
            "files": dict(found.counts.files),
            "bytes": dict(found.counts.bytes),
            "parts": dict(found.counts.parts),
            "changes": found.changes,
            "next": more,
        }

    return await asked.site.reader.ask_at_length(look)


def _named(text: str) -> tuple[str, str]:
    name, label = named_version(text)
    if not name or not label:
        raise Wrong(f"a version is named <dataset>@<label>, not {text[:80]!r}")
    return name, label


_ONE = "/datasets/{name}@{version}"
_LIST = (LIMIT, AFTER)

OPERATIONS: Sequence[Operation] = (
    Operation(f"{_ONE}/files", replies.Files, files, (_UNDER, *_LIST)),
    Operation(f"{_ONE}/levels", replies.Levels, levels, (_UNDER, *_LIST)),
    Operation(f"{_ONE}/paths", replies.Paths, paths, (_IN_PATHS, AFTER)),
    Operation(f"{_ONE}/file", replies.WholeFile, file, (_PATH,)),
    Operation(f"{_ONE}/volume", volume_shapes.Volume, volume),
    Operation(f"{_ONE}/citation", replies.Citation, citation, (_FORMAT,)),
    Operation(f"{_ONE}/ancestry", replies.Ancestry, ancestry, (_DEPTH,)),
    Operation(_ONE, replies.WholeVersion, version),
    Operation("/diff", replies.Difference, diff, (_OLD, _NEW, *_LIST)),
)
