"""Read the documents that describe a version from its commit."""

from __future__ import annotations

from neuromirror.git import GitError, ObjectMissingError, ObjectReader
from neuromirror.model import (
    DESCRIPTION_PATH,
    InvalidDocumentError,
    describing_documents,
    parse_description,
)
from neuromirror.store.repository import Repository


def read_describing_documents(repository: Repository, commit: str) -> dict[str, bytes]:
    """Return the documents of a commit that describe its dataset, by path.

    Parameters
    ----------
    repository
        The dataset's repository.
    commit
        The commit id in hex.

    Returns
    -------
    dict[str, bytes]
        The contents; empty if the repository does not have the commit, as after a takedown.
    """
    if not repository.exists():
        return {}
    found: dict[str, bytes] = {}
    with ObjectReader(repository.path) as reader:
        try:
            content = reader.read(f"{commit}:{DESCRIPTION_PATH}")
            listed = parse_description(content, DESCRIPTION_PATH)["documents"]
        except (ObjectMissingError, InvalidDocumentError, GitError):
            return {}
        for path in describing_documents(listed):
            try:
                found[path] = reader.read(f"{commit}:{path}")
            except ObjectMissingError:
                continue
    return found
