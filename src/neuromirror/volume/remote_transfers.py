"""What the special remote of git-annex transfers: blocks of volumes, and files that need a token.

A block's URL (``boss://…``, ``ndstore://…``) contains everything needed to fetch its bytes, without
configuration. The URLs of other files (objects of private buckets, and files of an archive's API)
are in the git-annex branch of a private store, and this remote claims them. Their content is
verified here, because a dataset may have no digest that git-annex can check.

A token is read from the environment or the keyring and stored nowhere. It is sent to its own host
only, over TLS unless the host is this machine, and not to the target of a redirect. A dataset may
come from an untrusted author, so it chooses neither the token nor its destination.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from annexremote import RemoteError  # type: ignore[import-untyped]

from neuromirror.annex import allow_command, is_all_zeros, is_private_host_allowed, parse_key
from neuromirror.model import Evidence, NeuromirrorError
from neuromirror.model.records import url_version_id
from neuromirror.net import (
    AccessDeniedError,
    CredentialsError,
    HttpError,
    IncompleteResponseError,
    NetError,
    RequestLimits,
    Session,
    TokenSource,
    UnsafeAddressError,
    content_length,
)
from neuromirror.sources.api_tokens import token_scheme
from neuromirror.sources.volumes.schemes import SCHEMES
from neuromirror.sources.volumes.urls import (
    ITEM_SIZES,
    WrongVoxelsError,
    parse_url,
    token_from_environment,
    token_variable,
)
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror.transfer.content_bodies import BlockBodies, check_for, key_checksum
from neuromirror.transfer.outcomes import Health
from neuromirror.transfer.partial_content import copy_cached
from neuromirror.transfer.repository_check import check_repository, find_top
from neuromirror.transfer.url_health import KnownDigests, compare_headers
from neuromirror.transfer.url_sessions import (
    SCHEME,
    RestrictedChannels,
    S3Access,
    S3Object,
    UrlSessions,
    host_tokens,
    no_token,
)
from neuromirror.volume.errors import BlockMismatchError, failure_group

_PROGRESS_SECONDS = 0.2
"""Seconds between progress reports."""

_ATTEMPTS = 3
_GONE_STATUSES = (404, 410)
_CREDENTIALS = "token"


class RetrieveError(RemoteError):  # type: ignore[misc]
    """A key could not be retrieved; ``final`` is whether retrying is pointless.

    The protocol is line-based, so the message has one line.
    """

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(" ".join(message.split()))
        self.final = final


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


class RemoteTransfers:
    """Retrieves blocks, and files that need credentials, for git-annex.

    ``annex`` is the connection to git-annex.
    """

    def __init__(self, annex: Any) -> None:
        self.annex = annex
        self._git_settings: AnnexSettings | None = None
        self._credentials: dict[str, str] | None = None
        self._blocks: BlockBodies | None = None
        self._failures: Counter[str] = Counter()
        self._s3: S3Access | None = None
        self._apis: UrlSessions | None = None

    def initremote(self) -> None:
        """Copy the token for ``host`` from the environment to git-annex's credentials."""
        host = self.annex.getconfig("host")
        if not host:
            return
        token = token_from_environment(host)
        if token is None:
            raise RemoteError(
                f"no token for {host}: set the environment variable {token_variable(host)}"
            )
        self.annex.setcreds(_CREDENTIALS, host, token)

    def checkurl(self, url: str) -> bool | list[dict[str, str | int]]:
        """Return the size of a private object, or of a block if its URL has the voxel type."""
        if url.partition("://")[0] not in SCHEMES:
            size = content_length(self._head(url))
            return [{"size": size}] if size is not None else True
        try:
            block = parse_url(url)
        except NeuromirrorError as error:
            raise RetrieveError(str(error), final=True) from error
        if block.dtype is None:
            return True  # the size of a voxel is known from the response only
        return [{"size": math.prod(block.chunk) * ITEM_SIZES[block.dtype]}]

    def transfer_retrieve(self, key: str, filename: str) -> None:
        """Write a key's bytes, verified, from the first of its URLs that works.

        Blocks of zeros, and contents in the cache of this machine, need no request.
        """
        urls = self._private_urls(key)
        try:
            with open(filename, "w+b") as file:
                if not urls and is_all_zeros(key):
                    file.truncate(parse_key(key).size)
                elif not copy_cached(key, file):
                    if urls:
                        self._first_that_works(urls, lambda url: self._fetch_to(url, key, file))
                    else:
                        self._try_urls(lambda url: self._read(url, key, file), key)
        except OSError as error:
            raise RemoteError(f"{filename} cannot be written: {error.strerror}") from error

    def checkpresent(self, key: str) -> bool:
        """Return whether a service, or a URL that needs credentials, still has these bytes.

        A service has no checksums, so the whole block is read and hashed, because git-annex drops
        its own copy on this result. For a key without a digest, nothing shows whether the voxels
        are still the same, so that the result is unknown. Blocks of zeros are always present.
        """
        if urls := self._private_urls(key):
            return self._is_file_present(urls, key)
        if is_all_zeros(key):
            return True
        if not key_checksum(key).algorithm:
            raise RetrieveError(
                "the block has no checksum, so the voxels of the service may differ from your copy"
                " (drop --force drops it all the same)",
                final=False,
            )
        try:
            self._try_urls(lambda url: self._read(url, key), key)
        except RetrieveError as error:
            if error.final:
                return False
            raise
        return True

    def _try_urls(self, attempt: Callable[[str], None], key: str) -> None:
        """Try a key's URLs one after another; raise RetrieveError if none works.

        A host that failed is not contacted again, and the message has each reason once.
        """
        failures: list[tuple[str, str, str]] = []
        final = True
        for text in [one for scheme in SCHEMES for one in self.annex.geturls(key, f"{scheme}:")]:
            host = text.partition("://")[2].partition("/")[0]
            try:
                _with_retries(attempt, text)
                return
            except UnsafeAddressError as error:
                final = False
                why = str(error).partition(";")[0]
                message = f"{text}: {why}; to allow that: {allow_command([host])}"
                failures.append((failure_group(host, error), host, message))
            except NeuromirrorError as error:
                gone = isinstance(error, NetError) and error.status in _GONE_STATUSES
                final &= gone or isinstance(error, BlockMismatchError)
                subject = error.channel if isinstance(error, BlockMismatchError) else host
                failures.append((failure_group(host, error), subject, str(error)))
        raise RetrieveError(
            self._summarize(failures) or f"{key} has no URL of a volume", final=final
        )

    def _summarize(self, failures: Sequence[tuple[str, str, str]]) -> str:
        """Combine failures into one text: each cause in full once per process, which gets files.

        ``failures`` are the group (:func:`failure_group`), host or channel, and message of each.
        """
        groups: dict[str, list[tuple[str, str]]] = {}
        for group, subject, message in failures:
            groups.setdefault(group, []).append((subject, message))
        texts = []
        for group, ((subject, message), *more) in groups.items():
            known, self._failures[group] = group in self._failures, self._failures[group] + 1
            self._failures[group] += len(more)
            if known:
                texts.append(f"{subject}: as before ({self._failures[group]} URLs so far)")
            elif more:
                texts.append(f"{message} ({len(more)} more URLs failed in the same way)")
            else:
                texts.append(message)
        return " | ".join(texts)

    def _progress_reporter(self) -> Callable[[int], None]:
        """Return a function that reports a number of received bytes to git-annex, not too often."""
        last_report = time.monotonic()

        def report(done: int) -> None:
            nonlocal last_report
            if time.monotonic() - last_report > _PROGRESS_SECONDS:
                last_report = time.monotonic()
                self.annex.progress(done)

        return report

    def _read(self, url: str, key: str, file: BinaryIO | None = None) -> None:
        """Read a block, and overwrite the file with it.

        Raises BlockMismatchError if it differs from its key.
        """
        if self._blocks is None:
            self._blocks = BlockBodies(
                *(self._settings(), self._token),
                channels=RestrictedChannels(),
                token_name=self._token_name,
            )
        checksum, done = key_checksum(key), 0
        hashing, report_progress = checksum.hasher(), self._progress_reporter()
        if file is not None:
            file.seek(0)
            file.truncate()
        with self._blocks.open(url, key, checksum.size) as body:
            for piece in body.chunks:
                done += len(piece)
                if hashing is not None:
                    hashing.update(piece)
                if file is not None:
                    file.write(piece)
                    report_progress(done)
        if file is not None:
            file.flush()
        if hashing is not None and not checksum.matches(hashing.hexdigest(), done):
            block = parse_url(url)
            channel = f"{block.scheme}://{block.host}/{block.path}"
            found = f"{checksum.algorithm} {hashing.hexdigest()}"
            raise BlockMismatchError(url, channel, found, checksum.value)

    def _token(self, host: str) -> str | None:
        return token_from_environment(host) or self._stored_token(host)

    def _token_name(self, host: str) -> str:
        if token_from_environment(host) is None and self._stored_token(host) is not None:
            return f"git-annex's credentials of the remote for {host}"
        return token_variable(host)

    def _stored_token(self, host: str) -> str | None:
        """Return the token in git-annex's credentials, if it is for this host."""
        if self._credentials is None:
            self._credentials = self.annex.getcreds(_CREDENTIALS)
        found: dict[str, str] = self._credentials
        return (found.get("password") or None) if found.get("user") == host else None

    def _may_be_private(self, host: str) -> bool:
        """Return whether git-annex's settings allow this private or local address."""
        return is_private_host_allowed(host, self._settings().allowed_addresses)

    def _settings(self) -> AnnexSettings:
        """Return git's configuration of the repository that git-annex runs in."""
        if self._git_settings is None:
            git_dir = Path(self.annex.getgitdir()).resolve()
            top = git_dir.parent if git_dir.name == ".git" else find_top(Path()) or git_dir
            self._git_settings = AnnexSettings.load(check_repository(top).git_dir)
        return self._git_settings

    # --- files that need credentials

    def _is_file_present(self, urls: list[str], key: str) -> bool:
        """Return whether a URL still has the content of the key, as far as its headers show.

        Without an object version, the ETag must be that of the key, because git-annex drops its
        own copy on this result and an object can be overwritten with one of the same size.
        """
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
        failures: list[tuple[str, str, str]] = []
        for url in urls:
            try:
                attempt(url)
            except RetrieveError as error:
                host, cause = urlsplit(url).netloc, error.__cause__
                known = isinstance(cause, NeuromirrorError)
                group = failure_group(host, cause) if known else str(error)
                failures.append((group, host, str(error)))
            else:
                return
        raise RetrieveError(self._summarize(failures), final=False)

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
                    self._settings().subsections("neuromirror"), self._may_be_private, _FILE_LIMITS
                )
            return self._s3.object(url)
        except NeuromirrorError as error:
            raise RetrieveError(str(error), final=False) from error

    def _api_file(self, url: str) -> _ApiFile:
        """Return the file at a URL; raise CredentialsError if there is no token for its host."""
        host, settings = urlsplit(url).netloc, self._settings()
        if self._apis is None:
            allowed, tokens = tuple(settings.allowed_addresses), host_tokens(settings)
            self._apis = UrlSessions(allowed, no_token, _FILE_LIMITS, {}, host_token=tokens)
        session, token = self._apis.authorized_session(url), host_tokens(settings)(host)
        if session is None:
            raise CredentialsError(f"no token for {host}: set {token.label}", identity=token.label)
        return _ApiFile(session, url, token)


def _with_retries(step: Callable[[str], None], url: str) -> None:
    """Retry a step if the response was incomplete; the session retries other failures."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            step(url)
        except (IncompleteResponseError, WrongVoxelsError) as error:
            if not (left and error.transient):
                raise
        else:
            return


_FILE_LIMITS = RequestLimits(attempts=4, wait_max=20.0, read=300.0)
_ASSET = re.compile(r"/assets/[0-9a-f-]{36}/download/?\Z")


def _is_immutable(url: str) -> bool:
    """Return whether a URL names an object version or an archive's asset, which never change."""
    return (url_version_id(url) or "null") != "null" or _ASSET.search(url) is not None
