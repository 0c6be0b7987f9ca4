"""The contents of a version of a store are read from copies in vaults when upstream is gone."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from neuromirror.annex import directory_vault_config
from neuromirror.net import NetError, RequestLimits
from neuromirror.stream.errors import DamagedCopyError
from neuromirror.volume import BlockUnavailableError, VersionFiles, open_version_files
from support.kept_dataset import NAME, REMOTE, KeptDataset
from support.synced_mirror import flip_bit

LIMITS = RequestLimits(attempts=1, connect=2.0, read=5.0)


@pytest.fixture
def kept(tmp_path: Path, demo_files: Path) -> Iterator[KeptDataset]:
    """A dataset with a vault that its repository does not name yet."""
    kept = KeptDataset(tmp_path / "kept", demo_files)
    yield kept
    kept.stop_upstream()


def open_files(kept: KeptDataset) -> VersionFiles:
    with kept.harness.index() as index:
        return open_version_files(kept.harness.store, index.versions.resolve(NAME), limits=LIMITS)


def test_contents_are_read_from_a_vault_without_upstream(
    kept: KeptDataset, serve_directory: Callable[[Path], str]
) -> None:
    kept.stop_upstream()
    for publish in (kept.publish, lambda: kept.serve(serve_directory)):
        publish()
        with closing(open_files(kept)) as files:
            for path, content in kept.contents.items():
                assert bytes(files.read_object(path, 1 << 30) or b"") == content
                read = bytearray(len(content))

                def take(start: int, data: memoryview, read: bytearray = read) -> None:
                    read[start : start + len(data)] = data

                files.copy(path, take)
                assert read == content


def test_a_damaged_copy_is_not_used(kept: KeptDataset) -> None:
    path, content = next(iter(kept.contents.items()))
    config = directory_vault_config(REMOTE, str(kept.vault.path), prefer=True)
    flip_bit(Path(os.fsdecode(kept.vault.object_path(kept.paths[path]))))
    kept.publish(config)
    with closing(open_files(kept)) as files:
        assert bytes(files.read_object(path, 1 << 30) or b"") == content
    kept.stop_upstream()
    with closing(open_files(kept)) as files, pytest.raises(BlockUnavailableError) as raised:
        files.read_object(path, 1 << 30)
    first, *upstream = raised.value.causes
    assert isinstance(first, DamagedCopyError)
    assert upstream
    assert all(isinstance(one, NetError) for one in upstream)
