from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from dandi_replay import Replay
from s3_buckets import Bucket, Buckets, moto_server

from neuromirror.net import Limits, Session
from neuromirror.sources.dandi import DandiOptions, DandiSource


@pytest.fixture
def archive() -> Iterator[Replay]:
    with Replay() as running:
        yield running


@pytest.fixture
def source_of(archive: Replay) -> Callable[..., DandiSource]:
    """Makes sources of the archive that hardly wait; keywords are options."""

    def make(mirror: str = "dandi", **options: object) -> DandiSource:
        checked = DandiOptions.model_validate({"api": archive.api, **options})
        tokens = {checked.api: checked.token_env} if checked.token_env else {}
        limits = Limits(attempts=2, wait=0.01, wait_max=0.02)
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
    """A new bucket, open to all."""
    return buckets.make()


@pytest.fixture
def versioned(buckets: Buckets) -> Bucket:
    """A new bucket that keeps old versions."""
    return buckets.make(versioned=True)
