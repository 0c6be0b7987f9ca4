"""Write an index file of git in one pass, with a constant amount of memory.

Format: gitformat-index(5), version 2. git itself needs about 500 bytes of memory per entry.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Final

from neuromirror.git.trees import list_tree

_HEADER: Final = struct.Struct(">4sII")
# mode, the 20-byte id, flags; without data of a file system, as `git update-index --cacheinfo`
_ENTRY: Final = struct.Struct(">24xI12x20sH")
_MAX_NAME_BYTES: Final = 0xFFF
_BUFFER_BYTES: Final = 1 << 20


def write_index_file(git_dir: Path, commit: str, path: Path) -> None:
    """Write an index with the files of a commit, for commands that read no work tree.

    Parameters
    ----------
    git_dir
        The repository.
    commit
        The id of the commit in hex.
    path
        The new index file.

    Raises
    ------
    GitError
        git cannot list the commit.
    OSError
        The file cannot be written.
    """
    with path.open("xb", buffering=_BUFFER_BYTES) as file:
        file.seek(_HEADER.size)
        count = 0
        for entry in list_tree(git_dir, commit):
            count += 1
            flags = min(len(entry.path), _MAX_NAME_BYTES)
            line = _ENTRY.pack(int(entry.mode, 8), bytes.fromhex(entry.id), flags) + entry.path
            file.write(line.ljust(len(line) // 8 * 8 + 8, b"\0"))
        file.seek(0)
        file.write(_HEADER.pack(b"DIRC", 2, count))
    with path.open("rb") as written:
        checksum = hashlib.file_digest(written, "sha1").digest()
    with path.open("ab") as file:
        file.write(checksum)
