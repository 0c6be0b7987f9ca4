"""Check URLs without downloading the files.

An http(s) URL is probed by ``HEAD``. If that is refused or redirected, one byte is requested by
``GET``, since a redirect to S3 is signed for one method. Replies state size, ETag, version id and,
if the uploader computed it, the sha256 (S3 API reference, "HeadObject"). For a volume block, one
voxel is read. All results are claims of the server: nothing is hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, cast

from msgspec.structs import replace

from neuromirror.model import Digest, NeuromirrorError, path_to_text
from neuromirror.net import (
    AccessDeniedError,
    HttpError,
    NetError,
    NotFoundError,
    ResponseHead,
    Session,
    UnsafeAddressError,
)
from neuromirror.transfer.findings import Finding, Health
from neuromirror.transfer.header_claims import KnownDigests, ProbeResult, compare_headers
from neuromirror.transfer.host_errors import displayed_url, host_at_fault
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.transfer.outcomes import Status
from neuromirror.transfer.url_sessions import UrlSessions
from neuromirror.transfer.verify_items import PinnedFile

_NO_VERSION: Final = frozenset({"NoSuchVersion", "InvalidArgument"})
_NOT_PROBED: Final = {
    "s3": "not checked: the object is in a private bucket, and URLs are checked without "
    "credentials; in a clone 'git annex checkpresentkey KEY neuromirror' checks it with them"
}
_FORBIDDEN_HINT: Final = "a bucket without list permission also returns 403 for a missing object"
STATUSES: Final[dict[Health, Status]] = {
    Health.OK: "ok",
    Health.NOT_FOUND: "error",
    Health.REFUSED: "error",
    Health.CHANGED: "error",
    Health.UNSUPPORTED: "impossible",
    Health.UNREACHABLE: "impossible",
    Health.UNKNOWN: "impossible",
}


class Prober:
    """Requests the headers of URLs, and compares them with the expected content; thread-safe."""

    def __init__(self, sessions: UrlSessions) -> None:
        self._sessions = sessions

    def probe(
        self, file: PinnedFile, claims: Iterable[Digest] = (), *, is_only_url: bool | None = None
    ) -> list[Finding]:
        """Return a finding for each URL of a file, or one for the file if it has no URL.

        Parameters
        ----------
        file
            The file and its URLs.
        claims
            Checksums of the file from other sources than its key.
        is_only_url
            Whether the file has no other URLs than the one given; None if all its URLs are given.
        """
        path = path_to_text(file.path)
        try:
            proof = key_checksum(file.key)
        except ValueError as error:
            return [Finding(status="error", path=path, key=file.key, message=str(error))]
        if not file.urls and not file.copies:
            message = "no URL is known for its content"
            return [
                Finding(
                    status="impossible", path=path, key=file.key, size=proof.size, message=message
                )
            ]
        known = KnownDigests(file.key, proof, claims)
        if is_only_url is None:
            is_only_url = len(file.urls) == 1
        found: list[Finding] = []
        for number, url in enumerate((*file.urls, *file.copies)):
            if number >= len(file.urls) and any(one.health is Health.OK for one in found):
                break
            answer, host = self._ask(url, known, is_only_url=is_only_url)
            found.append(
                Finding(
                    status=STATUSES[answer.health],
                    path=path,
                    kind="url",
                    message=answer.message,
                    key=file.key,
                    size=proof.size,
                    evidence=answer.evidence,
                    checked=None if answer.evidence is None else "claimed",
                    url=displayed_url(url),
                    health=answer.health,
                    host=host,
                )
            )
        return found

    def _ask(
        self, url: str, known: KnownDigests, *, is_only_url: bool
    ) -> tuple[ProbeResult, str | None]:
        """Return the result of probing a URL, and the host at fault if there is one."""
        scheme, host = url.partition("://")[0].lower(), None
        sessions = self._sessions
        try:
            sessions.breaker.check(url)
            if scheme in ("http", "https"):
                answer = self._ask_web_host(url, known, is_only_url=is_only_url)
            elif scheme in ("boss", "ndstore"):
                answer = _ask_volume(sessions.session_for(url), url, known, sessions.token)
            else:
                message = _NOT_PROBED.get(scheme, f"unsupported URL scheme {scheme}://")
                return ProbeResult(Health.UNKNOWN, message), None
        except NeuromirrorError as error:
            health = health_of(error)
            sessions.record(url, error if health is Health.UNREACHABLE else None)
            return ProbeResult(health, str(error)), host_at_fault(error, url)
        sessions.record(url, None)
        return answer, host

    def _ask_web_host(self, url: str, known: KnownDigests, *, is_only_url: bool) -> ProbeResult:
        """Return the result of probing a URL, with the token for its host if it needs one."""
        used, refusal, answer = self._sessions.session_for(url), None, None
        try:
            answer = _ask_web(used, url, known, is_only_url=is_only_url)
        except AccessDeniedError as error:
            refusal = error
        if answer is not None and answer.health is not Health.REFUSED:
            return answer
        authorized = self._sessions.authorized_session(url)
        if authorized is not None and authorized is not used:
            return _ask_web(authorized, url, known, is_only_url=is_only_url)
        if answer is None:
            assert refusal is not None
            raise refusal
        return answer


def health_of(error: NeuromirrorError) -> Health:
    """Return the state of a URL whose request failed, by the error of the request."""
    status = error.status if isinstance(error, NetError) else None
    if isinstance(error, NotFoundError) or status in (404, 410):
        return Health.NOT_FOUND
    if isinstance(error, AccessDeniedError) or status in (401, 403):
        return Health.REFUSED
    if isinstance(error, HttpError):
        if error.fields.get("Code") in _NO_VERSION:
            return Health.NOT_FOUND
        if status == 416:
            return Health.CHANGED
        return Health.UNSUPPORTED if status in (405, 501) else Health.UNREACHABLE
    if isinstance(error, NetError) and not isinstance(error, UnsafeAddressError):
        return Health.UNREACHABLE
    return Health.UNKNOWN


def _ask_web(session: Session, url: str, known: KnownDigests, *, is_only_url: bool) -> ProbeResult:
    reply = session.head(url, headers={"x-amz-checksum-mode": "ENABLED"})
    if 200 <= reply.status < 300:
        return _compare_reply(url, reply, known, is_only_url=is_only_url)
    if reply.headers.get("x-amz-delete-marker") == "true":
        return ProbeResult(Health.NOT_FOUND, f"HTTP {reply.status}: the object was deleted")
    if reply.status in (404, 410):
        return ProbeResult(Health.NOT_FOUND, f"HTTP {reply.status}: not found")
    # no checksum header here: a signed redirect accepts only the headers that it was signed for
    headers = {} if known.size == 0 else {"Range": "bytes=0-0"}
    try:
        with session.stream(url, headers=headers) as stream:
            return _compare_reply(
                url, ResponseHead(stream.status, stream.headers), known, is_only_url=is_only_url
            )
    except AccessDeniedError as error:
        if error.status == 401:  # concerns the whole host
            raise AccessDeniedError(
                f"{error} ({_FORBIDDEN_HINT})", url=error.url, status=401
            ) from error
        return ProbeResult(Health.REFUSED, f"{error} ({_FORBIDDEN_HINT})")
    except HttpError as error:
        if error.status == 416:
            return ProbeResult(Health.CHANGED, "the file is empty now (HTTP 416)")
        raise


def _compare_reply(
    url: str, reply: ResponseHead, known: KnownDigests, *, is_only_url: bool
) -> ProbeResult:
    answer = compare_headers(url, reply.headers, known, is_only_url=is_only_url)
    if answer.health is Health.OK and "versionId=" in url:
        known.add_object_version(reply.headers)
    return answer


def _ask_volume(
    session: Session, url: str, known: KnownDigests, token: Callable[[str], str | None]
) -> ProbeResult:
    from neuromirror.sources.volumes.errors import WrongVoxelsError
    from neuromirror.sources.volumes.fetching import fetch_block
    from neuromirror.sources.volumes.urls import Box, parse_url

    block = parse_url(url)
    dtype = block.dtype if known.size is None else block.voxel_type(known.size)
    first = cast(Box, tuple((start, start + 1) for start, _ in block.box))
    one = replace(block, box=first, chunk=(1, 1, 1), dtype=dtype)
    try:
        for _ in fetch_block(session, one, token=token(block.host)):
            pass
    except WrongVoxelsError as error:
        return ProbeResult(Health.CHANGED, str(error))
    return ProbeResult(Health.OK, "one voxel was read")
