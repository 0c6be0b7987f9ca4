"""The way out to the network: one session with bounds, retries and redaction."""

from neuromirror.net.bounds import ListingBounds, ListingLimits
from neuromirror.net.circuit import HostCircuitBreaker
from neuromirror.net.errors import (
    BrokenOff,
    Forbidden,
    HostGivenUp,
    HttpError,
    ListingBroken,
    ListingTooLong,
    NetError,
    NotFound,
    NotJson,
    ObjectChanged,
    RetryAfterTooLong,
    ServerTrouble,
    TimedOut,
    TooLarge,
    TooManyRequests,
    Unreachable,
    UnsafeAddress,
    WrongRegion,
)
from neuromirror.net.lanes import Lane, Lanes, OpenBody
from neuromirror.net.manners import Manners, checked_contact
from neuromirror.net.replies import Body, Reply, Stream, stated_date, stated_length
from neuromirror.net.s3 import S3Bucket, S3Capabilities
from neuromirror.net.s3_listing import S3Listing
from neuromirror.net.s3_pages import ObjectRow
from neuromirror.net.session import Session
from neuromirror.net.signed_urls import SignedUrls
from neuromirror.net.traffic import CountedPool, TrafficCounter, counted
from neuromirror.net.urls import clean_url, is_local_name, never_asked, only_at, origin, redact
from neuromirror.net.waits import Limits

__all__ = [
    "Body",
    "BrokenOff",
    "CountedPool",
    "Forbidden",
    "HostCircuitBreaker",
    "HostGivenUp",
    "HttpError",
    "Lane",
    "Lanes",
    "Limits",
    "ListingBounds",
    "ListingBroken",
    "ListingLimits",
    "ListingTooLong",
    "Manners",
    "NetError",
    "NotFound",
    "NotJson",
    "ObjectChanged",
    "ObjectRow",
    "OpenBody",
    "Reply",
    "RetryAfterTooLong",
    "S3Bucket",
    "S3Capabilities",
    "S3Listing",
    "ServerTrouble",
    "Session",
    "SignedUrls",
    "Stream",
    "TimedOut",
    "TooLarge",
    "TooManyRequests",
    "TrafficCounter",
    "Unreachable",
    "UnsafeAddress",
    "WrongRegion",
    "checked_contact",
    "clean_url",
    "counted",
    "is_local_name",
    "never_asked",
    "only_at",
    "origin",
    "redact",
    "stated_date",
    "stated_length",
]
