"""The files of a volume, in a clone and in a version of the store."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import stat
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache, partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from msgspec.structs import replace

from neuromirror.annex import (
    POINTER_PREFIX,
    find_pointer_key,
    is_all_zeros,
    is_pointer,
    key_digest,
    parse_key,
)
from neuromirror.git import CommitTree, ObjectMissingError, ObjectReader
from neuromirror.model import NeuromirrorError
from neuromirror.net import RequestLimits
from neuromirror.stream import GitTree, StreamError, Transport
from neuromirror.stream.file import VerifiedFile, VerifiedObject
from neuromirror.stream.opening import download, excluded_file, read_excluded_paths
from neuromirror.stream.pieces import Data
from neuromirror.transfer.annex_clone import AnnexClone
from neuromirror.transfer.clone_get import GitAnnexBatch, failure_reason
from neuromirror.transfer.content_bodies import BLOCK_LIMITS, ContentMismatchError
from neuromirror.volume.errors import INSTALL_COMMAND, BlockUnavailableError

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.lab.lock_manifests import ListedFile
    from neuromirror.store import Store

MAX_SHARD: Final = 1 << 30
"""Maximum size of a shard in bytes."""

_STRIPES: Final = 64


class CloneFiles:
    """Returns the files of a volume in a clone (:class:`VolumeFiles`), after checking them.

    A missing block is fetched with git-annex, and stays. An existing block is hashed once, and
    again after a change, because git-annex verifies its files only on request.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.where = str(folder)
        self._annex_get = AnnexGet(self.folder)
        self._head: CommitTree | None = None
        self._head_lock = threading.Lock()
        self._checked: set[tuple[str, int, int, int]] = set()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    def __reduce__(self) -> tuple[type[CloneFiles], tuple[Path]]:
        return CloneFiles, (self.folder,)

    def document(self, path: str) -> bytes | None:
        """Return the content of a document; None if the clone lacks the file."""
        try:
            if not stat.S_ISLNK(os.lstat(self.folder / path).st_mode):
                return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return bytes(self.block(path))

    git_document = document

    def block(self, path: str) -> mmap.mmap:
        """Return a block's bytes, verified; raises BlockUnavailableError."""
        with self._locks[hash(path) % _STRIPES]:
            file = self.folder / path
            key = self._key(path)
            why = ""
            if not self._is_here(file, key):
                why = self._annex_get.get(path)
            try:
                with file.open("rb") as opened:
                    if key is not None and _is_pointer(opened):
                        raise FileNotFoundError
                    self._check(path, key, opened)
                    return map_file(opened)
            except FileNotFoundError as error:
                raise BlockUnavailableError(
                    path,
                    self.where,
                    f"its content is missing and git-annex cannot fetch it:"
                    f" {why or 'no error message'};"
                    f" try 'git annex get {path}' there",
                ) from error

    def read_object(self, path: str, max_bytes: int) -> mmap.mmap | None:
        """Return an object of a layer, verified; None if the clone lacks it."""
        # a tracked file that the work tree lacks is no missing chunk: block() raises an error
        return self.block(path) if self.has(path) or self._commit.entry(path) else None

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path of the commit that starts with a text; None without one."""
        return self._commit.first_with_prefix(prefix)

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        """Return a part of an object of a layer; None if the clone lacks it."""
        content = self.read_object(path, MAX_SHARD)
        return None if content is None else slice_content(content, path, start, stop, self.where)

    def copy(self, path: str, take: Callable[[int, memoryview], None]) -> None:
        """Pass a block's verified bytes to ``take``; raises BlockUnavailableError."""
        take(0, memoryview(self.block(path)))

    def has(self, path: str) -> bool:
        """Return whether the clone has the file, with or without its content."""
        return os.path.lexists(self.folder / path)

    @property
    def _commit(self) -> CommitTree:
        """The commit that is checked out."""
        with self._head_lock:
            if self._head is None:
                self._head = CommitTree(self._git_folder(), "HEAD")
            return self._head

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder, each with whether it is a folder."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in sorted(os.scandir(self.folder / folder), key=lambda one: one.name):
                yield entry.name, entry.is_dir(follow_symlinks=False)

    def close(self) -> None:
        """Let git-annex finish and exit."""
        self._annex_get.close()
        with self._head_lock:
            if self._head is not None:
                self._head.close()
                self._head = None

    def _is_here(self, file: Path, key: str | None) -> bool:
        if key is None or not file.exists():
            return key is None
        with file.open("rb") as opened:
            return not _is_pointer(opened)

    def _key(self, path: str) -> str | None:
        """Return the key of a file; None for a file whose content is in git."""
        file = self.folder / path
        try:
            mode = os.lstat(file).st_mode
            if stat.S_ISLNK(mode):
                return find_pointer_key(os.readlink(os.fsencode(file)))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BlockUnavailableError(
                path, self.where, "the file does not exist; 'git status' there may show why"
            ) from error
        # an unlocked file: its blob in git contains the key
        with suppress(ObjectMissingError), ObjectReader(self._git_folder()) as reader:
            return find_pointer_key(reader.read(f":{path}"))
        return None

    def _git_folder(self) -> Path:
        folder = self.folder / ".git"
        if folder.is_file():  # a subdataset's may be in its superdataset
            return self.folder / folder.read_text().removeprefix("gitdir:").strip()
        return folder

    def _check(self, path: str, key: str | None, file: BufferedReader) -> None:
        if key is None:
            return
        now = os.fstat(file.fileno())
        seen = key, now.st_ino, now.st_size, now.st_mtime_ns
        if seen in self._checked:
            return
        wrong = check_content(file, key)
        if wrong:
            raise BlockUnavailableError(
                path,
                self.where,
                f"the file differs from its key: {wrong}; 'git annex fsck {path}' there removes it,"
                " and it can be fetched again",
            )
        self._checked.add(seen)


def _is_pointer(file: BufferedReader) -> bool:
    """Return whether a file is a git-annex pointer file."""
    start = file.read(len(POINTER_PREFIX))
    file.seek(0)
    return is_pointer(start, os.fstat(file.fileno()).st_size)


# --- fetch missing content of a clone, with one git-annex process per open volume


_JOBS: Final = 4
"""Number of blocks that git-annex fetches concurrently."""

_EXIT_TIMEOUT: Final = 10.0
"""Seconds that git-annex has to exit after the last request."""


class AnnexGet:
    """Fetches annexed files of a clone with a running git-annex process. Thread-safe.

    git-annex does the transfer, so that all remotes of the clone can be used, its checks apply, and
    the content stays in the clone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._process: _AnnexGetProcess | None = None
        self._closed = False

    def get(self, path: str) -> str:
        """Get a file; return why it is unavailable, or an empty text."""
        if "\n" in path:
            # git-annex reads one path per line; with -z it replies only at the end of its input
            return "its path has a line break"
        with self._lock:
            if self._closed:
                return "the volume was closed"
            if self._process is None or self._process.has_exited:
                try:
                    self._process = _AnnexGetProcess(self._folder)
                except OSError as error:
                    return f"it cannot be started ({error.strerror}): {INSTALL_COMMAND}"
                except NeuromirrorError as error:
                    return str(error)
                weakref.finalize(self, _AnnexGetProcess.stop, self._process)
            result = self._process.submit(path)
        return result.result()

    def close(self) -> None:
        """Wait for git-annex to exit."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.stop()


class _AnnexGetProcess:
    """A git-annex process, and the futures of the files requested from it."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Future[str]]] = {}
        self._pending_replies = 0
        self._stderr = ""
        self.has_exited = False
        environment = AnnexClone.at(folder).annex_environment(credentials=True)
        self._batch = GitAnnexBatch(folder, environment, _JOBS, is_interactive=True)
        threading.Thread(target=self._read_replies, name="annex-get", daemon=True).start()

    def submit(self, path: str) -> Future[str]:
        """Request a file; return the future of the reason why it failed, empty if it did not."""
        answer: Future[str] = Future()
        with self._lock:
            if self.has_exited:
                answer.set_result(self._exit_message())
                return answer
            others = self._waiting.setdefault(path, [])
            others.append(answer)
            if len(others) == 1:
                self._pending_replies += 1
                self._batch.send([os.fsencode(path)])
        return answer

    def stop(self) -> None:
        """Let git-annex finish the requested files and exit; terminate it after a timeout."""
        with self._lock:
            if self.has_exited:
                return
            self._batch.end_input()
        self._batch.stop(_EXIT_TIMEOUT)

    def _read_replies(self) -> None:
        try:
            for answer in self._batch.replies():
                with self._lock:
                    self._pending_replies -= 1
                    self._handle_reply(answer)
        finally:
            stderr = self._batch.finish()
            with self._lock:
                self.has_exited, self._stderr = True, stderr
                for path in list(self._waiting):
                    self._settle(path, self._exit_message())

    def _handle_reply(self, answer: dict[str, Any] | None) -> None:
        """Resolve the future of a reply.

        git-annex prints an empty line for a file with nothing to do, without naming the file: the
        remaining futures are resolved once every request has a line.
        """
        if answer is not None:
            self._settle(answer["input"][0], "" if answer["success"] else failure_reason(answer))
        if not self._pending_replies:
            for path in list(self._waiting):
                self._settle(path, "")

    def _settle(self, path: str, why: str) -> None:
        for one in self._waiting.pop(path, []):
            one.set_result(why)

    def _exit_message(self) -> str:
        return f"git-annex exited before it got the file: {self._stderr or 'no error message'}"


_CACHED_BLOCKS: Final = 4
_MOST_AHEAD: Final = 4 << 20
"""Maximum number of bytes of a file that are requested before they are read."""


class ReadLimitError(NeuromirrorError):
    """A reader requested more bytes than it may."""


class _FirstBytes:
    """Accepts any bytes of a content, but no more than ``left`` of them."""

    piece_size = 1 << 18
    is_verified = False
    basis = ""

    def __init__(self, size: int, left: int) -> None:
        self.size, self._left = size, left

    def is_piece(self, piece: int, data: Data) -> bool:
        """Return True."""
        self._left -= len(data)
        if self._left < 0:
            raise ReadLimitError("reading needs more bytes of this file than are allowed")
        return True


class VersionFiles:
    """Returns the files of a volume in a version of the store (:class:`VolumeFiles`).

    A file is verified with its key before it is returned. The most recently used ones are kept in
    unnamed temporary files, because an array is often read plane by plane. An object can be
    pickled, and used by several threads.

    Parameters
    ----------
    repository, commit, annex_commit, name, source_host, store
        As for :class:`~neuromirror.stream.GitTree`.
    has_credentials
        Whether tokens are sent.
    limits
        Timeouts, retries and concurrency limits of the requests.
    seconds
        Seconds after which no further file is fetched and requests in progress are cancelled; None
        for no limit.
    """

    def __init__(
        self,
        repository: Path,
        commit: str,
        annex_commit: str | None,
        name: str,
        source_host: str,
        store: Store | None,
        *,
        has_credentials: bool = True,
        limits: RequestLimits = BLOCK_LIMITS,
        seconds: float | None = None,
    ) -> None:
        self.where = name
        self._arguments = (repository, commit, annex_commit, name, source_host, store)
        options: dict[str, Any] = {"has_credentials": has_credentials, "limits": limits}
        self._factory = partial(VersionFiles, seconds=seconds, **options)
        self._tree = GitTree(*self._arguments)
        self._excluded_paths = lru_cache(partial(read_excluded_paths, self._tree))
        self._transport = Transport(
            self._tree.access,
            limits=limits,
            block_limits=limits,
            has_credentials=has_credentials,
            seconds=seconds,
        )
        self._cached_files: OrderedDict[str, BinaryIO] = OrderedDict()
        weakref.finalize(self, _release, self._tree, self._cached_files)
        self._cache_lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    def __reduce__(self) -> tuple[Callable[..., VersionFiles], tuple[Any, ...]]:
        return self._factory, self._arguments

    def document(self, path: str) -> bytes | None:
        """Return the content of a document; None if the version lacks the file."""
        file = self._tree.file(path)
        return self.git_document(path) if file is None else bytes(self._content(file))

    def git_document(self, path: str) -> bytes | None:
        """Return the content of a document that is in git; None if it is not."""
        return self._tree.document(path)

    def block(self, path: str) -> mmap.mmap | bytes:
        """Return the verified bytes of an annexed file; raises BlockUnavailableError."""
        return self._content(self._file(path))

    def copy(self, path: str, take: Callable[[int, memoryview], None]) -> None:
        """Pass the bytes of a block to a function, in order.

        They are verified when this returns, not before. An attempt that failed starts again at 0.

        Parameters
        ----------
        path
            The path of the block.
        take
            Called with the offset and the bytes.

        Raises
        ------
        BlockUnavailableError
            The block is unavailable or differs from the version.
        """
        file = self._file(path)
        with self._cache_lock:
            is_kept = file.key in self._cached_files
        if is_kept or is_all_zeros(file.key):
            take(0, memoryview(self._content(file)))
        else:
            self._download(file, lambda: cast(BinaryIO, CallbackFile(take)))

    def read_object(self, path: str, max_bytes: int) -> mmap.mmap | bytes | None:
        """Return the verified bytes of a file; None if the version lacks the file.

        Raises BlockUnavailableError if an annexed file is unavailable, of unknown size, has more
        than ``max_bytes``, or is excluded from the version.
        """
        file = self._tree.file(path)
        if file is None:
            content = self.git_document(path)
            if content is None and (error := excluded_file(self._tree, path, self._excluded_paths)):
                raise BlockUnavailableError(path, self.where, str(error)) from error
            return content
        if file.size is None or not 0 < file.size <= max_bytes:
            size_text = "of unknown size" if file.size is None else f"of {file.size} bytes"
            raise BlockUnavailableError(
                path, self.where, f"it is {size_text}, expected 1 to {max_bytes} bytes"
            )
        return self._content(file)

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        """Return verified bytes of an annexed file, which is fetched whole; None without the file.

        Raises BlockUnavailableError if it is unavailable, larger than a shard may be, or ends
        before ``stop``.
        """
        content = self.read_object(path, MAX_SHARD)
        return None if content is None else slice_content(content, path, start, stop, self.where)

    def open_ranges(self, path: str, max_bytes: int) -> VerifiedFile:
        """Open an annexed file for random access by range requests; its bytes are not verified.

        After ``max_bytes``, a read raises ReadLimitError. Raises BlockUnavailableError if the
        version lacks the file, or its size or URL is unknown.
        """
        file = self._file(path)
        urls = tuple(url for url in file.urls if url.startswith(("https://", "http://")))
        if file.size is None or not urls:
            raise BlockUnavailableError(path, self.where, "no size and URL are known for it")
        check = _FirstBytes(file.size, max_bytes)
        content = VerifiedObject(replace(file, urls=urls), check, self._transport, self.where)
        return VerifiedFile(content, most_ahead=_MOST_AHEAD)

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path that starts with a text, of a file; None without one."""
        return self._tree.first_with_prefix(prefix)

    def has(self, path: str) -> bool:
        """Return whether the git tree of the version has a file or folder at a path."""
        return self._tree.has(path)

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder, each with whether it is a folder."""
        return self._tree.names(folder)

    def close(self) -> None:
        """Cancel requests in progress; nothing can be read afterwards."""
        self._transport.close()
        with self._cache_lock:
            _release(self._tree, self._cached_files)

    def _file(self, path: str) -> ListedFile:
        file = self._tree.file(path)
        if file is None:
            raise BlockUnavailableError(path, self.where, "the version has no such file")
        return file

    def _content(self, file: ListedFile) -> mmap.mmap | bytes:
        if is_all_zeros(file.key) and file.size is not None:
            return bytes(file.size)  # the key is the digest of zeros
        with self._locks[hash(file.key) % _STRIPES]:
            with self._cache_lock:
                kept = self._cached_files.get(file.key)
                if kept is not None:
                    self._cached_files.move_to_end(file.key)
                    return map_file(kept)
            content = self._download(file, _temporary_file)
            with self._cache_lock:
                if self._transport.is_over:
                    content.close()
                    raise BlockUnavailableError(
                        file.path, self.where, "the volume was closed", closed=True
                    )
                self._cached_files[file.key] = content
                while len(self._cached_files) > _CACHED_BLOCKS:
                    self._cached_files.popitem(last=False)[1].close()
                return map_file(content)

    def _download(self, file: ListedFile, new_file: Callable[[], BinaryIO]) -> BinaryIO:
        try:
            return download(self._tree, file, self._transport, new_file)
        except StreamError as error:
            why = str(error).removeprefix(f"{self.where}: {file.path}: ")
            if any(isinstance(cause, ContentMismatchError) for cause in error.causes):
                why += "; 'neuromirror sync' creates a version with the present content"
            raise BlockUnavailableError(
                file.path, self.where, why, error.causes, closed=self._transport.is_over
            ) from error
        except OSError as error:
            raise BlockUnavailableError(
                file.path,
                self.where,
                f"its temporary file in {tempfile.gettempdir()} cannot be written"
                f" ({error.strerror}); free some space there, or set TMPDIR to another folder",
            ) from error


def open_version_files(
    store: Store,
    row: VersionRow,
    *,
    has_credentials: bool = True,
    limits: RequestLimits = BLOCK_LIMITS,
    seconds: float | None = None,
) -> VersionFiles:
    """Open the files of a version in the store.

    Parameters
    ----------
    store
        The store that has the version.
    row
        The version, as returned by ``index.versions.resolve``.
    has_credentials, limits, seconds
        As for :class:`VersionFiles`.

    Returns
    -------
    VersionFiles
        The files; close them after use.
    """
    repository = store.repositories.of(row.dataset_ref)
    host = row.source_uri.partition("://")[2].partition("/")[0]
    return VersionFiles(
        *(repository.path, row.commit, row.annex_commit, row.name, host, store),
        has_credentials=has_credentials,
        limits=limits,
        seconds=seconds,
    )


def _release(tree: GitTree, kept: OrderedDict[str, BinaryIO]) -> None:
    while kept:
        kept.popitem()[1].close()
    tree.close()


def _temporary_file() -> BinaryIO:
    return cast(BinaryIO, tempfile.TemporaryFile(prefix="neuromirror-"))


def map_file(file: BinaryIO) -> mmap.mmap:
    """Map a whole file into memory, for reading."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def slice_content(
    content: mmap.mmap | bytes, path: str, start: int, stop: int, where: str
) -> bytes:
    """Return a part of a shard; raise BlockUnavailableError if its index names other bytes."""
    if not 0 <= start <= stop <= len(content):
        why = f"it ends before byte {stop}, which its index names"
        raise BlockUnavailableError(path, where, why)
    return content[start:stop]


def check_content(file: BufferedReader, key: str) -> str:
    """Return how the content of a file differs from its annex key, as text; empty if it does not.

    A key without a sha256 or MD5 is compared by size only.
    """
    size, has = parse_key(key).size, os.fstat(file.fileno()).st_size
    if size is not None and size != has:
        return f"it has {has} bytes, not {size}"
    digest = key_digest(key)
    if digest is None or digest[0] == "etag":
        return ""
    algorithm, value = digest
    file.seek(0)
    found = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if found == value else f"its {algorithm} is {found}, not {value}"


# --- A file that passes on what is written to it


class CallbackFile(io.RawIOBase):
    """A file object that passes the bytes written to it to a function, and stores nothing."""

    def __init__(self, take: Callable[[int, memoryview], None]) -> None:
        super().__init__()
        self._take = take
        self._at = 0

    def write(self, data: Any) -> int:
        """Pass the bytes to the function."""
        view = memoryview(data)
        self._take(self._at, view)
        self._at += len(view)
        return len(view)
