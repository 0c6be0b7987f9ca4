"""The store: bare repositories in RIA layout, atomic refs, the journal, super-datasets."""

from neuromirror.store.disk import write_atomically
from neuromirror.store.errors import NotAStore, RefRefused, RefsMoved, StoreBusy, StoreDamaged
from neuromirror.store.from_git import record_lines_in_git
from neuromirror.store.history import dataset_of, versions_in_git
from neuromirror.store.housekeeping import Kept, RepackFailed, Rules, keep_house
from neuromirror.store.locks import locked
from neuromirror.store.refs import is_ref_name, move_refs, read_refs
from neuromirror.store.repository import ANNEX, DRAFT, MAIN, PUBLISHED, TAGS, Repository, git
from neuromirror.store.safe_paths import SafeFolder, UnsafePath, refuse_symlinks
from neuromirror.store.store import Store
from neuromirror.store.superdatasets import Member, may_wait, update_superdataset

__all__ = [
    "ANNEX",
    "DRAFT",
    "MAIN",
    "PUBLISHED",
    "TAGS",
    "Kept",
    "Member",
    "NotAStore",
    "RefRefused",
    "RefsMoved",
    "RepackFailed",
    "Repository",
    "Rules",
    "SafeFolder",
    "Store",
    "StoreBusy",
    "StoreDamaged",
    "UnsafePath",
    "dataset_of",
    "git",
    "is_ref_name",
    "keep_house",
    "locked",
    "may_wait",
    "move_refs",
    "read_refs",
    "record_lines_in_git",
    "refuse_symlinks",
    "update_superdataset",
    "versions_in_git",
    "write_atomically",
]
