"""Snapshots become git objects, written as packs: same snapshot, same object ids."""

from neuromirror.git.objects import ObjectMissingError, ObjectReader, git_environment
from neuromirror.git.packs import (
    BLOB,
    COMMIT,
    TREE,
    KnownObjects,
    Pack,
    PackWriter,
)
from neuromirror.git.submodules import Submodule, gitmodules_content, ria_url
from neuromirror.git.trees import (
    GITLINK_MODE,
    REGULAR_FILE_MODE,
    SYMLINK_MODE,
    TREE_MODE,
    TreeBuilder,
    write_tree,
)
from neuromirror.mint.commits import MINT_SPEC, commit_bytes
from neuromirror.mint.delta_writer import (
    BaseManifestDamagedError,
    DeltaBase,
    UnsuitableBaseError,
    mint_delta,
)
from neuromirror.mint.line_sorter import LineSorter
from neuromirror.mint.snapshot_writer import Snapshot, mint
from neuromirror.mint.transaction import MintResult, ParentCommits, next_commit_second
from neuromirror.mint.zstd_lines import (
    LONGEST_LINE,
    FrameLimits,
    ZstdFrameError,
    decompress_frame,
    read_lines,
)

__all__ = [
    "BLOB",
    "COMMIT",
    "GITLINK_MODE",
    "LONGEST_LINE",
    "MINT_SPEC",
    "REGULAR_FILE_MODE",
    "SYMLINK_MODE",
    "TREE",
    "TREE_MODE",
    "BaseManifestDamagedError",
    "DeltaBase",
    "FrameLimits",
    "KnownObjects",
    "LineSorter",
    "MintResult",
    "ObjectMissingError",
    "ObjectReader",
    "Pack",
    "PackWriter",
    "ParentCommits",
    "Snapshot",
    "Submodule",
    "TreeBuilder",
    "UnsuitableBaseError",
    "ZstdFrameError",
    "commit_bytes",
    "decompress_frame",
    "git_environment",
    "gitmodules_content",
    "mint",
    "mint_delta",
    "next_commit_second",
    "read_lines",
    "ria_url",
    "write_tree",
]
