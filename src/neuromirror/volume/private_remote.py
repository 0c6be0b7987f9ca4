"""Fetch files that need credentials: objects of private buckets, and files of an archive's API.

The URLs of such a file are in the git-annex branch of a private store, and this remote claims them.
Its content is verified here, because a dataset may have no digest that git-annex can check.

A token is read from the environment or the keyring and stored nowhere. It is sent to its own host
only, over TLS unless the host is this machine, and not to the target of a redirect. A dataset may
come from an untrusted author, so it chooses neither the token nor its destination.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from annexremote import RemoteError  # type: ignore[import-untyped]

from neuromirror.annex import ALLOWED_ADDRESSES
from neuromirror.model import Evidence, NeuromirrorError
from neuromirror.model.object_urls import url_version_id
from neuromirror.net import (
    AccessDeniedError,
    CredentialsError,
    HttpError,
    RequestLimits,
    Session,
    TokenSource,
    content_length,
)
from neuromirror.sources.api_tokens import token_scheme
from neuromirror.sources.volumes.schemes import SCHEMES
from neuromirror.transfer.cached_contents import copy_cached
from neuromirror.transfer.content_checks import check_for
from neuromirror.transfer.findings import Health
from neuromirror.transfer.header_claims import KnownDigests, compare_headers
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.transfer.s3_access import SCHEME, S3Access, S3Object
from neuromirror.transfer.url_sessions import host_tokens
from neuromirror.volume.block_remote import BlockRemote, RetrieveError

_LIMITS = RequestLimits(attempts=4, wait_max=20.0, read=300.0)
_GONE_STATUSES = (404, 410)
_ASSET = re.compile(r"/assets/[0-9a-f-]{36}/download/?\Z")


class _ApiFile:
    """A file of an archive's API, at a URL, with a session that has the token for it."""

    def __init__(self, session: Session, url: str, token: TokenSource) -> None:
        self.session, self.url, self._token = session, url, token

    def explain(self, error: NeuromirrorError) -> str:
        """Return the message of an error, with the source of the token."""
        if isinstance(error, AccessDeniedError):
            return (
                f"{urlsplit(self.url).netloc} refuses the token in {self._token.label} (HTTP"
                f" {error.status}) for {error.url}"
            )
        return str(error)


class PrivateRemote(BlockRemote):
    """Retrieves files that need credentials for git-annex; the base class retrieves blocks."""

    def __init__(self, annex: Any) -> None:
        super().__init__(annex)
        self._s3: S3Access | None = None
        self._apis: dict[str, tuple[Session, TokenSource]] = {}

    def checkurl(self, url: str) -> bool | list[dict[str, str | int]]:
        """Return the size of a private object, or of a block if its URL states it."""
        if url.partition("://")[0] in SCHEMES:
            return super().checkurl(url)
        size = content_length(self._head(url))
        return [{"size": size}] if size is not None else True

    def transfer_retrieve(self, key: str, filename: str) -> None:
        """Write a key's bytes, verified: from the cache, or the first of its URLs that works."""
        urls = self._private_urls(key)
        if not urls:
            super().transfer_retrieve(key, filename)
            return
        try:
            with open(filename, "w+b") as file:
                if not copy_cached(key, file):
                    self._first_that_works(urls, lambda url: self._fetch_to(url, key, file))
        except OSError as error:
            raise RemoteError(f"{filename} cannot be written: {error.strerror}") from error

    def checkpresent(self, key: str) -> bool:
        """Return whether a URL still has the content of the key, as far as its headers show.

        Without an object version, the ETag must be that of the key, because git-annex drops its
        own copy on this result and an object can be overwritten with one of the same size.
        """
        urls = self._private_urls(key)
        if not urls:
            return super().checkpresent(key)
        known, failures = KnownDigests(key, key_checksum(key)), []
        for url in urls:
            try:
                headers = self._head(url)
            except RetrieveError as error:
                if not error.final:
                    failures.append(str(error))
                continue
            found = compare_headers(url, headers, known, is_only_url=len(urls) == 1)
            if found.health is Health.OK and (
                _is_immutable(url) or found.evidence not in (None, Evidence.SIZE)
            ):
                return True
            if found.health is Health.OK:
                failures.append(
                    f"{url}: neither URL nor headers show whether its content is that of your copy"
                )
        if failures:
            raise RetrieveError(" | ".join(failures), final=False)
        return False

    def _private_urls(self, key: str) -> list[str]:
        found: list[str] = self.annex.geturls(key, f"{SCHEME}:")
        for scheme in ("https", "http"):
            urls = self.annex.geturls(key, f"{scheme}://")
            found += [url for url in urls if scheme == token_scheme(urlsplit(url).netloc)]
        return found

    def _first_that_works(self, urls: list[str], attempt: Callable[[str], None]) -> None:
        reasons: list[str] = []
        for url in urls:
            try:
                attempt(url)
            except RetrieveError as error:
                reasons.append(str(error))
            else:
                return
        raise RetrieveError(" | ".join(dict.fromkeys(reasons)), final=False)

    def _fetch_to(self, url: str, key: str, file: BinaryIO) -> None:
        """Overwrite the file with the content of a URL.

        Raises
        ------
        RetrieveError
            If it cannot be read, or is not the key's content.
        """
        file.seek(0)
        file.truncate()
        check = check_for(key)
        report_progress, done = self._progress_reporter(), 0
        found = self._object(url)
        try:
            with found.session.stream(found.url) as reply:
                for piece in reply.chunks:
                    file.write(piece)
                    done += len(piece)
                    if check is not None:
                        check.update(piece)
                    report_progress(done)
        except NeuromirrorError as error:
            raise RetrieveError(found.explain(error), final=False) from error
        file.flush()
        fault = None if check is None else check.mismatch()
        if fault is not None:
            raise RetrieveError(f"{url} has changed since it was mirrored: {fault}", final=False)

    def _head(self, url: str) -> Mapping[str, str]:
        """Return the headers of an object.

        Raises
        ------
        RetrieveError
            If it does not exist (``final``) or cannot be read.
        """
        found = self._object(url)
        try:
            reply = found.session.head(found.url)
            if reply.status in _GONE_STATUSES:
                raise RetrieveError(f"{url}: not found", final=True)
            if reply.status == 200:
                return reply.headers
            # only the reply to a GET has an error code, and some APIs redirect to a signed GET
            with found.session.stream(found.url) as opened:
                return opened.headers
        except HttpError as error:
            gone = error.status in _GONE_STATUSES
            raise RetrieveError(found.explain(error), final=gone) from error
        except NeuromirrorError as error:
            raise RetrieveError(str(error), final=False) from error

    def _object(self, url: str) -> S3Object | _ApiFile:
        try:
            if not url.startswith(f"{SCHEME}:"):
                return self._api_file(url)
            if self._s3 is None:
                self._s3 = S3Access(
                    self._settings().subsections("neuromirror"), self._may_be_private, _LIMITS
                )
            return self._s3.object(url)
        except NeuromirrorError as error:
            raise RetrieveError(str(error), final=False) from error

    def _api_file(self, url: str) -> _ApiFile:
        """Return the file at a URL; raise CredentialsError if there is no token for its host."""
        host = urlsplit(url).netloc
        if host not in self._apis:
            token = host_tokens(self._settings())(host)
            if not token.read():
                raise CredentialsError(
                    f"no token for {host}: set {token.label}", identity=token.label
                )
            origin = f"{token_scheme(host)}://{host}"
            session = Session(
                tokens={origin: token},
                limits=_LIMITS,
                is_private_allowed=self._is_private_address_allowed,
                private_hint=_allow_hint,
            )
            self._apis[host] = session, token
        session, token = self._apis[host]
        return _ApiFile(session, url, token)

    def _is_private_address_allowed(self, name: str, port: int) -> bool:
        """Return whether git-annex may access a host, for targets of redirects too."""
        return self._may_be_private(f"[{name}]:{port}" if ":" in name else f"{name}:{port}")


def _is_immutable(url: str) -> bool:
    """Return whether a URL names an object version or an archive's asset, which never change."""
    return (url_version_id(url) or "null") != "null" or _ASSET.search(url) is not None


def _allow_hint(address: str) -> str:
    return f"to allow it, run git config {ALLOWED_ADDRESSES} '{address}'"
