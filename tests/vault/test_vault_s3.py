"""The S3 vault: what S3 has, how it was verified, and what its errors mean."""

import hashlib
import re
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from neuromirror.annex import etag_of, md5e_key, sha256e_key
from neuromirror.annex.keys import xs3etag_key
from neuromirror.vault.protocol import (
    CopyMissingError,
    CopyRefusedError,
    VaultCredentialsError,
    VaultReadOnlyError,
    VaultUnavailableError,
)
from neuromirror.vault.s3 import S3Source, S3Vault, find_source
from support.certificates import make_certificate
from support.faulty_s3 import FaultyS3, faulty_s3
from support.vaults import key_of, write_vault

pytestmark = pytest.mark.usefixtures("aws_credentials")
MIB = 1 << 20


def new_vault(server: FaultyS3, folder: Path, **more: Any) -> S3Vault:
    settings = {"bucket": server.make().name, **more} if "bucket" not in more else more
    config = write_vault(
        folder / "vaults", "cloud", kind="s3", endpoint=server.endpoint, prefix="lab/", **settings
    )
    return S3Vault(config, create=True)


@pytest.fixture
def vault(s3_server: FaultyS3, tmp_path: Path) -> S3Vault:
    return new_vault(s3_server, tmp_path)


def bucket_of(vault: S3Vault) -> str:
    return str(vault.config.settings.bucket)  # type: ignore[union-attr]


def content_of(vault: S3Vault, key: str) -> bytes:
    with vault.open(key) as body:
        return body.read()


def test_a_content_is_stored_read_listed_and_removed(vault: S3Vault, s3_server: FaultyS3) -> None:
    content = b"some bytes" * 1000
    key, other = key_of(content), key_of(b"other")
    stored = vault.store_bytes(key, memoryview(content))
    assert (stored.size, stored.method) == (10_000, "s3-sha256")
    assert content_of(vault, key) == content
    found = {one.key: one for one in vault.presence([key, other])}
    assert found[key].sha256 == hashlib.sha256(content).hexdigest()
    assert found[other].size is None
    assert list(vault.keys()) == [(key, 10_000)]
    head = s3_server.client.head_object(Bucket=bucket_of(vault), Key=f"lab/{key}")
    assert head["ContentLength"] == 10_000
    vault.remove(key)
    vault.remove(key)
    with pytest.raises(CopyMissingError):
        vault.open(key)


def test_a_large_content_is_uploaded_in_parts_whose_checksums_are_compared(
    vault: S3Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.vault.s3._SINGLE", MIB)
    monkeypatch.setattr("neuromirror.vault.s3._PART", 5 * MIB)
    content = bytes(range(256)) * (44 * MIB // 1024)
    path = tmp_path / "large"
    path.write_bytes(content)
    stored = vault.store(key_of(content), path)
    assert stored.size == 11 * MIB
    assert stored.method in ("s3-sha256", "s3-etag")
    assert content_of(vault, stored.key) == content


def test_a_large_content_is_stored_on_an_old_server_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.vault.s3._SINGLE", MIB)
    monkeypatch.setattr("neuromirror.vault.s3._PART", 5 * MIB)
    content = bytes(range(256)) * (44 * MIB // 1024)
    (tmp_path / "large").write_bytes(content)
    certificate, context = make_certificate(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with faulty_s3(context) as server:
        vault = new_vault(server, tmp_path)
        with server.old():
            stored = vault.store(key_of(content), tmp_path / "large")
        assert (stored.size, stored.method) == (11 * MIB, "full-read")
        assert content_of(vault, stored.key) == content


def test_the_object_lock_and_the_storage_class_are_those_of_the_configuration(
    s3_server: FaultyS3, tmp_path: Path
) -> None:
    name = s3_server.make().name + "-locked"
    s3_server.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    vault = new_vault(
        *(s3_server, tmp_path),
        bucket=name,
        storage_class="STANDARD_IA",
        object_lock="GOVERNANCE",
        retention_days=30,
    )
    key = key_of(b"x")
    vault.store_bytes(key, memoryview(b"x"))
    head = s3_server.client.head_object(Bucket=name, Key=f"lab/{key}")
    assert (head["StorageClass"], head["ObjectLockMode"]) == ("STANDARD_IA", "GOVERNANCE")


def test_a_bucket_with_a_default_object_lock_gets_checksums(
    s3_server: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.vault.s3._SINGLE", MIB)
    monkeypatch.setattr("neuromirror.vault.s3._PART", 5 * MIB)
    name = s3_server.make().name + "-locked"
    s3_server.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    s3_server.client.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}},
        },
    )
    (tmp_path / "large").write_bytes(content := bytes(6 * MIB))
    with s3_server.requiring_checksums():
        vault = new_vault(s3_server, tmp_path, bucket=name)
        stored = vault.store(key_of(content), tmp_path / "large")
    assert (stored.size, content_of(vault, stored.key)) == (6 * MIB, content)


def test_git_annex_itself_gets_the_content(
    vault: S3Vault, s3_server: FaultyS3, tmp_path: Path
) -> None:
    content = b"recording" * 5000
    key = key_of(content, "a.nwb")
    vault.store_bytes(key, memoryview(content))
    clone = tmp_path / "clone"
    clone.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    host, port = s3_server.endpoint.removeprefix("http://").split(":")
    run("git", "init", "-q")
    run("git", "annex", "init", "-q")
    run(
        *("git", "annex", "initremote", "cloud", "type=S3", "encryption=none", "autoenable=false"),
        *(f"bucket={bucket_of(vault)}", f"host={host}", f"port={port}", "requeststyle=path"),
        *("fileprefix=lab/", "protocol=http", f"uuid={vault.uuid}"),
    )
    run("git", "annex", "fromkey", "--force", key, "a.nwb")
    run("git", "annex", "setpresentkey", key, vault.uuid, "1")
    run("git", "annex", "get", "a.nwb")
    assert (clone / "a.nwb").read_bytes() == content
    run("git", "annex", "fsck", "a.nwb", "--from", "cloud")
    assert S3Vault(vault.config).uuid == vault.uuid


def test_an_object_with_the_md5_of_the_key_is_copied_within_the_service(
    vault: S3Vault, s3_server: FaultyS3
) -> None:
    source = s3_server.make()
    content = b"upstream" * 9000
    source.put("raw/a.bin", content)
    url = f"{s3_server.endpoint}/{source.name}/raw/a.bin"
    assert vault.can_copy(url)
    key = md5e_key(len(content), hashlib.md5(content).hexdigest(), "a.bin")
    before = len(s3_server.log)
    stored = vault.copy_from(key, url)
    assert stored is not None
    assert (stored.size, stored.method) == (len(content), "s3-etag")
    assert [one.partition(" ")[0] for one in s3_server.log[before:]] == ["PUT"]
    assert content_of(vault, key) == content


def test_an_object_with_other_bytes_is_not_copied(vault: S3Vault, s3_server: FaultyS3) -> None:
    source = s3_server.make()
    source.put("a.bin", b"replaced upstream")
    url = f"{s3_server.endpoint}/{source.name}/a.bin"
    content = b"what was pinned!!"
    for key in (
        md5e_key(len(content), hashlib.md5(content).hexdigest(), "a.bin"),
        sha256e_key(len(content), hashlib.sha256(content).hexdigest(), "a.bin"),
    ):
        assert vault.copy_from(key, url) is None
        assert [one.size for one in vault.presence([key])] == [None]
    assert vault.copy_from(key_of(content), f"{url}.gone") is None


def test_a_sha256_is_compared_with_the_copy(vault: S3Vault, s3_server: FaultyS3) -> None:
    source = s3_server.make(versioned=True)
    content = b"first version"
    version = source.put("a.bin", content)["VersionId"]
    source.put("a.bin", b"second version")
    url = f"{s3_server.endpoint}/{source.name}/a.bin?versionId={version}"
    stored = vault.copy_from(key_of(content), url)
    assert stored is not None
    assert stored.method in ("s3-sha256", "full-read")
    assert content_of(vault, stored.key) == content


def test_the_parts_of_a_multipart_etag_are_copied_one_by_one(
    vault: S3Vault, s3_server: FaultyS3
) -> None:
    source = s3_server.make()
    content = bytes(range(256)) * (12 * MIB // 256 - 1) + b"end" * 50
    source.put("large.bin", content)
    url = f"{s3_server.endpoint}/{source.name}/large.bin"
    key = xs3etag_key(len(content), etag_of(BytesIO(content), 5 * MIB), 5 * MIB)
    stored = vault.copy_from(key, url)
    assert stored is not None
    assert (stored.method, content_of(vault, key)) == ("s3-etag", content)
    wrong = xs3etag_key(len(content), etag_of(BytesIO(content[::-1]), 5 * MIB), 5 * MIB)
    assert vault.copy_from(wrong, url) is None
    assert [one.size for one in vault.presence([wrong])] == [None]
    uploads = s3_server.client.list_multipart_uploads(Bucket=bucket_of(vault))
    assert uploads.get("Uploads", []) == []


@pytest.mark.parametrize(
    ("url", "endpoint", "found"),
    [
        ("https://bucket.s3.amazonaws.com/x/y?versionId=v", "", S3Source("bucket", "x/y", "v")),
        ("https://dandi.s3.us-east-2.amazonaws.com/a%20b", "", S3Source("dandi", "a b")),
        ("https://s3.us-west-2.amazonaws.com/b/x", "", S3Source("b", "x")),
        ("s3://b/x", "", S3Source("b", "x")),
        ("https://b.s3.amazonaws.com.evil.example/x", "", None),
        ("https://b.s3.amazonaws.com/x", "https://minio.example", None),
        ("https://minio.example/b/x", "https://minio.example", S3Source("b", "x")),
        ("https://b.minio.example/x", "https://minio.example", S3Source("b", "x")),
        ("http://minio.example/b/x", "https://minio.example", None),
        ("https://example.org/b/x", "", None),
        ("https://[bad/x", "", None),
    ],
)
def test_only_objects_of_the_same_service_can_be_copied(
    url: str, endpoint: str, found: S3Source | None
) -> None:
    assert find_source(url, endpoint) == found


def test_a_503_that_passes_is_retried_and_one_that_stays_is_an_error_of_the_vault(
    vault: S3Vault, s3_server: FaultyS3
) -> None:
    content = memoryview(b"x" * 100)
    struck = []

    def once(method: str, path: str) -> tuple[int, str] | None:
        if method == "PUT" and not struck:
            struck.append(path)
            return 503, "SlowDown"
        return None

    with s3_server.failing(once):
        assert vault.store_bytes(key_of(bytes(content)), content).size == 100
    assert struck
    with s3_server.storm(500, "InternalError", "PUT"), pytest.raises(CopyRefusedError):
        vault.store_bytes(key_of(bytes(content)), content)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", VaultCredentialsError),
        (400, "ExpiredToken", VaultCredentialsError),
        (404, "NoSuchBucket", VaultUnavailableError),
        (400, "InvalidRequest", CopyRefusedError),
    ],
)
def test_each_refusal_has_its_error(
    vault: S3Vault, s3_server: FaultyS3, status: int, code: str, expected: type[Exception]
) -> None:
    content = memoryview(b"y")
    with s3_server.storm(status, code, "PUT"), pytest.raises(expected) as caught:
        vault.store_bytes(key_of(b"y"), content)
    assert "cloud" in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "request_vault"),
    [
        ("HEAD", S3Vault.check_access),
        ("GET", lambda vault: list(vault.keys())),
        ("GET", lambda vault: S3Vault(vault.config)),
    ],
)
def test_a_refusal_that_is_not_of_a_content_is_an_error_of_the_vault(
    vault: S3Vault, s3_server: FaultyS3, method: str, request_vault: Callable[[S3Vault], object]
) -> None:
    storm = s3_server.storm(400, "AuthorizationHeaderMalformed", method)
    with storm, pytest.raises(VaultUnavailableError, match=re.escape(str(vault.config.path))):
        request_vault(vault)


def test_an_empty_uuid_is_an_error_of_the_vault(vault: S3Vault, s3_server: FaultyS3) -> None:
    s3_server.client.put_object(Bucket=bucket_of(vault), Key="lab/annex-uuid", Body=b"")
    with pytest.raises(VaultUnavailableError):
        S3Vault(vault.config)


def test_a_server_that_is_down_and_a_missing_bucket_are_errors_of_the_vault(
    s3_server: FaultyS3, tmp_path: Path
) -> None:
    with pytest.raises(VaultUnavailableError, match="NoSuchBucket"):
        new_vault(s3_server, tmp_path, bucket="no-such-bucket")
    config = write_vault(
        *(tmp_path / "vaults", "down"), kind="s3", bucket="b-1", endpoint="http://127.0.0.1:9"
    )
    with pytest.raises(VaultUnavailableError, match="cannot be reached"):
        S3Vault(config)


def test_without_credentials_the_vault_can_only_be_read(
    vault: S3Vault, s3_server: FaultyS3, tmp_path: Path
) -> None:
    key = key_of(b"public")
    vault.store_bytes(key, memoryview(b"public"))
    reader = new_vault(
        *(s3_server, tmp_path), bucket=bucket_of(vault), credentials="none",
        public_url=f"{s3_server.endpoint}/{bucket_of(vault)}",
    )  # fmt: skip
    with pytest.raises(VaultReadOnlyError):
        reader.store_bytes(key, memoryview(b"public"))
    remote = reader.remote_config()
    assert remote is not None
    assert remote["fileprefix"] == "lab/"
    assert vault.remote_config() is None


def test_failures_between_which_the_service_responds_are_not_those_of_the_vault(
    vault: S3Vault, s3_server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.vault.s3._MAX_FAILURES", 2)
    key = key_of(b"missing")
    with s3_server.storm(500, "InternalError", "PUT"):
        for _ in range(2):
            with pytest.raises(CopyRefusedError):
                vault.store_bytes(key, memoryview(b"missing"))
            with pytest.raises(CopyMissingError):
                vault.open(key)
        for expected in (CopyRefusedError, VaultUnavailableError):
            with pytest.raises(expected):
                vault.store_bytes(key, memoryview(b"missing"))
