"""The preview process: reads one task from standard input and prints its outcome."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from neuromirror.git import GitError, ObjectMissingError
from neuromirror.model import NeuromirrorError
from neuromirror.model.errors import escape_unprintable
from neuromirror.model.programs import limit_resources
from neuromirror.net import AccessDeniedError, RequestLimits
from neuromirror.previews.shapes import (
    Preview,
    PreviewFailure,
    PreviewKind,
    PreviewTask,
    preview_kind,
)
from neuromirror.store import Store
from neuromirror.transfer.content_bodies import ContentMismatchError
from neuromirror.volume import BlockUnavailableError, VersionFiles
from neuromirror.volume.files import ReadLimitError

_MEMORY: Final = 2 << 30
"""Limit of the address space in bytes, most of which is libraries and never used."""
_MAX_MESSAGE: Final = 200
"""Maximum number of characters of an error on the log."""
_MAX_FILE_BYTES: Final = 64 << 20
"""Maximum size of a temporary file."""
_LIMITS: Final = RequestLimits(
    attempts=2, wait=0.5, wait_max=2.0, retry_after_max=5.0, connect=10.0, read=20.0, total=60.0
)


def main() -> None:
    """Run the preview process: read a task from stdin, and print its outcome to stdout."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=PreviewTask)
    # HDF5 must not load plug-ins; it reads this variable when h5py is imported
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread reserves address space
    limit_resources(memory=_MEMORY, file_bytes=_MAX_FILE_BYTES, seconds=int(task.seconds) + 1)
    with open(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # what libraries print is no part of the outcome
        outcome = msgspec.json.encode(_outcome(task))
        with suppress(BrokenPipeError):  # the catalogue was stopped
            output.write(outcome)
            output.flush()
    os._exit(0)  # HDF5 may crash when objects of a failed read are cleaned up at exit


def _outcome(task: PreviewTask) -> Preview | PreviewFailure:
    repository = Path(task.repository)
    store = Store(repository.parent.parent)
    files = VersionFiles(
        *(repository, task.commit, task.annex_commit, task.version, task.host, store),
        has_credentials=False,
        limits=_LIMITS,
        seconds=task.seconds,
    )
    kind = preview_kind(task.path, task.size)
    assert kind is not None  # the catalogue asks for no others
    for package in kind.packages:
        import_module(package)  # an error of the installation is no fault of the content
    ranges = None
    try:
        if kind.name == "zarr":
            from neuromirror.previews.zarr import preview_zarr

            return msgspec.structs.replace(preview_zarr(files, task.folder), verified=True)
        file = _open_verified(files, task, kind)
        if file is None:
            ranges = files.open_ranges(task.path, kind.max_part_bytes)
            file = cast(BinaryIO, io.BufferedReader(ranges, 1 << 16))
        return _preview(file, task.path, kind, verified=ranges is None)
    except BlockUnavailableError as error:
        _log(task.path, error)
        return _failure(error.causes)
    except MemoryError:
        return PreviewFailure("too-large")
    except (GitError, ObjectMissingError):
        raise  # the store is damaged
    except Exception as error:  # noqa: BLE001 - a parser of hostile bytes may raise anything
        _log(task.path, error)
        if ranges is not None and isinstance(failure := ranges.failure, NeuromirrorError):
            return _failure([failure, *getattr(failure, "causes", ())])
        return PreviewFailure("unreadable")
    finally:
        files.close()


def _log(path: str, error: Exception) -> None:
    """Write an error, and where it was raised, to stderr as one line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    line = f"no preview of {path}: {type(error).__name__} in {where}: {str(error)[:_MAX_MESSAGE]}"
    sys.stderr.write(f"{escape_unprintable(line)}\n")


def _preview(file: BinaryIO, path: str, kind: PreviewKind, *, verified: bool) -> Preview:
    with file:
        if kind.name == "hdf5":
            from neuromirror.previews.hdf5 import preview_hdf5

            made = preview_hdf5(file)
        elif kind.name in ("image", "pdf"):
            from neuromirror.previews.images import preview_image, preview_pdf

            made = preview_image(file) if kind.name == "image" else preview_pdf(file)
        else:
            from neuromirror.previews.text import preview_table, preview_text

            data = file.read() if verified else file.read(kind.max_part_bytes)
            make = preview_table if kind.name == "table" else preview_text
            made = make(data, path, whole=verified)
    return msgspec.structs.replace(made, verified=verified)


def _open_verified(files: VersionFiles, task: PreviewTask, kind: PreviewKind) -> BinaryIO | None:
    """Return the whole file, verified; None if it is too large for that."""
    in_git = files.git_document(task.path)
    if in_git is not None:
        return io.BytesIO(in_git)
    if task.size is None or task.size > kind.max_whole_bytes:
        return None
    found = files.read_object(task.path, kind.max_whole_bytes)
    return None if found is None else io.BytesIO(found)


def _failure(causes: Iterable[NeuromirrorError]) -> PreviewFailure:
    """Return the outcome for errors of the URLs of a file."""
    found = list(causes)
    if any(isinstance(one, ReadLimitError) for one in found):
        return PreviewFailure("too-large")
    if any(isinstance(one, ContentMismatchError) for one in found):
        return PreviewFailure("changed")
    if any(isinstance(one, AccessDeniedError) for one in found):
        return PreviewFailure("refused")
    return PreviewFailure("unavailable")


if __name__ == "__main__":
    main()
