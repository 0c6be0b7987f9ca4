"""Snapshots become git objects, written as packs: same snapshot, same object ids."""

from neuromirror.mint.commits import SPEC, commit_bytes
from neuromirror.mint.mint import Minted, Parents, Snapshot, mint
from neuromirror.mint.objects import ObjectMissing, ObjectReader
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

__all__ = [
    "BLOB",
    "COMMIT",
    "FILE",
    "FOLDER",
    "LINK",
    "SPEC",
    "SUBDATASET",
    "TREE",
    "KnownObjects",
    "LineSorter",
    "Minted",
    "ObjectMissing",
    "ObjectReader",
    "Pack",
    "PackWriter",
    "Parents",
    "Snapshot",
    "TreeBuilder",
    "commit_bytes",
    "mint",
    "write_tree",
]
