"""A version's records read back from git, where the store's own have been lost.

Git has of each file its name, key and URLs; what else a source said (further digests, times, ids)
is gone until the next visit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from heapq import merge
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from neuromirror.annex import (
    key_digest,
    key_for,
    key_of_file,
    parse_key,
    parse_log,
    unclaimed,
    upstream_path,
    url_log_path,
)
from neuromirror.mint import LINK, SUBDATASET, ObjectMissing, ObjectReader, git_environment
from neuromirror.model import (
    DESCRIPTION,
    Count,
    Digest,
    FileRecord,
    Location,
    PlacedFile,
    Retention,
    Subdataset,
    VersionKind,
    dump_placed,
    parse_description,
    path_of_line,
)
from neuromirror.store.errors import StoreDamaged
from neuromirror.store.manifests import manifest_file, manifest_lines
from neuromirror.store.repository import Repository


class _Line(msgspec.Struct, gc=False):
    """A file in a canonical manifest."""

    path: str
    digest: str
    size: Count | None


_decode = msgspec.json.Decoder(_Line).decode
_CLAIMED_BY = "git"
_CLAIMED_BY_MANIFEST = "manifest"


def record_lines_in_git(
    repository: Repository, commit: str, annex_commit: str, kind: str
) -> Iterator[bytes]:
    """The record lines of a commit, sorted by git path; ``kind`` is the version's.

    Files of form ``manifest`` that git lacks come from the canonical manifest, without places.
    Raises StoreDamaged or ObjectMissing where git, or the manifest, cannot give them.
    """
    with ObjectReader(repository.path) as reader:
        described = parse_description(
            reader.read(f"{commit}:{DESCRIPTION}"), f"commit {commit}: {DESCRIPTION}"
        )
        lines = map(dump_placed, _in_git(repository, reader, commit, annex_commit, kind, described))
        if described.get("form", "files") == "files":
            yield from lines
            return
        only = _in_manifest(manifest_file(repository.path.parents[1], described["state"]))
        last = None
        for line in merge(lines, only, key=path_of_line):
            # what both have comes from git first
            if (path := path_of_line(line)) != last:
                yield line
            last = path


def _in_git(
    repository: Repository,
    reader: ObjectReader,
    commit: str,
    annex_commit: str,
    kind: str,
    described: dict[str, Any],
) -> Iterator[PlacedFile]:
    published = kind == VersionKind.PUBLISHED.value
    retention = Retention.PUBLISHED if published else Retention.DRAFT
    for mode, sha, path in _entries(repository, commit):
        if mode == SUBDATASET:
            yield _part(path, sha, described)
        elif mode == LINK:
            key = key_of_file(reader.read(sha).rpartition(b"/")[2])
            log = b""
            with suppress(ObjectMissing):  # a file that nobody says where to get has none
                log = reader.read(f"{annex_commit}:{url_log_path(key).decode()}")
            urls = [unclaimed(line.value) for line in parse_log(log) if line.status == "1"]
            yield PlacedFile(path, key, _record(path, key, urls, retention))


def _part(path: bytes, commit: str, described: dict[str, Any]) -> PlacedFile:
    told = described["parts"][path.decode()]
    part = Subdataset(
        dataset_id=told["id"],
        local_id=told["local-id"],
        commit=commit,
        state=told["state"],
        files=told["files"],
        bytes=told["bytes"],
    )
    return PlacedFile(path, "", FileRecord(upstream_path(path), None), part)


def _in_manifest(path: Path) -> Iterator[bytes]:
    """Record lines of the files in a canonical manifest."""
    for line in manifest_lines(path):
        try:
            told = _decode(line)
            git_path, size = told.path.encode(), told.size
            algorithm, _, value = told.digest.partition(":")
            part_size = None
            if algorithm == "etag":
                value, _, parts = value.rpartition("-")
                part_size = int(parts)
            digests = (Digest(algorithm, value, _CLAIMED_BY_MANIFEST),) if value else ()
            record = FileRecord(upstream_path(git_path), size, digests, part_size=part_size)
            key = key_for(record, git_path) if digests else ""
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise StoreDamaged(
                f"the manifest {path} has a line that is none ({error}); restore it from a backup"
            ) from error
        yield dump_placed(PlacedFile(git_path, key, record))


def _record(path: bytes, key: str, urls: list[str], retention: Retention) -> FileRecord:
    parts, digest = parse_key(key), key_digest(key)
    part_size = None
    if digest is not None and digest[0] == "etag":
        part_size = int(parts.name.rpartition("-")[2])
    places = sorted((_location(url) for url in urls), key=lambda place: place.kind != "s3")
    return FileRecord(
        path=upstream_path(path),
        size=parts.size,
        digests=() if digest is None else (Digest(*digest, _CLAIMED_BY),),
        locations=tuple(places),
        part_size=part_size,
        retention=retention,
    )


def _location(url: str) -> Location:
    version = parse_qs(urlsplit(url).query).get("versionId")
    if version is not None:
        return Location(url, "s3", version[0])
    return Location(url, "api" if url.endswith("/") else "s3")


def _entries(repository: Repository, commit: str) -> Iterator[tuple[bytes, str, bytes]]:
    """Mode, object id and path of all that is in a commit, in order of path."""
    with subprocess.Popen(
        ["git", "ls-tree", "-r", "-z", "--full-tree", commit],
        env=git_environment(repository.path),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        rest = b""
        while block := process.stdout.read(1 << 16):
            entries = (rest + block).split(b"\0")
            rest = entries.pop()
            for entry in entries:
                what, _, path = entry.partition(b"\t")
                mode, _, sha = what.split(b" ")
                yield mode, sha.decode(), path
    if process.returncode:
        raise StoreDamaged(
            f"git cannot list commit {commit} of {repository.path}; restore the repository from a "
            "backup"
        )
