"""Git bundles of pinned states: a dataset in one file, from which git alone can clone.

A bundle holds the pinned commit with its history (``HEAD``, ``main`` and the version's tag) and the
git-annex branch as it was when the version was minted. Its bytes depend on git's release; the
objects in it do not.
"""

from __future__ import annotations

from neuromirror.git import GitError, create_bundle_of_commits, read_bundle_refs
from neuromirror.index import VersionRow
from neuromirror.model import DatasetRef, NeuromirrorError
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, TAG_PREFIX, SafeFolder, Store

_MODE = 0o644


class BundleError(NeuromirrorError):
    """git could not write a bundle."""


def bundle_refs(row: VersionRow) -> dict[str, str]:
    """What the bundle of a version names: ref → commit."""
    return {
        MAIN_BRANCH: row.commit,
        f"{TAG_PREFIX}{row.label}": row.commit,
        ANNEX_BRANCH: row.annex_commit,
    }


def write_bundle(store: Store, row: VersionRow, into: SafeFolder, name: str) -> None:
    """Writes the bundle of a version; one that is there and names the same commits stays.

    Nothing is written to the store's own repository. Raises BundleError, and UnsafePathError for a
    symlink in its place.
    """
    refs = bundle_refs(row)
    into.refuse_symlink(name)
    if read_bundle_refs(into.path / name) == {"HEAD": row.commit, **refs}:
        return
    repository = store.repository(DatasetRef(row.mirror, row.local_id, row.source_uri)).path
    with into.scratch() as folder:
        scratch = folder.path.absolute()
        draft = scratch / name
        try:
            create_bundle_of_commits(repository, scratch / "git", draft, refs, MAIN_BRANCH)
        except GitError as error:
            raise BundleError(f"no bundle could be written: {error}") from error
        draft.chmod(_MODE)
        folder.replace(name, into, name)
