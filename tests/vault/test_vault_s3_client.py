"""The fast path of an S3 vault: what it sends, and what it leaves to boto3."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

from neuromirror.annex import md5e_key
from neuromirror.net import AwsSigner
from neuromirror.vault.errors import CopyRefusedError
from neuromirror.vault.s3 import S3Vault
from neuromirror.vault.s3_requests import S3Client
from support.faulty_s3 import FaultyS3
from support.vaults import key_of, write_vault

pytestmark = pytest.mark.usefixtures("aws_credentials")
CONTENT = b"some bytes" * 1000


class _Boto3UsedError(AssertionError):
    pass


def new_vault(server: FaultyS3, folder: Path, **more: Any) -> S3Vault:
    config = write_vault(
        *(folder / "vaults", "cloud"),
        kind="s3",
        endpoint=server.endpoint,
        bucket=server.make().name,
        **more,
    )
    return S3Vault(config, create=True)


@pytest.fixture
def no_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise _Boto3UsedError

    monkeypatch.setattr("neuromirror.vault.s3_requests.S3Requests._new_client", refuse)


@pytest.mark.usefixtures("no_boto3")
def test_frequent_requests_do_not_need_boto3(s3_server: FaultyS3, tmp_path: Path) -> None:
    vault = new_vault(s3_server, tmp_path, prefix="a b/&%+/", storage_class="STANDARD_IA")
    assert vault.uuid == new_uuid_of(vault, s3_server)
    key, other = key_of(CONTENT), key_of(b"other")
    assert vault.store_bytes(key, memoryview(CONTENT)).method == "s3-sha256"
    vault.check_access(write=True)
    found = {one.key: one for one in vault.presence([key, other])}
    assert found[key].size == len(CONTENT)
    assert found[key].sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert found[other].size is None
    name = f"a b/&%+/{key}"
    bucket = vault.config.settings.bucket  # type: ignore[union-attr]
    assert s3_server.client.get_object(Bucket=bucket, Key=name)["Body"].read() == CONTENT
    head = s3_server.client.head_object(Bucket=bucket, Key=name)
    assert head["StorageClass"] == "STANDARD_IA"
    # a copy within the server, of a name that needs to be quoted
    source = s3_server.make()
    s3_server.client.put_object(Bucket=source.name, Key="x y/ü+.bin", Body=CONTENT)
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    copied = md5e_key(len(CONTENT), md5, "x.bin")
    stored = vault.copy_from(copied, f"s3://{source.name}/x%20y/%C3%BC%2B.bin")
    assert stored is not None
    assert stored.method == "s3-etag"
    assert vault.copy_from(key_of(b"z"), f"s3://{source.name}/no-such-object") is None


def new_uuid_of(vault: S3Vault, server: FaultyS3) -> str:
    bucket = vault.config.settings.bucket  # type: ignore[union-attr]
    name = "a b/&%+/annex-uuid"
    body: bytes = server.client.get_object(Bucket=bucket, Key=name)["Body"].read()
    return body.decode()


def test_an_error_in_the_reply_to_a_copy_is_left_to_boto3(
    s3_server: FaultyS3, tmp_path: Path
) -> None:
    vault = new_vault(s3_server, tmp_path)
    source = s3_server.make()
    s3_server.client.put_object(Bucket=source.name, Key="x.bin", Body=CONTENT)
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    key = md5e_key(len(CONTENT), md5, "x.bin")
    struck = []

    def once(method: str, path: str) -> tuple[int, str] | None:
        if method == "PUT" and not struck:
            struck.append(path)
            return 200, "InternalError"
        return None

    with s3_server.failing(once):
        stored = vault.copy_from(key, f"s3://{source.name}/x.bin")
    assert struck
    assert stored is not None
    assert [one.size for one in vault.presence([key])] == [len(CONTENT)]


@pytest.mark.parametrize(
    "environment", [{"HTTP_PROXY": "http://127.0.0.1:9"}, {"ALL_PROXY": "http://127.0.0.1:9"}]
)
@pytest.mark.usefixtures("no_boto3")
def test_requests_through_a_proxy_are_left_to_boto3(
    s3_server: FaultyS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(_Boto3UsedError):
        new_vault(s3_server, tmp_path)


def test_after_many_failures_boto3_gets_all_requests(s3_server: FaultyS3, tmp_path: Path) -> None:
    vault = new_vault(s3_server, tmp_path)
    keys = [key_of(b"%d" % number) for number in range(10)]
    with s3_server.storm(400, "InvalidRequest", "PUT"):
        for number, key in enumerate(keys):
            s3_server.log.clear()
            with pytest.raises(CopyRefusedError):
                vault.store_bytes(key, memoryview(b"%d" % number))
            puts = [line for line in s3_server.log if line.startswith("PUT")]
            assert len(puts) == (2 if number < 8 else 1)


@contextmanager
def raw_server(
    requests: list[bytes], *, end: bytes = b"\r\n\r\n", replies: int = 99, keeps_open: bool = False
) -> Iterator[str]:
    """Serve empty replies to requests with an end: some replies, and one per connection or more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(connection: socket.socket) -> None:
            request = b""
            while data := connection.recv(65536):
                request += data
                if not request.endswith(end):
                    continue
                requests.append(request)
                request = b""
                if len(requests) <= replies:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                if not keeps_open:
                    return

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def refuse() -> None:
    raise _Boto3UsedError


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    requests: list[bytes] = []
    with raw_server(requests) as endpoint:
        client = S3Client(refuse, endpoint, lambda: AwsSigner(endpoint, region="us-east-1"))
        for _ in range(3):
            client.head_bucket(Bucket="b")
        client.close()
    assert len(requests) == 3


@pytest.mark.parametrize("replies", [0, 1])
def test_a_request_without_a_reply_is_not_repeated(
    replies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.vault.s3_requests._READ_SECONDS", 0.5)
    requests: list[bytes] = []
    with raw_server(requests, replies=replies, keeps_open=True) as endpoint:
        client = S3Client(refuse, endpoint, lambda: AwsSigner(endpoint, region="us-east-1"))
        for _ in range(replies):
            client.head_bucket(Bucket="b")
        with pytest.raises(_Boto3UsedError):
            client.head_bucket(Bucket="b")
    assert len(requests) == replies + 1


@pytest.mark.parametrize("token", [None, "session-token"])
def test_the_signature_is_that_of_the_request_as_sent(
    token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    if token is not None:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    requests: list[bytes] = []
    name = "pre fix/MD5E-s3--ab.tar.gz&c%=ü~"
    with raw_server(requests, end=b"abc") as endpoint:
        client = S3Client(refuse, endpoint, lambda: AwsSigner(endpoint, region="eu-west-1"))
        client.put_object(Bucket="b-1", Key=name, Body=b"abc", StorageClass="STANDARD_IA")
        client.close()
    head, _, body = requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    sent = {one.lower(): value for one, _, value in (line.partition(": ") for line in lines)}
    request = AWSRequest(method, f"{endpoint}{path}", data=b"abc")
    for one, value in sent.items():
        if one.startswith("x-amz-") and one != "x-amz-security-token":
            request.headers[one] = value
    signer = S3SigV4Auth(Credentials("key", "secret", token), "s3", "eu-west-1")
    request.context["timestamp"] = sent["x-amz-date"]
    canonical = signer.canonical_request(_with_token(request, token))
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    assert sent["authorization"].endswith(f"Signature={signature}")
    assert sent["x-amz-content-sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert body == b"abc"


def _with_token(request: AWSRequest, token: str | None) -> AWSRequest:
    if token is not None:
        request.headers["x-amz-security-token"] = token
    return request
