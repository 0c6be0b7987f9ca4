"""Open single files of a version, with verification, and fill the cache with its files."""

from __future__ import annotations

import io
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from neuromirror.annex import upstream_path
from neuromirror.cache import PieceCache, open_cache
from neuromirror.cache.piece_cache import LEAF
from neuromirror.index import Index, open_index
from neuromirror.lab.addresses import find_address, indexed_name, version_at
from neuromirror.lab.globs import WatchedGlobs, escape
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import (
    DESCRIPTION_PATH,
    BlockDigests,
    ConfigurationError,
    NeuromirrorError,
    parse_json,
    path_to_text,
    text_to_path,
)
from neuromirror.model.errors import format_bytes
from neuromirror.net import RequestLimits
from neuromirror.store import NotAStoreError, Store
from neuromirror.stream.errors import (
    AddressUnresolvedError,
    ExcludedFileError,
    FileMissingError,
    NotAFileError,
    StreamError,
    UnverifiableError,
)
from neuromirror.stream.file import MEMORY, VerifiedFile, VerifiedObject
from neuromirror.stream.git_tree import CloneTree, GitTree, VersionTree, content_checksum
from neuromirror.stream.pieces import StoredPieces, Verify, WholeCheck, content_name, piece_check
from neuromirror.stream.readers import STREAM_LIMITS, PieceReader, Transport, WholeReader
from neuromirror.stream.remote_trees import CatalogueTree, LockTree, parse_catalogue_address
from neuromirror.transfer.outcomes import Outcome, Status

if TYPE_CHECKING:
    from neuromirror.index import VersionRow

_MAX_NAMES: Final = 10_000
"""Number of names of a folder that are compared with the name of a missing file."""


def open(
    address: StrPath | VersionTree,
    path: str,
    *,
    verify: Verify = "require",
    store: StrPath | None = None,
    cache: PieceCache | bool = True,
    limits: RequestLimits = STREAM_LIMITS,
) -> VerifiedFile | io.BytesIO:
    """Open a file of a version over the network; each byte is verified before it is returned.

    Parameters
    ----------
    address
        A version, as for :func:`open_tree`: in a store, a lock file, a clone or a catalogue. An
        open version stays open when the file is closed.
    path
        The path of the file in the version.
    verify
        ``require`` raises an error for reads that cannot be verified; ``whole-objects`` downloads
        and verifies a content without block digests first; ``off`` does not verify.
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``, else the user's.
    cache
        Where verified pieces are kept, and read the next time: True for the cache of this machine,
        False for none, or another cache.
    limits
        Timeouts, retries and concurrency limits of the requests.

    Returns
    -------
    VerifiedFile or io.BytesIO
        The file; plain files in git are in memory.

    Raises
    ------
    AddressUnresolvedError
        There is no version at the address.
    FileMissingError, NotAFileError
        The version has no such file, or it is a folder.
    UnverifiableError
        No digest is known with which parts of the file could be verified.
    """
    reopen: Callable[[], Any] | None = None
    if not isinstance(address, VersionTree):
        reopen = partial(
            open, address, path, verify=verify, store=store, cache=cache, limits=limits
        )
    tree = open_tree(address, store=store)
    owned: tuple[VersionTree | Transport, ...] = () if tree is address else (tree,)
    try:
        file = tree.file(path)
        if file is None:
            content = tree.document(path)
            if content is None:
                raise missing_file(tree, path, _nearest_names(tree, path))
            for one in owned:
                one.close()
            return io.BytesIO(content)
        transport = Transport(tree.access, limits=limits)
        owned = (transport, *owned)
        return VerifiedFile(open_object(tree, file, transport, verify, cache), owned, reopen)
    except BaseException:
        for one in owned:
            one.close()
        raise


def open_object(
    tree: VersionTree,
    file: ListedFile,
    transport: Transport,
    verify: Verify = "require",
    cache: PieceCache | bool = True,
    memory: int = MEMORY,
) -> VerifiedObject:
    """Return the content of a file of a version.

    Parameters
    ----------
    tree
        The files of the version.
    file
        The file.
    transport
        Sends the requests.
    verify, cache
        As for :func:`open`.
    memory
        Maximum size in bytes of the pieces that are kept in memory.

    Returns
    -------
    VerifiedObject
        The content; nothing is requested yet.

    Raises
    ------
    UnverifiableError
        No digest is known with which parts of the file could be verified.
    """
    digests: BlockDigests | None = tree.block_digests(file) if verify != "off" else None
    check = piece_check(file, digests, verify, tree.name, digest_command(tree, file.path))
    used = open_cache() if cache is True else cache or None
    local = tree.local_content(file)
    return VerifiedObject(file, check, transport, tree.name, cache=used, local=local, memory=memory)


def download(
    tree: VersionTree, file: ListedFile, transport: Transport, new_file: Callable[[], BinaryIO]
) -> BinaryIO:
    """Return a new file with the whole content of a file of a version; no cache is used.

    Parameters
    ----------
    tree, file, transport
        As for :func:`open_object`. Of a file without a digest only the size is verified.
    new_file
        Returns the file to write to; called for each attempt. The bytes are verified when this
        function returns, not before.

    Returns
    -------
    BinaryIO
        The file of the last attempt.

    Raises
    ------
    StreamError
        No location has the right bytes, or the size is unknown.
    """
    if file.size is None:
        raise UnverifiableError(f"{tree.name}: {file.path}: its size is unknown", file.path)
    check, local = WholeCheck(content_checksum(file), file.size), tree.local_content(file)
    stored = StoredPieces(file, check, None, None)
    pieces = PieceReader(file, check, transport, tree.name, stored)
    return WholeReader(file, check, transport, pieces, None, local).copy_to(new_file)


def excluded_file(
    tree: VersionTree, path: str, excluded_paths: Callable[[str], dict[bytes, str]]
) -> ExcludedFileError | None:
    """Return the error for a path that upstream has and the version excludes; else None.

    Parameters
    ----------
    tree, path
        The files of the version, and the path.
    excluded_paths
        Returns what the dataset in a folder excludes, as :func:`read_excluded_paths` does.
    """
    for folder in ["", *_ancestors(path)]:
        excluded = excluded_paths(folder)
        inner = path[len(folder) + 1 :] if folder else path
        for one in (*_ancestors(inner), inner) if excluded else ():
            reason = excluded.get(upstream_path(one.encode("utf-8", "surrogateescape")))
            if reason is not None:
                return _excluded(tree, path, reason)
    return None


def _excluded(tree: VersionTree, path: str, reason: str) -> ExcludedFileError:
    return ExcludedFileError(
        f"{tree.name}: {path} is excluded from the version ({reason}); it is not known whether the "
        "archive has it",
        path,
    )


def read_excluded_paths(tree: VersionTree, folder: str) -> dict[bytes, str]:
    """Return the excluded paths of the dataset in a folder, with the reasons."""
    name = f"{folder}/{DESCRIPTION_PATH}" if folder else DESCRIPTION_PATH
    content = tree.document(name)
    document: Any = {} if content is None else parse_json(content, name)
    try:
        return {
            text_to_path(one["path"]): str(one.get("reason", ""))
            for one in document.get("exceptions", ())
        }
    except (AttributeError, LookupError, TypeError) as error:
        raise StreamError(f"{tree.name}: {name} has invalid exceptions: {error}", name) from error


def excluded_in(tree: VersionTree, folder: str) -> ExcludedFileError | None:
    """Return the error for the first path in a folder that the version excludes; else None."""
    for dataset in ["", *_ancestors(folder), folder]:
        inner = folder[len(dataset) + 1 :] if dataset else folder
        start = upstream_path(f"{inner}/".encode("utf-8", "surrogateescape")) if inner else b""
        for path, reason in read_excluded_paths(tree, dataset).items():
            if path.startswith(start) and not path.endswith(b"/"):
                return _excluded(tree, f"{dataset}/{path_to_text(path)}".lstrip("/"), reason)
    return None


def _ancestors(path: str) -> list[str]:
    """Return the folders around a path, the outermost first."""
    names = path.split("/")
    return ["/".join(names[:count]) for count in range(1, len(names))]


def missing_file(
    tree: VersionTree, path: str, hint: str = ""
) -> FileMissingError | NotAFileError | ExcludedFileError:
    """Return, without raising it, the error for a path at which a version has no file.

    Parameters
    ----------
    tree
        The files of the version.
    path
        The path.
    hint
        Text to append to the message; empty for none.

    Returns
    -------
    FileMissingError, NotAFileError or ExcludedFileError
        The second if there is a folder at the path, the third if the version excludes the file.
    """
    if tree.entries(path) is not None:
        return NotAFileError(f"{tree.name}: {path or '/'} is a folder", path)
    excluded = excluded_file(tree, path, partial(read_excluded_paths, tree))
    return excluded or FileMissingError(f"{tree.name} has no file {path}{hint}", path)


def _nearest_names(tree: VersionTree, path: str) -> str:
    """Return which names the innermost folder has that a path has in common with a version."""
    missing = ""
    while path:
        path, _, missing = path.strip("/").rpartition("/")
        if (entries := tree.entries(path)) is not None:
            names = [entry.name for entry in islice(entries, _MAX_NAMES)]
            near = get_close_matches(missing, names) or names[:3]
            where = f"its folder {path}" if path else "its top folder"
            return f"; {where} has {', '.join(near)}, …" if near else ""
    return ""


def digest_command(tree: VersionTree, path: str) -> str:
    """Return the command after which parts of a file can be verified, quoted for a shell.

    Parameters
    ----------
    tree
        The files of the version.
    path
        The path of the file.

    Returns
    -------
    str
        The command. A clone lacks the content whose block digests it could compute.
    """
    if isinstance(tree, CloneTree):
        return shlex.join(("neuromirror", "get", f"{tree.name}/{path}"))
    target, inner = tree.pinned_path(path) if isinstance(tree, LockTree) else (tree.name, path)
    return shlex.join(("neuromirror", "digest", target, escape(inner)))


# --- open the files of a version at any address that commands accept


StrPath = str | os.PathLike[str]


def open_tree(address: StrPath | VersionTree, *, store: StrPath | None = None) -> VersionTree:
    """Open the files of a version.

    Parameters
    ----------
    address
        One of these: a version of the store (a name such as ``dandi:000027@0.210831.2033``, a DOI,
        or a URL of the archive); the path of a lock file; the folder of a clone; the URL of a page
        of a catalogue, or of a file in its gateway. An open version is returned as it is.
    store
        The store; by default ``NEUROMIRROR_STORE``, else ``./store``, else the user's.

    Returns
    -------
    VersionTree
        The files; close it after use.

    Raises
    ------
    AddressUnresolvedError
        There is no version at the address.
    """
    if isinstance(address, VersionTree):
        return address
    path = Path(address)
    if path.is_dir():
        return CloneTree(path)
    text = os.fspath(address)
    if path.is_file() or (text.endswith(".lock") and ":" not in text):
        return LockTree(path)
    catalogue = parse_catalogue_address(text)
    if catalogue is not None:
        return CatalogueTree(*catalogue)
    return _version_tree(text, store)


def tree_of_version(store: Store, row: VersionRow) -> GitTree:
    """Open the files of a version of the store.

    Parameters
    ----------
    store
        The store.
    row
        The version, as returned by ``index.versions.resolve``.

    Returns
    -------
    GitTree
        The files; close it after use.
    """
    repository = store.repositories.of(row.dataset_ref)
    host = row.source_uri.partition("://")[2].partition("/")[0]
    return GitTree(repository.path, row.commit, row.annex_commit, row.name, host, store)


def _version_tree(text: str, store: StrPath | None) -> GitTree:
    with _opened_index(text, store) as (opened, index):
        # local mirror files are not read by default: another user may have written them
        mirrors = Path(os.environ.get("NEUROMIRROR_MIRRORS") or f"{os.devnull}/none")
        return tree_of_version(opened, version_at(index, find_address(text, mirrors, index)))


def find_dataset(path: str, *, store: StrPath | None = None) -> str | None:
    """Return the dataset of the store whose name a path begins with; None if there is none."""
    names = path.split("/")
    with _opened_index(path, store) as (_, index):
        for count in range(len(names), 0, -1):
            address = "/".join(names[:count])
            if indexed_name(index, address) is not None:
                return address
    return None


@contextmanager
def _opened_index(text: str, store: StrPath | None) -> Iterator[tuple[Store, Index]]:
    try:
        with open_index(store) as opened:
            yield opened
    except NotAStoreError as error:
        raise AddressUnresolvedError(
            f"{text}: {error}; specify a store, a lock file or the folder of a clone"
        ) from error


JOBS: Final = 4
"""Number of files that are read in parallel."""

_STEP: Final = 8 << 20
_ACTION: Final = "cache"
_WRITE_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02
"""How long, and how often, to look for pieces that are being written."""


def fill_cache(
    tree: VersionTree, globs: Sequence[str], cache: PieceCache, *, jobs: int = JOBS
) -> Iterator[Outcome]:
    """Read files of a version into the cache, verified.

    Parameters
    ----------
    tree
        The files of the version.
    globs
        Globs (:mod:`neuromirror.lab.globs`); empty for all files.
    cache
        The cache.
    jobs
        Number of files that are read in parallel.

    Yields
    ------
    Outcome
        The result for each file: ``ok``, ``notneeded`` if the cache has it, ``impossible`` if no
        digest of it is known, or ``error``.

    Raises
    ------
    ConfigurationError
        The files do not fit into the cache, or one of them into half of it. Nothing was read.
    """
    watched = WatchedGlobs(globs)
    files = [*files_below(tree, watched)]
    total = sum(file.size or 0 for file in {file.key: file for file in files}.values())
    largest = max((file.size or 0 for file in files), default=0)
    if total > cache.limit or largest > cache.limit // 2:
        raise ConfigurationError(
            f"{tree.name}: {len(files)} files of {format_bytes(total)}, the largest of "
            f"{format_bytes(largest)}, do not fit into the cache of {format_bytes(cache.limit)}, "
            "of which one file gets at most half; set NEUROMIRROR_CACHE_SIZE, or specify a GLOB"
        )
    for glob, message in watched.unmatched() if files else ():
        yield Outcome(_ACTION, "error", glob, message)
    transport = Transport(tree.access)
    pool = ThreadPoolExecutor(jobs)
    try:
        yield from pool.map(lambda file: _fill(tree, file, transport, cache), files)
    finally:
        transport.close()
        pool.shutdown(wait=False, cancel_futures=True)


def files_below(tree: VersionTree, globs: WatchedGlobs, folder: str = "") -> Iterator[ListedFile]:
    """Yield the annexed files of a version that match globs.

    Parameters
    ----------
    tree
        The files of the version.
    globs
        The globs.
    folder
        The folder whose files are yielded; empty for all.

    Yields
    ------
    ListedFile
        A file.
    """
    for entry in tree.entries(folder) or ():
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_folder:
            if globs.reaches(path):
                yield from files_below(tree, globs, path)
        elif entry.key and globs.matches(path) and (file := tree.file(path)) is not None:
            yield file


def _fill(tree: VersionTree, file: ListedFile, transport: Transport, cache: PieceCache) -> Outcome:
    def outcome(status: Status, message: str = "") -> Outcome:
        return Outcome(_ACTION, status, file.path, message, key=file.key, size=file.size)

    name = content_name(file)
    if name is None:
        return outcome("impossible", "no digest of its content is known")
    if not name.size:
        return outcome("notneeded", "it is empty")
    cached = cache.content(name)
    if cached.has(0, name.size):
        return outcome("notneeded", "in the cache")
    try:
        content = open_object(tree, file, transport, "whole-objects", cache, memory=_STEP)
        aligned = content.check.piece_size % LEAF == 0 or content.check.piece_size >= content.size
        if aligned and tree.local_content(file) is None:
            for _ in _blocks(content):
                pass
        else:  # the cache keeps no pieces of a local copy, and no leaves that two pieces share
            with cache.new_content(name) as copy:
                for block in _blocks(content):
                    copy.write(block)
            cached.pieces_path.unlink(missing_ok=True)
    except NeuromirrorError as error:
        return outcome("error", str(error))
    except OSError as error:
        return outcome("error", _unwritable(cache, error.strerror or str(error)))
    until = time.monotonic() + _WRITE_SECONDS
    while not cached.has(0, name.size):  # a piece is written after it was handed over
        if cache.has_failed or time.monotonic() > until:
            return outcome("error", _unwritable(cache, "the disk is full, or not writable"))
        time.sleep(_POLL_SECONDS)
    return outcome("ok", f"verified by {content.verified_by}")


def _blocks(content: VerifiedObject) -> Iterator[bytes]:
    for start in range(0, content.size, _STEP):
        yield content.read_ranges([(start, start + _STEP)])[0]
        content.forget(start)


def _unwritable(cache: PieceCache, why: str) -> str:
    return f"it was verified, but {cache.folder} cannot be written: {why}"
