"""What a place says of the bytes that it has, without giving them.

An http(s) place is asked by ``HEAD``; where that is refused, or leads elsewhere, by a ``GET`` of
one byte: a redirect to S3 is signed for one method. Told are size, ETag, version id and, where
somebody put one there, the sha256 (S3 API reference, "HeadObject"). A block of a volume is asked
for one voxel. All of it is the server's word: nothing is hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, cast

from neuromirror.lab.hosts import host_at_fault
from neuromirror.lab.results import Status
from neuromirror.lab.verify.claims import Answer, Known, weigh
from neuromirror.lab.verify.findings import Finding, Health
from neuromirror.lab.verify.proofs import proof_of
from neuromirror.lab.verify.sessions import Sessions
from neuromirror.lab.verify.walking import PinnedFile
from neuromirror.model import Digest, NeuromirrorError, text
from neuromirror.net import (
    Forbidden,
    HttpError,
    NetError,
    NotFound,
    Reply,
    Session,
    UnsafeAddress,
    clean_url,
)

_NO_VERSION: Final = frozenset({"NoSuchVersion", "InvalidArgument"})
_NOT_FOR_ALL: Final = "a bucket that may not be listed says so of what is gone, too"
STATUSES: Final[dict[Health, Status]] = {
    Health.OK: "ok",
    Health.GONE: "error",
    Health.REFUSED: "error",
    Health.CHANGED: "error",
    Health.NOT_OFFERED: "impossible",
    Health.UNREACHABLE: "impossible",
    Health.UNKNOWN: "impossible",
}


class Prober:
    """Asks places; ``probe`` may be called by many threads."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def probe(
        self, file: PinnedFile, claims: Iterable[Digest] = (), *, alone: bool | None = None
    ) -> list[Finding]:
        """What each place of a file says; one finding of the file itself where it has none.

        ``alone`` says whether its bytes have no other place than the one named here; without it
        the places named are all there are.
        """
        path = text(file.path)
        try:
            proof = proof_of(file.key)
        except ValueError as error:
            return [Finding(status="error", path=path, key=file.key, message=str(error))]
        if not file.urls:
            message = "no place is known that has its bytes"
            return [
                Finding(
                    status="impossible", path=path, key=file.key, size=proof.size, message=message
                )
            ]
        known = Known(file.key, proof, claims)
        if alone is None:
            alone = len(file.urls) == 1
        found = []
        for url in file.urls:
            answer, host = self._ask(url, known, alone=alone)
            found.append(
                Finding(
                    status=STATUSES[answer.health],
                    path=path,
                    what="place",
                    message=answer.message,
                    key=file.key,
                    size=proof.size,
                    evidence=answer.evidence,
                    checked=None if answer.evidence is None else "claimed",
                    url=shown(url),
                    health=answer.health,
                    host=host,
                )
            )
        return found

    def _ask(self, url: str, known: Known, *, alone: bool) -> tuple[Answer, str | None]:
        """Return what a URL answers, and its host where the answer is about that."""
        scheme, host = url.partition("://")[0].lower(), None
        sessions = self._sessions
        try:
            sessions.breaker.check(url)
            if scheme in ("http", "https"):
                answer = _ask_web(sessions.of(url), url, known, alone=alone)
            elif scheme in ("boss", "ndstore"):
                answer = _ask_volume(sessions.of(url), url, known, sessions.token)
            else:
                answer = Answer(Health.UNKNOWN, f"nobody here knows how to ask {scheme}://")
                return answer, None
        except NeuromirrorError as error:
            health = health_of(error)
            sessions.record(url, error if health is Health.UNREACHABLE else None)
            return Answer(health, str(error)), host_at_fault(error, url)
        sessions.record(url, None)
        return answer, host


def shown(url: str) -> str:
    """A URL as it may be told."""
    try:
        return clean_url(url)
    except ValueError:
        return "<an address that is no URL>"


def health_of(error: NeuromirrorError) -> Health:
    """What a failure says of a place."""
    status = error.status if isinstance(error, NetError) else None
    if isinstance(error, NotFound) or status in (404, 410):
        return Health.GONE
    if isinstance(error, Forbidden) or status in (401, 403):
        return Health.REFUSED
    if isinstance(error, HttpError):
        if error.fields.get("Code") in _NO_VERSION:
            return Health.GONE
        if status == 416:
            return Health.CHANGED
        return Health.NOT_OFFERED if status in (405, 501) else Health.UNREACHABLE
    if isinstance(error, NetError) and not isinstance(error, UnsafeAddress):
        return Health.UNREACHABLE
    return Health.UNKNOWN


def _ask_web(session: Session, url: str, known: Known, *, alone: bool) -> Answer:
    reply = session.head(url, headers={"x-amz-checksum-mode": "ENABLED"})
    if 200 <= reply.status < 300:
        return _weighed(url, reply, known, alone=alone)
    if reply.headers.get("x-amz-delete-marker") == "true":
        return Answer(Health.GONE, f"HTTP {reply.status}: the object was deleted")
    if reply.status in (404, 410):
        return Answer(Health.GONE, f"HTTP {reply.status}: it is not there")
    # nothing more may be asked for here: a signed redirect takes no header that it does not know
    headers = {} if known.size == 0 else {"Range": "bytes=0-0"}
    try:
        with session.stream(url, headers=headers) as stream:
            return _weighed(url, Reply(stream.status, stream.headers), known, alone=alone)
    except Forbidden as error:
        if error.status == 401:  # of the whole host
            raise Forbidden(f"{error} ({_NOT_FOR_ALL})", url=error.url, status=401) from error
        return Answer(Health.REFUSED, f"{error} ({_NOT_FOR_ALL})")
    except HttpError as error:
        if error.status == 416:
            return Answer(Health.CHANGED, "it has no bytes any more (HTTP 416)")
        raise


def _weighed(url: str, reply: Reply, known: Known, *, alone: bool) -> Answer:
    answer = weigh(url, reply.headers, known, alone=alone)
    if answer.health is Health.OK and "versionId=" in url:
        known.remember(reply.headers)
    return answer


def _ask_volume(
    session: Session, url: str, known: Known, token: Callable[[str], str | None]
) -> Answer:
    from neuromirror.sources.volumes import Box, WrongVoxels, fetch, parse_url

    block = parse_url(url)
    dtype = block.dtype if known.size is None else block.voxel_type(known.size)
    first = cast(Box, tuple((start, start + 1) for start, _ in block.box))
    one = replace(block, box=first, chunk=(1, 1, 1), dtype=dtype)
    try:
        for _ in fetch(session, one, token=token(block.host)):
            pass
    except WrongVoxels as error:
        return Answer(Health.CHANGED, str(error))
    return Answer(Health.OK, "it answers: one voxel was read")
