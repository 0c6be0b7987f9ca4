"""Rebuild a version's records from git where the store's own are lost.

git has name, key and URLs of each file. Other fields (further digests, times, ids) are missing
until the next visit.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from pathlib import Path
from typing import Any

import msgspec

from neuromirror.annex import (
    key_for,
    key_from_file_name,
    parse_log,
    record_of_key,
    strip_claim_prefix,
    upstream_path,
    url_log_path,
)
from neuromirror.git import (
    GITLINK_MODE,
    SYMLINK_MODE,
    GitError,
    ListedEntry,
    ObjectMissingError,
    ObjectReader,
    list_tree,
)
from neuromirror.model import (
    DESCRIPTION_PATH,
    Count,
    Digest,
    FileRecord,
    InvalidDocumentError,
    Location,
    Retention,
    SnapshotEntry,
    Subdataset,
    VersionKind,
    VersionMinted,
    dump_snapshot_entry,
    line_path,
    parse_description,
    text_to_path,
    time_of_commit,
)
from neuromirror.model.records import url_version_id
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.foreign_commits import read_history
from neuromirror.store.records import manifest_file, manifest_lines
from neuromirror.store.repository import (
    ANNEX_BRANCH,
    CUSTODY_BRANCH,
    MAIN_BRANCH,
    PUBLISHED_BRANCH,
    TAG_PREFIX,
    Repository,
    run_git,
)


class _ManifestLine(msgspec.Struct, gc=False):
    """A line of a canonical manifest."""

    path: str
    digest: str
    size: Count | None


_decode = msgspec.json.Decoder(_ManifestLine).decode
_CLAIMED_BY = "git"
_OBJECT_KINDS = ("s3", "s3-private")
_CLAIMED_BY_MANIFEST = "manifest"


def read_records_from_git(
    repository: Repository, commit: str, annex_commit: str, kind: str
) -> Iterator[bytes]:
    """Yield the record lines of a commit, sorted by git path.

    In a dataset of form ``manifest``, the files that git lacks are read from the canonical
    manifest, without locations.

    Parameters
    ----------
    repository
        The dataset's repository.
    commit, annex_commit
        The version's commits in hex.
    kind
        The version's kind, ``published`` or ``observed``.

    Yields
    ------
    bytes
        A record line.

    Raises
    ------
    StoreDamagedError, ObjectMissingError
        git or the manifest cannot be read.
    """
    with ObjectReader(repository.path) as reader:
        description = parse_description(
            reader.read(f"{commit}:{DESCRIPTION_PATH}"), f"commit {commit}: {DESCRIPTION_PATH}"
        )
        lines = map(
            dump_snapshot_entry,
            _files_in_git(repository, reader, commit, annex_commit, kind, description),
        )
        if description.get("form", "files") == "files":
            yield from lines
            return
        only = _records_in_manifest(manifest_file(repository.path.parents[1], description["state"]))
        last = None
        for line in merge(lines, only, key=line_path):
            # of a file in both, the record from git comes first
            if (path := line_path(line)) != last:
                yield line
            last = path


def _files_in_git(
    repository: Repository,
    reader: ObjectReader,
    commit: str,
    annex_commit: str,
    kind: str,
    description: dict[str, Any],
) -> Iterator[SnapshotEntry]:
    published = kind == VersionKind.PUBLISHED.value
    retention = Retention.PUBLISHED if published else Retention.DRAFT
    for mode, sha, path in _list_tree(repository, commit):
        if mode == GITLINK_MODE:
            yield _subdataset(path, sha, description)
        elif mode == SYMLINK_MODE:
            key = key_from_file_name(reader.read(sha).rpartition(b"/")[2])
            # a file without a known URL has no log
            log = reader.find(annex_commit, url_log_path(key).decode()) or b""
            values = [line.value for line in parse_log(log) if line.status == "1"]
            yield SnapshotEntry(path, key, _record(path, key, values, retention))


def _subdataset(path: bytes, commit: str, description: dict[str, Any]) -> SnapshotEntry:
    entry = description["parts"][path.decode()]
    part = Subdataset(
        dataset_id=entry["id"],
        local_id=entry["local-id"],
        commit=commit,
        state=entry["state"],
        files=entry["files"],
        bytes=entry["bytes"],
    )
    return SnapshotEntry(path, "", FileRecord(upstream_path(path), None), part)


def _records_in_manifest(path: Path) -> Iterator[bytes]:
    """Yield the record lines of the files in a canonical manifest."""
    for line in manifest_lines(path):
        try:
            entry = _decode(line)
            git_path, size = entry.path.encode(), entry.size
            algorithm, _, value = entry.digest.partition(":")
            part_size = None
            if algorithm == "etag":
                value, _, parts = value.rpartition("-")
                part_size = int(parts)
            digests = (Digest(algorithm, value, _CLAIMED_BY_MANIFEST),) if value else ()
            record = FileRecord(upstream_path(git_path), size, digests, part_size=part_size)
            key = key_for(record, git_path) if digests else ""
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise StoreDamagedError(
                f"the manifest {path} has an invalid line ({error}); run 'neuromirror repair'"
            ) from error
        yield dump_snapshot_entry(SnapshotEntry(git_path, key, record))


def _record(path: bytes, key: str, values: list[str], retention: Retention) -> FileRecord:
    locations = sorted(map(_location, values), key=lambda one: one.kind not in _OBJECT_KINDS)
    return msgspec.structs.replace(
        record_of_key(key, upstream_path(path), _CLAIMED_BY),
        locations=tuple(locations),
        retention=retention,
    )


def _location(value: str) -> Location:
    """Return the location for a value of a URL log."""
    url = strip_claim_prefix(value)
    if url != value and url.startswith("http"):
        return Location(url, "api-private")
    version = url_version_id(url)
    object_kind = "s3-private" if url.startswith("s3://") else "s3"
    if version is not None:
        return Location(url, object_kind, version)
    if object_kind != "s3":
        return Location(url, object_kind)
    return Location(url, "api" if url.endswith("/") else "s3")


def _list_tree(repository: Repository, commit: str) -> Iterator[ListedEntry]:
    try:
        yield from list_tree(repository.path, commit)
    except GitError as error:
        raise StoreDamagedError(f"{error}; run 'neuromirror repair'") from error


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
    if not refs or (
        ANNEX_BRANCH in refs
        and {sha for name, sha in refs.items() if name not in (ANNEX_BRANCH, CUSTODY_BRANCH)}
        <= known
    ):
        return
    history = read_history(repository)
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
                "did not write this repository. Run 'neuromirror repair'."
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
