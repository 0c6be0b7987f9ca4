"""A version's records read back from git, where the store's own have been lost.

Git has of each file its name, key and URLs; what else a source said (further digests, times, ids)
is gone until the next visit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

from neuromirror.annex import (
    key_digest,
    key_of_file,
    parse_key,
    parse_log,
    upstream_path,
    url_log_path,
)
from neuromirror.mint import ObjectMissing, ObjectReader, git_environment
from neuromirror.model import (
    Digest,
    FileRecord,
    Location,
    PlacedFile,
    Retention,
    VersionKind,
    dump_placed,
)
from neuromirror.store.errors import StoreDamaged
from neuromirror.store.repository import Repository

_CLAIMED_BY = "git"


def record_lines_in_git(
    repository: Repository, commit: str, annex_commit: str, kind: str
) -> Iterator[bytes]:
    """The record lines of a commit, sorted by git path; ``kind`` is the version's.

    Raises StoreDamaged or ObjectMissing where git cannot give them.
    """
    published = kind == VersionKind.PUBLISHED.value
    retention = Retention.PUBLISHED if published else Retention.DRAFT
    with ObjectReader(repository.path) as reader:
        for blob, path in _links(repository, commit):
            key = key_of_file(reader.read(blob).rpartition(b"/")[2])
            log = b""
            with suppress(ObjectMissing):  # a file that nobody says where to get has none
                log = reader.read(f"{annex_commit}:{url_log_path(key).decode()}")
            urls = [line.value for line in parse_log(log) if line.status == "1"]
            yield dump_placed(PlacedFile(path, key, _record(path, key, urls, retention)))


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


def _links(repository: Repository, commit: str) -> Iterator[tuple[str, bytes]]:
    """Blob id and path of the annexed files, in order of path."""
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
                mode, _, blob = what.split(b" ")
                if mode == b"120000":
                    yield blob.decode(), path
    if process.returncode:
        raise StoreDamaged(
            f"git cannot list commit {commit} of {repository.path}; restore the repository from a "
            "backup"
        )
