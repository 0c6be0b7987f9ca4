"""Addresses of objects, and what a refusal says."""

from __future__ import annotations

import pytest
from net_loopback import gives

from neuromirror.model import ConfigurationError
from neuromirror.net import Forbidden, ObjectChanged, S3Bucket, Session, WrongRegion

XML = "application/xml"


def named(name="open-data", **more):
    return S3Bucket(Session(), name, **more)


@pytest.mark.parametrize(
    ("bucket", "key", "url"),
    [
        (named(), b"a/b", "https://open-data.s3.us-east-1.amazonaws.com/a/b"),
        (named(region="us-west-2"), b"a", "https://open-data.s3.us-west-2.amazonaws.com/a"),
        (named(region="cn-north-1"), b"a", "https://open-data.s3.cn-north-1.amazonaws.com.cn/a"),
        (named("open.data"), b"a", "https://s3.us-east-1.amazonaws.com/open.data/a"),
        (named(endpoint="http://x:1/s3/"), b"a", "http://x:1/s3/open-data/a"),
        (named(), b"a b+c#d?e%f&g", None),
        (named(), b"\xff\n", "https://open-data.s3.us-east-1.amazonaws.com/%FF%0A"),
        (named(), b"a//b/", "https://open-data.s3.us-east-1.amazonaws.com/a//b/"),
        (named(), b"/a", "https://open-data.s3.us-east-1.amazonaws.com/%2Fa"),
        (named(), b"u/../.x/.", "https://open-data.s3.us-east-1.amazonaws.com/u/%2E%2E/.x/%2E"),
    ],
)
def test_a_key_becomes_an_address_that_means_nothing_else(bucket, key, url):
    if url is None:
        url = "https://open-data.s3.us-east-1.amazonaws.com/a%20b%2Bc%23d%3Fe%25f%26g"
    assert bucket.object_url(key) == url
    assert bucket.object_url(key, "a+/b") == f"{url}?versionId=a%2B%2Fb"


def test_a_bucket_has_one_uri():
    assert named().uri == "s3://open-data/"
    assert named(endpoint="http://x:1/").uri == "http://x:1/open-data/"


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
def test_a_name_that_could_lead_elsewhere_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        named(**wrong)


@pytest.mark.parametrize(
    ("status", "headers", "inner"),
    [
        (301, {"x-amz-bucket-region": "us-west-2"}, "<Code>PermanentRedirect</Code>"),
        (400, {}, "<Code>AuthorizationHeaderMalformed</Code><Region>us-west-2</Region>"),
        (403, {"x-amz-bucket-region": "us-west-2"}, "<Code>AccessDenied</Code>"),
    ],
)
def test_a_bucket_of_another_region_is_said_to_be_there(server, quick, status, headers, inner):
    body = f'<?xml version="1.0"?><Error>{inner}</Error>'.encode()
    server.answers["/data/"] = gives(status, body, XML, **headers)
    bucket = S3Bucket(quick(), "data", endpoint=server.url)
    with pytest.raises(WrongRegion, match='region = "us-west-2"') as caught:
        list(bucket.level(b""))
    assert caught.value.region == "us-west-2"
    assert len(server.asked) == 1


def test_a_bucket_that_is_not_public_is_said_so(server, quick):
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    server.answers["/data/"] = gives(403, body, XML)
    bucket = S3Bucket(quick(), "data", endpoint=server.url)
    with pytest.raises(Forbidden, match=r"does not let anybody list .*AccessDenied"):
        list(bucket.level(b""))


def test_an_internal_error_is_asked_again_and_told_by_its_code(server, quick):
    server.answers["/data/"] = gives(500, b"<Error><Code>InternalError</Code></Error>", XML)
    bucket = S3Bucket(quick(), "data", endpoint=server.url)
    with pytest.raises(Exception, match="InternalError"):
        list(bucket.level(b""))
    assert len(server.asked) == 3


def test_nothing_is_signed_and_no_dots_are_folded(server, quick):
    server.answers["/data/up/%2E%2E/x"] = gives(200, b"x", ETag='"e"')
    assert S3Bucket(quick(), "data", endpoint=server.url).read(b"up/../x", limit=9) == b"x"
    assert "Authorization" not in server.asked[0].headers


def test_a_store_that_knows_no_if_match_gives_no_changed_object_either(server, quick):
    server.answers["/data/x"] = gives(200, b"x", ETag='"other"')
    with pytest.raises(ObjectChanged):
        S3Bucket(quick(), "data", endpoint=server.url).read(b"x", etag="e", limit=9)


@pytest.mark.parametrize("count", [1, 3])
def test_a_count_with_or_without_folders_is_a_whole_page(server, quick, count):
    page = (
        "<ListBucketResult><IsTruncated>false</IsTruncated>"
        f"<KeyCount>{count}</KeyCount><Contents><Key>a</Key>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        "<ETag>&quot;0cc175b9c0f1b6a831c399e269772661&quot;</ETag><Size>1</Size></Contents>"
        "<CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>"
        "<CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes></ListBucketResult>"
    )
    server.answers["/data/"] = gives(200, page.encode(), XML)
    found = list(S3Bucket(quick(), "data", endpoint=server.url).level(b""))
    assert b"b/" in str(found).encode()
    assert len(server.asked) == 1


def test_a_continued_level_that_stands_still_is_an_error(server, quick):
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated>"
        b"<NextContinuationToken>t</NextContinuationToken>"
        b"<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes></ListBucketResult>"
    )
    server.answers["/data/"] = gives(200, page, XML)
    bucket = S3Bucket(quick(), "data", endpoint=server.url)
    with pytest.raises(Exception, match="on the page before"):
        list(bucket.level(b""))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b"<IsTruncated>true</IsTruncated>", "cut short"),
        (
            b"<IsTruncated>false</IsTruncated><Contents><Key>z</Key><Size>1</Size>"
            b"<ETag>e</ETag><LastModified>2024-01-01T00:00:00Z</LastModified></Contents>",
            "outside of the prefix",
        ),
    ],
)
def test_a_page_that_cannot_follow_is_an_error(server, quick, page, said):
    body = b"<ListBucketResult>" + page + b"</ListBucketResult>"
    server.answers["/data/"] = gives(200, body, XML)
    bucket = S3Bucket(quick(), "data", endpoint=server.url)
    with pytest.raises(Exception, match=said):
        list(bucket.objects(b"a").rows())


def test_a_page_that_begins_before_its_start_is_an_error(server, quick):
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a</Key><Size>1</Size>"
        b"<ETag>e</ETag><LastModified>2024-01-01T00:00:00Z</LastModified></Contents>"
        b"</ListBucketResult>"
    )
    server.answers["/data/"] = gives(200, page, XML)
    bucket = S3Bucket(quick(), "data", endpoint=server.url)
    with pytest.raises(Exception, match="not asked for"):
        list(bucket.objects(b"").rows())
