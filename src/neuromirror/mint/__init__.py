"""Write snapshots as git objects in packs: equal snapshots give equal object ids."""

from neuromirror.mint.commits import MINT_SPEC, commit_bytes
from neuromirror.mint.delta_writer import (
    BaseManifestDamagedError,
    DeltaBase,
    UnsuitableBaseError,
    mint_delta,
)
from neuromirror.mint.documents import ria_url
from neuromirror.mint.line_sorter import LineSorter
from neuromirror.mint.seekable_lines import (
    SortedLines,
    read_seekable_lines,
    write_seekable_lines,
)
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
    "LONGEST_LINE",
    "MINT_SPEC",
    "BaseManifestDamagedError",
    "DeltaBase",
    "FrameLimits",
    "LineSorter",
    "MintResult",
    "ParentCommits",
    "Snapshot",
    "SortedLines",
    "UnsuitableBaseError",
    "ZstdFrameError",
    "commit_bytes",
    "decompress_frame",
    "mint",
    "mint_delta",
    "next_commit_second",
    "read_lines",
    "read_seekable_lines",
    "ria_url",
    "write_seekable_lines",
]
