"""What programs read: Croissant, a harvest feed, OpenSearch, oEmbed, llms.txt, typed links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from datasette.utils.asgi import Response

from neuromirror.index import Index, VersionRow
from neuromirror.lab import CitationCollection, cite
from neuromirror.lab.cite.errors import NotCitableError
from neuromirror.lab.cite.works import CitedWork, Person
from neuromirror.model import alias_of
from neuromirror.volume import NotAVolumeError, middle_plane
from neuromirror.web.addresses import (
    checksums_address,
    cite_address,
    croissant_address,
    dataset_address,
    lock_file_address,
    manifest_address,
    slice_address,
    version_address,
)
from neuromirror.web.citations import read_citation
from neuromirror.web.pages.schema_org import linked_data
from neuromirror.web.request import BadRequestError, CatalogueRequest, PageNotFoundError, view
from neuromirror.web.spooled_response import SPOOLED_BYTES, spooled_response
from neuromirror.web.version_comparison import split_version_name

_MAX_CROISSANT_FILES: Final = 200_000
"""Number of files above which Croissant metadata does not list the files."""
_HARVEST_SIZE: Final = 50
"""Datasets per page of the harvest feed."""
_MAX_LINKS: Final = 20
"""Authors and licenses in a header, whose size proxies limit."""
_LINK_SAFE: Final = "%/:=&?~#+!$,;'@()*[]"
"""Characters of a URL that are not quoted in a header."""
_OPEN_SEARCH: Final = "http://a9.com/-/spec/opensearch/1.1/"


@view
async def croissant(request: CatalogueRequest) -> Response:
    """Return the Croissant metadata of a version, with its files unless there are too many."""
    name, label = request.path_parameter("name"), request.path_parameter("label")
    row = await request.query_index(lambda index: index.resolve(name, label))
    store = request.site.store

    def write() -> IO[bytes]:
        found = read_citation(store, row)
        if found is None:
            raise NotCitableError(f"the commit of {row.name} cannot be read")
        pieces = cite(
            CitationCollection((found.work,)),
            "croissant",
            files=row.files <= _MAX_CROISSANT_FILES,
        )
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

    The order is that of registration, so that new datasets come last; ``since`` leaves out datasets
    without a new version since a date.
    """
    page = request.integer_parameter("page", 1, 1_000_000)
    since = request.query_parameter("since")
    if since and not _is_date(since):
        raise BadRequestError(f"since must be a date such as 2024-03-01, not {since[:40]!r}")
    first = (page - 1) * _HARVEST_SIZE
    base, site, store = request.base_url, request.site, request.site.store

    def look(index: Index) -> tuple[list[tuple[VersionRow, dict[str, Any], str]], bool]:
        names = index.top_level_datasets(first, _HARVEST_SIZE + 1)
        rows = []
        for name, changed in names[:_HARVEST_SIZE]:
            if changed is not None and changed >= since:
                row = index.resolve(name)
                rows.append((row, dict(index.attributes(row)), changed))
        return rows, len(names) > _HARVEST_SIZE

    rows, more = await request.query_index(look)

    def describe() -> list[dict[str, Any]]:
        found = []
        for row, attributes, changed in rows:
            citation = read_citation(store, row)
            if citation is None:
                continue
            document = linked_data(
                citation.work,
                alias_of(row.dataset_name),
                attributes,
                site=base,
                title=site.title,
                has_checksums=row.indexed,
            )
            found.append({**document, "sdDatePublished": changed})
        return found

    following = f"{base}/harvest.json?page={page + 1}" + (f"&since={since}" if since else "")
    return request.json_response(
        {
            "datasets": await site.reader.run_in_thread(describe),
            "next": following if more else None,
        }
    )


def _is_date(text: str) -> bool:
    return len(text) >= 10 and all(
        one.isascii() and (one.isdigit() or one in "-T:+Z.") for one in text
    )


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
        address = {"type": kind, "template": request.base_url + path}
        ElementTree.SubElement(root, f"{{{_OPEN_SEARCH}}}Url", address)
    ElementTree.register_namespace("", _OPEN_SEARCH)
    text = ElementTree.tostring(root, encoding="unicode")
    kind = "application/opensearchdescription+xml; charset=utf-8"
    return request.etag_response(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', kind)


@view
async def llms(request: CatalogueRequest) -> Response:
    """Return llms.txt: what language models and their tools should read instead of pages."""
    text = await request.render_template("llms.txt", title=request.site.title)
    return request.etag_response(text, "text/plain; charset=utf-8")


@view
async def oembed(request: CatalogueRequest) -> Response:
    """Return the oEmbed description of a volume's page: its preview as a photo."""
    form = request.query_parameter("format", "json")
    if form != "json":
        raise BadRequestError("this catalogue has oEmbed in format=json only")
    dataset, label = _volume_of(request.query_parameter("url"))
    row = await request.query_index(lambda index: index.resolve(dataset, label))
    cutouts = request.site.cutouts
    try:
        found = await request.site.reader.run_in_thread(lambda: cutouts.describe(row))
        plane = middle_plane(found)
    except NotAVolumeError as error:
        raise PageNotFoundError(str(error)) from error
    (x0, x1), (y0, y1), _ = plane.cutout.region.box
    return request.json_response(
        {
            "version": "1.0",
            "type": "photo",
            "title": row.title or row.name,
            "url": request.base_url + slice_address(row.dataset_name, row.label),
            "width": -(-(x1 - x0) // plane.step),
            "height": -(-(y1 - y0) // plane.step),
            "provider_name": request.site.title,
            "provider_url": f"{request.base_url}/",
        }
    )


def _volume_of(url: str) -> tuple[str, str]:
    """Return dataset and label of the URL of a page of a volume, or of its dataset."""
    path = urlsplit(url).path if url.isprintable() else ""
    for start in ("/volume/", "/dataset/"):
        if path.startswith(start):
            dataset, label = split_version_name(unquote(path.removeprefix(start)))
            return dataset, label or "latest"
    raise BadRequestError("url must be that of a volume's page: /volume/<dataset>@<version>")


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
    # nothing in a target may end it
    return f"<{quote(target, safe=_LINK_SAFE)}>{given}"
