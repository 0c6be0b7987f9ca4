"""Fetch files that need credentials: objects of private buckets.

The URLs of such a file are in the git-annex branch of a private store, and this remote claims them.
Its content is verified here, because a dataset may have no digest that git-annex can check.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from annexremote import RemoteError  # type: ignore[import-untyped]

from neuromirror.annex import parse_key
from neuromirror.model import NeuromirrorError
from neuromirror.net import HttpError, NetError, RequestLimits, content_length
from neuromirror.transfer.content_checks import check_for
from neuromirror.transfer.s3_access import SCHEME, S3Access, S3Object, s3_settings
from neuromirror.volume.archive_remote import ArchiveRemote
from neuromirror.volume.block_remote import RetrieveError

_LIMITS = RequestLimits(attempts=4, wait_max=20.0, read=300.0)
_GONE_STATUSES = (404, 410)
_PROGRESS_SECONDS = 0.2


class PrivateRemote(ArchiveRemote):
    """The transfers of files that need credentials; of all others, those of the base class."""

    def __init__(self, annex: Any) -> None:
        super().__init__(annex)
        self._s3: S3Access | None = None

    def checkurl(self, url: str) -> bool | list[dict[str, str | int]]:
        """Return the size of a private object, or of a block if its URL states it."""
        if not url.startswith(f"{SCHEME}:"):
            return super().checkurl(url)
        size = self._head(url)
        return [{"size": size}] if size is not None else True

    def transfer_retrieve(self, key: str, filename: str) -> None:
        """Write a key's bytes from the first of its URLs that works, and verify them."""
        urls = self._private_urls(key)
        if not urls:
            super().transfer_retrieve(key, filename)
            return
        try:
            with open(filename, "wb") as file:
                self._first_that_works(urls, lambda url: self._fetch_to(url, key, file))
        except OSError as error:
            raise RemoteError(f"{filename} cannot be written: {error.strerror}") from error

    def checkpresent(self, key: str) -> bool:
        """Return whether a URL still has as many bytes as the key."""
        urls = self._private_urls(key)
        if not urls:
            return super().checkpresent(key)
        expected, failures = parse_key(key).size, []
        for url in urls:
            try:
                size = self._head(url)
            except RetrieveError as error:
                if not error.final:
                    failures.append(str(error))
            else:
                if expected is None or size in (None, expected):
                    return True
        if failures:
            raise RetrieveError(" | ".join(failures), final=False)
        return False

    def _private_urls(self, key: str) -> list[str]:
        if self._archive() is not None:
            return []
        found: list[str] = self.annex.geturls(key, f"{SCHEME}:")
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
        reported, done = time.monotonic(), 0
        found = self._object(url)
        try:
            with found.bucket.session.stream(found.url) as reply:
                for piece in reply.chunks:
                    file.write(piece)
                    done += len(piece)
                    if check is not None:
                        check.update(piece)
                    if time.monotonic() - reported > _PROGRESS_SECONDS:
                        reported = time.monotonic()
                        self.annex.progress(done)
        except NeuromirrorError as error:
            raise RetrieveError(found.explain(error), final=False) from error
        file.flush()
        fault = None if check is None else check.mismatch()
        if fault is not None:
            raise RetrieveError(f"{url} has changed since it was mirrored: {fault}", final=False)

    def _head(self, url: str) -> int | None:
        """Return the size of an object; None if the server does not state it.

        Raises
        ------
        RetrieveError
            If it does not exist (``final``) or cannot be read.
        """
        found = self._object(url)
        try:
            reply = found.bucket.session.head(found.url)
            if reply.status in _GONE_STATUSES:
                raise RetrieveError(f"{url}: not found", final=True)
            if reply.status == 200:
                return content_length(reply.headers)
            # only the reply to a GET has an error code
            with found.bucket.session.stream(found.url):
                raise NetError(f"{url}: HTTP {reply.status} for HEAD, and 200 for GET")
        except HttpError as error:
            gone = error.status in _GONE_STATUSES
            raise RetrieveError(found.explain(error), final=gone) from error
        except NeuromirrorError as error:
            raise RetrieveError(str(error), final=False) from error

    def _object(self, url: str) -> S3Object:
        try:
            if self._s3 is None:
                settings = s3_settings(Path(self.annex.getgitdir()))
                self._s3 = S3Access(settings, self._may_be_private, _LIMITS)
            return self._s3.object(url)
        except NeuromirrorError as error:
            raise RetrieveError(str(error), final=False) from error
