"""The way out to the network: one session with bounds, retries and redaction."""

from neuromirror.net.errors import (
    BrokenOff,
    Forbidden,
    HttpError,
    NetError,
    NotFound,
    NotJson,
    RetryAfterTooLong,
    ServerTrouble,
    TimedOut,
    TooLarge,
    TooManyRequests,
    Unreachable,
    UnsafeAddress,
)
from neuromirror.net.session import Reply, Session, Stream
from neuromirror.net.urls import clean_url, is_local_name, origin, redact
from neuromirror.net.waits import Limits

__all__ = [
    "BrokenOff",
    "Forbidden",
    "HttpError",
    "Limits",
    "NetError",
    "NotFound",
    "NotJson",
    "Reply",
    "RetryAfterTooLong",
    "ServerTrouble",
    "Session",
    "Stream",
    "TimedOut",
    "TooLarge",
    "TooManyRequests",
    "Unreachable",
    "UnsafeAddress",
    "clean_url",
    "is_local_name",
    "origin",
    "redact",
]
