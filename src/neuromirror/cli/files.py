"""``neuromirror files``."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click

from neuromirror.cli.addresses import resolve_version
from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, printable, settings_options
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from neuromirror.cli.shapes import ListedFile
    from neuromirror.config.addresses import Address
    from neuromirror.index import Index, VersionRow

_MAX_SHOWN = 10
"""Maximum number of files without sha256 that are named on stderr."""


@command(
    "files",
    example="""\
neuromirror files dandi:000027@0.210831.2033
neuromirror files dandi:000027 --format sha256sum > SHA256SUMS""",
)
@argument("version", help="A version, e.g. dandi:000027@draft; the default label is latest.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["columns", "sha256sum"]),
    default="columns",
    show_default=True,
    help="Output format; sha256sum prints lines that 'sha256sum -c' can check in a clone.",
)
@settings_options
def files_command(settings: Settings, version: str, *, form: str) -> None:
    """List the files of a version.

    The columns are the strongest checksum ("size" or "none" if there is none), whether the archive
    claims it or it was checked here, the size, and the path. --format sha256sum names files without
    sha256 on stderr, and then exits with 1.
    """
    from neuromirror.cli.shapes import ListedSubdataset

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
        for one in index.subdatasets(row):
            if not selected(one.path):
                continue
            record = {
                "type": "subdataset",
                **ListedSubdataset.of(one).plain(),
                "superdataset": f"{name}@{row.label}",
            }
            version_name = f"{one.dataset}@{one.label or one.commit[:12]}"
            line = _file_line(version_name, "subdataset", one.bytes, one.path)
            settings.emit("files", record, line)
        exceptions = index.exceptions(row)
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
    for file in index.files(version):
        urls = [location.url for location in index.locations(file.content)] if settings.json else []
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
            digest_values={one.algorithm: one.value for one in record.digests},
            checked=best is not None and best.checked,
            urls=[location.url for location in record.locations],
        )


def _file_line(digest: str, status: str, size: int | None, path: str) -> str:
    """Format columns that fit a sha256 and a size of up to a terabyte."""
    return f"{digest:<71}  {status:<7}  {'-' if size is None else size:>13}  {path}"


def _omissions(index: Index, version: VersionRow) -> Iterator[str]:
    """Yield why the subdatasets and exceptions of a version have no sha256 line."""
    for one in index.subdatasets(version):
        name = f"{one.dataset}@{one.label or one.commit}"
        yield f"{one.path} (subdataset; run 'neuromirror files {name} --format sha256sum')"
    for exception in index.exceptions(version):
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
