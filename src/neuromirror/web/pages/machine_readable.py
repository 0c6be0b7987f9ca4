"""What programs read: schema.org, Croissant, a harvest feed, OpenSearch, typed links."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final
from urllib.parse import quote

from msgspec import Struct
from starlette.responses import Response

from neuromirror.index import FileRow, Index, RelatedVersion, Tombstone, VersionRow
from neuromirror.lab import CitationCollection, cite
from neuromirror.lab.cite.formats import media_type
from neuromirror.lab.cite.works import Agent, CitedWork
from neuromirror.model import alias_of, format_bytes
from neuromirror.web.addresses import (
    checksums_address,
    cite_address,
    croissant_address,
    dataset_address,
    download_address,
    header_url,
    lock_file_address,
    manifest_address,
    version_address,
)
from neuromirror.web.lookups import read_citation, require_citation
from neuromirror.web.request import (
    SPOOLED_BYTES,
    BadRequestError,
    CatalogueRequest,
    resolve_version,
    spooled_response,
    view,
)

_MIN_DESCRIPTION, _MAX_DESCRIPTION = 50, 5000
"""Length of a description that Google accepts."""
_KEYWORD_ATTRIBUTES = ("species", "modality", "platform", "project")
"""Attributes whose values become keywords."""


def script_text(document: Mapping[str, Any]) -> str:
    """Return a JSON-LD document as text, escaped for a ``script`` element."""
    text = json.dumps(document)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def input_addresses(ancestors: Sequence[RelatedVersion], site: str) -> list[str]:
    """Return the URLs of the datasets that a version was derived from, or their names.

    Parameters
    ----------
    ancestors
        The versions and datasets that it was derived from.
    site
        The public URL of the catalogue.
    """
    return [
        ancestor.name
        if not ancestor.dataset
        else site + version_address(ancestor.dataset, ancestor.label)
        if ancestor.label
        else site + dataset_address(ancestor.dataset)
        for ancestor in ancestors
    ]


def linked_data(
    work: CitedWork,
    alias: str,
    attributes: Mapping[str, Sequence[str]],
    *,
    site: str,
    title: str,
    has_checksums: bool,
    inputs: Sequence[str] = (),
    files: Sequence[FileRow] = (),
) -> dict[str, Any]:
    """Return the JSON-LD of a version.

    Parameters
    ----------
    work, alias, attributes
        The cited work, the alias of the dataset, and the version's attributes in the index.
    site, title
        Public URL and title of the catalogue.
    has_checksums
        Whether the catalogue has a checksum list of the version.
    inputs
        URLs or names of the datasets that it was derived from.
    files
        The files to list as downloads; the first ones of a large version.
    """
    state = work.state
    searched = [value for name in _KEYWORD_ATTRIBUTES for value in attributes.get(name, ())]
    document: dict[str, Any] = {
        "@context": "https://schema.org/",
        "@type": "Dataset",
        "name": work.title or state.name,
        "description": _description(work),
        "url": site + dataset_address(state.name),
        "sameAs": list(_upstream(work)),
        "version": state.label,
        "identifier": [*_dois(work), f"swh:1:rev:{state.commit}"],
        "license": [one.url or one.name for one in work.licenses],
        "creator": [_agent(author) for author in work.authors],
        "publisher": None if work.publisher is None else _agent(work.publisher),
        "funder": [_agent(funder.organisation) for funder in work.funders],
        "keywords": list(dict.fromkeys((*work.keywords, *searched))),
        "measurementTechnique": list(attributes.get("modality", ())),
        "variableMeasured": list(work.variables),
        "isBasedOn": list(inputs),
        "isAccessibleForFree": True,
        "dateCreated": _day(work.created),
        "datePublished": _day(work.published),
        "dateModified": None
        if work.modified is None or state.time is None
        else state.time.isoformat(),
        "includedInDataCatalog": {"@type": "DataCatalog", "name": title, "url": f"{site}/"},
        "distribution": [
            *_distributions(work, alias, site, has_checksums=has_checksums),
            *(_file_distribution(work, site, file) for file in files),
        ],
    }
    return {key: value for key, value in document.items() if value not in (None, [], "")}


def _file_distribution(work: CitedWork, site: str, file: FileRow) -> dict[str, Any]:
    entry = {
        "@type": "DataDownload",
        "name": file.path,
        "contentUrl": site + download_address(work.state.name, work.state.label, file.path),
        "contentSize": None if file.size is None else f"{file.size} B",
        "encodingFormat": media_type(file.path),
        "sha256": file.digest_values.get("sha256"),
    }
    return {key: value for key, value in entry.items() if value is not None}


def _description(work: CitedWork) -> str:
    """Return the archive's description, extended by counts if it is too short."""
    own = work.description.strip()
    if len(own) < _MIN_DESCRIPTION:
        name = work.title or work.state.name
        counts = f"{work.files:,} files, {format_bytes(work.bytes)}"
        own = " ".join(
            part
            for part in (
                own,
                f"{name}: the exact state {work.state.label} of {work.source or work.state.name},"
                f" as a version-controlled DataLad dataset of {counts}.",
            )
            if part
        )
    return own if len(own) <= _MAX_DESCRIPTION else f"{own[: _MAX_DESCRIPTION - 1]}…"


def _upstream(work: CitedWork) -> Iterator[str]:
    yield from _dois(work)
    if work.address.startswith(("https://", "http://")):
        yield work.address


def _dois(work: CitedWork) -> list[str]:
    return [f"https://doi.org/{work.doi}"] if work.doi else []


def _agent(one: Agent) -> dict[str, Any]:
    agent = {
        "@type": "Person" if one.is_person else "Organization",
        "name": one.full_name,
        "givenName": one.given,
        "familyName": one.family,
        "sameAs": one.url,
    }
    return {key: value for key, value in agent.items() if value}


def _day(value: Any) -> str | None:
    return None if value is None else str(value.isoformat())


def _distributions(
    work: CitedWork, alias: str, site: str, *, has_checksums: bool
) -> Iterator[dict[str, str]]:
    state = work.state
    text = "text/plain"
    found = [
        # the encoding format of a repository in MLCommons Croissant
        (
            "Git repository (a DataLad dataset)",
            f"/alias/{alias}",
            f"git+{site.partition('://')[0]}",
        ),
        (
            "Manifest: every file with its size and checksum",
            manifest_address(work.digest),
            "application/zstd",
        ),
        ("Lock file of this version", lock_file_address("datasets.lock", [work.name]), text),
        (
            "Croissant metadata of every file",
            croissant_address(state.name, state.label),
            "application/ld+json",
        ),
    ]
    if has_checksums:
        found.append(("SHA-256 of every file", checksums_address(state.name, state.label), text))
    for name, address, form in found:
        yield {
            "@type": "DataDownload",
            "name": name,
            "contentUrl": site + address,
            "encodingFormat": form,
        }


_MAX_CROISSANT_FILES: Final = 200_000
"""Number of files above which Croissant metadata does not list the files."""
_HARVEST_SIZE: Final = 50
"""Datasets per page of the harvest feed."""
_MAX_LINKS: Final = 20
"""Authors and licenses in a header, whose size proxies limit."""


class _Harvested(Struct, frozen=True):
    """A version in the harvest feed."""

    row: VersionRow
    attributes: Mapping[str, Sequence[str]]
    ancestors: Sequence[RelatedVersion]
    changed: str


@view
async def croissant(request: CatalogueRequest) -> Response:
    """Return the Croissant metadata of a version, with its files unless there are too many."""
    row, store = await resolve_version(request, *request.version_name), request.site.store

    def write() -> IO[bytes]:
        work = require_citation(store, row).work
        has_files = row.files <= _MAX_CROISSANT_FILES
        pieces = cite(CitationCollection((work,)), "croissant", files=has_files)
        # closed by the response
        made: IO[bytes] = SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115
        for piece in pieces:
            made.write(piece.encode())
        made.seek(0)
        return made

    made = await request.site.reader.run_in_thread(write)
    return spooled_response(request, made, "croissant.json", "application/ld+json")


@view
async def harvest(request: CatalogueRequest) -> Response:
    """Return a page of the harvest feed: schema.org metadata of the latest versions.

    The order is that of registration, so that new datasets come last. ``next`` continues after the
    last dataset of a page, so that a withdrawal between two requests hides no other dataset.
    ``since`` leaves out datasets without a new version, and withdrawals, before a time.
    """
    after = 0
    if request.query_parameter("after"):
        after = request.integer_parameter("after", 1, 999_999_999)
    since = request.query_parameter("since")
    if since and not _is_date(since):
        raise BadRequestError(f"since must be a date such as 2024-03-01, not {since[:40]!r}")
    base, site, store = request.site_url, request.site, request.site.store
    started = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    # a prefix of all times in this second, in any notation of UTC
    earliest = since.removesuffix("Z").removesuffix("+00:00")

    def look(index: Index) -> tuple[list[_Harvested], list[Tombstone], int | None]:
        found = index.datasets.top_level(0, _HARVEST_SIZE + 1, after=after)
        rows = []
        for _, name, changed in found[:_HARVEST_SIZE]:
            if changed is not None and changed >= earliest:
                row = index.versions.resolve(name)
                rows.append(
                    _Harvested(
                        row,
                        dict(index.versions.attributes(row)),
                        index.ancestry.ancestors(row, 1),
                        changed,
                    )
                )
        gone = [] if after else [one for one in index.datasets.tombstones() if one.at >= earliest]
        return rows, gone, found[_HARVEST_SIZE - 1][0] if len(found) > _HARVEST_SIZE else None

    rows, gone, last = await request.query_index(look)

    def describe() -> list[dict[str, Any]]:
        found = []
        for one in rows:
            citation = read_citation(store, one.row)
            if citation is None:
                continue
            document = linked_data(
                citation.work,
                alias_of(one.row.dataset_name),
                one.attributes,
                site=base,
                title=site.title,
                has_checksums=one.row.indexed,
                inputs=input_addresses(one.ancestors, base),
            )
            found.append({**document, "sdDatePublished": one.changed})
        return found

    following = f"{base}/harvest.json?after={last}" + (
        f"&since={quote(since, safe=':')}" if since else ""
    )
    return request.json_response(
        {
            "datasets": await site.reader.run_in_thread(describe),
            "deleted": [
                {"url": base + dataset_address(one.dataset), "dateDeleted": one.at} for one in gone
            ],
            "started": started,
            "next": following if last is not None else None,
        }
    )


def _is_date(text: str) -> bool:
    if set(text) - set("0123456789-T:+Z."):
        return False
    try:
        return datetime.fromisoformat(text).date().isoformat() == text[:10]
    except ValueError:
        return False


@view
async def open_search(request: CatalogueRequest) -> Response:
    """Return the OpenSearch description, with which browsers offer the search."""
    text = await request.render_template("opensearch.xml")
    kind = "application/opensearchdescription+xml; charset=utf-8"
    return request.etag_response(text, kind)


def typed_links(
    work: CitedWork, site: str, *, has_checksums: bool, has_manifest: bool = True
) -> dict[str, str]:
    """Return the ``Link`` header with which programs find the metadata and files of a version.

    The format is Signposting (RFC 8288 and 8574). The header is for the page of the version.

    Parameters
    ----------
    work
        The version's citation metadata.
    site
        The public URL of the catalogue.
    has_checksums
        Whether the header gets a link to the list of checksums.
    has_manifest
        Whether it gets a link to the canonical manifest.

    Returns
    -------
    dict[str, str]
        The header, by its name.
    """
    name, label = work.state.name, work.state.label
    page = site + version_address(name, label)
    links = [
        ("cite-as", work.doi_url or page, ""),
        ("type", "https://schema.org/Dataset", ""),
        ("describedby", site + croissant_address(name, label), "application/ld+json"),
        (
            "describedby",
            site + cite_address(name, label, "csl"),
            "application/vnd.citationstyles.csl+json",
        ),
        ("item", site + lock_file_address("datasets.lock", [work.name]), "text/plain"),
        ("collection", site + dataset_address(name), "text/html"),
    ]
    if has_manifest:
        manifest = site + manifest_address(work.digest)
        links.append(("item", manifest, "application/zstd"))
    if has_checksums:
        links.append(("item", site + checksums_address(name, label), "text/plain"))
    links += [("license", one.url, "") for one in work.licenses[:_MAX_LINKS] if one.url]
    people = [author.url for author in work.authors if author.is_person and author.url]
    links += [("author", url, "") for url in people[:_MAX_LINKS]]
    return {"link": ", ".join(_link(*link) for link in links)}


def _link(relation: str, target: str, kind: str) -> str:
    type_attribute = f'; type="{kind}"' if kind else ""
    return f'<{header_url(target)}>; rel="{relation}"{type_attribute}'
