"""URLs of buckets and their objects, and the errors of a bucket."""

import pytest

from neuromirror.model import ConfigurationError
from neuromirror.net import (
    AccessDeniedError,
    InvalidListingError,
    ObjectChangedError,
    S3Bucket,
    ServerError,
    Session,
    WrongRegionError,
    parse_aws_host,
)
from neuromirror.net.urls import AwsHost
from support.stub_server import responds_with

XML = "application/xml"


def make_bucket(name="open-data", **more):
    return S3Bucket(Session(), name, **more)


@pytest.mark.parametrize(
    ("bucket", "key", "url"),
    [
        (make_bucket(), b"a/b", "https://open-data.s3.us-east-1.amazonaws.com/a/b"),
        (make_bucket(region="us-west-2"), b"a", "https://open-data.s3.us-west-2.amazonaws.com/a"),
        (
            make_bucket(region="cn-north-1"),
            b"a",
            "https://open-data.s3.cn-north-1.amazonaws.com.cn/a",
        ),
        (make_bucket("open.data"), b"a", "https://s3.us-east-1.amazonaws.com/open.data/a"),
        (make_bucket(endpoint="http://x:1/s3/"), b"a", "http://x:1/s3/open-data/a"),
        (make_bucket(), b"a b+c#d?e%f&g", None),
        (make_bucket(), b"\xff\n", "https://open-data.s3.us-east-1.amazonaws.com/%FF%0A"),
        (make_bucket(), b"a//b/", "https://open-data.s3.us-east-1.amazonaws.com/a//b/"),
        (make_bucket(), b"/a", "https://open-data.s3.us-east-1.amazonaws.com/%2Fa"),
        (
            make_bucket(),
            b"u/../.x/.",
            "https://open-data.s3.us-east-1.amazonaws.com/u/%2E%2E/.x/%2E",
        ),
    ],
)
def test_a_key_becomes_an_address_that_means_nothing_else(bucket, key, url):
    if url is None:
        url = "https://open-data.s3.us-east-1.amazonaws.com/a%20b%2Bc%23d%3Fe%25f%26g"
    assert bucket.object_url(key) == url
    assert bucket.object_url(key, "a+/b") == f"{url}?versionId=a%2B%2Fb"


def test_a_bucket_has_one_uri():
    assert make_bucket().uri == "s3://open-data/"
    assert make_bucket(endpoint="http://x:1/").uri == "http://x:1/open-data/"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../x"},
        {"name": "a/b"},
        {"region": "evil.example/"},
        {"endpoint": "ftp://x"},
        {"endpoint": "http://x?y"},
    ],
)
def test_an_unsafe_bucket_name_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        make_bucket(**wrong)


@pytest.mark.parametrize(
    ("status", "headers", "inner"),
    [
        (301, {"x-amz-bucket-region": "us-west-2"}, "<Code>PermanentRedirect</Code>"),
        (400, {}, "<Code>AuthorizationHeaderMalformed</Code><Region>us-west-2</Region>"),
        (403, {"x-amz-bucket-region": "us-west-2"}, "<Code>AccessDenied</Code>"),
    ],
)
def test_a_bucket_of_another_region_raises_an_error_that_names_the_region(
    server, make_session, status, headers, inner
):
    body = f'<?xml version="1.0"?><Error>{inner}</Error>'.encode()
    server.answers["/data/"] = responds_with(status, body, XML, **headers)
    bucket = S3Bucket(make_session(), "data", endpoint=server.url)
    with pytest.raises(WrongRegionError, match='region = "us-west-2"') as caught:
        list(bucket.list_level(b""))
    assert caught.value.region == "us-west-2"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "error", "requests"),
    [(403, "AccessDenied", AccessDeniedError, 1), (500, "InternalError", ServerError, 3)],
)
def test_an_error_of_the_bucket_is_raised_with_its_code(
    server, make_session, status, code, error, requests
):
    body = f"<Error><Code>{code}</Code></Error>".encode()
    server.answers["/data/"] = responds_with(status, body, XML)
    with pytest.raises(error, match=code):
        list(S3Bucket(make_session(), "data", endpoint=server.url).list_level(b""))
    assert len(server.requests) == requests


def test_nothing_is_signed_and_no_dots_are_folded(server, make_session):
    server.answers["/data/up/%2E%2E/x"] = responds_with(200, b"x", ETag='"e"')
    assert S3Bucket(make_session(), "data", endpoint=server.url).read(b"up/../x", limit=9) == b"x"
    assert "Authorization" not in server.requests[0].headers


def test_a_changed_object_is_refused_even_if_the_store_ignores_if_match(server, make_session):
    server.answers["/data/x"] = responds_with(200, b"x", ETag='"other"')
    with pytest.raises(ObjectChangedError):
        S3Bucket(make_session(), "data", endpoint=server.url).read(b"x", etag="e", limit=9)


@pytest.mark.parametrize("count", [1, 3])
def test_a_count_with_or_without_folders_is_a_whole_page(server, make_session, count):
    page = (
        "<ListBucketResult><IsTruncated>false</IsTruncated>"
        f"<KeyCount>{count}</KeyCount><Contents><Key>a</Key>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        "<ETag>&quot;0cc175b9c0f1b6a831c399e269772661&quot;</ETag><Size>1</Size></Contents>"
        "<CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>"
        "<CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes></ListBucketResult>"
    )
    server.answers["/data/"] = responds_with(200, page.encode(), XML)
    found = list(S3Bucket(make_session(), "data", endpoint=server.url).list_level(b""))
    assert b"b/" in str(found).encode()
    assert len(server.requests) == 1


def test_keys_in_another_order_are_an_error_that_no_retry_changes(server, make_session):
    rows = "".join(map(ROW.format, ("a/b", "a-b")))  # as servers list that keep objects in folders
    page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
    server.answers["/data/"] = responds_with(200, page.encode(), XML)
    with pytest.raises(InvalidListingError, match="byte order"):
        S3Bucket(make_session(), "data", endpoint=server.url).page(b"")
    assert len(server.requests) == 1


ROW = (
    "<Contents><Key>{}</Key><Size>1</Size><ETag>e</ETag>"
    "<LastModified>2024-01-01T00:00:00Z</LastModified></Contents>"
)


@pytest.mark.parametrize(
    ("prefix", "page"),
    [
        (b"a", "<IsTruncated>true</IsTruncated>"),
        (b"a", "<IsTruncated>false</IsTruncated>" + ROW.format("z")),
        (b"", "<IsTruncated>true</IsTruncated>" + ROW.format("a")),
        (
            None,
            "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
            "<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>",
        ),
    ],
    ids=["empty truncated", "outside of the prefix", "the same again", "the same level again"],
)
def test_a_page_that_cannot_follow_is_an_error(server, make_session, prefix, page):
    body = f"<ListBucketResult>{page}</ListBucketResult>".encode()
    server.answers["/data/"] = responds_with(200, body, XML)
    bucket = S3Bucket(make_session(), "data", endpoint=server.url)
    rows = bucket.list_level(b"") if prefix is None else bucket.objects(prefix).rows()
    with pytest.raises(InvalidListingError):
        list(rows)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("s3.amazonaws.com", AwsHost(None, None)),
        ("s3.eu-west-1.amazonaws.com", AwsHost(None, "eu-west-1")),
        ("s3-us-gov-west-1.amazonaws.com", AwsHost(None, "us-gov-west-1")),
        ("s3.dualstack.us-east-2.amazonaws.com", AwsHost(None, "us-east-2")),
        ("s3.cn-north-1.amazonaws.com.cn", AwsHost(None, "cn-north-1")),
        ("lab.s3.amazonaws.com", AwsHost("lab", None)),
        ("a.b_c.s3.us-west-2.amazonaws.com", AwsHost("a.b_c", "us-west-2")),
        ("lab.s3.dualstack.us-west-2.amazonaws.com", AwsHost("lab", "us-west-2")),
        ("lab.s3-accelerate.amazonaws.com", AwsHost("lab", None)),
        ("lab.s3-fips.us-east-1.amazonaws.com", AwsHost("lab", "us-east-1")),
        ("lab.s3-fips.dualstack.us-east-1.amazonaws.com", AwsHost("lab", "us-east-1")),
        ("lab.s3.s3.us-east-1.amazonaws.com", AwsHost("lab.s3", "us-east-1")),
        ("s3.amazonaws.com.example.org", None),
        ("xs3.amazonaws.com", None),
        ("ec2.us-east-1.amazonaws.com", None),
        ("lab.s3.example.org", None),
        ("", None),
    ],
)
def test_a_host_names_a_bucket_and_a_region(host: str, expected: AwsHost | None) -> None:
    assert parse_aws_host(host) == expected
