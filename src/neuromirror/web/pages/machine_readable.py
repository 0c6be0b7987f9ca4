"""What programs read: Croissant, a harvest feed, OpenSearch, typed links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final
from urllib.parse import quote
from xml.etree import ElementTree

from msgspec import Struct
from starlette.responses import Response

from neuromirror.index import Index, RelatedVersion, Tombstone, VersionRow
from neuromirror.lab import CitationCollection, cite
from neuromirror.lab.cite.works import CitedWork, Person
from neuromirror.model import alias_of
from neuromirror.web.addresses import (
    checksums_address,
    cite_address,
    croissant_address,
    dataset_address,
    header_url,
    lock_file_address,
    manifest_address,
    version_address,
)
from neuromirror.web.citations import read_citation, require_citation
from neuromirror.web.pages.schema_org import input_addresses, linked_data
from neuromirror.web.request import (
    BadRequestError,
    CatalogueRequest,
    resolve_version,
    view,
)
from neuromirror.web.spooled_response import SPOOLED_BYTES, spooled_response

_MAX_CROISSANT_FILES: Final = 200_000
"""Number of files above which Croissant metadata does not list the files."""
_HARVEST_SIZE: Final = 50
"""Datasets per page of the harvest feed."""
_MAX_LINKS: Final = 20
"""Authors and licenses in a header, whose size proxies limit."""
_OPEN_SEARCH: Final = "http://a9.com/-/spec/opensearch/1.1/"


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
        found = index.top_level_datasets(0, _HARVEST_SIZE + 1, after=after)
        rows = []
        for _, name, changed in found[:_HARVEST_SIZE]:
            if changed is not None and changed >= earliest:
                row = index.resolve(name)
                rows.append(
                    _Harvested(row, dict(index.attributes(row)), index.ancestors(row, 1), changed)
                )
        gone = [] if after else [one for one in index.tombstones() if one.at >= earliest]
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
    root = ElementTree.Element(f"{{{_OPEN_SEARCH}}}OpenSearchDescription")
    for name, text in (
        ("ShortName", request.site.title[:16]),
        ("Description", f"Datasets of {request.site.title}"),
        ("InputEncoding", "UTF-8"),
    ):
        ElementTree.SubElement(root, f"{{{_OPEN_SEARCH}}}{name}").text = text
    for kind, path in (
        ("text/html", "/?q={searchTerms}"),
        ("application/atom+xml", "/feed.atom?q={searchTerms}"),
        ("application/json", "/api/v1/search?q={searchTerms}"),
    ):
        address = {"type": kind, "template": request.site_url + path}
        ElementTree.SubElement(root, f"{{{_OPEN_SEARCH}}}Url", address)
    ElementTree.register_namespace("", _OPEN_SEARCH)
    text = ElementTree.tostring(root, encoding="unicode")
    kind = "application/opensearchdescription+xml; charset=utf-8"
    return request.etag_response(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', kind)


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
        ("cite-as", work.doi_url or page, {}),
        ("type", "https://schema.org/Dataset", {}),
        ("describedby", site + croissant_address(name, label), {"type": "application/ld+json"}),
        (
            "describedby",
            site + cite_address(name, label, "csl"),
            {"type": "application/vnd.citationstyles.csl+json"},
        ),
        ("item", site + lock_file_address("datasets.lock", [work.name]), {"type": "text/plain"}),
        ("collection", site + dataset_address(name), {"type": "text/html"}),
    ]
    if has_manifest:
        manifest = site + manifest_address(work.digest)
        links.append(("item", manifest, {"type": "application/zstd"}))
    if has_checksums:
        links.append(("item", site + checksums_address(name, label), {"type": "text/plain"}))
    links += [("license", one.url, {}) for one in work.licenses[:_MAX_LINKS] if one.url]
    people = [one for one in work.authors if isinstance(one, Person) and one.orcid]
    links += [("author", f"https://orcid.org/{one.orcid}", {}) for one in people[:_MAX_LINKS]]
    return {"link": ", ".join(_link(*one) for one in links)}


def _link(relation: str, target: str, attributes: Mapping[str, str]) -> str:
    pairs: Iterable[tuple[str, str]] = (("rel", relation), *attributes.items())
    given = "".join(f'; {name}="{value}"' for name, value in pairs)
    return f"<{header_url(target)}>{given}"
