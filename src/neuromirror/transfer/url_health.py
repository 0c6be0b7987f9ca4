"""Check whether URLs still serve the recorded content, by headers or by download.

Check URLs without downloading the files.

An http(s) URL is probed by ``HEAD``. If that is refused or redirected, one byte is requested by
``GET``, since a redirect to S3 is signed for one method. Replies state size, ETag, version id and,
if the uploader computed it, the sha256 (S3 API reference, "HeadObject"). For a volume block, one
voxel is read. All results are claims of the server: nothing is hashed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from msgspec import Struct
from msgspec.structs import replace

from neuromirror import net
from neuromirror.annex import url_key
from neuromirror.model import Digest, Evidence, LocationsChecked, NeuromirrorError, path_to_text
from neuromirror.model.records import url_version_id
from neuromirror.net.responses import archive_problem, has_encrypted_etag, stated_checksums
from neuromirror.transfer.content_bodies import EquivalentKeyCheck, KeyChecksum, key_checksum
from neuromirror.transfer.outcomes import Finding, Health, Status, displayed_url, host_at_fault
from neuromirror.transfer.url_sessions import UrlSessions
from neuromirror.transfer.verified_repository import Item, PinnedFile
from neuromirror.transfer.work_tree import VerificationStoppedError, compare_content, map_in_order

if TYPE_CHECKING:
    from neuromirror.crawl import JournalRecorder
    from neuromirror.index import Index
    from neuromirror.transfer.annex_objects import BlockDigestsRecorder

ClaimLookup = Callable[[str], Iterable[Digest]]
"""Returns checksums of a key's content from other sources than the key."""


def no_claims(key: str) -> Iterable[Digest]:
    """Return no checksums, for any key."""
    return ()


RECORD_INTERVAL = timedelta(days=30)
"""The time after which unchanged health is recorded again."""

_BATCH = 1000


def record_health(
    findings: Iterable[Finding],
    recorder: JournalRecorder,
    now: datetime,
    interval: timedelta = RECORD_INTERVAL,
) -> Iterator[Finding]:
    """Pass findings on, and record the health of URLs that the index knows.

    Unchanged health is recorded again only after ``interval``, so that the journal does not grow
    with each run.

    Parameters
    ----------
    findings
        Findings of a verification or audit.
    recorder
        Writer for the journal and the index.
    now
        The current time, with a time zone.
    interval
        Minimum time between two records of unchanged health.
    """
    waiting: dict[str, str] = {}
    dataset: str | None = None
    try:
        for finding in findings:
            if finding.url and finding.health is not None and finding.dataset is not None:
                if finding.dataset != dataset or len(waiting) >= _BATCH:
                    _record(dataset, waiting, recorder, now, interval)
                    waiting.clear()
                dataset = finding.dataset
                waiting[finding.url] = finding.health.value
            yield finding
    finally:
        # record what was found before an interruption, too
        _record(dataset, waiting, recorder, now, interval)


def _record(
    dataset: str | None,
    found: dict[str, str],
    recorder: JournalRecorder,
    now: datetime,
    interval: timedelta,
) -> None:
    if dataset is None:
        return
    since = _format_time(now - interval)

    def news(index: Index) -> dict[str, list[str]]:
        changed: dict[str, list[str]] = {}
        for url, result in sorted(found.items()):
            known = index.locations.of_url(url)
            if any(one.result != result or (one.checked_at or "") < since for one in known):
                changed.setdefault(result, []).append(url)
        return changed

    if changed := recorder.ask(news):
        mirror, _, local_id = dataset.partition(":")
        recorder.record(LocationsChecked(mirror, local_id, changed, _format_time(now)))


def _format_time(moment: datetime) -> str:
    """Return a time in the journal's format."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


_MD5: Final = re.compile(r"[0-9a-f]{32}\Z")
_MULTIPART: Final = re.compile(r"[0-9a-f]{32}-[0-9]{1,5}\Z")
_RANGE: Final = re.compile(r"bytes (?:[0-9]+-[0-9]+|\*)/([0-9]{1,19})\Z")


class ProbeResult(NamedTuple):
    """The result of probing a URL.

    Attributes
    ----------
    health
        The state of the URL.
    message
        The reason, for the user.
    evidence
        The strongest header that matches; None without one.
    """

    health: Health
    message: str
    evidence: Evidence | None = None


class KnownDigests:
    """The known checksums and size of one file, to compare with the headers of a reply.

    Parameters
    ----------
    key
        Annex key.
    proof
        Checksum and size in the key, which take precedence.
    digests
        Checksums from other sources.
    """

    def __init__(self, key: str, proof: KeyChecksum, digests: Iterable[Digest] = ()) -> None:
        self.key = key
        self.size = proof.size
        self._values: dict[str, set[str]] = {}
        for digest in digests:
            self._add(digest.algorithm, digest.value)
        self._add(proof.algorithm, proof.value)
        if proof.algorithm in ("md5", "etag", "sha256"):
            # the key's checksum overrides those from other sources
            self._values[proof.algorithm] = {proof.value}

    def _add(self, algorithm: str, value: str) -> None:
        # multipart ETags are comparable only with those of the same number of parts
        name = f"etag-{value.partition('-')[2]}" if algorithm == "etag" and "-" in value else ""
        self._values.setdefault(name or algorithm, set()).add(value)

    def add_object_version(self, headers: Mapping[str, str]) -> None:
        """Add the checksums of an object version, which is immutable, as known ones."""
        for algorithm, value in _checksums(headers):
            self._add(algorithm, value)

    def contradiction(self, algorithm: str, value: str) -> str | None:
        """Return the known values if ``value`` contradicts them.

        None if it matches, or if none are known.
        """
        name = f"etag-{value.partition('-')[2]}" if algorithm == "etag" else algorithm
        known = self._values.get(name)
        return None if known is None or value in known else ", ".join(sorted(known))

    def has_value(self, algorithm: str, value: str) -> bool:
        """Return whether this value is known."""
        name = f"etag-{value.partition('-')[2]}" if algorithm == "etag" else algorithm
        return value in self._values.get(name, ())


def compare_headers(
    url: str, headers: Mapping[str, str], known: KnownDigests, *, is_only_url: bool
) -> ProbeResult:
    """Compare the headers of a successful reply with the known size and checksums.

    Parameters
    ----------
    url
        The requested URL.
    headers
        Headers of the reply.
    known
        Size and checksums of the file.
    is_only_url
        Whether the file has no other URL. A git-annex VURL key may contain an ETag without stating
        of which URL; it is compared only if there is one URL.

    Returns
    -------
    ProbeResult
        Whether the headers agree with the known values, and with which of them.
    """
    size = stated_size(headers)
    if size is not None and known.size is not None and size != known.size:
        return ProbeResult(Health.CHANGED, f"the size is now {size} bytes, expected {known.size}")
    version, returned_version = url_version_id(url), headers.get("x-amz-version-id")
    if version is not None and returned_version is not None and returned_version != version:
        return ProbeResult(
            Health.CHANGED, f"the object version is {returned_version}, expected {version}"
        )
    best: Evidence | None = None if size is None or known.size is None else Evidence.SIZE
    for algorithm, value in _checksums(headers):
        instead = known.contradiction(algorithm, value)
        if instead is not None:
            return ProbeResult(
                Health.CHANGED, f"the {algorithm} is now {value}, expected {instead}"
            )
        if known.has_value(algorithm, value):
            best = Evidence(algorithm)
    etag = _etag(headers)
    if is_only_url and etag and known.key.startswith("VURL"):
        if known.key == url_key(f"{url}#{etag}", known.size):
            return ProbeResult(Health.OK, "the ETag is unchanged since the listing", best)
        if known.key != url_key(url, known.size):
            return ProbeResult(
                Health.CHANGED, f"the ETag is now {etag} and differs from the listed one"
            )
    message = "the reply states neither size nor checksum" if best is None else ""
    return ProbeResult(Health.OK, message, best)


def stated_size(headers: Mapping[str, str]) -> int | None:
    """Return the size of the whole file in bytes, None if the headers do not state it."""
    part = _RANGE.match(headers.get("Content-Range", ""))
    stated = part[1] if part else headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() and len(stated) < 20 else None


def _checksums(headers: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Yield the checksums of the whole content, weakest first."""
    etag = _etag(headers)
    if _MULTIPART.match(etag):
        yield "etag", etag
    elif _MD5.match(etag) and not has_encrypted_etag(headers):
        yield "md5", etag
    if sha256 := stated_checksums(headers).get("sha256"):
        yield "sha256", sha256


def _etag(headers: Mapping[str, str]) -> str:
    return headers.get("ETag", "").strip('"')


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
    Health.ARCHIVED: "impossible",
    Health.UNSUPPORTED: "impossible",
    Health.UNREACHABLE: "impossible",
    Health.UNKNOWN: "impossible",
}


class Prober(Struct, eq=False):
    """Requests the headers of URLs, and compares them with the expected content; thread-safe."""

    sessions: UrlSessions

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
        about: dict[str, Any] = {"path": path, "key": file.key, "size": proof.size}
        if not file.urls and not file.copies:
            message = "no URL is known for its content"
            return [Finding(status="impossible", message=message, **about)]
        known = KnownDigests(file.key, proof, claims)
        if is_only_url is None:
            is_only_url = len(file.urls) == 1
        found: list[Finding] = []
        for number, url in enumerate((*file.urls, *file.copies)):
            if number >= len(file.urls) and any(one.health is Health.OK for one in found):
                break
            answer, host = self._ask(url, known, is_only_url=is_only_url)
            finding = Finding(
                status=STATUSES[answer.health],
                kind="url",
                message=answer.message,
                evidence=answer.evidence,
                checked=None if answer.evidence is None else "claimed",
                url=displayed_url(url),
                health=answer.health,
                host=host,
                **about,
            )
            found.append(finding)
        return found

    def _ask(
        self, url: str, known: KnownDigests, *, is_only_url: bool
    ) -> tuple[ProbeResult, str | None]:
        """Return the result of probing a URL, and the host at fault if there is one."""
        scheme, host = url.partition("://")[0].lower(), None
        sessions = self.sessions
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
        used, authorized = self.sessions.session_for(url), None
        try:
            answer = _ask_web(used, url, known, is_only_url=is_only_url)
        except net.AccessDeniedError:
            authorized = self.sessions.authorized_session(url)
            if authorized is None or authorized is used:
                raise
        else:
            if answer.health is Health.REFUSED:
                authorized = self.sessions.authorized_session(url)
            if authorized is None or authorized is used:
                return answer
        return _ask_web(authorized, url, known, is_only_url=is_only_url)


def health_of(error: NeuromirrorError) -> Health:
    """Return the state of a URL whose request failed, by the error of the request."""
    status = error.status if isinstance(error, net.NetError) else None
    if isinstance(error, net.NotFoundError) or status in (404, 410):
        return Health.NOT_FOUND
    if isinstance(error, net.ObjectArchivedError):
        return Health.ARCHIVED
    if isinstance(error, net.AccessDeniedError) or status in (401, 403):
        return Health.REFUSED
    if isinstance(error, net.HttpError):
        if error.fields.get("Code") in _NO_VERSION:
            return Health.NOT_FOUND
        if status == 416:
            return Health.CHANGED
        return Health.UNSUPPORTED if status in (405, 501) else Health.UNREACHABLE
    if isinstance(error, net.NetError) and not isinstance(error, net.UnsafeAddressError):
        return Health.UNREACHABLE
    return Health.UNKNOWN


def _ask_web(
    session: net.Session, url: str, known: KnownDigests, *, is_only_url: bool
) -> ProbeResult:
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
                url, net.ResponseHead(stream.status, stream.headers), known, is_only_url=is_only_url
            )
    except net.AccessDeniedError as error:
        if error.status == 401:  # concerns the whole host
            raise net.AccessDeniedError(
                f"{error} ({_FORBIDDEN_HINT})", url=error.url, status=401
            ) from error
        return ProbeResult(Health.REFUSED, f"{error} ({_FORBIDDEN_HINT})")
    except net.HttpError as error:
        if error.status == 416:
            return ProbeResult(Health.CHANGED, "the file is empty now (HTTP 416)")
        raise


def _compare_reply(
    url: str, reply: net.ResponseHead, known: KnownDigests, *, is_only_url: bool
) -> ProbeResult:
    answer = compare_headers(url, reply.headers, known, is_only_url=is_only_url)
    if answer.health is Health.OK and "versionId=" in url:
        known.add_object_version(reply.headers)
    archived = archive_problem(reply.headers)
    if answer.health is Health.OK and archived is not None:
        return ProbeResult(Health.ARCHIVED, archived, answer.evidence)
    return answer


def _ask_volume(
    session: net.Session, url: str, known: KnownDigests, token: Callable[[str], str | None]
) -> ProbeResult:
    from neuromirror.sources.volumes.fetching import fetch_block
    from neuromirror.sources.volumes.urls import Box, WrongVoxelsError, parse_url

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


_ATTEMPTS: Final = 3
"""Attempts to read a body that is cut off; the session retries requests that get no reply."""


class DownloadVerifier(Struct, eq=False):
    """Verifies files by downloading them from the first URL with the right bytes.

    Parameters
    ----------
    sessions
        Sessions and circuit breaker for the requests.
    stop
        Set when the results are no longer needed.
    digests
        Records block digests of the files that lack them; None not to.
    """

    sessions: UrlSessions
    stop: threading.Event
    digests: BlockDigestsRecorder | None = None

    def verify(self, file: PinnedFile) -> list[Finding]:
        """Return a finding for each URL that failed, and one for the file; thread-safe."""
        path = path_to_text(file.path)
        try:
            proof = key_checksum(file.key)
        except ValueError as error:
            return [Finding(status="error", path=path, key=file.key, message=str(error))]
        failed: list[Finding] = []
        for url in (*file.urls, *file.copies):
            found = self._verify_url(url, file.key, path, proof)
            if not found.failed:
                return [*failed, found]
            failed.append(found)
        message = f"none of its {len(failed)} URLs returns its content"
        status: Status = "impossible"
        if any(one.health is Health.CHANGED for one in failed):
            status = "error"
        about: dict[str, Any] = {"path": path, "key": file.key, "size": proof.size}
        message = message if failed else "no URL is known for its content"
        return [*failed, Finding(status=status, message=message, **about)]

    def _verify_url(self, url: str, key: str, path: str, proof: KeyChecksum) -> Finding:
        """Return a finding for the file if the URL has its bytes, else one for the URL."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                self.sessions.breaker.check(url)
                found = self._compare(url, key, path, proof)
                self.sessions.record(url, None)
                return found
            except NeuromirrorError as error:
                if left and isinstance(error, net.IncompleteResponseError):
                    continue
                health = health_of(error)
                self.sessions.record(url, error if health is Health.UNREACHABLE else None)
                return Finding(
                    status=STATUSES[health],
                    path=path,
                    kind="url",
                    message=str(error),
                    key=key,
                    size=proof.size,
                    url=displayed_url(url),
                    health=health,
                    host=host_at_fault(error, url),
                )
        raise AssertionError("the last attempt returns")

    def _compare(self, url: str, key: str, path: str, proof: KeyChecksum) -> Finding:
        hashing = proof.hasher()
        digester = None if self.digests is None else self.digests.start(key, proof.size)
        stated = None if proof.algorithm else EquivalentKeyCheck(key, proof.size)
        size = 0
        with closing(self._pieces(url, proof.size, stated)) as pieces:
            for piece in pieces:
                size += len(piece)
                if hashing is not None:
                    hashing.update(piece)
                if digester is not None:
                    digester.update(piece)
                if stated is not None:
                    stated.update(piece)
                if proof.size is not None and size > proof.size:
                    break
                if self.stop.is_set():
                    raise VerificationStoppedError
        checksum = "" if hashing is None else hashing.hexdigest()
        found = compare_content(key, path, proof, size, lambda by: checksum)
        if digester is not None and not found.failed and (fault := digester.finish(checksum)):
            found = replace(found, status="error", message=fault)
        if stated is not None and not found.failed:
            if reason := stated.mismatch():
                found = replace(found, status="error", message=reason)
            elif stated.evidence is not None:
                found = replace(found, evidence=stated.evidence.value)
        if not found.failed:
            return replace(found, url=displayed_url(url), health=Health.OK)
        is_longer = proof.size is not None and size > proof.size
        message = f"different bytes: more than {proof.size}" if is_longer else found.message
        about = {"kind": "url", "url": displayed_url(url), "health": Health.CHANGED}
        return replace(found, message=message, **about)

    def _pieces(
        self, url: str, size: int | None, stated: EquivalentKeyCheck | None
    ) -> Generator[bytes | memoryview, None, None]:
        sessions = self.sessions
        session = sessions.session_for(url)
        scheme = url.partition("://")[0].lower()
        if scheme in ("boss", "ndstore"):
            from neuromirror.sources.volumes.fetching import fetch_block
            from neuromirror.sources.volumes.urls import parse_url

            block = parse_url(url)
            yield from fetch_block(session, block, size=size, token=sessions.token(block.host))
        else:
            with self._stream(session, url) as stream:
                if stated is not None:
                    stated.expect(url, stream.headers)
                yield from stream.chunks

    @contextmanager
    def _stream(self, session: net.Session, url: str) -> Iterator[net.ResponseStream]:
        """Open a URL, with the token for its host if it needs one."""
        with ExitStack() as stack:
            try:
                # the session refuses any scheme but http and https
                found = stack.enter_context(session.stream(url))
            except net.AccessDeniedError:
                authorized = self.sessions.authorized_session(url)
                if authorized is None or authorized is session:
                    raise
                found = stack.enter_context(authorized.stream(url))
            yield found


def check_urls(
    items: Iterable[Item],
    sessions: UrlSessions,
    claims: ClaimLookup = no_claims,
    *,
    jobs: int,
    full: bool,
    digests: BlockDigestsRecorder | None = None,
) -> Iterator[Finding]:
    """Yield findings for items, in order.

    Parameters
    ----------
    items
        Findings, which are passed on, and files whose URLs are to be checked.
    sessions
        Sessions and circuit breaker for the requests.
    claims
        Returns further checksums of a key's content; called in this thread.
    jobs
        Number of threads.
    full
        Whether to download and hash the files instead of probing their URLs.
    digests
        Records block digests of downloaded files that lack them; None not to.
    """
    stop = threading.Event()
    prober, fetcher = Prober(sessions), DownloadVerifier(sessions, stop, digests)

    def check(task: tuple[Item, Sequence[Digest]]) -> Sequence[Finding]:
        item, digests = task
        if isinstance(item, Finding):
            return (item,)
        return fetcher.verify(item) if full else prober.probe(item, digests)

    tasks = (
        (item, () if full or isinstance(item, Finding) else tuple(claims(item.key)))
        for item in items
    )
    for some in map_in_order(jobs, stop, check, tasks):
        yield from some
