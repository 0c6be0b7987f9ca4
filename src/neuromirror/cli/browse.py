"""``neuromirror list``, ``versions``, ``files``, ``find`` and ``events``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.common import (
    Settings,
    printable,
    settings_options,
    split_condition,
    split_version,
)
from neuromirror.cli.sha256sums import print_sha256sums
from neuromirror.model.display import format_bytes
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from neuromirror.index import (
        FileRow,
        FoundFile,
        Index,
        SubdatasetRow,
        UnindexedFiles,
        VersionRow,
    )

MAX_SHOWN = 10
"""Lines of a kind that are shown before the rest is only counted."""
_SETTING = "[zarr] index_entries"
NOT_INDEXED = "has this state, not its files: 'files' lists them, 'find' does not look at them"


@click.command("list")
@click.argument("mirror", required=False)
@click.option(
    "--where",
    "conditions",
    metavar="NAME=VALUE",
    multiple=True,
    help="Only those with this attribute (several: with all). VALUE may end in *.",
)
@click.option(
    "--search",
    "words",
    metavar="WORDS",
    help="Only those that have all the words, in paths of files, too.",
)
@click.option("--parts", is_flag=True, help="Those that are parts of another dataset, too.")
@settings_options
def list_command(
    settings: Settings,
    mirror: str | None,
    conditions: tuple[str, ...],
    search_terms: str | None,
    *,
    parts: bool,
) -> None:
    """List the datasets in the store.

    Of one MIRROR or of all. LATEST is the newest published version, or where nothing is published
    the newest state of the draft; FILES and SIZE are of that version. Attributes, such as subject
    or modality, are those that 'neuromirror show' tells of this version, whatever their case;
    words are looked for in names, titles, licenses, DOIs and attributes, and those that are not
    there in paths of files of any version, all in one path.
    """
    rows = []
    where = [split_condition(condition) for condition in conditions]
    with settings.index() as index:
        for dataset in index.datasets(mirror, where=where, text=search_terms, subdatasets=parts):
            newest = index.resolve(dataset.name) if dataset.versions else None
            record = {
                "dataset": dataset.name,
                "title": dataset.title,
                "dataset_id": dataset.dataset_id,
                "part": bool(dataset.within),
                "gone": dataset.is_removed_upstream,
                "version": None if newest is None else newest.label,
                "files": None if newest is None else newest.files,
                "bytes": None if newest is None else newest.bytes,
            }
            settings.emit("list", record)
            title = "(gone upstream) " * dataset.is_removed_upstream + dataset.title
            if newest is None:
                rows.append([dataset.name, "-", "-", "-", title])
            else:
                size = format_bytes(newest.bytes)
                rows.append([dataset.name, newest.label, str(newest.files), size, title])
        stones = [] if conditions or search_terms else index.tombstones(mirror)
    settings.print_table(rows, ["DATASET", "LATEST", "FILES", "SIZE", "TITLE"], ["FILES", "SIZE"])
    for stone in stones:
        if parts or not stone.within:
            settings.print_text(f"taken down  {stone.dataset}  {stone.at[:10]}: {stone.reason}")
    if not rows and (conditions or search_terms):
        settings.print_text("no dataset is like that")
    elif not rows:
        settings.print_text("the store holds no datasets yet; run 'neuromirror sync'")


@click.command("versions")
@click.argument("dataset")
@settings_options
def versions_command(settings: Settings, dataset: str) -> None:
    """List the versions of a DATASET.

    DATASET is a name such as dandi:000027. Versions stand in the order in which they were
    recorded; KIND is published, or observed for a state of the draft as it was seen, and
    "metadata only" where no file differs from the version before. EVIDENCE says how many files
    are known by which checksum.
    """
    rows = []
    with settings.index() as index:
        for version in index.versions(dataset):
            settings.emit("versions", version_json(dataset, version))
            rows.append(
                [
                    version.label,
                    version.kind + ", metadata only" * version.metadata_only,
                    str(version.files),
                    format_bytes(version.bytes),
                    format_counts(version.evidence),
                    version.commit[:12],
                ]
            )
    heads = ["VERSION", "KIND", "FILES", "SIZE", "EVIDENCE", "COMMIT"]
    settings.print_table(rows, heads, ["FILES", "SIZE"])
    if not rows:
        settings.print_text(f"{dataset} has no versions yet; see 'neuromirror status'")


def version_json(dataset: str, version: VersionRow) -> dict[str, Any]:
    """What programs are told of a version."""
    return {
        "dataset": dataset,
        "version": version.label,
        "name": f"{dataset}@{version.label}",
        "kind": version.kind,
        "upstream": version.upstream,
        "time": version.upstream_time,
        "observed_at": version.recorded_at,
        "commit": version.commit,
        "tree": version.tree,
        "state": version.state,
        "metadata": version.metadata,
        "files": version.files,
        "bytes": version.bytes,
        "evidence": version.evidence,
        "doi": version.doi,
        "metadata_only": version.metadata_only,
        "indexed": version.indexed,
    }


def format_counts(counts: Mapping[str, int]) -> str:
    """``12 sha256, 3 etag``; a dash for no files."""
    return ", ".join(f"{count} {label}" for label, count in counts.items()) or "-"


def subdataset_json(part: SubdatasetRow) -> dict[str, Any]:
    """What programs are told of a sub-dataset."""
    return {
        "path": part.path,
        "dataset": part.dataset,
        "version": part.label,
        "dataset_id": part.dataset_id,
        "commit": part.commit,
        "state": part.state,
        "files": part.files,
        "bytes": part.bytes,
    }


@click.command("files")
@click.argument("version")
@click.option(
    "--format",
    "form",
    type=click.Choice(["columns", "sha256sum"]),
    default="columns",
    show_default=True,
    help="sha256sum: as 'sha256sum -c' takes them.",
)
@settings_options
def files_command(settings: Settings, version: str, *, form: str) -> None:
    """List the files of a VERSION.

    Each with the strongest checksum that is known of it (or "size" or "none" where there is
    none), whether that is claimed by upstream or was checked here, the size in bytes and the
    path. Exceptions (listed upstream, not mirrored) follow, so that nothing listed is passed over.
    The files of a Zarr that the index does not have come from the store, as they were listed.

    With --format sha256sum each is a line "<sha256>  <path>" that "sha256sum -c" checks in a clone.
    What has no sha256, and sub-datasets, whose files have lists of their own, are named on stderr.

    Exit code: 0; with --format sha256sum 1 if anything is not in the list.
    """
    name, label = split_version(version)
    if form == "sha256sum" and settings.json:
        raise ConfigurationError("--format sha256sum is not JSON; --json tells all checksums")
    with settings.index() as index:
        row = index.resolve(name, label)
        if form == "sha256sum":
            files = (
                _indexed_files(index, row, settings)
                if row.indexed
                else _stored_files(row, settings)
            )
            sys.exit(print_sha256sums(files, _unlisted_content(index, row)))
        for file in (
            _indexed_files(index, row, settings) if row.indexed else _stored_files(row, settings)
        ):
            record = {"type": "file", "dataset": name, "version": row.label, **file}
            status = "checked" if file["checked"] else "claimed"
            digest = file["digest"] or file["evidence"]
            settings.emit("files", record, _file_line(digest, status, file["size"], file["path"]))
        for part in index.subdatasets(row):
            record = {"type": "part", **subdataset_json(part), "whole": f"{name}@{row.label}"}
            version_name = f"{part.dataset}@{part.label or part.commit[:12]}"
            settings.emit("files", record, _file_line(version_name, "part", part.bytes, part.path))
        exceptions = index.exceptions(row)
    for one in exceptions:
        record = {"type": "exception", "dataset": name, "version": row.label, **one}
        settings.emit("files", {**record, "status": "impossible", "message": one["detail"]})
        settings.print_text(
            _file_line(f"not mirrored: {one['reason']}", "", one["size"], one["path"])
        )


def _unlisted_content(index: Index, version: VersionRow) -> Iterator[str]:
    """What is in a version and has no line of its own in a list of files."""
    for part in index.subdatasets(version):
        named = f"{part.dataset}@{part.label or part.commit}"
        yield f"{part.path}, a sub-dataset: 'neuromirror files {named} --format sha256sum'"
    for one in index.exceptions(version):
        yield f"{one['path']}, which is not mirrored: {one['detail']}"


def _indexed_files(
    index: Index, version: VersionRow, settings: Settings
) -> Iterator[dict[str, Any]]:
    for file in index.files(version):
        urls = [location.url for location in index.locations(file.content)] if settings.json else []
        yield _file_json(file, urls)


def _stored_files(version: VersionRow, settings: Settings) -> Iterator[dict[str, Any]]:
    from neuromirror.lab.remint import stored_record_lines
    from neuromirror.model import load_snapshot_entries

    for placed in load_snapshot_entries(stored_record_lines(settings.store(), version)):
        if placed.subdataset is not None:
            continue  # the index has it
        record = placed.record
        best = record.digest(record.evidence.value)
        yield {
            "path": placed.git_path.decode(),
            "size": record.size,
            "key": placed.key,
            "digest": None if best is None else f"{best.algorithm}:{best.value}",
            "digests": {one.algorithm: one.value for one in record.digests},
            "evidence": record.evidence.value,
            "checked": best is not None and best.checked,
            "retention": record.retention.value,
            "urls": [location.url for location in record.locations],
        }


def _file_line(digest: str, status: str, size: int | None, path: str) -> str:
    """A file in columns as wide as a sha256 and a size of up to a terabyte need."""
    return f"{digest:<71}  {status:<7}  {'-' if size is None else size:>13}  {path}"


def _evidence_digest(file: FileRow | FoundFile) -> str | None:
    """The digest that the evidence names, None where it is by size alone or nothing."""
    for digest in file.digests:
        if digest.algorithm == file.evidence.value:
            return f"{digest.algorithm}:{digest.value}"
    return None


def _file_json(file: FileRow | FoundFile, urls: Sequence[str]) -> dict[str, Any]:
    return {
        "path": file.path,
        "size": file.size,
        "key": file.key,
        "digest": _evidence_digest(file),
        "digests": {one.algorithm: one.value for one in file.digests},
        "evidence": file.evidence.value,
        "checked": file.checked,
        "retention": file.retention.value,
        "urls": list(urls),
    }


@click.command("find")
@click.argument("checksum", metavar="CHECKSUM|FILE")
@settings_options
def find_command(settings: Settings, checksum: str) -> None:
    """Find bytes in all datasets, by CHECKSUM or FILE.

    sha256:<hex>, md5:<hex>, etag:<md5>-<parts>, bare hex, or a git-annex key. A FILE on disk is
    looked for by its sha256, its md5 and its ETags for all usual sizes of parts; ./NAME is a file
    even where it looks like a checksum. Shows where the file is or was, and in which versions.
    Zarrs whose files are not in the index (a setting of the mirror) are not looked at, and counted
    on stderr. Exit code: 0 found, 1 not found.
    """
    from neuromirror.lab.find import find_any

    rows = []
    with settings.index() as index:
        queries = _queries(index, checksum)
        for found in find_any(index, queries):
            record = {
                "type": "file",
                "dataset": found.dataset,
                "first": found.first,
                "last": found.last,
                "current": found.current,
                **_file_json(found, found.urls),
            }
            settings.emit("find", record)
            until = "" if found.last == found.first else f" to {found.last}"
            size = "-" if found.size is None else str(found.size)
            rows.append([found.dataset, f"{found.first}{until}", size, found.path])
        not_searched = index.unindexed_files()
    settings.print_table(sorted(rows), ["DATASET", "VERSIONS", "BYTES", "PATH"], ["BYTES"])
    if not rows:
        what = "with checksum" if queries == [checksum] else "with the bytes of"
        message = f"no file {what} {checksum} is in the index; is its dataset mirrored?"
        settings.emit("find", {"status": "impossible", "message": message}, message)
    for one in not_searched:
        message = _not_searched_message(one)
        record = {"type": "not-indexed", **asdict(one), "setting": _SETTING, "message": message}
        settings.emit("find", {**record, "status": "notneeded"})
        if not settings.json:
            click.echo(printable(message), err=True)
    if not rows:
        sys.exit(1)


def _queries(index: Index, query: str) -> list[str]:
    """What to look for: a checksum as it stands, or all those of a file."""
    from neuromirror.index import MalformedQueryError
    from neuromirror.lab.find import queries_of_file

    try:
        index.find(query)
    except MalformedQueryError as error:
        path = Path(query)
        # os.path says no to names that no file can have, and pathlib raises
        if not (os.path.isfile(path) or os.path.islink(path)):
            raise MalformedQueryError(f"{error}; nor is there a file of this name") from error
        return queries_of_file(path)
    return [query]


def _not_searched_message(one: UnindexedFiles) -> str:
    zarrs = "1 Zarr" if one.zarrs == 1 else f"{one.zarrs} Zarrs"
    return (
        f"not looked at: the files of {zarrs} of {one.mirror} ({one.files} files), which are not "
        f"in the index; '{_SETTING} = {one.largest}' in {one.mirror}.toml and 'neuromirror "
        "rebuild-index' bring them in"
    )


@click.command("events")
@click.argument("dataset", required=False)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@settings_options
def events_command(settings: Settings, dataset: str | None, limit: int) -> None:
    """List incidents and other events.

    Of one DATASET or of all, newest first. An incident is data that changed upstream where it
    never should; a tombstone is a dataset that is gone upstream (what is mirrored of it is kept).
    """
    with settings.index() as index:
        events = list(index.events(dataset, limit=limit))
    for event in events:
        line = f"{event.at}  {event.kind:<14} {event.dataset or event.mirror}  {event.message}"
        settings.emit("events", asdict(event), line)
    if not events:
        settings.print_text("no events")
