"""Put the files of a version into a folder, as plain files with verified content."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from neuromirror.annex import sha256e_key
from neuromirror.lab.clone import scratch_clone, selected_paths
from neuromirror.lab.find import annexed_key
from neuromirror.lab.globs import Globs, escape
from neuromirror.mint.documents import OWN_NAMES
from neuromirror.store import SafeFolder, UnsafePathError, refuse_symlinks
from neuromirror.transfer import get
from neuromirror.transfer.byte_progress import ByteProgress
from neuromirror.transfer.outcomes import Outcome
from neuromirror.transfer.verify_items import PinnedFile
from neuromirror.transfer.work_tree import verify_plain_files

_DIFFERS: Final = "exists with different content and is kept; --overwrite replaces it"
_COMPARED_AT_ONCE: Final = 8
"""Number of threads that hash existing files."""


def download(
    url: str,
    path: str | None,
    target: Path,
    *,
    jobs: int,
    overwrite: bool = False,
    progress: ByteProgress | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Outcome]:
    """Put files of a version into a folder, as plain files with verified content.

    The status of a file is ``notneeded`` if it exists with the right content, ``ok`` if it was
    fetched, ``error`` if it could not be fetched or written, or exists with different content, and
    ``impossible`` if no URL is known. No failure of a file prevents that of another.

    Parameters
    ----------
    url
        The URL from which DataLad clones the version.
    path
        A file or folder of the version; None for all files, except those that neuromirror and
        DataLad add to a dataset.
    target
        The folder.
    jobs
        Maximum number of concurrent downloads.
    overwrite
        Whether to replace files with different content.
    progress
        Called with the bytes received and expected so far.
    settings
        Settings of git with which private content is requested.

    Yields
    ------
    Outcome
        The result for each file.
    """
    own = {os.fsdecode(name) for name in OWN_NAMES}
    with_own_files = path is not None and not own.isdisjoint(path.split("/"))
    globs = Globs([] if path is None else [escape(path)])
    with scratch_clone(url, target, settings) as clone:
        missing: list[str] = []
        existing: list[str] = []
        failed = False
        for one, problem in selected_paths(clone, globs, with_own_files=with_own_files):
            if problem:
                failed = True
                yield Outcome("get", "error", one, problem)
            else:
                (existing if _exists(target, one) else missing).append(one)
        if path is not None and not (failed or missing or existing):
            yield Outcome("get", "impossible", path, "the version has no such file or folder")
        for outcome in _compare(clone, existing, target):
            if not outcome.failed:
                yield outcome
            elif overwrite:
                missing.append(outcome.path)
            else:
                yield outcome
        if missing:
            for outcome in _fetch(clone, missing, jobs, progress):
                yield outcome if outcome.failed else _moved(clone, outcome, target, overwrite)


def _exists(target: Path, path: str) -> bool:
    """Return whether a path exists, without following symlinks."""
    try:
        refuse_symlinks(target, os.path.dirname(path))
    except UnsafePathError:
        return False  # an error when the file is written
    return os.path.lexists(target / path)


def _compare(clone: Path, paths: Sequence[str], target: Path) -> Iterator[Outcome]:
    """Yield whether existing files have the content of the version: ``notneeded`` or ``error``."""
    items = (PinnedFile(os.fsencode(path), _content_key(clone / path), ()) for path in paths)
    for finding in verify_plain_files(items, target, "error", _COMPARED_AT_ONCE):
        path = os.fsdecode(os.fsencode(finding.path))
        if finding.failed:
            # a file that could be compared has a size
            why = f"exists and {finding.message}" if finding.size is None else _DIFFERS
            yield Outcome("get", "error", path, why, key=finding.key)
        else:
            yield Outcome(
                *("get", "notneeded", path, finding.message),
                key=finding.key,
                size=finding.size,
                evidence=finding.evidence,
                checked=finding.checked,
            )


def _content_key(file: Path) -> str:
    """Return the key of an annexed file of a clone, or one for the content of any other file."""
    if key := annexed_key(file):
        return key
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        return sha256e_key(os.fstat(content.fileno()).st_size, digest, file.name)


def _fetch(
    clone: Path, paths: Sequence[str], jobs: int, progress: ByteProgress | None
) -> Iterator[Outcome]:
    """Get files of a scratch clone; yield one outcome per file, also for those in git."""
    for outcome in get(clone, [clone / one for one in paths], jobs=jobs, progress=progress):
        is_new = outcome.status == "notneeded"  # in git
        yield replace(outcome, status="ok", message="from git") if is_new else outcome


def _moved(clone: Path, outcome: Outcome, target: Path, overwrite: bool) -> Outcome:
    """Move the content of a file out of a scratch clone; return the outcome of both steps."""
    destination = target / outcome.path
    try:
        move_file(clone, outcome.path, destination, target, overwrite=overwrite)
        return replace(outcome, size=destination.stat().st_size)
    except FileExistsError:
        why = _DIFFERS
    except UnsafePathError as error:
        why = f"cannot be written: {error}"
    except OSError as error:
        # the folder at fault is the same for many files
        where = f"{error.filename}: " if error.filename in map(str, destination.parents) else ""
        why = f"cannot be written: {where}{error.strerror or error}"
    return Outcome("get", "error", outcome.path, why, key=outcome.key, size=outcome.size)


def move_file(
    clone: Path, path: str, destination: Path, top: Path, *, overwrite: bool = False
) -> None:
    """Move the content of a file out of a scratch clone, in one step.

    Parameters
    ----------
    clone
        The clone, on the file system of ``destination``.
    path
        The path of the file in the clone.
    destination
        The new path.
    top
        The folder below which no component of ``destination`` may be a symlink.
    overwrite
        Whether to replace an existing file.

    Raises
    ------
    FileExistsError
        The target exists.
    UnsafePathError
        A component of the path is a symlink.
    OSError
        The content is missing, or cannot be moved.
    """
    content = (clone / path).resolve(strict=True)
    if not content.is_relative_to(clone.resolve()):
        raise OSError(f"{path}: a link out of the dataset")
    draft = clone.parent / "draft"
    draft.unlink(missing_ok=True)
    os.chmod(content.parent, 0o700)
    try:
        # files with the same content must not become one file with several names
        if content.stat().st_nlink > 1:
            raise OSError
        os.link(content, draft)
    except OSError:  # for example on a file system without hard links
        shutil.copyfile(content, draft)
    os.chmod(draft, 0o644)
    try:
        opened = SafeFolder.open_path(destination.parent, create=True, below=top)
    except NotADirectoryError as error:
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(destination.parent)) from error
    name = destination.name
    with opened as folder:
        if not overwrite:
            try:
                # unlike a rename, never replaces a file
                os.link(draft, name, dst_dir_fd=folder.descriptor)
                return
            except OSError:
                if folder.status(name) is not None:
                    raise
        os.replace(draft, name, dst_dir_fd=folder.descriptor)
