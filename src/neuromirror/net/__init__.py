"""HTTP access to archives: a session with limits, retries and redaction, and an S3 lister."""

from neuromirror.net.aws_signing import AwsSigner, aws_endpoint, new_aws_session
from neuromirror.net.circuit_breaker import HostCircuitBreaker
from neuromirror.net.errors import (
    AccessDeniedError,
    CircuitOpenError,
    CredentialsError,
    CredentialsRefusedError,
    GarbledListingError,
    HttpError,
    IncompleteResponseError,
    InvalidJsonError,
    InvalidListingError,
    ListingTooLongError,
    NetError,
    NotFoundError,
    ObjectChangedError,
    RequestTimeoutError,
    ResponseTooLargeError,
    RetryAfterTooLongError,
    ServerError,
    TooManyRequestsError,
    UnknownHostError,
    UnreachableError,
    UnsafeAddressError,
    VersionsIgnoredError,
    WrongRegionError,
)
from neuromirror.net.listing_limits import ListingBudget, ListingLimits
from neuromirror.net.persistent_connections import ConnectionFactory, OpenBody, PersistentConnection
from neuromirror.net.request_limits import RequestLimits
from neuromirror.net.request_policy import RequestPolicy, validate_contact
from neuromirror.net.responses import (
    Response,
    ResponseHead,
    ResponseStream,
    check_object_head,
    content_length,
    parse_http_date,
)
from neuromirror.net.s3_addresses import parse_aws_host
from neuromirror.net.s3_bucket import S3Bucket, bucket_url
from neuromirror.net.s3_capabilities import S3Capabilities, probe_bucket, probe_version_reads
from neuromirror.net.s3_listing import S3Listing
from neuromirror.net.s3_pages import ObjectRow
from neuromirror.net.session import Session
from neuromirror.net.signed_urls import SignedUrlPattern
from neuromirror.net.tokens import TokenSource
from neuromirror.net.traffic import ContextThreadPool, TrafficCounter, count_traffic
from neuromirror.net.urls import (
    clean_url,
    is_local_name,
    only_host_of,
    origin,
    permanent_refusal,
    redact,
)

__all__ = [
    "AccessDeniedError",
    "AwsSigner",
    "CircuitOpenError",
    "ConnectionFactory",
    "ContextThreadPool",
    "CredentialsError",
    "CredentialsRefusedError",
    "GarbledListingError",
    "HostCircuitBreaker",
    "HttpError",
    "IncompleteResponseError",
    "InvalidJsonError",
    "InvalidListingError",
    "ListingBudget",
    "ListingLimits",
    "ListingTooLongError",
    "NetError",
    "NotFoundError",
    "ObjectChangedError",
    "ObjectRow",
    "OpenBody",
    "PersistentConnection",
    "RequestLimits",
    "RequestPolicy",
    "RequestTimeoutError",
    "Response",
    "ResponseHead",
    "ResponseStream",
    "ResponseTooLargeError",
    "RetryAfterTooLongError",
    "S3Bucket",
    "S3Capabilities",
    "S3Listing",
    "ServerError",
    "Session",
    "SignedUrlPattern",
    "TokenSource",
    "TooManyRequestsError",
    "TrafficCounter",
    "UnknownHostError",
    "UnreachableError",
    "UnsafeAddressError",
    "VersionsIgnoredError",
    "WrongRegionError",
    "aws_endpoint",
    "bucket_url",
    "check_object_head",
    "clean_url",
    "content_length",
    "count_traffic",
    "is_local_name",
    "new_aws_session",
    "only_host_of",
    "origin",
    "parse_aws_host",
    "parse_http_date",
    "permanent_refusal",
    "probe_bucket",
    "probe_version_reads",
    "redact",
    "validate_contact",
]
