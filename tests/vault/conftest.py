"""An S3 server whose requests can fail."""

from collections.abc import Iterator

import pytest

from support.faulty_s3 import FaultyS3, faulty_s3


@pytest.fixture(scope="session")
def s3_server() -> Iterator[FaultyS3]:
    with faulty_s3() as server:
        yield server


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that moto accepts."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
