"""Write the pinned files of a lock file as a list of another program.

The line formats of ``export-lock``: one line, or a few, per file.

Each format has its own quoting and its own set of digests; a file that cannot be written in a
format raises :class:`NotExportableError`, with the reason.

Only the lock file and the manifests beside it are read, so that no store is needed. Each manifest
is checked against the state digest of its pin.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from msgspec import Struct, field

from neuromirror.annex import key_digest, parse_key
from neuromirror.lab.lock_manifests import LockManifestDamagedError
from neuromirror.lab.output_files import write_file
from neuromirror.lab.verify import pinned_items
from neuromirror.model import ConfigurationError, path_to_text
from neuromirror.transfer.outcomes import Finding

if TYPE_CHECKING:
    from neuromirror.lab.lockfile import Lock

# the printable characters of URLs: a list cannot be broken by the others
_URL_SAFE: Final = "/:@!$&'()*+,;=~?#[]%"
# characters that programs may interpret as line breaks, or strip
_AMBIGUOUS: Final = re.compile(r"\A\s|\s\Z|[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def printable_url(url: str) -> str:
    """Escape the characters of a URL that could break a list, and no others."""
    return quote(url, safe=_URL_SAFE)


class NotExportableError(Exception):
    """A file cannot be listed in the chosen format; the message is the reason."""


class ExportedFile(Struct, frozen=True):
    """A pinned file.

    Attributes
    ----------
    path
        ``<mirror>--<local id>/<path>``, as restored.
    key
        The annex key of the file.
    digest
        Algorithm (sha256, md5 or etag) and value, or None.
    urls
        The http and https URLs, best first.
    """

    path: str
    key: str
    size: int | None
    digest: tuple[str, str] | None
    urls: tuple[str, ...]

    def need_url(self) -> str:
        """Return the best URL, printable."""
        if not self.urls:
            raise NotExportableError("no URL that other programs can download")
        return printable_url(self.urls[0])

    def need_name(self) -> str:
        """Return the path if all line-based programs read it unchanged."""
        if _AMBIGUOUS.search(self.path):
            raise NotExportableError("a name with control characters or outer spaces")
        return self.path

    def need_digest(self, *algorithms: str) -> tuple[str, str]:
        """Return the digest if it has one of the algorithms."""
        if self.digest is None or self.digest[0] not in algorithms:
            found = "no checksum" if self.digest is None else f"{self.digest[0]} only"
            raise NotExportableError(f"no {' or '.join(algorithms)} ({found})")
        return self.digest


class LineFormat(Struct, frozen=True):
    """A format of ``export-lock`` that lists files in one text file.

    Attributes
    ----------
    line
        Returns the line or lines of a file; raises :class:`NotExportableError` for a file that the
        format cannot list.
    head, tail
        The text before the first file and after the last file.
    """

    line: Callable[[ExportedFile], str]
    head: str = ""
    tail: str = ""


def _pooch(file: ExportedFile) -> str:
    algorithm, value = file.need_digest("sha256", "md5")
    return f"{shlex.quote(file.need_name())} {algorithm}:{value} {shlex.quote(file.need_url())}\n"


def _checksum_line(algorithm: str, file: ExportedFile) -> str:
    _, value = file.need_digest(algorithm)
    name = file.need_name()
    # as sha256sum(1) and md5sum(1) write it: a leading backslash announces escapes
    escaped = name.replace("\\", "\\\\")
    prefix = "" if escaped == name else "\\"
    return f"{prefix}{value}  {escaped}\n"


def _aria2(file: ExportedFile) -> str:
    algorithm, value = file.need_digest("sha256", "md5")
    name = file.need_name()
    if "${HOME}" in name:
        raise NotExportableError("a name in which aria2 replaces ${HOME}")
    file.need_url()
    urls = "\t".join(printable_url(url) for url in file.urls)
    checksum = f"{'sha-256' if algorithm == 'sha256' else algorithm}={value}"
    return f"{urls}\n  out={name}\n  checksum={checksum}\n{_ARIA2_OPTIONS}"


def _wget(file: ExportedFile) -> str:
    return f"get {shlex.quote(file.need_name())} {shlex.quote(file.need_url())}\n"


def _curl(file: ExportedFile) -> str:
    # in quotes, curl reads a backslash as the start of an escape
    name = file.need_name().replace("\\", "\\\\").replace('"', '\\"')
    return f'url = "{file.need_url()}"\noutput = "{name}"\n'


def _addurls(file: ExportedFile) -> str:
    algorithm, value = file.digest or ("", "")
    size = "" if file.size is None else str(file.size)
    return _csv(file.need_name(), file.need_url(), size, algorithm, value, file.key)


def _csv(*values: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


# aria2 would download what a pinned torrent or metalink names
_ARIA2_OPTIONS: Final = "  follow-torrent=false\n  follow-metalink=false\n"

_CURL_HEAD: Final = "fail\nlocation\ngloboff\ncreate-dirs\n"

_WGET_HEAD: Final = """\
#!/bin/sh
# Downloads the files into the current folder. Check them with 'neuromirror verify'.
failed=0
get() {
    [ -e "$1" ] && return
    mkdir -p -- "$(dirname -- "$1")" &&
        wget --no-verbose --continue -O "$1.part" -- "$2" && mv -- "$1.part" "$1" || failed=1
}
"""

LINE_FORMATS: Final = {
    "pooch": LineFormat(_pooch),
    "sha256sum": LineFormat(partial(_checksum_line, "sha256")),
    "md5sum": LineFormat(partial(_checksum_line, "md5")),
    "aria2": LineFormat(_aria2),
    "curl": LineFormat(_curl, _CURL_HEAD),
    "wget": LineFormat(_wget, _WGET_HEAD, "exit $failed\n"),
    "addurls": LineFormat(_addurls, _csv("path", "url", "size", "algorithm", "digest", "key")),
}


class LockExport(Struct):
    """The result of an export.

    Attributes
    ----------
    files, bytes
        Number and size of the files in the list.
    omitted
        Number of files that are not in the list, by reason.
    examples
        Some of the paths of these files, by reason.
    """

    files: int = 0
    bytes: int = 0
    omitted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def omit(self, path: str, reason: str) -> None:
        """Count a file that cannot be written in the format."""
        self.omitted[reason] += 1
        some = self.examples.setdefault(reason, [])
        if len(some) < _MAX_EXAMPLES:
            some.append(path)


_MAX_EXAMPLES: Final = 1000


def export_lines(lock: Lock, form: str, export: LockExport) -> Iterator[str]:
    """Yield the pieces of a list in a format of :data:`LINE_FORMATS`.

    Parameters
    ----------
    lock
        The lock file.
    form
        A name in :data:`LINE_FORMATS`.
    export
        Counts the files.

    Raises
    ------
    LockManifestDamagedError, LockManifestMissingError
        A manifest is unusable.
    """
    layout = LINE_FORMATS[form]
    yield layout.head
    for file in _exported_files(lock):
        try:
            lines = layout.line(file)
        except NotExportableError as error:
            export.omit(file.path, str(error))
        else:
            yield lines
            export.files += 1
            export.bytes += file.size or 0
    yield layout.tail


def export_lock(lock: Lock, form: str, target: Path) -> LockExport:
    """Write the pinned files to a new file.

    Raises
    ------
    ConfigurationError
        The target exists, or cannot be created.
    LockManifestDamagedError, LockManifestMissingError
        A manifest is unusable; nothing is written.
    UnsafePathError
        ``target`` is a relative path, and one of its folders is a symlink.
    """
    export = LockExport()
    if target.is_symlink() or target.exists():
        raise ConfigurationError(
            f"{target} exists; remove it, or choose another file with --output"
        )
    write_file(export_lines(lock, form, export), target)
    return export


def _exported_files(lock: Lock) -> Iterator[ExportedFile]:
    """Yield the pinned files of all datasets, through subdatasets."""
    for pin in lock.datasets:
        for item in pinned_items(lock, pin):
            if isinstance(item, Finding):
                if item.failed:
                    raise LockManifestDamagedError(
                        f"{pin.version}: {item.message}; restore the lock file and its folder from "
                        "git, or pin the dataset again"
                    )
                continue
            yield ExportedFile(
                f"{pin.dataset.alias}/{path_to_text(item.path)}",
                item.key,
                parse_key(item.key).size,
                key_digest(item.key),
                item.web_urls,
            )
