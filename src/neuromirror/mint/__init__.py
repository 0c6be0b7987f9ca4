"""Snapshots become git objects, written as packs: same snapshot, same object ids."""

from neuromirror.mint.commits import SPEC, commit_bytes
from neuromirror.mint.delta import Base, ManifestDamaged, mint_delta
from neuromirror.mint.mint import Snapshot, mint
from neuromirror.mint.objects import ObjectMissing, ObjectReader, git_environment
from neuromirror.mint.packs import (
    BLOB,
    COMMIT,
    TREE,
    KnownObjects,
    Pack,
    PackWriter,
)
from neuromirror.mint.sorting import LineSorter
from neuromirror.mint.trees import FILE, FOLDER, LINK, SUBDATASET, TreeBuilder, write_tree
from neuromirror.mint.work import Minted, Parents

__all__ = [
    "BLOB",
    "COMMIT",
    "FILE",
    "FOLDER",
    "LINK",
    "SPEC",
    "SUBDATASET",
    "TREE",
    "Base",
    "KnownObjects",
    "LineSorter",
    "ManifestDamaged",
    "Minted",
    "ObjectMissing",
    "ObjectReader",
    "Pack",
    "PackWriter",
    "Parents",
    "Snapshot",
    "TreeBuilder",
    "commit_bytes",
    "git_environment",
    "mint",
    "mint_delta",
    "write_tree",
]
