"""Snapshots become git objects, written as packs: same snapshot, same object ids."""

from neuromirror.mint.commits import SPEC, commit_bytes
from neuromirror.mint.delta import Base, BaseUnfit, ManifestDamaged, mint_delta
from neuromirror.mint.lines import LONGEST_LINE, FrameRefused, Limits, read_lines, unpacked
from neuromirror.mint.mint import Snapshot, mint
from neuromirror.mint.modules import Module, modules_file, ria_url
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
from neuromirror.mint.work import Minted, Parents, next_second

__all__ = [
    "BLOB",
    "COMMIT",
    "FILE",
    "FOLDER",
    "LINK",
    "LONGEST_LINE",
    "SPEC",
    "SUBDATASET",
    "TREE",
    "Base",
    "BaseUnfit",
    "FrameRefused",
    "KnownObjects",
    "Limits",
    "LineSorter",
    "ManifestDamaged",
    "Minted",
    "Module",
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
    "modules_file",
    "next_second",
    "read_lines",
    "ria_url",
    "unpacked",
    "write_tree",
]
