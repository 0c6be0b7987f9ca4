"""Download files, hash them and discard the bytes."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from neuromirror.model import NeuromirrorError, path_to_text
from neuromirror.net import AccessDeniedError, IncompleteResponseError, ResponseStream, Session
from neuromirror.transfer.findings import Finding, Health
from neuromirror.transfer.host_errors import displayed_url, host_at_fault
from neuromirror.transfer.key_checksums import KeyChecksum, key_checksum
from neuromirror.transfer.url_prober import STATUSES, health_of
from neuromirror.transfer.url_sessions import UrlSessions
from neuromirror.transfer.verify_items import PinnedFile
from neuromirror.transfer.work_tree import VerificationStoppedError, compare_content

if TYPE_CHECKING:
    from neuromirror.transfer.block_digest_recorder import BlockDigestsRecorder

_ATTEMPTS: Final = 3
"""Attempts to read a body that is cut off; the session retries requests that get no reply."""


class DownloadVerifier:
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

    def __init__(
        self,
        sessions: UrlSessions,
        stop: threading.Event,
        digests: BlockDigestsRecorder | None = None,
    ) -> None:
        self._sessions = sessions
        self._stop = stop
        self._digests = digests

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
        if not failed:
            message = "no URL is known for its content"
        else:
            message = f"none of its {len(failed)} URLs returns its content"
        wrong = any(one.health is Health.CHANGED for one in failed)
        last = Finding(
            status="error" if wrong else "impossible",
            path=path,
            key=file.key,
            size=proof.size,
            message=message,
        )
        return [*failed, last]

    def _verify_url(self, url: str, key: str, path: str, proof: KeyChecksum) -> Finding:
        """Return a finding for the file if the URL has its bytes, else one for the URL."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                self._sessions.breaker.check(url)
                found = self._compare(url, key, path, proof)
                self._sessions.record(url, None)
                return found
            except NeuromirrorError as error:
                if left and isinstance(error, IncompleteResponseError):
                    continue
                health = health_of(error)
                self._sessions.record(url, error if health is Health.UNREACHABLE else None)
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
        digester = None if self._digests is None else self._digests.start(key, proof.size)
        size = 0
        with closing(self._pieces(url, proof.size)) as pieces:
            for piece in pieces:
                size += len(piece)
                if hashing is not None:
                    hashing.update(piece)
                if digester is not None:
                    digester.update(piece)
                if proof.size is not None and size > proof.size:
                    break
                if self._stop.is_set():
                    raise VerificationStoppedError
        checksum = "" if hashing is None else hashing.hexdigest()
        found = compare_content(key, path, proof, size, lambda by: checksum)
        if digester is not None and not found.failed and (fault := digester.finish(checksum)):
            found = replace(found, status="error", message=fault)
        if not found.failed:
            return replace(found, url=displayed_url(url), health=Health.OK)
        message = found.message
        if proof.size is not None and size > proof.size:
            message = f"different bytes: more than {proof.size}"
        return replace(
            found, kind="url", message=message, url=displayed_url(url), health=Health.CHANGED
        )

    def _pieces(self, url: str, size: int | None) -> Generator[bytes | memoryview, None, None]:
        sessions = self._sessions
        session = sessions.session_for(url)
        scheme = url.partition("://")[0].lower()
        if scheme in ("boss", "ndstore"):
            from neuromirror.sources.volumes.fetching import fetch_block
            from neuromirror.sources.volumes.urls import parse_url

            block = parse_url(url)
            yield from fetch_block(session, block, size=size, token=sessions.token(block.host))
        else:
            with self._stream(session, url) as stream:
                yield from stream.chunks

    @contextmanager
    def _stream(self, session: Session, url: str) -> Iterator[ResponseStream]:
        """Open a URL, with the token for its host if it needs one."""
        with ExitStack() as stack:
            try:
                # the session refuses any scheme but http and https
                found = stack.enter_context(session.stream(url))
            except AccessDeniedError:
                authorized = self._sessions.authorized_session(url)
                if authorized is None or authorized is session:
                    raise
                found = stack.enter_context(authorized.stream(url))
            yield found
