"""What git alone tells of the versions in a repository: the index's last resort."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neuromirror.mint import ObjectMissing, ObjectReader
from neuromirror.model import (
    DESCRIPTION,
    DatasetRef,
    DocumentRefused,
    VersionMinted,
    parse_description,
    raw,
    time_of_commit,
)
from neuromirror.store.errors import StoreDamaged
from neuromirror.store.foreign import read_history
from neuromirror.store.repository import ANNEX, MAIN, PUBLISHED, TAGS, Repository, git


def versions_in_git(
    repository: Repository, known: set[str], observed_at: str
) -> Iterator[VersionMinted]:
    """Journal entries of all own commits on ``published``, then ``main``, that are not ``known``.

    Oldest first; then what only tags name, as the states of a part, which have no parents. A
    super-dataset has no versions, and a foreign commit (store.foreign) is none.
    ``observed_at`` stands for the time of observation, which git does not keep.
    """
    refs = repository.refs()
    seen: set[str] = set()
    if ANNEX in refs and {sha for name, sha in refs.items() if name != ANNEX} <= known:
        return
    history = read_history(repository.path)
    with ObjectReader(repository.path) as reader:
        if ANNEX not in refs and (MAIN in refs or PUBLISHED in refs):
            main = history.newest(repository.path, refs[MAIN]) if PUBLISHED not in refs else None
            if main is not None and _is_superdataset(reader, main):
                return
            raise StoreDamaged(
                f"{repository.path} has no git-annex branch; this repository was not made by "
                "neuromirror, or lost it: 'neuromirror repair' puts the branch back if the journal "
                "has it, else restore the repository from a backup"
            )
        annex = refs.get(ANNEX, "")
        if annex and annex not in history.own:
            annex = history.newest(repository.path, annex) or annex
        for branch in (PUBLISHED, MAIN):
            if branch not in refs or refs[branch] in known:
                continue
            listed = git(repository.path, "rev-list", "--reverse", "--first-parent", branch)
            before: str | None = None
            for commit in listed.split():
                seen.add(commit)
                if commit not in history.own:
                    continue
                described = _described(reader, commit)
                if commit not in known:
                    yield _entry(reader, commit, described, before, annex, observed_at)
                before = described["state"]
        tagged = git(
            repository.path, "for-each-ref", "--sort=committerdate", "--format=%(objectname)", TAGS
        )
        for commit in dict.fromkeys(tagged.split()):
            if commit in history.own and commit not in known and commit not in seen:
                described = _described(reader, commit)
                yield _entry(reader, commit, described, None, annex, observed_at)


def _is_superdataset(reader: ObjectReader, commit: str) -> bool:
    """Whether a commit is one of ours that describes no version."""
    try:
        reader.read(f"{commit}:{DESCRIPTION}")
    except ObjectMissing:
        return b"\nMirror-Spec: " in reader.read(commit)
    return False


def _described(reader: ObjectReader, commit: str) -> dict[str, Any]:
    content = reader.read(f"{commit}:{DESCRIPTION}")
    try:
        return parse_description(content, f"commit {commit}: {DESCRIPTION}")
    except DocumentRefused as error:
        raise StoreDamaged(f"{error}; this repository was not made by neuromirror") from None


def _entry(
    reader: ObjectReader,
    commit: str,
    described: dict[str, Any],
    before: str | None,
    annex: str,
    observed_at: str,
) -> VersionMinted:
    try:
        content = reader.read(commit).decode()
        headers, _, message = content.partition("\n\n")
        fields = dict(line.split(" ", 1) for line in headers.split("\n"))
        seconds = int(fields["committer"].split()[-2])
        label = message.splitlines()[0].removeprefix(f"{described['dataset']} ")
        tree = fields["tree"]
    except (ValueError, KeyError, IndexError) as error:
        raise StoreDamaged(
            f"commit {commit} is not of the form that neuromirror writes ({error!r}); this "
            "repository was not made by neuromirror"
        ) from error
    mirror, _, local_id = described["dataset"].partition(":")
    time = time_of_commit(seconds)
    return VersionMinted(
        mirror=mirror,
        local_id=local_id,
        source_uri=described["source"],
        label=label,
        upstream=described["version"],
        kind=described["kind"],
        state=described["state"],
        commit=commit,
        tree=tree,
        annex_commit=annex,
        time=None if time is None else time.isoformat(),
        files=described["files"],
        bytes=described["bytes"],
        exceptions=described["exceptions"],
        evidence=described["evidence"],
        title=described["title"],
        license=described["license"],
        doi=described["doi"],
        metadata_only=before == described["state"],
        at=observed_at,
        # what the first commits of spec 1 do not tell
        metadata=described.get("metadata", ""),
        attributes=described.get("attributes", {}),
        inputs=described.get("inputs", []),
        within=described.get("within", ""),
        form=described.get("form", ""),
        only_files=described.get("manifest-only", {}).get("files", 0),
        only_bytes=described.get("manifest-only", {}).get("bytes", 0),
        inline=[
            {"path": path, **described["inline"][path]}
            for path in sorted(described.get("inline", {}), key=raw)
        ],
    )


def dataset_of(entry: VersionMinted) -> DatasetRef:
    """The dataset a version is of."""
    return DatasetRef(entry.mirror, entry.local_id, entry.source_uri)
