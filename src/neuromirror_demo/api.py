"""The REST interface of the demo DANDI archive."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from werkzeug.wrappers import Request, Response

from neuromirror_demo.archive import Archive, parse_recipe, session_start
from neuromirror_demo.records import (
    Asset,
    Dandiset,
    DandisetVersion,
    Zarr,
    filled,
    fixed_uuid,
    read_data,
)
from neuromirror_demo.s3 import BUCKET
from neuromirror_demo.web import (
    NOT_FOUND_HTML,
    ApiError,
    flag,
    html_response,
    json_response,
    not_found,
    page,
    with_query,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Json = dict[str, Any]

DOI_PREFIX = "10.5072"
"""DataCite's test prefix, because the demo must not claim a real DOI."""


def api_time(moment: datetime) -> str:
    """Format ``2026-11-21T09:04:14.321699Z``, always with six decimals."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, slots=True)
class DandiDocuments:
    """Returns the documents of one archive; ``base`` and ``s3`` are its two URLs."""

    archive: Archive
    base: str
    s3: str

    @property
    def api(self) -> str:
        """The URL of the API, without a final slash."""
        return f"{self.base}/api"

    def info(self) -> Json:
        """Return ``/info/``."""
        document: Json = filled(read_data("dandi")["info"], {"base": self.base})
        return document

    # -- dandisets and versions

    def version_brief(self, version: DandisetVersion, *, full: bool = True) -> Json:
        """Return a version inside a dandiset; without ``full`` as in the list of all dandisets."""
        row: Json = {
            "version": version.label,
            "name": version.description.title,
            "asset_count": len(version.assets),
            "active_uploads": 0,
            "size": version.size,
            "status": version.status,
            "created": api_time(version.created),
            "modified": api_time(version.modified),
            "release_notes": "",
        }
        if not full:
            del row["active_uploads"], row["release_notes"]
        return row

    def dandiset_brief(self, dandiset: Dandiset) -> Json:
        """Return a dandiset without its versions."""
        return {
            "identifier": dandiset.identifier,
            "created": api_time(dandiset.created),
            "modified": api_time(dandiset.modified),
            "contact_person": dandiset.draft.description.contributors[0][0],
            "embargo_status": "EMBARGOED" if dandiset.embargoed else "OPEN",
            "star_count": 0,
            "is_starred": False,
        }

    def dandiset(self, dandiset: Dandiset, *, full: bool = True) -> Json:
        """Return ``/dandisets/<id>/``; without ``full`` a row of the list of all dandisets."""
        newest = dandiset.published[-1] if dandiset.published else None
        return {
            **self.dandiset_brief(dandiset),
            "most_recent_published_version": (
                None if newest is None else self.version_brief(newest, full=full)
            ),
            "draft_version": self.version_brief(dandiset.draft, full=full),
        }

    def version_row(self, dandiset: Dandiset, version: DandisetVersion) -> Json:
        """Return a row of ``/versions/``."""
        row = self.version_brief(version)
        notes = row.pop("release_notes")
        return {**row, "dandiset": self.dandiset_brief(dandiset), "release_notes": notes}

    def version_info(self, dandiset: Dandiset, version: DandisetVersion) -> Json:
        """Return ``/versions/<v>/info/``."""
        return {
            **self.version_row(dandiset, version),
            "asset_validation_errors": [],
            "version_validation_errors": [],
            "metadata": self.version_metadata(dandiset, version),
            "contact_person": version.description.contributors[0][0],
        }

    def version_metadata(self, dandiset: Dandiset, version: DandisetVersion) -> Json:
        """Return ``/versions/<v>/``: the Dandiset document."""
        about, published = version.description, version.published_by
        doi = f"{DOI_PREFIX}/dandi.{dandiset.identifier}/{version.label}"
        url = f"{self.base}/dandiset/{dandiset.identifier}/{version.label}"
        link = url if published is None else f"https://doi.org/{doi}"
        authors = "; ".join(name for name, _ in about.contributors)
        draft = f"{self.api}/dandisets/{dandiset.identifier}/versions/draft/assets/"
        manifest = f"{self.s3}/{BUCKET}/{_manifest_folder(dandiset, version)}/assets.yaml"
        roles = ["dcite:ContactPerson", "dcite:Author"]
        values = {
            "id": dandiset.identifier,
            "label": version.label,
            "base": self.base,
            "doi": doi,
            "url": url,
            "title": about.title,
            "text": about.text,
            "license": about.license,
            "keywords": list(about.keywords),
            "access": self._access(dandiset, dandiset.embargoed),
            "citation": (
                f"{authors} ({version.created.year}) {about.title} (Version {version.label})"
                f" [Data set]. DANDI Archive. {link}"
            ),
            "contributors": [
                {
                    "name": name,
                    "email": email,
                    "roleName": roles[min(number, 1) :],
                    "schemaKey": "Person",
                    "includeInCitation": True,
                }
                for number, (name, email) in enumerate(about.contributors)
            ],
            "created": dandiset.created.isoformat(),
            "published_by": published,
            "published": None if published is None else published["startDate"],
            "summary": self._assets_summary(version),
            "manifest": draft if published is None else manifest,
        }
        document: Json = filled(read_data("dandi")["dandiset"], values)
        if published is None:
            for name in ("doi", "publishedBy", "datePublished"):
                del document[name]
        return document

    def manifests(self, dandiset: Dandiset, version: DandisetVersion) -> dict[str, bytes]:
        """Return the objects written to the bucket at publication, by key; YAML is plain JSON."""
        folder = _manifest_folder(dandiset, version)
        about = json.dumps(self.version_metadata(dandiset, version), indent=1).encode()
        assets = [self.asset_metadata(asset) for asset in version.assets.values()]
        listed = json.dumps(assets, indent=1).encode()
        documents = {"dandiset": about, "assets": listed}
        return {
            f"{folder}/{name}.{kind}": data
            for name, data in documents.items()
            for kind in ("yaml", "jsonld")
        }

    # -- assets and Zarrs

    def asset_row(self, asset: Asset, *, metadata: bool = False) -> Json:
        """Return a row of an asset list; with ``metadata`` also ``/assets/<id>/info/``."""
        row: Json = {
            "asset_id": asset.asset_id,
            "blob": None if asset.blob is None else asset.blob.blob_id,
            "zarr": None if asset.zarr is None else asset.zarr.zarr_id,
            "path": asset.path,
            "size": asset.size,
            "created": api_time(asset.created),
            "modified": api_time(asset.modified),
        }
        if metadata:
            row["metadata"] = self.asset_metadata(asset)
        return row

    def asset_metadata(self, asset: Asset) -> Json:
        """Return ``/assets/<id>/``: the Asset document."""
        digest: dict[str, str | None]
        if asset.zarr is not None:
            digest = {"dandi:dandi-zarr-checksum": asset.zarr.checksum}
            content_type = "application/x-zarr"
        else:
            blob = asset.blob
            assert blob is not None
            digest = {"dandi:dandi-etag": blob.etag}
            if blob.sha256_known:
                digest["dandi:sha2-256"] = blob.sha256
            content_type = blob.content_type
        dandiset = self.archive.dandisets[asset.dandiset]
        values = {
            "id": asset.asset_id,
            "base": self.base,
            "path": asset.path,
            "size": asset.size,
            "digest": digest,
            "access": self._access(dandiset, self.archive.is_embargoed(asset)),
            "object": self.content_url(asset),
            "content_type": content_type,
        }
        document: Json = filled(read_data("dandi")["asset"], values)
        if asset.published_by is not None:
            document["publishedBy"] = asset.published_by
            document["datePublished"] = asset.published_by["startDate"]
        if asset.path.endswith(".nwb"):
            document.update(self._nwb_metadata(asset))
        return document

    def content_url(self, asset: Asset) -> str:
        """Return the plain S3 URL of a blob, or the prefix of a Zarr's objects."""
        if asset.zarr is not None:
            return f"{self.s3}/{BUCKET}/{asset.zarr.key()}"
        assert asset.blob is not None
        return f"{self.s3}/{BUCKET}/{asset.blob.key}"

    def zarr_row(self, zarr: Zarr) -> Json:
        """Return ``/zarr/<id>/``."""
        return {
            "name": zarr.name,
            "dandiset": zarr.dandiset,
            "zarr_id": zarr.zarr_id,
            "status": "Pending" if zarr.checksum is None else "Complete",
            "checksum": zarr.checksum,
            "file_count": zarr.file_count,
            "size": zarr.size,
        }

    # -- helpers

    def _access(self, dandiset: Dandiset, embargoed: bool) -> list[Json]:
        access = {"status": "dandi:OpenAccess", "schemaKey": "AccessRequirements"}
        if not embargoed:
            return [access]
        until = (dandiset.created + timedelta(days=730)).date().isoformat()
        return [{**access, "status": "dandi:EmbargoedAccess", "embargoedUntil": until}]

    def _assets_summary(self, version: DandisetVersion) -> Json:
        counts: Json = {
            "schemaKey": "AssetsSummary",
            "numberOfBytes": version.size,
            "numberOfFiles": len(version.assets),
        }
        if not version.assets:
            return counts
        recipes = [parse_recipe(path) for path in version.assets if path.endswith(".nwb")]
        subjects = {recipe.subject for recipe in recipes}
        standards = []
        if subjects:
            counts["numberOfSubjects"] = len(subjects)
            standards.append(_standard("Neurodata Without Borders (NWB)", "RRID:SCR_015242"))
        if any(asset.zarr is not None for asset in version.assets.values()):
            standards.append(_standard("OME/NGFF Standard", "DOI:10.25504/FAIRsharing.9af712"))
        return {
            **counts,
            "species": [read_data("dandi")["species"]] if subjects else [],
            "dataStandard": standards,
            "variableMeasured": [],
            **_techniques(recipe.kind for recipe in recipes),
        }

    def _nwb_metadata(self, asset: Asset) -> Json:
        recipe = parse_recipe(asset.path)
        start = session_start(recipe)
        values = {
            "base": self.base,
            "seen": api_time(asset.created - timedelta(seconds=2)),
            "session": recipe.session,
            "subject": recipe.subject,
            "started": start.isoformat(),
            "ended": (start + timedelta(seconds=40)).isoformat(),
            "activity": f"urn:uuid:{fixed_uuid('metadata', asset.asset_id)}",
        }
        return {**filled(read_data("dandi")["nwb"], values), **_techniques([recipe.kind])}


def _techniques(kinds: Iterable[str]) -> Json:
    """Return approach and measurement technique of recordings, as dandi-cli writes them."""
    known = read_data("dandi")["techniques"]
    found = [known[kind] for kind in sorted(set(kinds).intersection(known))]
    return {
        name: [row for one in found for row in one[name]]
        for name in ("approach", "measurementTechnique")
    }


def _standard(name: str, identifier: str) -> Json:
    return {"name": name, "schemaKey": "StandardsType", "identifier": identifier}


def _manifest_folder(dandiset: Dandiset, version: DandisetVersion) -> str:
    return f"dandisets/{dandiset.identifier}/{version.label}"


_MAX_PAGE_SIZE = 1000


def files_page(zarr: Zarr, prefix: str, args: Mapping[str, str], url: str) -> dict[str, Any]:
    """Return one page ``{next, results}``; ``args`` and ``url`` are those of the request."""
    limit = args.get("limit", str(_MAX_PAGE_SIZE))
    if not limit.isdecimal() or int(limit) > _MAX_PAGE_SIZE:
        detail = f"Ensure this value is less than or equal to {_MAX_PAGE_SIZE}."
        raise ApiError(400, {"limit": [detail]})
    # The final slash is dropped, so that `1/` also matches `10/`.
    start, after = prefix.rstrip("/"), args.get("after", "").lstrip("/")
    names = sorted(
        (name for name in zarr.entries if name.startswith(start) and name > after), key=str.encode
    )
    shown = names[: int(limit)]
    following = None
    if shown and len(names) > len(shown):
        following = with_query(url, {**args, "after": shown[-1]})
    return {
        "next": following,
        "results": [
            {
                "Key": name,
                "LastModified": f"{zarr.entries[name].modified:%Y-%m-%d %H:%M:%S}+00:00",
                "ETag": zarr.entries[name].etag,
                "Size": len(zarr.entries[name].data),
            }
            for name in shown
        ],
    }


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
T = TypeVar("T")


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
                (_ZARR + "/", self._zarr),
                (_ZARR + "/files/", self._zarr_files),
            )
        ]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        return self.answer(Request(environ))(environ, start_response)

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
        if (token := self._token(request)) is None:
            raise _anonymous()
        return json_response(token)

    # -- dandisets and versions

    def _dandisets(self, request: Request) -> Json:
        args = request.args
        token = self._token(request)
        embargoed = flag(args, "embargoed", False)
        if embargoed and token is None:
            raise ApiError(401, _EMBARGOED_ANONYMOUS)
        rows = [
            dandiset
            for _, dandiset in sorted(self._archive.dandisets.items())
            if not dandiset.embargoed or (embargoed and token == self._owner)
        ]
        return page(rows, partial(self._documents.dandiset, full=False), args, self._url(request))

    def _dandiset(self, request: Request, dandiset: str) -> Json:
        return self._documents.dandiset(self._find_dandiset(request, dandiset))

    def _versions(self, request: Request, dandiset: str) -> Json:
        found = self._find_dandiset(request, dandiset)
        rows = _ordered(found.versions, request.args, ("created", "modified"))
        row = partial(self._documents.version_row, found)
        return page(rows, row, request.args, self._url(request))

    def _version(self, request: Request, dandiset: str, version: str) -> Json:
        return self._documents.version_metadata(*self._find_version(request, dandiset, version))

    def _version_info(self, request: Request, dandiset: str, version: str) -> Json:
        return self._documents.version_info(*self._find_version(request, dandiset, version))

    # -- assets

    def _assets(self, request: Request, dandiset: str, version: str) -> Json:
        args = request.args
        found = self._find_version(request, dandiset, version)[1]
        rows = _ordered(found.assets.values(), args, ("created", "modified", "path"))
        row = partial(self._documents.asset_row, metadata=flag(args, "metadata", False))
        # False does not filter, as in the real archive.
        if flag(args, "zarr", False):
            rows = [one for one in rows if one.zarr is not None]
        if prefix := args.get("path", "").lower():
            rows = [one for one in rows if one.path.lower().startswith(prefix)]
        return page(rows, row, args, self._url(request), lazy=True)

    def _asset(self, request: Request, asset: str, **_: str) -> Json:
        return self._documents.asset_metadata(self._find_asset(request, asset))

    def _asset_info(self, request: Request, asset: str, **_: str) -> Json:
        return self._documents.asset_row(self._find_asset(request, asset), metadata=True)

    def _asset_download(self, request: Request, asset: str, **_: str) -> Response:
        found = self._find_asset(request, asset)
        if found.blob is None:
            raise ApiError(400, _ZARR_DOWNLOAD)
        name = found.path.rpartition("/")[2]
        query = {"response-content-disposition": f'attachment; filename="{name}"'}
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

    def _zarr(self, request: Request, zarr: str) -> Json:
        # An embargoed asset is not a 404 but a 403, as upstream.
        found = self._archive.zarrs.get(zarr)
        if found is None or (
            self._archive.dandisets[found.dandiset].embargoed
            and self._token(request) != self._owner
        ):
            raise not_found()
        return self._documents.zarr_row(found)

    def _zarr_files(self, request: Request, zarr: str) -> Response | Json:
        # Upstream requires no authentication here, even under embargo.
        found = self._archive.zarrs.get(zarr)
        if found is None:
            raise not_found()
        prefix = request.args.get("prefix", "").lstrip("/")
        if request.method == "HEAD" or flag(request.args, "download", False):
            # The signature of a HEAD omits the trailing slash; that of a GET includes it.
            key = found.key(prefix).rstrip("/") if request.method == "HEAD" else found.key(prefix)
            return self._redirect_to_signed_url(key, {}, request.method)
        return files_page(found, prefix, request.args, self._url(request))


def _anonymous() -> ApiError:
    return ApiError(401, {"detail": "Authentication credentials were not provided."})


def _ordered(rows: Iterable[T], args: Mapping[str, str], choices: tuple[str, ...]) -> list[T]:
    order = args.get("order", "")
    name = order.removeprefix("-")
    if not order:
        return list(rows)
    if name not in choices:
        detail = f"Select a valid choice. {order} is not one of the available choices."
        raise ApiError(400, {"order": [detail]})
    return sorted(rows, key=lambda one: getattr(one, name), reverse=order.startswith("-"))
