"""What can go wrong on the way to an archive; no message holds a token or a signed query."""

from __future__ import annotations

from collections.abc import Mapping

from neuromirror.model import NeuromirrorError


class NetError(NeuromirrorError):
    """A request that gave nothing usable.

    ``url`` is the address asked for, cleaned (see :func:`~neuromirror.net.clean_url`); ``status``
    is the HTTP status where there was a reply; ``passing`` says that another attempt may help.
    """

    transient: bool = False

    def __init__(self, message: str, *, url: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.url = url
        self.status = status


class UnreachableError(NetError):
    """No reply, or one that broke off: name not known, refused, cut, TLS failure."""

    transient = True


class RequestTimeoutError(UnreachableError):
    """No reply within the time allowed, or one that dripped in too slowly."""


class IncompleteResponseError(UnreachableError):
    """A reply that began, and was not whole when it ended."""


class CircuitOpenError(UnreachableError):
    """A request that was not made: its host failed before; ``cause`` is how, where that is known.

    ``host`` has its port. See :class:`~neuromirror.net.HostCircuitBreaker`.
    """

    def __init__(self, host: str, seconds: float, cause: NetError | None, url: str) -> None:
        why = f"it has not answered for {seconds:.0f} seconds" if cause is None else str(cause)
        status = None if cause is None else cause.status
        super().__init__(f"{host} is not asked again: {why}", url=url, status=status)
        self.host = host
        self.cause = cause
        self.transient = False


class UnsafeAddressError(NetError):
    """An address that must not be asked: no http(s), or this machine's or site's own network.

    ``never`` says that no setting allows it.
    """

    def __init__(
        self, message: str, *, url: str | None = None, always_refused: bool = False
    ) -> None:
        super().__init__(message, url=url)
        self.always_refused = always_refused


class ResponseTooLargeError(NetError):
    """The body is longer than allowed, counted after decompression."""


class InvalidJsonError(NetError):
    """A successful reply whose body is not the JSON that was asked for."""


class HttpError(NetError):
    """A reply whose status means failure.

    ``detail`` is what the server said in a JSON body (``{"detail": …}``, a BOSS's
    ``{"code": …, "message": …}``, or a bare string), shortened and redacted; None where the body
    was no such JSON. A 404 with a detail comes from the archive, one without may come from anything
    on the way. ``fields`` is what an S3 error document said, by element (``Code``, ``Message``,
    ``Region``); empty where there was none.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        status: int | None = None,
        detail: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, url=url, status=status)
        self.detail = detail
        self.fields: Mapping[str, str] = fields or {}


class NotFoundError(HttpError):
    """404 or 410."""


class AccessDeniedError(HttpError):
    """401 or 403: a token is needed, or the one given is refused."""


class TooManyRequestsError(HttpError):
    """429, still after all attempts; ``parse_retry_after`` in seconds, where the server said so."""

    transient = True
    retry_after: float | None = None


class ServerError(HttpError):
    """500, 502, 503 or 504 and the like, still after all attempts; ``parse_retry_after`` in
    seconds."""

    transient = True
    retry_after: float | None = None


class RetryAfterTooLongError(HttpError):
    """The server asks to wait longer than is allowed; ``parse_retry_after`` says how many
    seconds."""

    retry_after: float = 0.0


class WrongRegionError(HttpError):
    """The bucket is kept in another region, ``region``, than the one that was asked."""

    region: str = ""


class ObjectChangedError(NetError):
    """An object is no longer the one that was listed: its ETag is another."""


class InvalidListingError(NetError):
    """A page of a listing that cannot be what the store holds; nothing of it is used."""


class ListingTooLongError(InvalidListingError):
    """A listing that goes on beyond what is read of one; see ListingLimits."""


def root_cause_text(error: BaseException) -> str:
    """What really went wrong: the deepest cause, without urllib3's layers around it."""
    seen: BaseException = error
    while True:
        deeper = seen.__cause__ or seen.__context__
        reason = getattr(seen, "reason", None)
        if isinstance(reason, BaseException) and reason is not seen:
            deeper = reason
        if deeper is None:
            return f"{type(seen).__name__}: {seen}"
        seen = deeper
