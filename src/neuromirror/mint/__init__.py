"""Write snapshots as git objects in packs: equal snapshots give equal object ids."""

from neuromirror.mint.annex_branch import (
    REMOTE_LOG,
    CustodyRemote,
    read_custody_locations,
    read_custody_remotes,
    write_custody_branch,
)
from neuromirror.mint.documents import (
    MINT_SPEC,
    commit_bytes,
    exceptions_json,
    inline_components_json,
)
from neuromirror.mint.seekable_lines import (
    LONGEST_LINE,
    FrameLimits,
    SortedLines,
    ZstdFrameError,
    decompress_frame,
    join_lines,
    names_in_folder,
    read_lines,
    read_seekable_lines,
    write_seekable_lines,
)
from neuromirror.mint.state_writers import (
    DeltaBase,
    Snapshot,
    UnsuitableBaseError,
    mint,
    mint_delta,
)
from neuromirror.mint.transaction import LineSorter, MintResult, ParentCommits, next_commit_second

__all__ = [
    "LONGEST_LINE",
    "MINT_SPEC",
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
    "exceptions_json",
    "inline_components_json",
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
