"""Write snapshots as git objects in packs: equal snapshots give equal object ids."""

from neuromirror.mint.annex_branch import REMOTE_LOG
from neuromirror.mint.commits import MINT_SPEC, commit_bytes
from neuromirror.mint.custody_branch import (
    CustodyRemote,
    read_custody_locations,
    read_custody_remotes,
    write_custody_branch,
)
from neuromirror.mint.delta_writer import DeltaBase, UnsuitableBaseError, mint_delta
from neuromirror.mint.documents import OWN_NAMES
from neuromirror.mint.line_sorter import LineSorter
from neuromirror.mint.seekable_lines import (
    SortedLines,
    names_in_folder,
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
    join_lines,
    read_lines,
)

__all__ = [
    "LONGEST_LINE",
    "MINT_SPEC",
    "OWN_NAMES",
    "REMOTE_LOG",
    "CustodyRemote",
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
    "join_lines",
    "mint",
    "mint_delta",
    "names_in_folder",
    "next_commit_second",
    "read_custody_locations",
    "read_custody_remotes",
    "read_lines",
    "read_seekable_lines",
    "write_custody_branch",
    "write_seekable_lines",
]
