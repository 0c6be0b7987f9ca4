"""Errors of network requests. Messages contain no tokens and no signed query parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from neuromirror.model import ConfigurationError, NeuromirrorError


class NetError(NeuromirrorError):
    """A request failed; the base class of the errors of this package.

    Attributes
    ----------
    url
        The requested URL, cleaned by :func:`~neuromirror.net.clean_url`.
    status
        The HTTP status; None if there was no response.
    transient
        Whether another attempt may succeed.
    """

    transient: bool = False

    def __init__(self, message: str, *, url: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.url = url
        self.status = status


class CredentialsError(ConfigurationError):
    """Configured credentials cannot be used: they are missing, expired, locked or unreadable.

    The message contains no part of a credential.

    Attributes
    ----------
    identity
        The name of the credentials: a profile, a variable, an entry of the keyring.
    cause_name
        The type of the error that made them unusable; empty if they are missing.
    """

    def __init__(self, message: str, *, identity: str, cause_name: str = "") -> None:
        super().__init__(message)
        self.identity = identity
        self.cause_name = cause_name


class UnreachableError(NetError):
    """No complete response arrived: unknown host name, connection refused or lost, TLS failure."""

    transient = True


class UnknownHostError(UnreachableError):
    """The name of a host cannot be resolved: it is wrong, or this machine is offline.

    Attributes
    ----------
    has_replied
        Whether the host replied to an earlier request of the session.
    """

    def __init__(self, message: str, *, url: str, has_replied: bool) -> None:
        super().__init__(message, url=url)
        self.has_replied = has_replied


class RequestTimeoutError(UnreachableError):
    """No complete response arrived within the time limit."""


class IncompleteResponseError(UnreachableError):
    """A response ended before its stated length."""


class CircuitOpenError(UnreachableError):
    """A request was not sent, because earlier requests to its host kept failing.

    Raised by :class:`~neuromirror.net.HostCircuitBreaker`.

    Attributes
    ----------
    host
        The host, with its port.
    cause
        The last failure; None if unknown.
    """

    def __init__(self, host: str, seconds: float, cause: NetError | None, url: str) -> None:
        why = f"it has not responded for {seconds:.0f} seconds" if cause is None else str(cause)
        if cause is not None and cause.url:
            why = why.replace(cause.url, host)  # the same message for each URL of the host
        status = None if cause is None else cause.status
        super().__init__(
            f"{host}: request not sent, because earlier requests failed: {why}",
            url=url,
            status=status,
        )
        self.host = host
        self.cause = cause
        self.transient = False


class UnsafeAddressError(NetError):
    """A URL must not be requested: it is not HTTP(S), or on this machine or a private network.

    Attributes
    ----------
    always_refused
        Whether the refusal is unconditional; False if a setting can allow the address.
    """

    def __init__(
        self, message: str, *, url: str | None = None, always_refused: bool = False
    ) -> None:
        super().__init__(message, url=url)
        self.always_refused = always_refused


class ResponseTooLargeError(NetError):
    """A response body exceeds the size limit, which applies after decompression."""


class InvalidJsonError(NetError):
    """The body of a successful response is not valid JSON."""


class WebPageError(NetError):
    """A successful response is a web page instead of an object: a proxy's login or error page."""


class HttpError(NetError):
    """A server responded with an error status.

    Attributes
    ----------
    detail
        The error message in a JSON body (``{"detail": …}``, ``{"code": …, "message": …}`` of BOSS,
        or a plain string), shortened and redacted; None for any other body. A 404 with a detail
        comes from the archive; one without may come from a proxy or gateway.
    fields
        The elements of an S3 error document (``Code``, ``Message``, ``Region``); empty for any
        other body.
    identity
        The name of the credentials that the request was signed with; empty if it was anonymous.
    remedy
        What to do, in a text without names and URLs; empty if unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        status: int | None = None,
        detail: str | None = None,
        fields: Mapping[str, str] | None = None,
        identity: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(message, url=url, status=status)
        self.remedy = remedy
        self.detail = detail
        self.fields: Mapping[str, str] = fields or {}
        self.identity = identity


class NotFoundError(HttpError):
    """The server responded with HTTP 404 or 410: there is nothing at the URL."""


class AccessDeniedError(HttpError):
    """The server responded with HTTP 401 or 403: a token is missing or was refused."""


class ObjectArchivedError(AccessDeniedError):
    """The object is in an archive storage class, and must be restored before it can be read."""


class CredentialsRefusedError(HttpError):
    """The server refused the credentials themselves: expired, unknown or wrongly signed."""


class TooManyRequestsError(HttpError):
    """The server responded with HTTP 429 to all attempts.

    ``retry_after`` is the requested wait in seconds, None if unspecified.
    """

    transient = True
    retry_after: float | None = None


class ServerError(HttpError):
    """The server responded with a 5xx status to all attempts.

    ``retry_after`` is the requested wait in seconds, None if unspecified.
    """

    transient = True
    retry_after: float | None = None


class RetryAfterTooLongError(HttpError):
    """The server requests a wait that exceeds the limit; ``retry_after`` is the wait in seconds."""

    retry_after: float = 0.0


class WrongRegionError(HttpError):
    """A bucket is in another region than configured; ``region`` is the right one."""

    region: str = ""


class ObjectChangedError(NetError):
    """An object has another ETag than the listing stated: it was overwritten."""


class InvalidListingError(NetError):
    """A page of a bucket's listing is malformed or contradicts another.

    The listing is discarded.
    """


class GarbledListingError(InvalidListingError):
    """A page of a bucket's listing was received to its end, and is malformed."""


class VersionsIgnoredError(InvalidListingError):
    """A server replied to a request for object versions with a list of objects."""


class ListingTooLongError(InvalidListingError):
    """A listing exceeds a limit of :class:`~neuromirror.net.ListingLimits`."""


def error_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes; the innermost cause is the last."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        deeper = seen.__cause__ or seen.__context__
        reason = getattr(seen, "reason", None)
        seen = reason if isinstance(reason, BaseException) and reason is not seen else deeper


def root_cause_text(error: BaseException) -> str:
    """Return the type and message of the innermost cause of an error."""
    *_, cause = error_causes(error)
    return f"{type(cause).__name__}: {cause}"
