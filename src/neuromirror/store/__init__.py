"""The store: bare repositories in RIA layout, ref transactions, journal, records, superdatasets."""

from neuromirror.store.custody import publish_locations, published_vaults
from neuromirror.store.durable_files import write_atomically
from neuromirror.store.errors import (
    NotAStoreError,
    RefsMovedError,
    StoreBusyError,
    StoreDamagedError,
)
from neuromirror.store.housekeeping import HousekeepingResult, run_housekeeping
from neuromirror.store.locks import file_lock
from neuromirror.store.records_from_git import read_records_from_git, read_versions_from_git
from neuromirror.store.repack import HousekeepingPolicy
from neuromirror.store.repository import (
    ANNEX_BRANCH,
    CUSTODY_BRANCH,
    DRAFT_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    Repository,
    StoredDocument,
    run_git,
    update_refs,
)
from neuromirror.store.safe_paths import (
    SafeFolder,
    UnsafePathError,
    refuse_relative_symlinks,
    refuse_symlinks,
)
from neuromirror.store.store import Store, open_store, store_folder
from neuromirror.store.superdatasets import (
    SuperdatasetMember,
    has_complete_commit,
    superdataset_commit,
)

__all__ = [
    "ANNEX_BRANCH",
    "CUSTODY_BRANCH",
    "DRAFT_BRANCH",
    "MAIN_BRANCH",
    "PUBLISHED_BRANCH",
    "TAG_PREFIX",
    "HousekeepingPolicy",
    "HousekeepingResult",
    "NotAStoreError",
    "RefsMovedError",
    "Repository",
    "SafeFolder",
    "Store",
    "StoreBusyError",
    "StoreDamagedError",
    "StoredDocument",
    "SuperdatasetMember",
    "UnsafePathError",
    "file_lock",
    "has_complete_commit",
    "open_store",
    "publish_locations",
    "published_vaults",
    "read_records_from_git",
    "read_versions_from_git",
    "refuse_relative_symlinks",
    "refuse_symlinks",
    "run_git",
    "run_housekeeping",
    "store_folder",
    "superdataset_commit",
    "update_refs",
    "write_atomically",
]
