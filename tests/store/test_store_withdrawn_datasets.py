"""Reinstatement of files that two withdrawn datasets share."""

import os
import resource
import signal

import pytest

from neuromirror.model import DatasetRef, DatasetReinstated, DatasetWithdrawn, VersionMinted
from neuromirror.store import Store, read_versions_from_git
from neuromirror.store.block_digests import BlockDigestsFolder
from neuromirror.store.withdrawn_datasets import reinstate_dataset, withdraw_dataset
from support.block_digests import claimed_digests
from support.store_publisher import Publisher, dataset, read_files

ONE, TWO = dataset(1), dataset(2)
AT = "2024-03-01T12:00:00+00:00"


@pytest.fixture
def shared_files(store: Store) -> dict[str, bytes]:
    """Two withdrawn datasets with one state and its block digests; return these served files."""
    for one in (ONE, TWO):
        publisher = Publisher(store, one)
        publisher.publish("a", {"x.bin": 1, "y.bin": 2})
        store.journal.append(*read_versions_from_git(publisher.repository, set(), AT))
    versions = [one for _, one in store.journal.read(0) if isinstance(one, VersionMinted)]
    assert len({version.state for version in versions}) == 1
    digests = BlockDigestsFolder.of_store(store)
    keys = {placed.key for placed in store.records.read(ONE.dataset_id, versions[0].commit)}
    for key in keys:
        digests.write(key, claimed_digests(key))
    files = served_files(store)
    assert len(files) == 1 + len(keys)
    withdraw(store, ONE)
    withdraw(store, TWO, keys)
    assert served_files(store) == {}
    store.journal.append(DatasetReinstated(ONE.mirror, ONE.local_id, ONE.source_uri, "me", AT))
    return files


def withdraw(store: Store, one: DatasetRef, keys: set[str] | None = None) -> None:
    entry = DatasetWithdrawn(one.mirror, one.local_id, one.source_uri, "a test", "me", AT)
    store.journal.append(entry)
    withdraw_dataset(store, entry, keys or ())


def served_files(store: Store) -> dict[str, bytes]:
    """Return the manifests and block digests that the store serves, by path."""
    folders = (store.root / "manifests", BlockDigestsFolder.of_store(store).root)
    return {
        f"{folder.name}/{name}": content
        for folder in folders
        for name, content in read_files(folder).items()
    }


def reinstate_on_a_full_disk(store: Store, limit: int) -> int:
    """Reinstate dataset 1 in a process whose files cannot exceed ``limit`` bytes.

    Return its exit code: 3 after an error of the operating system.
    """
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            reinstate_dataset(store, ONE)
            status = 0
        except OSError:
            status = 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_no_truncated_file_is_served_after_a_full_disk(
    store: Store, shared_files: dict[str, bytes]
) -> None:
    assert reinstate_on_a_full_disk(store, max(map(len, shared_files.values())) - 1) == 3
    assert served_files(store).items() <= shared_files.items()
    reinstate_dataset(store, ONE)
    assert served_files(store) == shared_files
