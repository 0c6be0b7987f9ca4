"""Rebuild journal entries from the commits of a repository where the journal is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neuromirror.git import ObjectMissingError, ObjectReader
from neuromirror.model import (
    DESCRIPTION_PATH,
    AnnexBranchMoved,
    DatasetRef,
    DatasetWithdrawn,
    InvalidDocumentError,
    VersionMinted,
    parse_description,
    text_to_path,
    time_of_commit,
)
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.foreign_commits import read_history
from neuromirror.store.repository import (
    ANNEX_BRANCH,
    CUSTODY_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    Repository,
    run_git,
)


def read_versions_from_git(
    repository: Repository, known: set[str], observed_at: str
) -> Iterator[VersionMinted]:
    """Yield journal entries of a repository's versions that are not ``known``.

    The order is ``published``, then ``main``, each oldest first, then commits that only a tag
    reaches: the commits of a component have no parents. Superdatasets and foreign commits
    (:mod:`neuromirror.store.foreign_commits`) are skipped.

    Parameters
    ----------
    repository
        The dataset's repository.
    known
        Commit ids that the journal has.
    observed_at
        The time of observation in the entries, which git does not have.

    Yields
    ------
    VersionMinted
        The journal entry of a version.

    Raises
    ------
    StoreDamagedError
        The repository was not written by neuromirror, or is damaged.
    """
    refs = repository.refs()
    seen: set[str] = set()
    if (
        ANNEX_BRANCH in refs
        and {sha for name, sha in refs.items() if name not in (ANNEX_BRANCH, CUSTODY_BRANCH)}
        <= known
    ):
        return
    history = read_history(repository.path)
    with ObjectReader(repository.path) as reader:
        if ANNEX_BRANCH not in refs and (MAIN_BRANCH in refs or PUBLISHED_BRANCH in refs):
            main = (
                history.newest_own_commit(repository.path, refs[MAIN_BRANCH])
                if PUBLISHED_BRANCH not in refs
                else None
            )
            if main is not None and _is_superdataset(reader, main):
                return
            raise StoreDamagedError(
                f"{repository.path} has no git-annex branch: it was deleted, or neuromirror "
                "did not write this repository. 'neuromirror repair' restores the branch if the "
                "journal has it; else restore the repository from a backup."
            )
        annex = refs.get(ANNEX_BRANCH, "")
        if annex and annex not in history.own_commits:
            annex = history.newest_own_commit(repository.path, annex) or annex
        for branch in (PUBLISHED_BRANCH, MAIN_BRANCH):
            if branch not in refs or refs[branch] in known:
                continue
            listed = run_git(repository.path, "rev-list", "--reverse", "--first-parent", branch)
            before: str | None = None
            for commit in listed.split():
                seen.add(commit)
                if commit not in history.own_commits:
                    continue
                description = _read_description(reader, commit)
                if commit not in known:
                    yield _entry(reader, commit, description, before, annex, observed_at)
                before = description["state"]
        tagged = run_git(
            repository.path,
            "for-each-ref",
            "--sort=committerdate",
            "--format=%(objectname)",
            TAG_PREFIX,
        )
        for commit in dict.fromkeys(tagged.split()):
            if commit in history.own_commits and commit not in known and commit not in seen:
                description = _read_description(reader, commit)
                yield _entry(reader, commit, description, None, annex, observed_at)


def _is_superdataset(reader: ObjectReader, commit: str) -> bool:
    """Return whether a commit that neuromirror wrote is that of a superdataset."""
    try:
        reader.read(f"{commit}:{DESCRIPTION_PATH}")
    except ObjectMissingError:
        return b"\nMirror-Spec: " in reader.read(commit)
    return False


def _read_description(reader: ObjectReader, commit: str) -> dict[str, Any]:
    content = reader.read(f"{commit}:{DESCRIPTION_PATH}")
    try:
        return parse_description(content, f"commit {commit}: {DESCRIPTION_PATH}")
    except InvalidDocumentError as error:
        raise StoreDamagedError(
            f"{error}; this repository was not written by neuromirror"
        ) from None


def _entry(
    reader: ObjectReader,
    commit: str,
    description: dict[str, Any],
    before: str | None,
    annex: str,
    observed_at: str,
) -> VersionMinted:
    try:
        content = reader.read(commit).decode()
        headers, _, message = content.partition("\n\n")
        fields = dict(line.split(" ", 1) for line in headers.split("\n"))
        seconds = int(fields["committer"].split()[-2])
        label = message.splitlines()[0].removeprefix(f"{description['dataset']} ")
        tree = fields["tree"]
    except (ValueError, KeyError, IndexError) as error:
        raise StoreDamagedError(
            f"commit {commit} does not have the format of neuromirror's commits ({error!r}); this "
            "repository was not written by neuromirror"
        ) from error
    mirror, _, local_id = description["dataset"].partition(":")
    time = time_of_commit(seconds)
    return VersionMinted(
        mirror=mirror,
        local_id=local_id,
        source_uri=description["source"],
        label=label,
        upstream=description["version"],
        kind=description["kind"],
        state=description["state"],
        commit=commit,
        tree=tree,
        annex_commit=annex,
        time=None if time is None else time.isoformat(),
        files=description["files"],
        bytes=description["bytes"],
        exceptions=description["exceptions"],
        evidence=description["evidence"],
        title=description["title"],
        license=description["license"],
        doi=description["doi"],
        metadata_only=before == description["state"],
        at=observed_at,
        # the first commits of spec 1 lack these fields
        metadata=description.get("metadata", ""),
        attributes=description.get("attributes", {}),
        inputs=description.get("inputs", []),
        within=description.get("within", ""),
        form=description.get("form", ""),
        manifest_only_files=description.get("manifest-only", {}).get("files", 0),
        manifest_only_bytes=description.get("manifest-only", {}).get("bytes", 0),
        inline=[
            {"path": path, **description["inline"][path]}
            for path in sorted(description.get("inline", {}), key=text_to_path)
        ],
    )


def dataset_ref_of(entry: VersionMinted | AnnexBranchMoved | DatasetWithdrawn) -> DatasetRef:
    """Return a reference to the dataset that a journal entry is about.

    Parameters
    ----------
    entry
        The journal entry.

    Returns
    -------
    DatasetRef
        Mirror, local id and source URI of the dataset.
    """
    return DatasetRef(entry.mirror, entry.local_id, entry.source_uri)
