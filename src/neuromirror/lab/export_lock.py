"""Write the pinned files of a lock file as a list of another program.

Only the lock file and the manifests beside it are read, so that no store is needed. Each manifest
is checked against the state digest of its pin.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from msgspec import Struct, field

from neuromirror.annex import key_digest, parse_key
from neuromirror.lab.export_formats import (
    LINE_FORMATS,
    ExportedFile,
    NotExportableError,
    dvc_file,
)
from neuromirror.lab.lock_manifests import (
    LockManifestDamagedError,
)
from neuromirror.lab.output_files import OutputUnsuitableError, new_folder, write_file
from neuromirror.lab.verify.remote_files import pinned_items
from neuromirror.model import path_to_text
from neuromirror.transfer.findings import Finding

if TYPE_CHECKING:
    from neuromirror.lab.lockfile import Lock

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
    OutputUnsuitableError
        The target exists, or cannot be created.
    LockManifestDamagedError, LockManifestMissingError
        A manifest is unusable; nothing is written.
    UnsafePathError
        ``target`` is a relative path, and one of its folders is a symlink.
    """
    export = LockExport()
    if form == "dvc":
        _write_dvc(lock, target, export)
    else:
        if target.is_symlink() or target.exists():
            raise OutputUnsuitableError(
                f"{target} exists; remove it, or choose another file with --output"
            )
        write_file(export_lines(lock, form, export), target)
    return export


def _write_dvc(lock: Lock, target: Path, export: LockExport) -> None:
    with new_folder(target) as folder:
        for one, content in _exported(lock, dvc_file, export):
            path = folder / f"{one.path}.dvc"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8", newline="\n")


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
