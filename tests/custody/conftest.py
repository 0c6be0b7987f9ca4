"""A ledger, an S3 server whose requests can fail, and a store that was synced once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.index.ledger import Ledger
from neuromirror.vault.s3 import S3Vault
from neuromirror_demo import DemoArchive
from support.faulty_s3 import FaultyS3, faulty_s3
from support.mirror_harness import MirrorHarness
from support.synced_mirror import copy_mirror
from support.vaults import write_vault


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "custody.sqlite") as opened:
        yield opened


@pytest.fixture(scope="session")
def s3_server() -> Iterator[FaultyS3]:
    with faulty_s3() as server:
        yield server


@pytest.fixture
def bucket(s3_server: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Vault:
    """An empty vault in S3."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr("neuromirror.vault.s3._ATTEMPTS", 2)
    name = s3_server.make().name
    settings = {"kind": "s3", "bucket": name, "endpoint": s3_server.endpoint}
    return S3Vault(write_vault(tmp_path / "vaults", "cloud", **settings), create=True)


@pytest.fixture(scope="session")
def still_mirror(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """A store of two datasets of the unchanging demo archive, read-only."""
    harness = MirrorHarness(shared_demo.mirrors, tmp_path_factory.mktemp("kept") / "store")
    harness.sync("demo:000001", "demo:000002")
    return harness


@pytest.fixture
def mirror(still_mirror: MirrorHarness, tmp_path: Path) -> MirrorHarness:
    """A copy of this store."""
    return copy_mirror(still_mirror, tmp_path / "store")
