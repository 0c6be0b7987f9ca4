"""Commands that explore files: files, find and diff."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins
from msgspec.structs import asdict

from neuromirror.cli import commands as cli
from neuromirror.cli.addresses import resolve_version
from neuromirror.cli.common import Settings, printable
from neuromirror.model.errors import ConfigurationError, count_of, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from neuromirror.cli.shapes import ListedFile
    from neuromirror.config.addresses import Address
    from neuromirror.index import Index, VersionRow
    from neuromirror.lab.diff import ChangeCounts, DiffSide, FileChange

_MAX_SHOWN = 10
"""Maximum number of files without sha256 that are named on stderr."""


@cli.command(
    "files",
    example="""\
neuromirror files dandi:000027@0.210831.2033
neuromirror files dandi:000027 --format sha256sum > SHA256SUMS""",
)
@cli.argument("version", help="A version, e.g. dandi:000027@draft; the default label is latest.")
@cli.choice_option(
    "--format form",
    ["columns", "sha256sum"],
    "Output format; sha256sum prints lines that 'sha256sum -c' can check in a clone.",
    default="columns",
)
@cli.settings_options
def files_command(settings: Settings, version: str, *, form: str) -> None:
    """List the files of a version.

    The columns are the strongest checksum ("size" or "none" if there is none), whether the archive
    claims it or it was checked here, the size, and the path. A "document" is a plain file in git
    with the archive's metadata, such as a JSON sidecar; a "cleaned" one differs from the archive's:
    it has no secrets and no "last_modified". --format sha256sum leaves out documents, names files
    without sha256 on stderr, and then exits with 1.
    """
    from neuromirror.cli.shapes import ListedSubdataset
    from neuromirror.index.shapes import Document

    if form == "sha256sum" and settings.json:
        raise ConfigurationError(
            "--format sha256sum and --json cannot be used together; --json alone prints all "
            "checksums"
        )
    with settings.index(version) as index:
        address, row = resolve_version(settings, index, version)
        name, selected = address.dataset, _selection(address)
        # closed before the index, also if the reader of the output exits
        with closing(_files(index, row, settings)) as files:
            if form == "sha256sum":
                chosen = (file for file in files if selected(file.path))
                sys.exit(_print_sha256sums(chosen, _omissions(index, row)))
            for file in files:
                if not selected(file.path):
                    continue
                record = {"type": "file", "dataset": name, "version": row.label, **file.plain()}
                status = "checked" if file.checked else "claimed"
                digest = file.evidence_digest or file.evidence
                line = _file_line(digest, status, file.size, file.path)
                settings.emit("files", record, line)
        for document in settings.store().repositories.documents(row.dataset_ref, row.commit):
            if not selected(document.path):
                continue
            about = Document.of(document).plain()
            record = {"type": "document", "dataset": name, "version": row.label, **about}
            status = "cleaned" if document.cleaned else ""
            line = _file_line("document", status, document.size, document.path)
            settings.emit("files", record, line)
        for subdataset in index.versions.subdatasets(row):
            if not selected(subdataset.path):
                continue
            record = {
                "type": "subdataset",
                **ListedSubdataset.of(subdataset).plain(),
                "superdataset": f"{name}@{row.label}",
            }
            version_name = f"{subdataset.dataset}@{subdataset.label or subdataset.commit[:12]}"
            line = _file_line(version_name, "subdataset", subdataset.bytes, subdataset.path)
            settings.emit("files", record, line)
        exceptions = index.versions.exceptions(row)
    for exception in exceptions:
        if not selected(exception["path"]):
            continue
        record = {"type": "exception", "dataset": name, "version": row.label, **exception}
        settings.emit("files", {**record, "status": "impossible", "message": exception["detail"]})
        reason = f"not mirrored: {exception['reason']}"
        settings.print_text(_file_line(reason, "", exception["size"], exception["path"]))


def _selection(address: Address) -> Callable[[str], bool]:
    """Return whether a path is the file or below the folder that an address names."""
    chosen = address.path
    return lambda path: chosen is None or path == chosen or path.startswith(f"{chosen}/")


def _files(
    index: Index, version: VersionRow, settings: Settings
) -> Generator[ListedFile, None, None]:
    """Yield the files of a version, from the index or from the store."""
    from neuromirror.cli.shapes import ListedFile

    if not version.indexed:
        yield from _stored_files(version, settings)
        return
    for file in index.files.of(version):
        urls = (
            [location.url for location in index.locations.of(file.content)] if settings.json else []
        )
        yield ListedFile.of(file, urls=urls)


def _stored_files(version: VersionRow, settings: Settings) -> Iterator[ListedFile]:
    """Yield the files of a version, from its stored records."""
    from neuromirror.cli.shapes import ListedFile
    from neuromirror.lab.lock_manifests import stored_record_lines
    from neuromirror.model import load_snapshot_entries

    for placed in load_snapshot_entries(stored_record_lines(settings.store(), version)):
        if placed.subdataset is not None:
            continue  # subdatasets are listed from the index
        record = placed.record
        best = record.digest(record.evidence.value)
        yield ListedFile.of(
            record,
            path=placed.git_path.decode(),
            key=placed.key,
            evidence_digest=None if best is None else f"{best.algorithm}:{best.value}",
            digest_values={digest.algorithm: digest.value for digest in record.digests},
            checked=best is not None and best.checked,
            urls=[location.url for location in record.locations],
        )


def _file_line(digest: str, status: str, size: int | None, path: str) -> str:
    """Format columns that fit a sha256 and a size of up to a terabyte."""
    return f"{digest:<71}  {status:<7}  {'-' if size is None else size:>13}  {path}"


def _omissions(index: Index, version: VersionRow) -> Iterator[str]:
    """Yield why the subdatasets and exceptions of a version have no sha256 line."""
    for subdataset in index.versions.subdatasets(version):
        name = f"{subdataset.dataset}@{subdataset.label or subdataset.commit}"
        yield f"{subdataset.path} (subdataset; run 'neuromirror files {name} --format sha256sum')"
    for exception in index.versions.exceptions(version):
        yield f"{exception['path']} (not mirrored: {exception['detail']})"


def _print_sha256sums(files: Iterable[ListedFile], omissions: Iterable[str]) -> int:
    """Print one line per file that ``sha256sum -c`` accepts; return the exit code.

    Files without sha256 and ``omissions`` are printed to stderr and make the exit code 1.
    """
    without_sha256 = 0
    for file in files:
        sha256 = file.digest_values.get("sha256")
        if sha256 is not None:
            # paths in git contain no characters that sha256sum escapes (annex.git_path)
            click.echo(f"{sha256}  {file.path}".encode())
            continue
        without_sha256 += 1
        if without_sha256 <= _MAX_SHOWN:
            _print_omission(f"{file.path} (no sha256; strongest checksum: {file.evidence})")
    if without_sha256 > _MAX_SHOWN:
        _print_omission(f"{without_sha256 - _MAX_SHOWN} more files (no sha256)")
    others = list(omissions)
    for reason in others:
        _print_omission(reason)
    return 1 if without_sha256 or others else 0


def _print_omission(reason: str) -> None:
    click.echo(printable(f"left out: {reason}"), err=True)


_SETTING = "[zarr] index_entries"


@cli.command(
    "find",
    example="""\
neuromirror find recording.nwb
neuromirror find md5:9e107d9d372bb6826bd81d3542a419d6""",
)
@cli.argument(
    "checksum",
    metavar="CHECKSUM|FILE",
    help="sha256:HEX, md5:HEX, etag:MD5-PARTS, bare hex, a git-annex key, or a file on disk.",
)
@cli.settings_options
def find_command(settings: Settings, checksum: str) -> None:
    """Find a file in all datasets, by its checksum or by comparing a file on disk.

    A FILE on disk is searched for by its sha256, its md5 and its S3 ETags for the usual part sizes;
    write ./NAME for one whose name looks like a checksum. A file is found only by the checksums
    that were recorded for it. The files of Zarrs that are not in the index are not searched; their
    number is printed to stderr.
    """
    from neuromirror.cli.shapes import FoundOccurrence
    from neuromirror.lab.addresses import find_any

    rows = []
    with settings.index() as index:
        queries = _queries(index, checksum)
        for found in find_any(index, queries):
            settings.emit("find", FoundOccurrence.of(found).plain())
            until = "" if found.last == found.first else f" to {found.last}"
            size = "-" if found.size is None else str(found.size)
            rows.append([found.dataset, f"{found.first}{until}", size, found.path])
        not_searched = index.files.unindexed()
    settings.print_table(sorted(rows), ["DATASET", "VERSIONS", "BYTES", "PATH"], ["BYTES"])
    if not rows:
        what = "checksum" if queries == [checksum] else "content of"
        message = (
            f"no mirrored file is recorded with the {what} {checksum}; 'neuromirror list' lists "
            "the mirrored datasets"
        )
        settings.emit("find", {"status": "impossible", "message": message}, message)
    for one in not_searched:
        message = (
            f"not searched: {one.files} files in {count_of(one.zarrs, 'Zarr')} of {one.mirror}, "
            f"which are not in the index. To index them, set '{_SETTING} = {one.largest}' in "
            f"{one.mirror}.toml and run 'neuromirror rebuild-index'."
        )
        record = {"type": "not-indexed", **to_builtins(one), "setting": _SETTING}
        record["message"] = message
        settings.emit("find", {**record, "status": "notneeded"})
        if not settings.json:
            click.echo(printable(message), err=True)
    if not rows:
        sys.exit(1)


def _queries(index: Index, query: str) -> list[str]:
    """Return the checksums to search for: the given one, or those of a file."""
    from neuromirror.index import MalformedQueryError
    from neuromirror.lab.addresses import queries_of_file

    try:
        index.files.find(query)
    except MalformedQueryError as error:
        path = Path(query)
        # os.path returns False for names that are invalid as paths, where pathlib raises
        if not (os.path.isfile(path) or os.path.islink(path)):
            raise MalformedQueryError(f"{error}; there is no file with this name either") from error
        return queries_of_file(path)
    return [query]


_KINDS = ("added", "removed", "changed", "moved", "metadata", "document")
_EXIT = 1


@cli.command(
    "diff",
    example="""\
neuromirror diff dandi:000027@0.210831.2033 dandi:000027@draft
neuromirror diff --exit-code ./clone dandi:000027""",
)
@cli.argument("old", metavar="A", help="The old version, or the folder of a clone.")
@cli.argument("new", metavar="B", help="The new version, or the folder of a clone.")
@cli.flag("-r --recursive", "List the changes inside changed subdatasets too.")
@cli.flag("--exit-code", "Exit with 1 if there is a difference, like git diff.")
@cli.flag("--metadata each", "Also list each file of the kind metadata.")
@cli.settings_options
def diff_command(
    settings: Settings, old: str, new: str, *, recursive: bool, exit_code: bool, each: bool
) -> None:
    """Compare two versions, or the checked-out commits of clones.

    The kinds of changes are:

    \b
    added, removed
    changed   different content
    moved     the same content at another path
    metadata  the same content with other URLs, times or checksums
    document  a plain file in git with metadata of the archive, such as dandiset.yaml

    The number before a path is the size of the file in bytes (the new size if both exist).
    Files of the kind metadata are one line for all with the same changes, unless with --metadata or
    --json. They are not compared for clones, and the files in their work trees are not read: use
    "neuromirror verify". A subdataset (a Zarr) is one line; --recursive lists the changes inside
    it.
    """
    from tempfile import TemporaryDirectory

    from neuromirror.cli.shapes import ListedChange
    from neuromirror.lab.diff import ChangeCounts, diff

    counts, unlisted = ChangeCounts(), dict[str, ChangeCounts]()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="neuromirror-")))
        one, other = _open_sides(settings, stack, old, new)
        for change in diff(one, other, scratch, recursive=recursive):
            counts.add(change)
            line: str | None = _change_line(change)
            if change.kind == "metadata" and not (each or change.is_subdataset):
                line = None
                unlisted.setdefault(change.message, ChangeCounts()).add(change)
            settings.emit("diff", ListedChange.of(change).plain(), line)
    for changed, group in unlisted.items():
        files = count_of(group.files["metadata"], "file")
        size = group.bytes["metadata"]
        settings.print_text(f"{'metadata':<8}  {size:>13}  {files} ({changed}; list: --metadata)")
    message = _summary(counts)
    record = {"type": "summary", "old": one.name, "new": other.name, "message": message}
    settings.emit("diff", record | {kind: dict(n) for kind, n in asdict(counts).items()})
    settings.print_text(f"{one.name} → {other.name}: {message}")
    differs = bool(counts.files or counts.subdatasets)
    sys.exit(_EXIT if exit_code and differs else 0)


def _open_sides(settings: Settings, stack: ExitStack, *names: str) -> Iterator[DiffSide]:
    """Yield the sides of names: folders of clones, or versions, for which the store is opened."""
    from neuromirror.lab.diff import clone_side, version_side
    from neuromirror.transfer.verified_repository import VerifiedRepository

    index: Index | None = None
    for name in names:
        folder = Path(name)
        if folder.is_dir():
            with VerifiedRepository.at(folder) as clone:
                yield clone_side(clone.git_dir, folder, clone.head())
            continue
        if "/" in name and ":" not in name:
            raise ConfigurationError(
                f"{name}: no such folder; specify the folder of a clone, or a version such as "
                "dandi:000027@draft"
            )
        index = index or stack.enter_context(settings.index(name))
        _, row = resolve_version(settings, index, name)
        yield version_side(settings.store(), index, row)


def _change_line(change: FileChange) -> str:
    """Format a change in columns that fit a size of up to a terabyte."""
    size = change.old_size if change.kind == "removed" else change.new_size
    columns = [change.path]
    if change.before is not None:
        columns.append(f"(was {change.before})")
    if change.kind == "changed" and change.old_size not in (None, change.new_size):
        columns.append(f"(was {change.old_size} bytes)")
    if change.files is not None:
        columns.append(f"(subdataset with {change.files} files)")
    if change.message:
        columns.append(f"({change.message})")
    return f"{change.kind:<8}  {'-' if size is None else size:>13}  {' '.join(columns)}"


def _summary(counts: ChangeCounts) -> str:
    changes = []
    for kind in _KINDS:
        files, subdatasets = counts.files[kind], counts.subdatasets[kind]
        if files and kind == "document":
            changes.append(f"{count_of(files, 'document')} changed")
        elif files:
            changes.append(f"{files} {kind} ({format_bytes(counts.bytes[kind])})")
        if subdatasets:
            changes.append(f"{subdatasets} subdataset{'s' * (subdatasets > 1)} {kind}")
    return ", ".join(changes) or "no difference"
