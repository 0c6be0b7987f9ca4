"""The previews of files: a page, which the page of the file includes, and thumbnails."""

from __future__ import annotations

from datasette.utils.asgi import Response

from neuromirror.index import FileRow, Index, VersionRow, shapes
from neuromirror.previews import Preview
from neuromirror.web.previews import PreviewUnavailableError
from neuromirror.web.request import CatalogueRequest, view

_CACHE_CONTROL = "public, max-age=3600"


@view
async def preview(request: CatalogueRequest) -> Response:
    """Show the preview of a file, or why there is none."""
    row, file = await _file(request)
    found, message, status = await _outcome(request, row, file)
    if request.query_parameter("embedded"):
        status = 200  # for the script of the file's page, which shows the message
    reply = await request.render_page(
        "preview",
        status,
        version=shapes.Version.of(row).plain(),
        file=shapes.File.of(file).plain(),
        preview=found,
        preview_message=message,
    )
    if status == 503:
        reply.headers["retry-after"] = "30"
    return reply


@view
async def thumbnail(request: CatalogueRequest) -> Response:
    """Return the image of a file's preview; without a preview, an image that is neutral."""
    row, file = await _file(request)
    found, _, _ = await _outcome(request, row, file)
    if found is None or found.picture is None:
        text = await request.render_template("no_picture.svg")
        return Response(text, 200, {"cache-control": "no-store"}, "image/svg+xml")
    headers = {"cache-control": _CACHE_CONTROL, "content-length": str(len(found.picture.data))}
    return Response(found.picture.data, 200, headers, found.picture.media_type)


async def _file(request: CatalogueRequest) -> tuple[VersionRow, FileRow]:
    name, label = request.path_parameter("name"), request.path_parameter("label")
    path = request.query_parameter("path")

    def look(index: Index) -> tuple[VersionRow, FileRow]:
        row = index.resolve(name, label)
        return row, index.file(row, path)

    return await request.query_index(look)


async def _outcome(
    request: CatalogueRequest, row: VersionRow, file: FileRow
) -> tuple[Preview | None, str, int]:
    """Return a preview, or a message and the HTTP status."""
    try:
        return await request.site.previews.preview(row, file), "", 200
    except PreviewUnavailableError as error:
        return None, str(error), error.status
