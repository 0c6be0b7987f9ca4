"""The read-only part of the dandi-archive API, as a WSGI application."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from werkzeug.wrappers import Request, Response

from neuromirror_demo import zarr_listing
from neuromirror_demo.archive import Archive
from neuromirror_demo.dandi_bucket import BUCKET
from neuromirror_demo.documents import DandiDocuments, Json
from neuromirror_demo.paging import (
    NOT_FOUND_HTML,
    ApiError,
    flag,
    html_response,
    json_response,
    not_found,
    page,
    with_query,
)
from neuromirror_demo.records import Asset, Dandiset, DandisetVersion, Zarr

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_DANDISET = r"/api/dandisets/(?P<dandiset>[0-9]{6})"
_VERSION = _DANDISET + r"/versions/(?P<version>draft|0\.[0-9]{6}\.[0-9]{4})"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_ASSET = rf"(?:/api|{_VERSION})/assets/(?P<asset>{_UUID})"
_ZARR = rf"/api/zarr/(?P<zarr>{_UUID})"

_EMBARGOED_ANONYMOUS = (
    "Authentication credentials must be provided when attempting to access embargoed dandisets"
)
_ZARR_DOWNLOAD = (
    "Unable to provide download link for zarr assets. "
    "Please browse the zarr files directly to do so."
)

Handler = Callable[..., "Response | Json"]


class DandiApi:
    """Answers requests from an archive; ``owner`` and ``other`` are the valid tokens."""

    def __init__(self, archive: Archive, documents: DandiDocuments, owner: str, other: str) -> None:
        self._archive = archive
        self._documents = documents
        self._owner = owner
        self._other = other
        self._routes: list[tuple[re.Pattern[str], Handler]] = [
            (re.compile(pattern), answer)
            for pattern, answer in (
                (r"/api/info/", self._info),
                (r"/api/auth/token/", self._own_token),
                (r"/api/dandisets/", self._dandisets),
                (_DANDISET + "/", self._dandiset),
                (_DANDISET + "/versions/", self._versions),
                (_VERSION + "/", self._version),
                (_VERSION + "/info/", self._version_info),
                (_VERSION + "/assets/", self._assets),
                (_ASSET + "/", self._asset),
                (_ASSET + "/info/", self._asset_info),
                (_ASSET + "/download/", self._asset_download),
                (r"/api/zarr/", self._zarrs),
                (_ZARR + "/", self._zarr),
                (_ZARR + "/files/", self._zarr_files),
            )
        ]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        request = Request(environ)
        return self.answer(request)(environ, start_response)

    def answer(self, request: Request) -> Response:
        """Return the response to a request."""
        for pattern, answer in self._routes:
            match = pattern.fullmatch(request.path)
            if match is not None:
                return self._respond(request, answer, match.groupdict())
            if pattern.fullmatch(request.path + "/"):
                query = request.query_string.decode()
                moved = html_response("", 301)
                moved.headers["Location"] = f"{request.path}/{'?' if query else ''}{query}"
                moved.autocorrect_location_header = False
                return moved
        return html_response(NOT_FOUND_HTML, 404)

    def _respond(self, request: Request, answer: Handler, names: Mapping[str, str]) -> Response:
        try:
            with self._archive.lock:
                token = self._token(request)
                if token is None and self._archive.members_only:
                    raise _anonymous()
                if request.method not in {"GET", "HEAD", "OPTIONS"}:
                    if token is None:
                        raise _anonymous()
                    raise ApiError(405, {"detail": f'Method "{request.method}" not allowed.'})
                if request.accept_mimetypes and not request.accept_mimetypes.best_match(
                    ["application/json", "text/html"]
                ):
                    detail = "Could not satisfy the request Accept header."
                    raise ApiError(406, {"detail": detail})
                given = {name: value for name, value in names.items() if value is not None}
                body = answer(request, **given)
        except ApiError as refusal:
            return json_response(refusal.body, refusal.status)
        return body if isinstance(body, Response) else json_response(body)

    # -- authentication

    def _token(self, request: Request) -> str | None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "token":
            return None
        if token not in {self._owner, self._other}:
            raise ApiError(401, {"detail": "Invalid token."})
        return token

    def _refuse_but_owner(self, request: Request) -> None:
        token = self._token(request)
        if token is None:
            raise _anonymous()
        if token != self._owner:
            raise ApiError(403, {"detail": "You do not have permission to perform this action."})

    def _find_dandiset(self, request: Request, dandiset: str) -> Dandiset:
        found = self._archive.dandisets.get(dandiset)
        if found is None:
            raise not_found()
        if found.embargoed:
            self._refuse_but_owner(request)
        return found

    def _find_version(
        self, request: Request, dandiset: str, version: str
    ) -> tuple[Dandiset, DandisetVersion]:
        found = self._find_dandiset(request, dandiset)
        one = found.version(version)
        if one is None:
            raise not_found()
        return found, one

    def _find_asset(self, request: Request, asset: str) -> Asset:
        found = self._archive.assets.get(asset)
        if found is None:
            raise not_found()
        if self._archive.is_embargoed(found):
            self._refuse_but_owner(request)
        return found

    def _url(self, request: Request) -> str:
        return self._documents.base + quote(request.path)

    # -- the archive

    def _info(self, request: Request) -> Json:
        return self._documents.info()

    def _own_token(self, request: Request) -> Response:
        token = self._token(request)
        if token is None:
            raise _anonymous()
        return json_response(token)

    # -- dandisets and versions

    def _dandisets(self, request: Request) -> Json:
        args = request.args
        token = self._token(request)
        embargoed = flag(args, "embargoed", False)
        if embargoed and token is None:
            raise ApiError(401, _EMBARGOED_ANONYMOUS)
        drafts, empty = flag(args, "draft", True), flag(args, "empty", True)
        rows = [
            one
            for one in self._archive.dandisets.values()
            if (not one.embargoed or (embargoed and token == self._owner))
            and (drafts or one.published)
            and (empty or one.draft.assets)
        ]
        order = args.get("ordering", "id")
        rows.sort(key=_ORDERINGS.get(order.removeprefix("-"), _ORDERINGS["id"]))
        if order.startswith("-") and order[1:] in _ORDERINGS:
            rows.reverse()

        def row(one: Dandiset) -> Json:
            return self._documents.dandiset(one, full=False)

        return page(rows, row, args, self._url(request))

    def _dandiset(self, request: Request, dandiset: str) -> Json:
        return self._documents.dandiset(self._find_dandiset(request, dandiset))

    def _versions(self, request: Request, dandiset: str) -> Json:
        found = self._find_dandiset(request, dandiset)
        rows = found.versions
        order = _choice(request.args, ("created", "modified", "version"))
        if order is not None:
            name, backwards = order
            name = "label" if name == "version" else name
            rows.sort(key=lambda one: getattr(one, name), reverse=backwards)
        return page(
            rows,
            lambda one: self._documents.version_row(found, one),
            request.args,
            self._url(request),
        )

    def _version(self, request: Request, dandiset: str, version: str) -> Json:
        return self._documents.version_metadata(*self._find_version(request, dandiset, version))

    def _version_info(self, request: Request, dandiset: str, version: str) -> Json:
        return self._documents.version_info(*self._find_version(request, dandiset, version))

    # -- assets

    def _assets(self, request: Request, dandiset: str, version: str) -> Json:
        args = request.args
        found = self._find_version(request, dandiset, version)[1]
        rows: list[Asset] = list(found.assets.values())
        order = _choice(args, ("created", "modified", "path"))
        if order is not None:
            name, backwards = order
            rows.sort(key=lambda one: getattr(one, name), reverse=backwards)
        metadata = flag(args, "metadata", False)
        # False does not filter, as in the real archive.
        if flag(args, "zarr", False):
            rows = [one for one in rows if one.zarr is not None]
        if prefix := args.get("path", "").lower():
            rows = [one for one in rows if one.path.lower().startswith(prefix)]
        if glob := args.get("glob", "").lower():
            rows = [one for one in rows if fnmatch.fnmatchcase(one.path.lower(), glob)]
        return page(
            rows,
            lambda one: self._documents.asset_row(one, metadata=metadata),
            args,
            self._url(request),
            lazy=True,
        )

    def _asset(self, request: Request, asset: str, **_: str) -> Json:
        return self._documents.asset_metadata(self._find_asset(request, asset))

    def _asset_info(self, request: Request, asset: str, **_: str) -> Json:
        return self._documents.asset_row(self._find_asset(request, asset), metadata=True)

    def _asset_download(self, request: Request, asset: str, **_: str) -> Response:
        found = self._find_asset(request, asset)
        how = request.args.get("content_disposition", "attachment")
        if how not in {"attachment", "inline"}:
            raise ApiError(400, {"content_disposition": [f'"{how}" is not a valid choice.']})
        if found.blob is None:
            raise ApiError(400, _ZARR_DOWNLOAD)
        name = found.path.rpartition("/")[2]
        query = {"response-content-disposition": f'{how}; filename="{name}"'}
        if how == "inline":
            query["response-content-type"] = found.blob.content_type
        return self._redirect_to_signed_url(found.blob.key, query)

    def _redirect_to_signed_url(
        self, key: str, query: Mapping[str, str], method: str = "GET"
    ) -> Response:
        """Return a 302 to the object, with a URL signed for this method."""
        signed = self._archive.bucket.presigned(key, query, method)
        response = html_response("", 302)
        response.headers["Location"] = with_query(
            f"{self._documents.s3}/{BUCKET}/{quote(key)}", signed
        )
        return response

    # -- Zarrs

    def _visible(self, request: Request, zarr: Zarr) -> bool:
        embargoed = self._archive.dandisets[zarr.dandiset].embargoed
        return not embargoed or self._token(request) == self._owner

    def _zarrs(self, request: Request) -> Json:
        dandiset_filter = request.args.get("dandiset", "")
        if dandiset_filter and not re.fullmatch(r"[0-9]{6}", dandiset_filter):
            raise ApiError(400, {"dandiset": ["A valid Dandiset identifier is required."]})
        rows = [
            one
            for one in self._archive.zarrs.values()
            if dandiset_filter in {"", one.dandiset} and self._visible(request, one)
        ]
        return page(rows, self._documents.zarr_row, request.args, self._url(request))

    def _zarr(self, request: Request, zarr: str) -> Json:
        # An embargoed asset is not a 404 but a 403, as upstream.
        found = self._archive.zarrs.get(zarr)
        if found is None or not self._visible(request, found):
            raise not_found()
        return self._documents.zarr_row(found)

    def _zarr_files(self, request: Request, zarr: str) -> Response | Json:
        # Upstream requires no authentication here, even under embargo.
        found = self._archive.zarrs.get(zarr)
        if found is None:
            raise not_found()
        query = zarr_listing.parse_query(request.args)
        if request.method == "HEAD" or query.download:
            # The signature of a HEAD omits the trailing slash; that of a GET includes it.
            if request.method == "HEAD":
                return self._redirect_to_signed_url(found.key(query.prefix).rstrip("/"), {}, "HEAD")
            return self._redirect_to_signed_url(found.key(query.prefix), {})
        return zarr_listing.files_page(found, query, request.args, self._url(request))


_ORDERINGS: Mapping[str, Callable[[Dandiset], Any]] = {
    "id": lambda one: one.identifier,
    "name": lambda one: one.draft.description.title,
    "modified": lambda one: one.draft.modified,
    "size": lambda one: one.draft.summary.size,
}


def _anonymous() -> ApiError:
    return ApiError(401, {"detail": "Authentication credentials were not provided."})


def _choice(args: Mapping[str, str], choices: tuple[str, ...]) -> tuple[str, bool] | None:
    order = args.get("order", "")
    if not order:
        return None
    if order.removeprefix("-") not in choices:
        detail = f"Select a valid choice. {order} is not one of the available choices."
        raise ApiError(400, {"order": [detail]})
    return order.removeprefix("-"), order.startswith("-")
