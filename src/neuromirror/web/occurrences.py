"""Other occurrences of the content of a file."""

from __future__ import annotations

from itertools import islice

from neuromirror.index import FileRow, FoundFile, Index, VersionRow


def other_occurrences(
    index: Index, row: VersionRow, file: FileRow, limit: int
) -> tuple[list[FoundFile], bool]:
    """Return other occurrences of a file's content, and whether there are more than ``limit``."""
    # occurrences at the same dataset and path are its history
    others = (
        one
        for one in index.find(file.key)
        if (one.dataset, one.path) != (row.dataset_name, file.path)
    )
    found = list(islice(others, limit + 1))
    return found[:limit], len(found) > limit
