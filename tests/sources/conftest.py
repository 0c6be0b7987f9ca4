from collections.abc import Callable, Iterator

import pytest

from neuromirror.net import RequestLimits, Session
from neuromirror.sources.dandi import DandiOptions, DandiSource
from support.dandi_replay import DandiReplayServer
from support.moto_buckets import Bucket, Buckets, moto_server


@pytest.fixture
def archive() -> Iterator[DandiReplayServer]:
    with DandiReplayServer() as running:
        yield running


@pytest.fixture
def make_source(archive: DandiReplayServer) -> Callable[..., DandiSource]:
    """Return a function that creates sources with short waits; keywords are options."""

    def make(mirror: str = "dandi", **options: object) -> DandiSource:
        checked = DandiOptions.model_validate({"api": archive.api, **options})
        tokens = {checked.api: checked.token_env} if checked.token_env else {}
        limits = RequestLimits(attempts=2, wait=0.01, wait_max=0.02)
        return DandiSource(
            mirror, checked, Session(allow_private=True, tokens=tokens, limits=limits)
        )

    return make


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    """moto's S3 server."""
    with moto_server() as running:
        yield running


@pytest.fixture
def bucket(buckets: Buckets) -> Bucket:
    """A new public bucket."""
    return buckets.make()


@pytest.fixture
def versioned_bucket(buckets: Buckets) -> Bucket:
    """A new bucket with versioning."""
    return buckets.make(versioned=True)
