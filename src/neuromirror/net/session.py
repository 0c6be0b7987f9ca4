"""The HTTP session through which every request to an archive is sent."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from neuromirror.model import ConfigurationError, Traffic, declare_secrets
from neuromirror.net.allowed_addresses import (
    allow_private_hint,
    configured_proxy,
    refuse_behind_proxy,
)
from neuromirror.net.aws_signing import AwsSigner
from neuromirror.net.errors import (
    AccessDeniedError,
    HttpError,
    NetError,
    NotFoundError,
    ObjectArchivedError,
    RequestTimeoutError,
    RetryAfterTooLongError,
    ServerError,
    TooManyRequestsError,
    UnknownHostError,
    UnreachableError,
    UnsafeAddressError,
    error_causes,
    root_cause_text,
)
from neuromirror.net.request_limits import (
    Deadline,
    HostLimiter,
    RequestLimits,
    RequestPolicy,
    format_wait,
    requested_wait,
    user_agent,
)
from neuromirror.net.responses import (
    Reply,
    Response,
    ResponseHead,
    ResponseStream,
    archived_message,
    error_fields,
    parse_json,
    raw_chunks,
    read_bounded,
)
from neuromirror.net.traffic import record_traffic
from neuromirror.net.urls import clean_url, display_host, origin, redact

if TYPE_CHECKING:
    from neuromirror.net.guarded_connections import GuardedPools


class TokenSource:
    """Returns the token for an API, read from the environment on demand and never stored.

    Parameters
    ----------
    variables
        The environment variables that may contain it, the preferred one first.
    """

    def __init__(self, *variables: str) -> None:
        self.variables = variables
        declare_secrets(variables)

    @property
    def label(self) -> str:
        """The source of the token, or where to put the token, for messages."""
        found = [name for name in self.variables if os.environ.get(name, "").strip()]
        return f"the environment variable {(*found, *self.variables)[0]}"

    def read(self) -> str:
        """Return the token.

        Returns
        -------
        str
            The first value of the variables that is not empty; empty if there is no token.

        Raises
        ------
        CredentialsError
            If it cannot be read.
        """
        values = (os.environ.get(name, "").strip() for name in self.variables)
        return next(filter(None, values), "")

    def known(self) -> str:
        """Return the token if it can be read without starting another program.

        Returns
        -------
        str
            The token; else empty.
        """
        return TokenSource.read(self)


_DETAIL_BYTES: Final = 1 << 16
_DETAIL_SHOWN: Final = 300
_URL_SHOWN: Final = 4000
"""Maximum length of a URL in a message; longer than any bucket key, but not than any redirect."""
_TOKEN_LENGTH: Final = 6
"""Minimum length of a token to redact; a shorter one would match parts of ordinary words."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TRANSIENT_STATUSES: Final = frozenset({500, 502, 503, 504, 520, 521, 522, 523, 524, 529})

_SLOW_DOWN: Final = "SlowDown"
"""S3's code for 503 in place of 429."""

_PRINTABLE: Final = re.compile(r"[!-~]+")

T = TypeVar("T")


class Session:
    """An HTTP session with limits, retries, address checks and redaction. Thread-safe.

    Parameters
    ----------
    allow_private
        Whether loopback and private addresses may be requested. Link-local ones never may.
    tokens
        Maps the origin of an API (``https://api.dandiarchive.org``) to the source of its token, or
        to the name of the environment variable that holds it. A token is sent to its origin only,
        also when the origin redirects elsewhere.
    limits
        Timeouts, retries and concurrency limits.
    contact
        The contact address in the User-Agent header.
    is_private_allowed
        Decides per host and port, for redirect targets too; replaces ``allow_private``.
    private_hint
        Returns, for a refused private address, the setting that would allow it.
    signer
        Signs the requests to one bucket, also where a redirect leads there.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        tokens: Mapping[str, str | TokenSource] | None = None,
        limits: RequestLimits | None = None,
        contact: str | None = None,
        is_private_allowed: Callable[[str, int], bool] | None = None,
        private_hint: Callable[[str], str] = allow_private_hint,
        signer: AwsSigner | None = None,
    ) -> None:
        self.signer = signer
        self.allow_private = allow_private
        self.private_hint = private_hint
        self.is_private_allowed = is_private_allowed or (lambda host, port: allow_private)
        self.limits = limits or RequestLimits()
        self._tokens_by_url = dict(tokens or {})
        self._contact = contact
        self._tokens = {
            origin(url): TokenSource(one) if isinstance(one, str) else one
            for url, one in self._tokens_by_url.items()
        }
        self._deadline = Deadline(threading.Event())
        self._limiters: dict[tuple[str, str, int], HostLimiter] = {}
        self._limiters_lock = threading.Lock()
        self._pools_lock = threading.Lock()
        self._pools: GuardedPools | None = None

    @property
    def user_agent(self) -> str:
        """The User-Agent header."""
        return user_agent(self._contact)

    def _guarded_pools(self) -> GuardedPools:
        """Return the connection pools, made and imported for the first request only."""
        with self._pools_lock:
            if self._pools is None:
                from neuromirror.net.guarded_connections import GuardedPools

                self._pools = GuardedPools(
                    is_private_allowed=self.is_private_allowed,
                    private_hint=self.private_hint,
                    deadline=self._deadline,
                    connections=self.limits.per_host,
                )
            return self._pools

    def with_policy(self, policy: RequestPolicy) -> Session:
        """Return a copy of this session with the operator's request policy applied.

        Parameters
        ----------
        policy
            The request policy.

        Returns
        -------
        Session
            The copy, with rate limits of its own.
        """
        limits = policy.apply_to(self.limits)
        return self._derive(
            limits, tokens=self._tokens_by_url, contact=policy.contact, signer=self.signer
        )

    def anonymous(self) -> Session:
        """Return a copy without tokens and signatures, which shares its rate limits.

        Returns
        -------
        Session
            The copy.
        """
        made = self._derive(self.limits)
        made._limiters, made._limiters_lock = self._limiters, self._limiters_lock
        return made

    def _derive(self, limits: RequestLimits, **other: Any) -> Session:
        other["contact"] = other.get("contact") or self._contact
        other |= {"is_private_allowed": self.is_private_allowed, "private_hint": self.private_hint}
        return Session(allow_private=self.allow_private, limits=limits, **other)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        if self._pools is not None:
            self._pools.close()

    def abort(self) -> None:
        """Make requests with a deadline fail at the next read, in every thread."""
        self._deadline.aborted.set()

    def redact(self, text: str) -> str:
        """Return a text without signed query parameters, credentials and this session's tokens.

        Parameters
        ----------
        text
            The text, such as an error message.

        Returns
        -------
        str
            The text, in which ``***`` replaces each token.
        """
        for source in self._tokens.values():
            token = source.known()
            if len(token) >= _TOKEN_LENGTH:
                text = text.replace(token, "***")
        return redact(text)

    def get_json(
        self,
        url: str,
        params: Mapping[str, str | int] | None = None,
        *,
        attempts: int | None = None,
        limited: tuple[type[NetError], ...] = (NetError,),
        check_size: Callable[[int], object] | None = None,
    ) -> Any:
        """Request a JSON document; follow redirects and retry transient errors.

        Parameters
        ----------
        url
            The URL.
        params
            Query parameters.
        attempts, limited
            Overrides the session's number of attempts after these errors.
        check_size
            Called with the size of the body in bytes; may raise an error.

        Returns
        -------
        Any
            The parsed value.

        Raises
        ------
        NetError
            If all attempts fail.
        """

        def read(reply: Reply) -> Any:
            body = self._read_body(reply, self.limits.json_bytes)
            if check_size is not None:
                check_size(len(body))
            kind = reply.headers.get("Content-Type", "")
            return parse_json(body, kind, self._redact_url(reply.url))

        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        return self._request(
            "GET", url, read, headers, params=params, attempts=attempts, limited=limited
        )

    def send_json(self, method: str, url: str, content: Mapping[str, Any] | None = None) -> Any:
        """Send a request once, with a JSON document, without following redirects.

        Parameters
        ----------
        method
            The HTTP method.
        url
            The URL.
        content
            The document; None to send no body.

        Returns
        -------
        Any
            The JSON document of the response; None without one.

        Raises
        ------
        NetError
            If the request fails, or is redirected.
        """

        def read(reply: Reply) -> Any:
            body = self._read_body(reply, self.limits.json_bytes)
            return parse_json(body, "", self._redact_url(reply.url)) if body else None

        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        body = None if content is None else json.dumps(content).encode()
        return self._request(method, url, read, headers, body=body, redirects=0, attempts=1)

    def get_bytes(
        self,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        accept: str = "*/*",
        parse: Callable[[Response], T],
    ) -> T:
        """Request a whole body; follow redirects and retry transient errors.

        Parameters
        ----------
        url
            The URL, sent without normalization.
        limit
            Maximum size of the body in bytes.
        headers
            Additional headers.
        accept
            The Accept header.
        parse
            Parses the response. If it raises a transient NetError, the request is retried,
            because the body may have been truncated.

        Returns
        -------
        T
            The result of ``parse``.

        Raises
        ------
        NetError
            If all attempts fail.
        """

        def read(reply: Reply) -> T:
            body = self._read_body(reply, limit)
            return parse(Response(reply.status, reply.headers, body))

        return self._request("GET", url, read, {"Accept": accept, **(headers or {})})

    def head(
        self, url: str, *, redirects: int = 0, headers: Mapping[str, str] | None = None
    ) -> ResponseHead:
        """Request the status and headers of a URL.

        Any status is returned, except 429 and transient server errors, which are retried.

        Parameters
        ----------
        url
            The URL.
        redirects
            Maximum number of redirects to follow; by default a 3xx is returned.
        headers
            Additional headers.

        Raises
        ------
        NetError
            If all attempts fail.

        Returns
        -------
        ResponseHead
            The status and headers.
        """

        def read(reply: Reply) -> ResponseHead:
            from urllib3.exceptions import HTTPError

            if reply.status == 429 or reply.status in _TRANSIENT_STATUSES:
                self._raise_for_status(reply)
            # The connection is reused only after the body was read to its end.
            with suppress(HTTPError, OSError):
                reply.raw.read(1, decode_content=False)
            return ResponseHead(reply.status, reply.headers)

        return self._request("HEAD", url, read, headers or {}, redirects=redirects)

    @contextmanager
    def stream(
        self,
        url: str,
        *,
        total: float | None = None,
        headers: Mapping[str, str] | None = None,
        redirects: int | None = None,
        attempts: int | None = None,
    ) -> Iterator[ResponseStream]:
        """Open a response for reading in chunks, without content compression.

        Transient errors are retried until the response is open, not while it is read. The
        context holds one of the host's connection slots.

        Parameters
        ----------
        url
            The URL.
        total
            Time limit for the whole body in seconds; by default only each read is limited.
        headers
            Additional headers, also sent to the target of a redirect.
        redirects, attempts
            Override the limits of the session. With 0 ``redirects``, a redirect is an HttpError.

        Yields
        ------
        ResponseStream
            The open response.

        Raises
        ------
        NetError
            If the request fails.
        """
        most = self.limits.redirects if redirects is None else redirects

        def ask() -> Reply:
            with self._deadline.within(total):
                reply = self._follow("GET", url, most, headers or {})
                try:
                    self._raise_for_status(reply)
                except NetError:
                    reply.close()
                    raise
            return reply

        with self._slot(url), self._retry(ask, url, attempts) as reply:
            redacted_url = self._redact_url(reply.url)
            yield ResponseStream(reply.status, reply.headers, raw_chunks(reply, redacted_url))

    def _retry(
        self,
        ask: Callable[[], T],
        url: str,
        attempts: int | None = None,
        limited: tuple[type[NetError], ...] = (NetError,),
    ) -> T:
        """Return the result of ``ask``, which is retried while its errors are transient.

        The name of a host that never replied is resolved at most twice.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return ask()
            except NetError as error:
                is_offline = isinstance(error, UnknownHostError) and not error.has_replied
                most = (attempts if isinstance(error, limited) else None) or self.limits.attempts
                if not error.transient or attempt >= (min(most, 2) if is_offline else most):
                    raise
                wait = min(self.limits.wait_max, self.limits.wait * 2 ** (attempt - 1))
                retry_after = getattr(error, "retry_after", None) or 0.0
                seconds = max(random.uniform(wait / 2, wait), retry_after)
            record_traffic(display_host(url), Traffic(retries=1, waited=seconds))
            time.sleep(seconds)

    def _request(
        self,
        method: str,
        url: str,
        read: Callable[[Reply], T],
        headers: Mapping[str, str],
        *,
        params: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
        redirects: int | None = None,
        attempts: int | None = None,
        limited: tuple[type[NetError], ...] = (NetError,),
    ) -> T:
        """Return what ``read`` returns of the response to a request, which is retried with it."""
        most = self.limits.redirects if redirects is None else redirects

        def ask() -> T:
            with (
                self._deadline.within(self.limits.total),
                self._slot(url),
                self._follow(method, url, most, headers, params, body) as reply,
            ):
                return read(reply)

        return self._retry(ask, url, attempts, limited)

    def _read_body(self, reply: Reply, limit: int) -> bytes:
        """Return the body of a successful response."""
        self._raise_for_status(reply)
        return read_bounded(reply, self._redact_url(reply.url), limit)

    @contextmanager
    def _slot(self, url: str) -> Iterator[None]:
        """Hold one of the connection slots of the URL's host."""
        with self._limiter_for(self._origin_of(url)).slot() as waited:
            self._deadline.extend(waited)
            yield

    def _limiter_for(self, url_origin: tuple[str, str, int]) -> HostLimiter:
        with self._limiters_lock:
            found = self._limiters.get(url_origin)
            if found is None:
                found = HostLimiter(self.limits.per_host, self.limits.per_second)
                self._limiters[url_origin] = found
            return found

    def _origin_of(self, url: str) -> tuple[str, str, int]:
        """Return scheme, host and port; raises UnsafeAddressError for other than HTTP(S) URLs."""
        try:
            return origin(url)
        except ValueError as error:
            raise UnsafeAddressError(
                f"{self._redact_url(url)}: refused; only http and https URLs are supported",
                url=self._redact_url(url),
            ) from error

    def _redirect_target(self, current_url: str, target: str) -> str:
        """Return the URL that a response redirects to; raises UnsafeAddressError if invalid."""
        try:
            return urljoin(current_url, target)
        except ValueError:
            redacted_url = self._redact_url(current_url)
            raise UnsafeAddressError(
                f"{redacted_url} redirects to an invalid URL: {redact(target[:200])!r}",
                url=redacted_url,
            ) from None

    def _follow(
        self,
        method: str,
        url: str,
        most: int,
        headers: Mapping[str, str],
        params: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """Follow redirects to the final response; each hop is checked like the first."""
        first = url
        for _ in range(most + 1):
            reply = self._send_once(method, url, headers, params or {}, body)
            params = None
            target = reply.headers.get("Location")
            if reply.status not in _REDIRECTS or target is None or most == 0:
                return reply
            current_url = reply.url
            reply.close()
            url = self._redirect_target(current_url, target)
        raise self._endless_redirects(first, most)

    def _endless_redirects(self, url: str, most: int) -> UnreachableError:
        redacted_url = self._redact_url(url)
        error = UnreachableError(
            f"{redacted_url} redirects more than {most} times", url=redacted_url
        )
        error.transient = False
        return error

    def _send_once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        params: Mapping[str, str | int],
        body: bytes | None,
    ) -> Reply:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError, NewConnectionError
        from urllib3.exceptions import TimeoutError as TransportTimeoutError

        url_origin = self._origin_of(url)
        limiter = self._limiter_for(url_origin)
        proxy = configured_proxy(url)
        if proxy:
            private = self.is_private_allowed(*url_origin[1:])
            refuse_behind_proxy(url_origin[1], self._redact_url(url), allow_private=private)
        try:
            bare = _sent_url(url, params)
            headers = {
                **{"User-Agent": self.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"},
                **headers,
            }
            credentials = self.credentials_for(method, bare, headers)
            limiter.check()
            self._deadline.extend(limiter.wait_for_rate())
            record_traffic(display_host(bare), Traffic(requests=1))
            timeout = Timeout(connect=self.limits.connect, read=self.limits.read)
            response = self._guarded_pools().send(
                method, bare, {**headers, **credentials}, body, proxy=proxy, timeout=timeout
            )
            limiter.has_replied = True
            return Reply(response, bare, "Authorization" in credentials)
        except UnsafeAddressError as error:
            raise UnsafeAddressError(
                str(error), url=self._redact_url(url), always_refused=error.always_refused
            ) from None
        except (HTTPError, ValueError) as error:
            if isinstance(error, TransportTimeoutError) and not isinstance(
                error, NewConnectionError
            ):
                redacted_url = self._redact_url(url)
                raise RequestTimeoutError(
                    f"{redacted_url} did not respond in time; try again", url=redacted_url
                ) from None
            raise self._unreachable(error, url, limiter, is_direct=not proxy) from None

    def _unreachable(
        self, error: Exception, url: str, limiter: HostLimiter, *, is_direct: bool
    ) -> UnreachableError:
        """Return the error for a request that was not sent, or got no response."""
        redacted_url = self._redact_url(url)
        causes = list(error_causes(error))
        unresolved = [cause for cause in causes if isinstance(cause, socket.gaierror)]
        if unresolved and is_direct:  # a proxy resolves the names of other hosts
            reason = unresolved[0].strerror
            return UnknownHostError(
                f"{display_host(url)} cannot be reached: unknown host name ({reason})",
                url=redacted_url,
                has_replied=limiter.has_replied,
            )
        why = self.redact(root_cause_text(error))[:_DETAIL_SHOWN]
        unreachable = UnreachableError(f"{redacted_url} cannot be reached: {why}", url=redacted_url)
        # this machine refuses the connection (a firewall, a drill), now and later
        unreachable.transient = not any(isinstance(cause, PermissionError) for cause in causes)
        return unreachable

    def credentials_for(self, method: str, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that authenticate one request.

        Parameters
        ----------
        method
            The HTTP method.
        url
            The URL of the request.
        headers
            The other headers of the request.

        Returns
        -------
        dict of str to str
            The header of a token, those of a signature, or none.

        Raises
        ------
        ConfigurationError
            If credentials are configured for the URL and cannot be used.
        """
        if self.signer is not None and self.signer.covers(url):
            return self.signer.sign(method, url, headers)
        return self._authorization(self._origin_of(url))

    def _authorization(self, url_origin: tuple[str, str, int]) -> dict[str, str]:
        source = self._tokens.get(url_origin)
        token = "" if source is None else source.read()
        if source is None or not token:
            return {}
        if not token.isascii() or not token.isprintable():
            raise ConfigurationError(
                f"{source.label}: not a valid token (control or non-ASCII characters)"
            )
        return {"Authorization": f"token {token}"}

    def _redact_url(self, url: str) -> str:
        try:
            redacted_url = self.redact(clean_url(url))
            return (
                redacted_url if len(redacted_url) <= _URL_SHOWN else f"{redacted_url[:_URL_SHOWN]}…"
            )
        except ValueError:
            return "<invalid URL>"

    def _raise_for_status(self, reply: Reply) -> None:
        """Raise the error for an error status; return for a 2xx."""
        status = reply.status
        if 200 <= status < 300:
            return
        redacted_url = self._redact_url(reply.url)
        detail, fields = self._error_detail(reply, redacted_url)
        reason = detail or ": ".join(filter(None, map(fields.get, ("Code", "Message"))))
        reason_suffix = f": {reason}" if reason else ""
        context: dict[str, Any] = {
            **{"url": redacted_url, "status": status},
            **{"detail": detail, "fields": fields},
        }
        if self.signer is not None and self.signer.covers(reply.url):
            context["identity"] = self.signer.identity
        if status in (404, 410):
            raise NotFoundError(
                f"{redacted_url}: not found (HTTP {status}){reason_suffix}", **context
            )
        if status == 403 and fields.get("Code") == "InvalidObjectState":
            raise ObjectArchivedError(f"{redacted_url}: {archived_message()}", **context)
        if status in (401, 403):
            raise AccessDeniedError(
                self._access_denied_message(reply, redacted_url, status) + reason_suffix, **context
            )
        if status == 429 or status in _TRANSIENT_STATUSES:
            requested_seconds = requested_wait(reply.headers, detail)
            slower = status == 503 and (
                requested_seconds is not None or fields.get("Code") == _SLOW_DOWN
            )
            if status == 429 or slower:
                record_traffic(display_host(reply.url), Traffic(throttled=1))
            if requested_seconds is not None and requested_seconds > self.limits.retry_after_max:
                too_long = RetryAfterTooLongError(
                    f"{redacted_url}: HTTP {status}; the server asks for a wait of"
                    f" {format_wait(requested_seconds, detail)}; the limit is"
                    f" {self.limits.retry_after_max:.0f} seconds{reason_suffix}; run again later",
                    **context,
                )
                too_long.retry_after = requested_seconds
                self._limiter_for(self._origin_of(reply.url)).block(requested_seconds, too_long)
                raise too_long
            error_class: type[TooManyRequestsError | ServerError]
            error_class = TooManyRequestsError if status == 429 else ServerError
            what = "too many requests" if status == 429 else "server error"
            transient = error_class(
                f"{redacted_url}: {what} (HTTP {status}){reason_suffix}; try again later", **context
            )
            transient.retry_after = requested_seconds
            raise transient
        raise HttpError(f"{redacted_url}: HTTP {status}{reason_suffix}", **context)

    def _access_denied_message(self, reply: Reply, redacted_url: str, status: int) -> str:
        if self.signer is not None and self.signer.covers(reply.url):
            return f"{redacted_url}: access denied to {self.signer.identity} (HTTP {status})"
        source = self._tokens.get(origin(reply.url))
        if source is None:
            return f"{redacted_url}: access denied (HTTP {status}); no token is configured for it"
        if not reply.is_authenticated:
            return f"{redacted_url} needs a token (HTTP {status}); set {source.label}"
        return (
            f"{redacted_url} refuses the token in {source.label} (HTTP {status});"
            " it may have expired or lack the permission"
        )

    def _error_detail(
        self, reply: Reply, redacted_url: str
    ) -> tuple[str | None, Mapping[str, str]]:
        try:
            body = read_bounded(reply, redacted_url, _DETAIL_BYTES)
        except NetError:
            return None, {}
        fields = error_fields(body, reply.headers)
        fields = {name: self._shown_detail(text) for name, text in fields.items()}
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return None, fields
        if isinstance(document, dict):
            # BOSS also sends a code; a message without code may come from a gateway
            document = document.get("message" if "code" in document else "detail")
        return self._shown_detail(document) if isinstance(document, str) else None, fields

    def _shown_detail(self, text: str) -> str:
        """Return the text of a server as one line, which cannot look like further messages."""
        return " ".join(self.redact(text).split())[:_DETAIL_SHOWN]


def _sent_url(url: str, params: Mapping[str, str | int]) -> str:
    """Return a URL as it is sent: with its parameters, without credentials and fragment."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(params))))
    # credentials in a URL would be sent as is, and might be logged by the server
    bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
    if not _PRINTABLE.fullmatch(bare):
        from urllib3.util import parse_url

        # also normalizes "up/../x" to "x": in an object store, two keys, which are quoted before
        bare = parse_url(bare).url
    return bare
