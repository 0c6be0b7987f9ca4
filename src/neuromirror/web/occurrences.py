"""Other occurrences of the content of a file."""

from __future__ import annotations

from itertools import islice

from neuromirror.index import FileRow, FoundFile, Index, VersionRow


def other_occurrences(
    index: Index, row: VersionRow, file: FileRow, limit: int
) -> tuple[list[FoundFile], bool]:
    """Return where the content of a file also occurs: at other paths, and in other datasets.

    Other versions with the file at the same path of the same dataset are left out.

    Parameters
    ----------
    index
        The index.
    row, file
        The version and the file.
    limit
        The maximum number of occurrences.

    Returns
    -------
    tuple[list[FoundFile], bool]
        The occurrences, and whether there are more.
    """
    # occurrences at the same dataset and path are its history
    others = (
        one
        for one in index.find(file.key)
        if (one.dataset, one.path) != (row.dataset_name, file.path)
    )
    found = list(islice(others, limit + 1))
    return found[:limit], len(found) > limit
