"""Signatures of requests to one bucket."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from traceback import format_exception

import pytest
from botocore.exceptions import ProfileNotFound

from neuromirror.net import (
    AccessDeniedError,
    AwsSigner,
    ConnectionFactory,
    CredentialsError,
    RequestPolicy,
    Session,
)
from neuromirror.net.aws_signing import new_aws_session
from support.loopback_http import HttpService, send_reply

SECRET = "canarysecretcanarysecretcanarysecret0000"


class Recorder(HttpService):
    """A server that records each request's headers; ``/to?URL`` redirects to the URL."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, dict[str, str]]] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.headers.append((handler.path, {**handler.headers}))
        target = handler.path.partition("to?")[2]
        status = 307 if target else 403 if "denied" in handler.path else 200
        location = {"Location": target} if target else {}
        send_reply(handler, status, b"{}", **location)


@pytest.fixture
def servers() -> Iterator[tuple[Recorder, Recorder]]:
    with Recorder() as one, Recorder() as other:
        yield one, other


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACANARY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canarytoken")


def session_for(server: Recorder, **more: bool) -> Session:
    signer = AwsSigner(f"{server.url}/bucket/", region="us-east-1", **more)
    return Session(allow_private=True, signer=signer)


def is_signed(headers: dict[str, str]) -> bool:
    return "Authorization" in headers or "X-Amz-Security-Token" in headers


@pytest.mark.usefixtures("credentials")
def test_each_hop_is_signed_only_for_the_bucket(servers: tuple[Recorder, Recorder]) -> None:
    bucket, other = servers
    session = session_for(bucket)
    back = f"{other.url}/to?{bucket.url}/bucket/b"
    session.get_json(f"{bucket.url}/bucket/to?{back}")
    session.get_json(f"{bucket.url}/another/x")
    signed = [(path.partition("?")[0], is_signed(headers)) for path, headers in bucket.headers]
    assert signed == [("/bucket/to", True), ("/bucket/b", True), ("/another/x", False)]
    assert [is_signed(headers) for _, headers in other.headers] == [False]
    signatures = {headers.get("Authorization") for _, headers in bucket.headers}
    assert len(signatures) == 3


@pytest.mark.usefixtures("credentials")
def test_persistent_connections_sign_only_for_the_bucket(
    servers: tuple[Recorder, Recorder],
) -> None:
    bucket, other = servers
    connection = ConnectionFactory(lambda url: session).new_connection()
    session = session_for(bucket, requester_pays=True)
    with connection.stream(f"{bucket.url}/bucket/to?{other.url}/x") as body:
        assert b"".join(body.chunks) == b"{}"
    connection.close()
    ((_, headers),) = bucket.headers
    assert is_signed(headers)
    assert headers["x-amz-request-payer"] == "requester"
    assert "x-amz-request-payer" in headers["Authorization"]
    assert [is_signed(headers) for _, headers in other.headers] == [False]


@pytest.mark.usefixtures("credentials")
def test_an_anonymous_copy_signs_nothing(servers: tuple[Recorder, Recorder]) -> None:
    session = session_for(servers[0])
    session.anonymous().get_json(f"{servers[0].url}/bucket/x")
    session.with_policy(RequestPolicy()).get_json(f"{servers[0].url}/bucket/x")
    assert [is_signed(headers) for _, headers in servers[0].headers] == [False, True]


@pytest.mark.usefixtures("credentials")
def test_an_error_names_the_credentials_and_no_part_of_them(
    servers: tuple[Recorder, Recorder],
) -> None:
    session = session_for(servers[0])
    with pytest.raises(AccessDeniedError) as caught:
        session.get_json(f"{servers[0].url}/bucket/denied")
    assert caught.value.identity == "the default AWS credentials"
    assert not any(one in str(caught.value) for one in (SECRET, "canarytoken", "AKIACANARY"))


def test_partial_credentials_are_an_error_before_any_request(
    servers: tuple[Recorder, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACANARY")
    with pytest.raises(CredentialsError) as caught:
        session_for(servers[0]).get_json(f"{servers[0].url}/bucket/x")
    assert caught.value.cause_name == "PartialCredentialsError"
    assert servers[0].headers == []


@pytest.mark.parametrize(
    "printed",
    [
        f"not JSON: {SECRET}".encode(),
        f'["{SECRET}"]'.encode(),
        f'"{SECRET}"'.encode(),
        f'{{"Version": 1, "SecretAccessKey": "{SECRET}"}}'.encode(),
        f'{{"Version":1,"AccessKeyId":"a","SecretAccessKey":"{SECRET}","Expiration":"x"}}'.encode(),
        SECRET.encode() + b"\xff",
        None,
    ],
)
def test_malformed_output_of_a_credential_process_is_an_error_without_secrets(
    printed: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``None`` is a program that does not exist."""
    output = tmp_path / "output"
    if printed is not None:
        output.write_bytes(printed)
    program = f"{tmp_path}/missing" if printed is None else f"cat {output}"
    config = tmp_path / "config"
    config.write_text(f"[profile lab]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(CredentialsError) as caught:
        AwsSigner("https://lab.example.org/", region="us-east-1", profile="lab").check()
    assert "the AWS profile 'lab'" in str(caught.value)
    assert SECRET not in "".join(format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "encoded"), [("a%2Fb", "a/b"), ("%2E%2E/x", "../x"), ("a%2Bb%20c", "a%2Bb%20c")]
)
def test_the_signed_path_is_that_of_the_decoded_key(name: str, encoded: str) -> None:
    """As servers compute it: they decode the key, and encode all but slashes again."""
    from neuromirror.net.aws_signing import _canonical_url

    url = _canonical_url(f"https://bucket.s3.us-east-1.amazonaws.com/{name}?versionId=a%2Fb&list")
    assert url.endswith(f"/{encoded}?versionId=a%2Fb&list=")


HOSTILE_KEYS = [
    *("a/../b", "./a", "a/./b/..", "a//b", "/a", "//a", "a/", "a#b", "a?b=c&d", "a+b", "a b"),
    *("100%", "a%2Fb", "%2E%2E/x", "ü/日本", "a~b-c_d.e", "a'b(c)*!", "a=b&c;d:e@f,g$", "a\\b"),
]


class _CapturedError(Exception):
    pass


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9000"])
def test_the_signed_request_is_that_of_botocore(endpoint: str | None) -> None:
    """The canonical request for a key, against the one that botocore's own client signs."""
    from urllib.parse import unquote_to_bytes, urlsplit

    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSPreparedRequest, AWSRequest
    from botocore.config import Config
    from botocore.session import Session as BotocoreSession

    from neuromirror.net import S3Bucket
    from neuromirror.net.aws_signing import _canonical_url

    sent: list[str] = []

    def capture(request: AWSPreparedRequest, **_: object) -> None:
        sent.append(request.url)
        raise _CapturedError

    style = {"addressing_style": "virtual" if endpoint is None else "path"}
    client = BotocoreSession().create_client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, config=Config(s3=style)
    )
    client.meta.events.register("before-send.s3.HeadObject", capture)
    auth = S3SigV4Auth(None, "s3", "us-east-1")

    def canonical(url: str) -> tuple[str, str]:
        request = AWSRequest(method="HEAD", url=url)
        return auth._normalize_url_path(urlsplit(url).path), auth.canonical_query_string(request)

    start = "/" if endpoint is None else "/bucket/"
    with Session() as session:
        bucket = S3Bucket(session, "bucket", endpoint=endpoint)
        for key in HOSTILE_KEYS:
            with pytest.raises(_CapturedError):
                client.head_object(Bucket="bucket", Key=key, VersionId="a+/=b")
            url = bucket.object_url(key.encode(), "a+/=b")
            assert canonical(_canonical_url(url)) == canonical(sent[-1]), key
            # the server decodes the path that is sent to the same key
            assert unquote_to_bytes(urlsplit(url).path) == f"{start}{key}".encode()


def test_sessions_share_the_data_that_the_configuration_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(f"[default]\ndata_path = {tmp_path}/default\n[profile other]\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    first, second, other = (
        new_aws_session(profile).get_component("data_loader") for profile in (None, None, "other")
    )
    assert first is second
    assert first is not other
    assert f"{tmp_path}/default" in first.search_paths
    with pytest.raises(ProfileNotFound):
        new_aws_session("missing").get_credentials()
