r"""Fetch files of an archive that requires a token.

For clones of a private store: its files are at URLs of an archive's API, for which git-annex has no
token. A user adds this remote to a clone, for one host::

    git annex initremote token --private type=external externaltype=neuromirror encryption=none \
        archive=api.dandiarchive.org
    git config remote.token.annex-speculate-present true

The second command makes git-annex try it for any file, although no location log names it.

The token is read from the environment for each file (:func:`~.tokens.variable` names the variable
after the host) and is kept nowhere. The session sends it to this host alone, over TLS unless the
host is this machine, and never along a redirect to another host, such as the bucket that has the
bytes. The remote's configuration may come from anybody's dataset: it chooses neither the variable
nor where a token goes.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from annexremote import RemoteError  # type: ignore[import-untyped]

from neuromirror.annex import key_digest
from neuromirror.model import NeuromirrorError
from neuromirror.net import NetError, Session
from neuromirror.volume.block_remote import BlockRemote, RetrieveError
from neuromirror.volume.tokens import token_variable

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_NOT_FOUND = (404, 410)
_PROGRESS_SECONDS = 0.2


class ArchiveRemote(BlockRemote):
    """The transfers; without ``archive`` in the configuration, those of blocks."""

    def __init__(self, annex: Any) -> None:
        super().__init__(annex)
        self._session_for: tuple[str, Session] | None = None

    def initremote(self) -> None:
        """Check that the environment has a token for the archive; it is not stored."""
        host = self._archive()
        if host is None:
            super().initremote()
        else:
            self._check_token(host)

    def transfer_retrieve(self, key: str, filename: str) -> None:
        """Write a key's bytes from the first working URL of the archive."""
        host = self._archive()
        if host is None:
            super().transfer_retrieve(key, filename)
            return
        try:
            with open(filename, "wb") as file:
                self._retrieve(host, key, file)
        except OSError as error:
            raise RemoteError(f"{filename} cannot be written: {error.strerror}") from error

    def checkpresent(self, key: str) -> bool:
        """Return whether the archive still has a file at one of the key's URLs."""
        host = self._archive()
        if host is None:
            return super().checkpresent(key)
        self._check_token(host)
        for url in self._urls(host, key):
            try:
                with self._open_reply(host, url):
                    return True
            except NetError as error:
                if error.status not in _NOT_FOUND:
                    raise RetrieveError(self._explain(host, error), final=False) from error
        return False

    def _retrieve(self, host: str, key: str, file: BinaryIO) -> None:
        self._check_token(host)
        reasons: list[str] = []
        for url in self._urls(host, key):
            try:
                self._download(host, url, key, file)
            except NeuromirrorError as error:
                reasons.append(self._explain(host, error))
            else:
                return
        raise RetrieveError(" | ".join(reasons) or f"{key} has no URL at {host}", final=False)

    def _download(self, host: str, url: str, key: str, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        digest = key_digest(key)
        hashing = None if digest is None or digest[0] == "etag" else hashlib.new(digest[0])
        reported, done = time.monotonic(), 0
        with self._open_reply(host, url) as reply:
            for piece in reply.chunks:
                file.write(piece)
                done += len(piece)
                if hashing is not None:
                    hashing.update(piece)
                if time.monotonic() - reported > _PROGRESS_SECONDS:
                    reported = time.monotonic()
                    self.annex.progress(done)
        file.flush()
        if hashing is not None and digest is not None and hashing.hexdigest() != digest[1]:
            raise RetrieveError(f"{url} has changed since it was mirrored", final=False)

    def _archive(self) -> str | None:
        found: str = self.annex.getconfig("archive")
        return found or None

    def _check_token(self, host: str) -> None:
        if not os.environ.get(token_variable(host), "").strip():
            raise RemoteError(
                f"no token for {host}: set the environment variable {token_variable(host)}"
            )

    def _urls(self, host: str, key: str) -> list[str]:
        """Return a key's URLs at the host, all of one scheme."""
        prefix = _origin(host) + "/"
        return [url for url in self.annex.geturls(key, prefix) if url.startswith(prefix)]

    def _open_reply(self, host: str, url: str) -> Any:
        """Return the context of an open reply."""
        if self._session_for is None or self._session_for[0] != host:
            allowed = self._may_be_private(host)
            session = Session(tokens={_origin(host): token_variable(host)}, allow_private=allowed)
            self._session_for = host, session
        return self._session_for[1].stream(url)

    def _explain(self, host: str, error: NeuromirrorError) -> str:
        if isinstance(error, NetError) and error.status in (401, 403):
            return (
                f"{host} refused the token in {token_variable(host)} (HTTP {error.status}): {error}"
            )
        return str(error)


def _origin(host: str) -> str:
    """Return the origin of a host: https, except on this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    bare = f"[{name}]" if ":" in name else name
    return f"{'http' if bare in _LOOPBACK else 'https'}://{host}"
