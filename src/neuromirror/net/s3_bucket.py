"""Read access to an S3 bucket: folder levels, listings and small objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from msgspec import Struct

from neuromirror.model import ConfigurationError
from neuromirror.net.errors import (
    AccessDeniedError,
    CredentialsRefusedError,
    HttpError,
    InvalidListingError,
    NotFoundError,
    ObjectChangedError,
    VersionsIgnoredError,
    WrongRegionError,
)
from neuromirror.net.request_limits import ListingBudget
from neuromirror.net.responses import ResponseHead, check_object_head
from neuromirror.net.s3_listing import S3Listing
from neuromirror.net.s3_pages import ObjectRow, Page, parse_page
from neuromirror.net.session import Session
from neuromirror.net.urls import clean_url, redact

PAGE_BYTES: Final = 16 * 2**20
"""Maximum size of a page; 1,000 keys of 1,024 bytes, percent-encoded, take 3.5 MB."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")
_CREDENTIAL_STATUSES: Final = frozenset({400, 401, 403})
_RENEW: Final = "the session token has expired or is invalid; renew the credentials"
_REFUSED_CREDENTIALS: Final[Mapping[str, str]] = {
    "ExpiredToken": _RENEW,
    "InvalidToken": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "InvalidAccessKeyId": "the access key is unknown; check the profile",
    "SignatureDoesNotMatch": "the secret access key is wrong; check the profile",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
}

T = TypeVar("T")


def bucket_url(name: str, region: str, endpoint: str | None) -> str:
    """Return the URL below which a bucket's objects are.

    Parameters
    ----------
    name
        The name of the bucket.
    region
        The AWS region; ignored with an ``endpoint``.
    endpoint
        The URL of another S3 service; None for AWS.

    Returns
    -------
    str
        The URL with a trailing slash.

    Raises
    ------
    ConfigurationError
        If the name, region or endpoint is invalid.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name[:80]!r} is not a valid bucket name")
    if not _REGION.fullmatch(region):
        raise ConfigurationError(f"{region[:80]!r} is not a valid region name")
    if endpoint is None:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        host = f"s3.{region}.{domain}"
        # The wildcard certificate covers a single label.
        return f"https://{host}/{name}/" if "." in name else f"https://{name}.{host}/"
    endpoint = endpoint.rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ConfigurationError(
            f"{redact(endpoint)} is not a valid S3 endpoint; expected http(s)://host[:port]"
        )
    return f"{clean_url(endpoint)}/{name}/"


class S3Bucket:
    """A bucket, read anonymously or with the session's signer. Thread-safe.

    Parameters
    ----------
    session
        The session for all requests.
    name
        The name of the bucket.
    region
        The AWS region; ignored with an ``endpoint``.
    endpoint
        The URL of an S3-compatible store; the bucket is at ``<endpoint>/<name>/``. None for AWS.
    page_size
        Maximum number of rows per page (at most 1,000 on S3).
    access_hint
        What to do if the bucket refuses an anonymous request, for its message.

    Raises
    ------
    ConfigurationError
        If the name, region or endpoint is invalid.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        region: str = "us-east-1",
        endpoint: str | None = None,
        page_size: int = 1000,
        access_hint: str = "the bucket or object is not public",
    ) -> None:
        self._base = bucket_url(name, region, endpoint)
        self.session = session
        self.name = name
        self.region = region
        self.page_size = page_size
        self.uri = f"s3://{name}/" if endpoint is None else self._base
        self._access_hint = access_hint

    def object_url(self, key: bytes, version_id: str | None = None) -> str:
        """Return the public URL of an object, or of one of its versions.

        Path segments ``.`` and ``..`` and a leading slash are percent-encoded, because clients
        normalize them.

        Parameters
        ----------
        key
            The key of the object, in bytes.
        version_id
            One of its versions; None for the newest.

        Returns
        -------
        str
            The URL.
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
        """Request one page of objects with a prefix, after a key or a continuation token.

        Parameters
        ----------
        prefix
            The prefix of the keys.
        after
            The key before the first one of the page; ignored with a token.
        token
            The continuation token of the page before.
        delimiter
            Keys that contain it after the prefix are grouped into common prefixes; empty for none.
        parse
            Parses the body of a response, by default as a page of objects.

        Returns
        -------
        Page
            The page.

        Notes
        -----
        ListObjectsV2 of the S3 API.
        """
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
        """Request one page of a listing.

        Parameters
        ----------
        prefix
            The prefix of the keys.
        after
            The key after which the page starts.
        version
            The version id after which the page starts, in a listing of versions; "" for the
            first page. None for a listing of objects.
        parse
            Parses the body. If it raises a transient NetError, the page is requested again.

        Returns
        -------
        T
            The result of ``parse``.
        """
        query: dict[str, str | bytes] = {"prefix": prefix}
        if version is None:
            return self._request_page("list-type=2", {**query, "start-after": after}, parse)
        query |= {"key-marker": after, "version-id-marker": version}
        return self._request_page("versions", query, parse)

    def versions_page(self, prefix: bytes) -> Page:
        """Request the first page of object versions with a prefix.

        Parameters
        ----------
        prefix
            The prefix of the keys.

        Returns
        -------
        Page
            The page.
        """
        return self.fetch_page(
            prefix, version="", parse=lambda body: parse_page(body, self.uri, versions=True)
        )

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
            raise self.with_remedy(error, "list") from error

    def list_level(self, prefix: bytes) -> Iterator[bytes | ObjectRow]:
        """List one level of the folder tree.

        Paging uses S3's continuation tokens, because only the store knows where a common prefix
        ends.

        Parameters
        ----------
        prefix
            The prefix of the level, with its final slash; empty for the top.

        Yields
        ------
        bytes or ObjectRow
            A common prefix (with its slash) or an object, in byte order within a page.

        Raises
        ------
        NetError
            If a request fails.
        InvalidListingError
            If a page is inconsistent.
        ListingTooLongError
            If the level exceeds the session's limits.
        """
        budget = self.new_listing_budget(prefix)

        def parse_and_count(body: bytes) -> Page:
            page = self._parse_page(body)
            budget.count_page(len(page.rows) + len(page.prefixes), len(body))
            return page

        token: str | None = None
        last = b""
        while True:
            page = self.page(prefix, token=token, delimiter=b"/", parse=parse_and_count)
            rows = {row.key: row for row in page.rows}
            names = sorted([*page.prefixes, *rows])
            if names and (not names[0].startswith(prefix) or not names[-1].startswith(prefix)):
                raise self.invalid_listing_error("names outside of the prefix", prefix)
            if names and last and names[0] <= last:
                raise self.invalid_listing_error("names of the previous page", prefix)
            if page.truncated and (page.token in (None, token) or not names):
                raise self.invalid_listing_error(
                    "a truncated page without a continuation token", prefix
                )
            for name in names:
                yield rows.get(name, name)
            if not page.truncated:
                return
            token = page.token
            last = names[-1]

    def new_listing_budget(self, prefix: bytes) -> ListingBudget:
        """Return the budget of a new listing of a prefix.

        Parameters
        ----------
        prefix
            The prefix, for the message of an error.

        Returns
        -------
        ListingBudget
            The budget, with the session's limits.
        """
        prefix_text = prefix[:200].decode(errors="replace")
        return ListingBudget(self.session.limits.listing, f"{self.uri}{prefix_text}")

    def invalid_listing_error(self, what: str, after: bytes) -> InvalidListingError:
        """Return the error for an inconsistent listing.

        Parameters
        ----------
        what
            The unexpected content of the page.
        after
            The key at which it was found.

        Returns
        -------
        InvalidListingError
            The error, to be raised by the caller.
        """
        return InvalidListingError(
            f"{self.uri} listed {what} (at {after[:200].decode(errors='replace')!r}); the listing"
            " is discarded; try again",
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
        """Return a listing of all objects (or versions) with a prefix.

        Parameters
        ----------
        prefix
            The prefix of the keys.
        workspace
            A directory for received pages, from which an interrupted listing resumes.
        memo
            The memo of an earlier listing; see :meth:`S3Listing.memo`.
        versions
            Whether to list all versions.
        connections
            Maximum number of concurrent requests.

        Returns
        -------
        S3Listing
            The listing; nothing is requested before it is iterated.
        """
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
        """Return the current row of one object, or of one of its versions.

        Parameters
        ----------
        key
            The key of the object, in bytes.
        version_id
            One of its versions; None for the newest.

        Returns
        -------
        ObjectRow or None
            None if it is not listed.
        """
        page = self.page(key) if version_id is None else self.versions_page(key)
        for row in page.rows:
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
        """Return the status and headers of an object, for any status including 403 and 404.

        Parameters
        ----------
        key, version_id
            The object, or one of its versions.
        part_number
            Request one part of a multipart object.
        checksums
            Request S3's additional checksums (``x-amz-checksum-…``).

        Returns
        -------
        ResponseHead
            The status and headers.

        Raises
        ------
        NetError
            If all attempts fail, or the reply is a web page.
        """
        url = self.object_url(key, version_id)
        if part_number is not None:
            url += f"{'?' if version_id is None else '&'}partNumber={part_number}"
        headers = {"x-amz-checksum-mode": "ENABLED"} if checksums else None
        reply = self.session.head(url, headers=headers)
        check_object_head(reply, url)
        if self.session.signer is not None and reply.status in _CREDENTIAL_STATUSES:
            # A reply to HEAD has no error code: only another request shows whether the object is
            # refused, or the credentials have expired.
            self.page(key)
        return reply

    def read(
        self, key: bytes, *, version_id: str | None = None, etag: str | None = None, limit: int
    ) -> bytes:
        """Read a whole object.

        Parameters
        ----------
        key, version_id
            The object, or one of its versions.
        etag
            The expected ETag, without quotes; None for any.
        limit
            Maximum size in bytes.

        Returns
        -------
        bytes
            The content.

        Raises
        ------
        ObjectChangedError
            If the object has another ETag.
        NotFoundError, AccessDeniedError
            If the object does not exist or is not public.
        ResponseTooLargeError
            If the object has more than ``limit`` bytes.
        """
        url = self.object_url(key, version_id)
        headers = None if etag is None else {"If-Match": f'"{etag}"'}
        try:
            body = self.session.get_bytes(url, limit=limit, headers=headers, parse=lambda got: got)
        except HttpError as error:
            if error.status == 412:
                raise self._object_changed_error(url, etag, "another") from error
            raise self.with_remedy(error, "read") from error
        got = body.headers.get("ETag", "").strip('"')
        # Some stores ignore If-Match.
        if etag is not None and got != etag:
            raise self._object_changed_error(url, etag, got[:80] or "none")
        return body.content

    def _object_changed_error(self, url: str, etag: str | None, got: str) -> ObjectChangedError:
        return ObjectChangedError(
            f"{url}: ETag {got} instead of {etag}: the object was overwritten since it was listed;"
            " list it again",
            url=url,
            status=412,
        )

    def with_remedy(self, error: HttpError, verb: str) -> HttpError:
        """Return the error with a message that says what to do, if the cause is known.

        Parameters
        ----------
        error
            The error of a request to the bucket.
        verb
            The denied operation, for the message: ``list`` or ``read``.

        Returns
        -------
        HttpError
            A more specific error, or ``error`` itself.
        """
        code = error.fields.get("Code", "")
        region = error.fields.get("Region", "")
        if region not in ("", self.region) and error.status in (301, 307, 400, 403):
            setting = f'region = "{region}" in [options]'
            remedy = f"set {setting} of the mirror file (mirrors/<name>.toml)"
            wrong_region = WrongRegionError(
                f"bucket {self.name} is in region {region}, not {self.region}; {remedy}",
                remedy=remedy if _REGION.fullmatch(region) else "",
                **_error_context(error),
            )
            wrong_region.region = region
            return wrong_region
        if code == "NoSuchBucket":
            return NotFoundError(
                f"{self.uri}: not found; there is no bucket of this name", **_error_context(error)
            )
        if verb == "list" and error.status in (403, 404) and self._is_named_twice():
            # a bucket may hide what does not exist
            return type(error)(
                f"{self.uri}: HTTP {error.status} {code}; the endpoint already contains the bucket:"
                f" leave {self.name!r} out of it",
                **_error_context(error),
            )
        if error.identity:
            return self._with_credentials_remedy(error, verb)
        if isinstance(error, AccessDeniedError):
            return AccessDeniedError(
                f"{self.uri}: anonymous {verb} access denied (HTTP {error.status} {code}) for"
                f" {error.url}; {self._access_hint}",
                **_error_context(error),
            )
        return error

    def _is_named_twice(self) -> bool:
        """Return whether the endpoint, before the bucket's name, names the bucket too."""
        endpoint = self._base.removesuffix(f"/{self.name}/")
        is_aws = self.uri != self._base
        return not is_aws and (endpoint.endswith(f"/{self.name}") or f"//{self.name}." in endpoint)

    def _with_credentials_remedy(self, error: HttpError, verb: str) -> HttpError:
        """Return the error of a signed request with a message that says what to do."""
        code, signer = error.fields.get("Code", ""), self.session.signer
        refused = _REFUSED_CREDENTIALS.get(code)
        start = f"{self.uri}: {verb} access denied to {error.identity} (HTTP {error.status} {code})"
        if refused is not None:
            return CredentialsRefusedError(
                f"{start}; {refused}", remedy=refused, **_error_context(error)
            )
        if not isinstance(error, AccessDeniedError):
            return error
        remedy = "they lack the permission"
        if signer is not None and not signer.requester_pays:
            remedy += ", or the bucket is requester-pays: then set requester_pays = true"
        return AccessDeniedError(
            f"{start} for {error.url}; {remedy}", remedy=remedy, **_error_context(error)
        )


def _error_context(error: HttpError) -> dict[str, Any]:
    return {
        **{"url": error.url, "status": error.status},
        **{"fields": error.fields, "identity": error.identity},
    }


_PROBE_ROWS: Final = 5
_NOT_OFFERED: Final = frozenset({400, 401, 403, 405, 501})


class S3Capabilities(Struct, frozen=True):
    """The capabilities of a bucket for anonymous clients; None if they could not be tested.

    Attributes
    ----------
    versions_listable
        Whether object versions can be listed.
    version_readable
        Whether an object can be read by its version id; None also if the probed ones are refused.
    checksums_returned
        Whether HEAD returns S3's additional checksums.
    sample_version
        The key and version id of a readable object version.
    versions_ignored
        Whether the server lists objects instead of versions, and the tested objects have no
        version id.
    """

    versions_listable: bool
    version_readable: bool | None
    checksums_returned: bool | None
    sample_version: tuple[bytes, str] | None = None
    versions_ignored: bool = False


def probe_bucket(
    bucket: S3Bucket, prefix: bytes = b"", *, checksums: bool = True
) -> S3Capabilities:
    """Test the capabilities of the bucket on the first few objects with a prefix.

    Listing versions and reading a version are separate permissions.

    Parameters
    ----------
    bucket
        The bucket.
    prefix
        The prefix of the keys.
    checksums
        Whether to test additional checksums, which takes more requests.

    Returns
    -------
    S3Capabilities
        The capabilities.

    Raises
    ------
    NetError
        If the bucket cannot be listed at all.
    VersionsIgnoredError
        If the server lists objects instead of versions although its objects have version ids.
    """
    ignored: VersionsIgnoredError | None = None
    rows = bucket.page(prefix).rows[:_PROBE_ROWS] if checksums else []
    try:
        versions = bucket.versions_page(prefix).rows[:_PROBE_ROWS]
        listable = True
    except HttpError as error:
        if error.status not in _NOT_OFFERED:
            raise
        versions, listable = [], False
    except VersionsIgnoredError as error:
        versions, listable, ignored = [], False, error
    if not (checksums or listable):
        rows = bucket.page(prefix).rows[:_PROBE_ROWS]
    readable, sample = probe_version_reads(bucket, _sample_versions(bucket, rows, versions))
    if ignored is not None and sample is not None:
        raise ignored
    returned = _returns_checksums(bucket, rows) if checksums else None
    return S3Capabilities(listable, readable, returned, sample, ignored is not None)


def probe_version_reads(
    bucket: S3Bucket, samples: Iterable[tuple[bytes, str]]
) -> tuple[bool | None, tuple[bytes, str] | None]:
    """Test whether objects can be read by version id, and return a sample that can be.

    Parameters
    ----------
    bucket
        The bucket.
    samples
        Keys and version ids. Those after the first conclusive one are not requested.

    Returns
    -------
    bool or None
        False if an object can be read without its version id only; None if no object can be
        read, so that the permission is unknown.
    tuple or None
        The key and version id of a readable object version.
    """
    for sample in samples:
        status = bucket.head(sample[0], version_id=sample[1]).status
        if status == 200:
            return True, sample
        if status in _NOT_OFFERED and bucket.head(sample[0]).status == 200:
            return False, None
    return None, None


def _sample_versions(
    bucket: S3Bucket, rows: list[ObjectRow], versions: list[ObjectRow]
) -> Iterator[tuple[bytes, str]]:
    """Yield the keys and version ids of a few object versions."""
    named = [(row.key, row.version_id) for row in versions if row.version_id and not row.deleted]
    yield from named
    if not named:
        # HEAD returns the version id even if versions cannot be listed.
        for row in rows:
            version = bucket.head(row.key).headers.get("x-amz-version-id", "null")
            if version != "null":
                yield row.key, version


def _returns_checksums(bucket: S3Bucket, rows: list[ObjectRow]) -> bool | None:
    rows_with_checksums = [row for row in rows if row.checksum_algorithm]
    for row in rows_with_checksums or rows[:1]:
        reply = bucket.head(row.key, checksums=True)
        if any(
            name.lower().startswith("x-amz-checksum-") and name.lower() != "x-amz-checksum-type"
            for name in reply.headers
        ):
            return True
    return False if rows_with_checksums else None
