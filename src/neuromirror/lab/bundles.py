"""Git bundles of pinned versions: a dataset in one file, from which git can clone.

A bundle has the pinned commit with its history (``HEAD``, ``main`` and the tag of the version) and
the git-annex branch of that version. Its bytes depend on the release of git; its objects do not.
"""

from __future__ import annotations

from neuromirror.git import GitError, create_bundle_of_commits, read_bundle_refs
from neuromirror.index import VersionRow
from neuromirror.model import NeuromirrorError
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, TAG_PREFIX, SafeFolder, Store

_MODE = 0o644


class BundleError(NeuromirrorError):
    """A bundle cannot be written."""


def write_bundle(store: Store, row: VersionRow, into: SafeFolder, name: str) -> None:
    """Write the bundle of a version; an existing bundle of the same commits is kept.

    The repository in the store is only read.

    Parameters
    ----------
    store, row
        The store and the version.
    into
        The folder of the bundle.
    name
        The file name of the bundle.

    Raises
    ------
    BundleError
        git cannot write the bundle.
    UnsafePathError
        The path of the bundle is a symlink.
    """
    refs = {
        MAIN_BRANCH: row.commit,
        f"{TAG_PREFIX}{row.label}": row.commit,
        ANNEX_BRANCH: row.annex_commit,
    }
    into.refuse_symlink(name)
    if read_bundle_refs(into.path / name) == {"HEAD": row.commit, **refs}:
        return
    repository = store.repository(row.dataset_ref).path
    with into.scratch() as folder:
        scratch = folder.path.absolute()
        draft = scratch / name
        try:
            create_bundle_of_commits(repository, scratch / "git", draft, refs, MAIN_BRANCH)
        except GitError as error:
            raise BundleError(
                f"{row.name}: the bundle {into.path / name} cannot be written: {error}"
            ) from error
        draft.chmod(_MODE)
        folder.replace(name, into, name)
