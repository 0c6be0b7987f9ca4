"""A public bucket: its levels, its listings and its small objects, without credentials."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from neuromirror.model import ConfigurationError
from neuromirror.net.errors import (
    AccessDeniedError,
    HttpError,
    InvalidListingError,
    NotFoundError,
    ObjectChangedError,
    WrongRegionError,
)
from neuromirror.net.listing_limits import ListingBudget
from neuromirror.net.responses import ResponseHead
from neuromirror.net.s3_listing import S3Listing
from neuromirror.net.s3_pages import ObjectRow, Page, parse_page
from neuromirror.net.session import Session
from neuromirror.net.urls import clean_url

PAGE_BYTES: Final = 16 * 2**20
"""A page of 1,000 names of 1,024 bytes, each byte written as three, is 3.5 MB."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")
_PROBE_ROWS: Final = 5
_NOT_OFFERED: Final = frozenset({400, 401, 403, 405, 501})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class S3Capabilities:
    """What a bucket lets anybody do; None where there was nothing to try it on.

    ``sample_version`` is the key and version id of the object version that was readable.
    """

    versions_listable: bool
    version_readable: bool | None
    checksums_returned: bool | None
    sample_version: tuple[bytes, str] | None = field(default=None, compare=False)


class S3Bucket:
    """One bucket, asked anonymously; shared by threads.

    At most ``page_size`` rows are asked for at once (S3 gives at most 1,000). Without
    ``endpoint`` it is one of AWS, in ``region``; else it is at ``<endpoint>/<name>/``.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        region: str = "us-east-1",
        endpoint: str | None = None,
        page_size: int = 1000,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name[:80]!r} cannot be the name of a bucket")
        if not _REGION.fullmatch(region):
            raise ConfigurationError(f"{region[:80]!r} cannot be the name of a region")
        self.session = session
        self.name = name
        self.region = region
        self.page_size = page_size
        if endpoint is None:
            domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
            host = f"s3.{region}.{domain}"
            # The certificate is for one label before it.
            self._base = f"https://{host}/{name}/" if "." in name else f"https://{name}.{host}/"
            self.uri = f"s3://{name}/"
        else:
            endpoint = endpoint.rstrip("/")
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
                raise ConfigurationError(
                    f"{session.redact(endpoint)} cannot be the endpoint of an S3 store: it takes"
                    " http(s)://host[:port]"
                )
            self._base = self.uri = f"{clean_url(endpoint)}/{name}/"

    def object_url(self, key: bytes, version_id: str | None = None) -> str:
        """Where anybody can get an object.

        ``.`` and ``..`` between slashes, and a slash at the very start, are written as escapes:
        in a URL they would stand for something else.
        """
        parts = [
            part.replace(b".", b"%2E").decode() if part in (b".", b"..") else quote(part, safe="")
            for part in key.split(b"/")
        ]
        path = "/".join(parts)
        if path.startswith("/"):
            path = "%2F" + path[1:]
        query = "" if version_id is None else f"?versionId={quote(version_id, safe='')}"
        return f"{self._base}{path}{query}"

    def page(
        self,
        prefix: bytes,
        *,
        after: bytes = b"",
        token: str | None = None,
        delimiter: bytes = b"",
        parse: Callable[[bytes], Page] | None = None,
    ) -> Page:
        """One page of objects with the prefix, after a key or where a page's token says."""
        query: dict[str, str | bytes] = {"prefix": prefix, "delimiter": delimiter}
        query["continuation-token" if token else "start-after"] = token or after
        return self._request_page("list-type=2", query, parse or self._parse_page)

    def _parse_page(self, body: bytes) -> Page:
        return parse_page(body, self.uri)

    def fetch_page(
        self,
        prefix: bytes,
        *,
        after: bytes = b"",
        version: str | None = None,
        parse: Callable[[bytes], T],
    ) -> T:
        """One page of objects, or with a ``version`` (even "") of versions, as ``parse`` takes it.

        A body that ``parse`` refuses with a passing error is asked for again.
        """
        query: dict[str, str | bytes] = {"prefix": prefix}
        if version is None:
            return self._request_page("list-type=2", {**query, "start-after": after}, parse)
        query |= {"key-marker": after, "version-id-marker": version}
        return self._request_page("versions", query, parse)

    def _request_page(
        self, kind: str, query: Mapping[str, str | bytes], parse: Callable[[bytes], T]
    ) -> T:
        query_string = "".join(
            f"&{name}={quote(value, safe='')}" for name, value in query.items() if value
        )
        url = f"{self._base}?{kind}&encoding-type=url&max-keys={self.page_size}{query_string}"
        try:
            return self.session.get_bytes(
                url,
                limit=PAGE_BYTES,
                accept="application/xml",
                parse=lambda got: parse(got.content),
            )
        except HttpError as error:
            raise self._with_remedy(error, "list") from error

    def list_level(self, prefix: bytes, delimiter: bytes = b"/") -> Iterator[bytes | ObjectRow]:
        """One level of the tree: a common prefix (with its delimiter) as bytes, objects as rows.

        In the order of their bytes within a page. Continued by S3's own token, because where a
        common prefix ends is for the store to say. Raises a NetError, :class:`InvalidListingError`
        for
        a page that cannot be, ListingTooLongError for a level beyond the session's limits.
        """
        budget = self.new_listing_budget(prefix)

        def parse_and_count(body: bytes) -> Page:
            page = self._parse_page(body)
            budget.count_page(len(page.rows) + len(page.prefixes), len(body))
            return page

        token: str | None = None
        last = b""
        while True:
            page = self.page(prefix, token=token, delimiter=delimiter, parse=parse_and_count)
            rows = {row.key: row for row in page.rows}
            names = sorted([*page.prefixes, *rows])
            if names and (not names[0].startswith(prefix) or not names[-1].startswith(prefix)):
                raise self.invalid_listing_error("names outside of what was asked", prefix)
            if names and last and names[0] <= last:
                raise self.invalid_listing_error("names that were on the page before", prefix)
            if page.truncated and (page.token in (None, token) or not names):
                raise self.invalid_listing_error(
                    "a page that is cut short without a way on", prefix
                )
            for name in names:
                yield rows.get(name, name)
            if not page.truncated:
                return
            token = page.token
            last = names[-1]

    def new_listing_budget(self, prefix: bytes) -> ListingBudget:
        """Return the bounds of a new listing of what begins with a prefix."""
        prefix_text = prefix[:200].decode(errors="replace")
        return ListingBudget(self.session.limits.listing, f"{self.uri}{prefix_text}")

    def invalid_listing_error(self, what: str, after: bytes) -> InvalidListingError:
        """The error for a listing that cannot be."""
        return InvalidListingError(
            f"{self.uri} listed {what} (at {after[:200].decode(errors='replace')!r}); nothing of"
            " this listing is used; try again",
            url=self.uri,
            status=200,
        )

    def objects(
        self,
        prefix: bytes,
        *,
        workspace: Path | None = None,
        memo: bytes | None = None,
        versions: bool = False,
        connections: int = 8,
    ) -> S3Listing:
        """A listing of all objects (or versions) whose keys begin with ``prefix``."""
        return S3Listing(
            self,
            prefix,
            workspace=workspace,
            memo=memo,
            versions=versions,
            connections=connections,
            budget=self.new_listing_budget(prefix),
        )

    def find_object(self, key: bytes, version_id: str | None = None) -> ObjectRow | None:
        """The row of one object, or of one of its versions, as a listing has it now."""
        if version_id is None:
            rows = self.page(key).rows
        else:
            rows = self.fetch_page(
                key,
                version="",
                parse=lambda body: parse_page(body, self.uri, versions=True),
            ).rows
        for row in rows:
            if row.key == key and (version_id is None or row.version_id == version_id):
                return row
        return None

    def head(
        self,
        key: bytes,
        *,
        version_id: str | None = None,
        part_number: int | None = None,
        checksums: bool = False,
    ) -> ResponseHead:
        """Status and headers of an object, 403 and 404 too.

        With ``part_number`` those of one part of a multipart object, with ``checksums`` also the
        checksums that S3 keeps (``x-amz-checksum-…``).
        """
        url = self.object_url(key, version_id)
        if part_number is not None:
            url += f"{'?' if version_id is None else '&'}partNumber={part_number}"
        headers = {"x-amz-checksum-mode": "ENABLED"} if checksums else None
        return self.session.head(url, headers=headers)

    def read(
        self,
        key: bytes,
        *,
        version_id: str | None = None,
        etag: str | None = None,
        limit: int,
    ) -> bytes:
        """A whole object of at most ``limit`` bytes.

        With ``etag`` (no quotes) only if it is still that one: raises :class:`ObjectChangedError`
        otherwise. Raises :class:`NotFoundError`, :class:`AccessDeniedError`,
        :class:`ResponseTooLargeError`.
        """
        url = self.object_url(key, version_id)
        headers = None if etag is None else {"If-Match": f'"{etag}"'}
        try:
            body = self.session.get_bytes(url, limit=limit, headers=headers, parse=lambda got: got)
        except HttpError as error:
            if error.status == 412:
                raise self._object_changed_error(url, etag, "another") from error
            raise self._with_remedy(error, "read") from error
        got = body.headers.get("ETag", "").strip('"')
        # Not every store knows If-Match.
        if etag is not None and got != etag:
            raise self._object_changed_error(url, etag, got[:80] or "none")
        return body.content

    def _object_changed_error(self, url: str, etag: str | None, got: str) -> ObjectChangedError:
        return ObjectChangedError(
            f"{url} was listed with the ETag {etag} and now has {got}: it was written since;"
            " list it again",
            url=url,
            status=412,
        )

    def _with_remedy(self, error: HttpError, verb: str) -> HttpError:
        """The same error in words that say what to do."""
        code = error.fields.get("Code", "")
        region = error.fields.get("Region", "")
        if region not in ("", self.region) and error.status in (301, 307, 400, 403):
            wrong_region = WrongRegionError(
                f"the bucket {self.name} is in {region}, not in {self.region}: set region ="
                f' "{region}" in the mirror\'s options',
                **_error_context(error),
            )
            wrong_region.region = region
            return wrong_region
        if code == "NoSuchBucket":
            return NotFoundError(
                f"{self.uri} is not there: no bucket has this name", **_error_context(error)
            )
        if isinstance(error, AccessDeniedError):
            return AccessDeniedError(
                f"{self.uri} does not let anybody {verb} (HTTP {error.status} {code}): it is not"
                f" public, or not for this; asked was {error.url}",
                **_error_context(error),
            )
        return error

    def probe(self, prefix: bytes = b"", *, checksums: bool = True) -> S3Capabilities:
        """What this bucket allows, tried on the first few objects below a prefix.

        Listing versions and reading one are separate rights. Without ``checksums`` these are not
        tried, which takes fewer requests. Raises a NetError when not even plain listing is allowed.
        """
        rows = self.page(prefix).rows[:_PROBE_ROWS] if checksums else []
        try:
            versions = self.fetch_page(
                prefix,
                version="",
                parse=lambda body: parse_page(body, self.uri, versions=True),
            ).rows[:_PROBE_ROWS]
            listable = True
        except HttpError as error:
            if error.status not in _NOT_OFFERED:
                raise
            versions, listable = [], False
        if not (checksums or listable):
            rows = self.page(prefix).rows[:_PROBE_ROWS]
        sample = self._find_sample_version(rows, versions)
        readable = sample and self.head(sample[0], version_id=sample[1]).status == 200
        return S3Capabilities(
            listable,
            readable,
            self._returns_checksums(rows) if checksums else None,
            sample if readable else None,
        )

    def _find_sample_version(
        self, rows: list[ObjectRow], versions: list[ObjectRow]
    ) -> tuple[bytes, str] | None:
        """Return the key and version id of an object version, None where none is known."""
        named = [
            (row.key, row.version_id) for row in versions if row.version_id and not row.deleted
        ]
        if not named:
            # A versioned bucket tells the version of what it gives even where listing is denied.
            replies = ((row.key, self.head(row.key)) for row in rows)
            for key, reply in replies:
                version = reply.headers.get("x-amz-version-id", "null")
                if version != "null":
                    named.append((key, version))
                    break
        return named[0] if named else None

    def _returns_checksums(self, rows: list[ObjectRow]) -> bool | None:
        rows_with_checksums = [row for row in rows if row.checksum_algorithm]
        for row in rows_with_checksums or rows[:1]:
            reply = self.head(row.key, checksums=True)
            if any(
                name.lower().startswith("x-amz-checksum-") and name.lower() != "x-amz-checksum-type"
                for name in reply.headers
            ):
                return True
        return False if rows_with_checksums else None


def _error_context(error: HttpError) -> dict[str, Any]:
    return {"url": error.url, "status": error.status, "fields": error.fields}
