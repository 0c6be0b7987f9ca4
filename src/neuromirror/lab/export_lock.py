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
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from msgspec import Struct, field

from neuromirror.annex import key_digest, parse_key
from neuromirror.lab.lock_manifests import LockManifestDamagedError
from neuromirror.lab.output_files import new_folder, write_file
from neuromirror.lab.verify import pinned_items
from neuromirror.model import ConfigurationError, path_to_text
from neuromirror.net import parse_aws_host
from neuromirror.transfer.outcomes import Finding

if TYPE_CHECKING:
    from neuromirror.lab.lockfile import Lock

# the printable characters of URLs: a list cannot be broken by the others
_URL_SAFE: Final = "/:@!$&'()*+,;=~?#[]%"
# characters that programs may interpret as line breaks, or strip
_AMBIGUOUS: Final = re.compile(r"\A\s|\s\Z|[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_DVC_RESERVED: Final = re.compile(
    r"(?:\A|/)(?:[^/]*\.dvc|dvc\.yaml|dvc\.lock|\.dvcignore|\.gitignore|\.git)(?:/|\Z)"
)


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
    store
        The URL of the bucket of its dataset in an S3-compatible store, or an empty text.
    """

    path: str
    key: str
    size: int | None
    digest: tuple[str, str] | None
    urls: tuple[str, ...]
    store: str = ""

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
        The text before the first file and after the last one.
    """

    line: Callable[[ExportedFile], str]
    head: str = ""
    tail: str = ""


def _pooch(one: ExportedFile) -> str:
    algorithm, value = one.need_digest("sha256", "md5")
    return f"{shlex.quote(one.need_name())} {algorithm}:{value} {shlex.quote(one.need_url())}\n"


def _checksum_line(algorithm: str, one: ExportedFile) -> str:
    _, value = one.need_digest(algorithm)
    name = one.need_name()
    # as sha256sum(1) and md5sum(1) write it: a leading backslash announces escapes
    escaped = name.replace("\\", "\\\\")
    prefix = "" if escaped == name else "\\"
    return f"{prefix}{value}  {escaped}\n"


def _aria2(one: ExportedFile) -> str:
    algorithm, value = one.need_digest("sha256", "md5")
    name = one.need_name()
    if "${HOME}" in name:
        raise NotExportableError("a name in which aria2 replaces ${HOME}")
    one.need_url()
    urls = "\t".join(printable_url(url) for url in one.urls)
    checksum = f"{'sha-256' if algorithm == 'sha256' else algorithm}={value}"
    return f"{urls}\n  out={name}\n  checksum={checksum}\n{_ARIA2_OPTIONS}"


def _wget(one: ExportedFile) -> str:
    return f"get {shlex.quote(one.need_name())} {shlex.quote(one.need_url())}\n"


def _curl(one: ExportedFile) -> str:
    # in quotes, curl reads a backslash as the start of an escape
    name = one.need_name().replace("\\", "\\\\").replace('"', '\\"')
    return f'url = "{one.need_url()}"\noutput = "{name}"\n'


def _addurls(one: ExportedFile) -> str:
    algorithm, value = one.digest or ("", "")
    size = "" if one.size is None else str(one.size)
    return _csv(one.need_name(), one.need_url(), size, algorithm, value, one.key)


def _csv(*values: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _quilt(one: ExportedFile) -> str:
    _, value = one.need_digest("sha256")
    if one.size is None:
        raise NotExportableError("no size")
    one.need_url()
    address = next(filter(None, (s3_address(url, one.store) for url in one.urls)), None)
    if address is None:
        raise NotExportableError("no URL in an S3 bucket, which Quilt requires")
    entry = {
        "logical_key": one.path,
        "physical_keys": [address],
        "size": one.size,
        "hash": {"type": "SHA256", "value": value},
        "meta": {},
    }
    return json.dumps(entry) + "\n"


def s3_address(url: str, store: str = "") -> str | None:
    """Return ``s3://bucket/key?versionId=…`` for the URL of an object, or None.

    Parameters
    ----------
    url
        The http or https URL of the object.
    store
        URL of a bucket in an S3-compatible store that is not Amazon's.
    """
    parts = urlsplit(url)
    host, path = parts.hostname or "", parts.path.lstrip("/")
    if (found := parse_aws_host(host)) is not None:
        address = path if found.bucket is None else f"{found.bucket}/{path}"
    elif store and url.startswith(store):
        bucket = store.rstrip("/").rpartition("/")[2]
        address = f"{bucket}/{url[len(store) :].partition('?')[0]}"
    else:
        return None
    return f"s3://{printable_url(address)}" + (f"?{parts.query}" if parts.query else "")


def dvc_file(one: ExportedFile) -> str:
    """Return the content of the ``.dvc`` file beside a file: an import from its URL.

    It has no digest: ``dvc update`` computes DVC's own md5, and does not compare it with an
    existing one.
    """
    name = one.need_name()
    if _DVC_RESERVED.search(name):
        raise NotExportableError("a name that DVC uses itself")
    url, output = _yaml(one.need_url()), _yaml(name.rpartition("/")[2])
    return f"frozen: true\ndeps:\n- path: {url}\nouts:\n- hash: md5\n  path: {output}\n"


def _yaml(text: str) -> str:
    # a JSON string is a YAML string
    return json.dumps(text, ensure_ascii=False)


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
    "quilt": LineFormat(_quilt, json.dumps({"version": "v0", "message": None}) + "\n"),
}
"""The formats of one file."""


FOLDER_FORMATS: Final = ("dvc",)
"""The formats that are a folder."""
_DANDISET: Final = re.compile(r"/dandisets/[0-9]{6}/?\Z")


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

    def add(self, one: ExportedFile) -> None:
        """Count a file in the list."""
        self.files += 1
        self.bytes += one.size or 0

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
    for _, text in _exported(lock, layout.line, export):
        yield text
    yield layout.tail


def _exported(
    lock: Lock, form: Callable[[ExportedFile], str], export: LockExport
) -> Iterator[tuple[ExportedFile, str]]:
    """Yield each file that a format can list with its text, and count all files."""
    for one in _exported_files(lock):
        try:
            text = form(one)
        except NotExportableError as error:
            export.omit(one.path, str(error))
        else:
            yield one, text
            export.add(one)


def export_lock(lock: Lock, form: str, target: Path) -> LockExport:
    """Write the pinned files to a new file, or for dvc to a new folder.

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
    if form == "dvc":
        with new_folder(target) as folder:
            for one, content in _exported(lock, dvc_file, export):
                path = folder / f"{one.path}.dvc"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, "utf-8", newline="\n")
    else:
        if target.is_symlink() or target.exists():
            raise ConfigurationError(
                f"{target} exists; remove it, or choose another file with --output"
            )
        write_file(export_lines(lock, form, export), target)
    return export


def _exported_files(lock: Lock) -> Iterator[ExportedFile]:
    """Yield the pinned files of all datasets, through subdatasets."""
    for pin in lock.datasets:
        store = _bucket_url(pin.source)
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
                store,
            )


def _bucket_url(source: str) -> str:
    """Return the URL of the bucket of a dataset whose source is the URL of a prefix."""
    if _DANDISET.search(source):
        return ""  # the source is an API
    parts = urlsplit(source)
    bucket = parts.path.lstrip("/").partition("/")[0]
    if parts.scheme not in ("http", "https") or not bucket:
        return ""
    return f"{parts.scheme}://{parts.netloc}/{bucket}/"
