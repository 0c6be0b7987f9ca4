"""What an S3 vault sends: names that need quotes, storage classes, copies that fail late."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from neuromirror.annex import md5e_key
from neuromirror.vault.s3 import S3Vault
from support.faulty_s3 import FaultyS3
from support.vaults import key_of, write_vault

pytestmark = pytest.mark.usefixtures("aws_credentials")
CONTENT = b"some bytes" * 1000


def new_vault(server: FaultyS3, folder: Path, **more: Any) -> S3Vault:
    config = write_vault(
        *(folder / "vaults", "cloud"),
        kind="s3",
        endpoint=server.endpoint,
        bucket=server.make().name,
        **more,
    )
    return S3Vault(config, create=True)


def test_names_are_quoted_and_the_storage_class_is_set(s3_server: FaultyS3, tmp_path: Path) -> None:
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


def test_a_copy_whose_reply_has_an_error_is_repeated(s3_server: FaultyS3, tmp_path: Path) -> None:
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
