"""The files of a volume, in a clone and in a version of the store."""

from __future__ import annotations

import io
import mmap
import os
import stat
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from neuromirror.annex import (
    POINTER_PREFIX,
    find_pointer_key,
    initialize,
    is_all_zeros,
    is_pointer,
    is_private_host_allowed,
    key_from_file_name,
    parse_key,
    parse_log,
    strip_claim_prefix,
    url_log_path,
)
from neuromirror.git import (
    SYMLINK_MODE,
    TREE_MODE,
    CommitTree,
    ObjectMissingError,
    ObjectReader,
    call_git,
)
from neuromirror.model import DatasetRef, NeuromirrorError, is_secret
from neuromirror.model.records import url_version_id
from neuromirror.net import RequestLimits, redact
from neuromirror.sources.volumes.grid import Volume
from neuromirror.sources.volumes.urls import BlockUrl, parse_url, token_from_environment
from neuromirror.transfer.annex_branch import AnnexSettings, PublishedCopies, local_hosts
from neuromirror.transfer.clone_get import GitAnnexBatch, failure_reason
from neuromirror.transfer.partial_content import RangeFile
from neuromirror.volume.content_downloads import (
    CLOSED,
    MAX_SHARD,
    ByteLocation,
    ContentDownloader,
    CopyUrl,
    check_content,
    map_file,
    slice_content,
)
from neuromirror.volume.errors import INSTALL_COMMAND, BlockUnavailableError
from neuromirror.volume.geometry import block_box

if TYPE_CHECKING:
    from neuromirror.index import VersionRow
    from neuromirror.store import Store

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

    def git_document(self, path: str) -> bytes | None:
        """Return the content of a document; None if the clone lacks the file."""
        return self.document(path)

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
        return self.block(path) if self.has(path) or self._is_tracked(path) else None

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

    def _is_tracked(self, path: str) -> bool:
        """Return whether the commit that is checked out has the file."""
        with self._head_lock:
            if self._head is None:
                self._head = CommitTree(self._git_folder(), "HEAD")
            return self._head.entry(path) is not None

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
"""Number of blocks that git-annex fetches concurrently; each job starts its own special remote."""

_REPOSITORY_VARIABLES: Final = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE")
_EXIT_TIMEOUT: Final = 10.0
"""Seconds that git-annex has to exit after the last request."""


class AnnexNotInitializedError(NeuromirrorError):
    """git-annex cannot be initialized in a clone."""


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
                except AnnexNotInitializedError as error:
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


def _prepare(folder: Path, environment: Mapping[str, str]) -> None:
    """Initialize git-annex if necessary; its own initialization would enable foreign remotes."""

    def git(*arguments: str) -> str:
        done = call_git(environment, "-C", str(folder), *arguments)
        if done.returncode:
            stderr = redact(done.stderr.decode(errors="replace").strip())
            raise AnnexNotInitializedError(
                f"{folder}: 'git {' '.join(arguments)}' failed: {stderr}"
            )
        return done.stdout.decode(errors="replace")

    annexed = False
    with suppress(AnnexNotInitializedError):
        git("config", "--get", "annex.uuid")
        return
    with suppress(AnnexNotInitializedError):
        git("show-ref", "git-annex")
        annexed = True
    if annexed:
        initialize(git, is_new=False)


class _AnnexGetProcess:
    """A git-annex process, and the futures of the files requested from it."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Future[str]]] = {}
        self._pending_replies = 0
        self._stderr = ""
        self.has_exited = False
        # a notebook's environment may be in use without its programs being on PATH
        programs = os.pathsep.join(
            [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
        )
        kept = {
            name: text for name, text in os.environ.items() if name not in _REPOSITORY_VARIABLES
        }
        harmless = {name: text for name, text in kept.items() if not is_secret(name)}
        _prepare(folder, {**harmless, "PATH": programs})
        environment = {**kept, "PATH": programs}
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


_LIMITS: Final = RequestLimits(per_host=4, read=300.0)
"""Limits of block requests: a service may take minutes before it sends the first byte."""

_MAX_LOCATIONS: Final = 5
"""Maximum number of URLs tried per block; identical blocks (such as zeros) share their URLs."""

_CACHED_BLOCKS: Final = 4


class VersionFiles:
    """Returns the files of a volume in a version of the store (:class:`VolumeFiles`).

    A block is fetched from the service that its URLs on the git-annex branch name, and is verified
    with its key before it is returned. The most recently used blocks are kept in unnamed temporary
    files, because an array is often read plane by plane. An object can be pickled, and used by
    several threads.

    Parameters
    ----------
    repository
        The bare repository.
    commit
        The commit id in hex.
    annex_commit
        The commit of the git-annex branch in hex.
    where
        The name of the version, for messages.
    host
        The host of the source. It and the hosts of vaults may be this machine or in a private
        network, because an operator named them; for other such hosts git's setting
        ``annex.security.allowed-ip-addresses`` applies.
    token
        Returns the token for a host, or None.
    limits
        Timeouts, retries and concurrency limits of the requests.
    seconds
        Seconds after which no further block is fetched and requests in progress are cancelled; None
        for no limit.
    """

    def __init__(
        self,
        repository: Path,
        commit: str,
        annex_commit: str,
        where: str,
        host: str,
        *,
        token: Callable[[str], str | None] = token_from_environment,
        limits: RequestLimits = _LIMITS,
        seconds: float | None = None,
    ) -> None:
        self.where = where
        self.volume: Volume | None = None
        """Record the location of each block once it is known."""
        self._arguments = (repository, commit, annex_commit, where, host)
        self._factory = partial(VersionFiles, token=token, limits=limits, seconds=seconds)
        self._annex_commit = annex_commit
        self._tree = CommitTree(repository, commit)
        self._cached_files: OrderedDict[str, BinaryIO] = OrderedDict()
        weakref.finalize(self, _release, self._tree, self._cached_files)
        self._cache_lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._copies = PublishedCopies(self._tree, annex_commit, None)
        allowed = AnnexSettings.load(repository).allowed_addresses
        is_allowed = partial(_is_host_allowed, host, self._copies, allowed)
        self._downloader = ContentDownloader(
            where, is_allowed, token=token, limits=limits, seconds=seconds
        )

    def __reduce__(self) -> tuple[Callable[..., VersionFiles], tuple[Path, str, str, str, str]]:
        return self._factory, self._arguments

    def document(self, path: str) -> bytes | None:
        """Return the content of a document; None if the version lacks the file.

        Parameters
        ----------
        path
            The path in the version.

        Returns
        -------
        bytes | None
            The content.
        """
        entry = self._tree.entry(path)
        if entry is not None and entry[0] == SYMLINK_MODE:
            return bytes(self.block(path))
        return self.git_document(path)

    def git_document(self, path: str) -> bytes | None:
        """Return the content of a document that is in git; no request is made.

        Parameters
        ----------
        path
            The path in the version.

        Returns
        -------
        bytes | None
            The content; None if the version lacks the file or it is not in git.
        """
        entry = self._tree.entry(path)
        if entry is None or entry[0] in (TREE_MODE, SYMLINK_MODE):
            return None
        return self._tree.read_blob(entry[1])

    def block(self, path: str) -> mmap.mmap:
        """Return the verified bytes of a block.

        Parameters
        ----------
        path
            The path of the block, such as ``0/c/3/0/2``.

        Returns
        -------
        mmap.mmap
            The bytes of the file.

        Raises
        ------
        BlockUnavailableError
            The block is unavailable or differs from the version.
        """
        return self._cached_block(path, self._block_key(path), self._block_locations)

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
        key = self._block_key(path)
        locations = self._block_locations(path, key)
        with self._cache_lock:
            is_kept = key in self._cached_files
        if is_kept or is_all_zeros(key) or len(locations) != 1:
            take(0, memoryview(self._cached_block(path, key, self._block_locations)))
        else:
            file = cast(BinaryIO, CallbackFile(take))
            self._downloader.download(path, key, locations, lambda: file)

    def _block_key(self, path: str) -> str:
        """Return the annex key of a block, or raise BlockUnavailableError."""
        entry = self._tree.entry(path)
        if entry is None or entry[0] != SYMLINK_MODE:
            raise BlockUnavailableError(path, self.where, "the version has no such file")
        return key_from_file_name(self._tree.read_blob(entry[1]).rpartition(b"/")[2])

    def read_object(self, path: str, max_bytes: int) -> mmap.mmap | None:
        """Return the verified bytes of an annexed file; None if the version lacks the file.

        git looks it up, because its folder may contain very many files.

        Parameters
        ----------
        path
            The path in the version.
        max_bytes
            Maximum size in bytes.

        Returns
        -------
        mmap.mmap | None
            The bytes of the file.

        Raises
        ------
        BlockUnavailableError
            The file is unavailable, has more than ``max_bytes``, or is of unknown size.
        """
        target = self._tree.find(path)
        if target is None:
            return None
        key = key_from_file_name(target.rpartition(b"/")[2])
        size = parse_key(key).size
        if size is None or not 0 < size <= max_bytes:
            size_text = "of unknown size" if size is None else f"of {size} bytes"
            raise BlockUnavailableError(
                path, self.where, f"it is {size_text}, expected 1 to {max_bytes} bytes"
            )
        return self._cached_block(path, key, self._object_locations)

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        """Return verified bytes of an annexed file, which is fetched whole; None without the file.

        Parameters
        ----------
        path
            The path in the version.
        start, stop
            Offsets of the first byte, and after the last byte.

        Raises
        ------
        BlockUnavailableError
            The file is unavailable, larger than a shard may be, or ends before ``stop``.
        """
        content = self.read_object(path, MAX_SHARD)
        return None if content is None else slice_content(content, path, start, stop, self.where)

    def open_ranges(self, path: str, max_bytes: int) -> RangeFile:
        """Open an annexed file for random access by range requests; its bytes are not verified.

        Parameters
        ----------
        path
            The path in the version.
        max_bytes
            Maximum number of bytes to request.

        Returns
        -------
        RangeFile
            The file.

        Raises
        ------
        BlockUnavailableError
            The version lacks the file, or its size or URL is unknown.
        """
        key = self._block_key(path)
        size = parse_key(key).size
        urls = [one for one in self._object_locations(path, key) if isinstance(one, str)]
        if size is None or not urls:
            raise BlockUnavailableError(path, self.where, "no size and URL are known for it")

        return RangeFile(self._downloader.session_for, urls, size, max_bytes=max_bytes)

    def _cached_block(
        self, path: str, key: str, locate: Callable[[str, str], Sequence[ByteLocation]]
    ) -> mmap.mmap:
        with self._locks[hash(key) % _STRIPES]:
            with self._cache_lock:
                kept = self._cached_files.get(key)
                if kept is not None:
                    self._cached_files.move_to_end(key)
                    return map_file(kept)
            file = self._downloader.download(path, key, locate(path, key))
            with self._cache_lock:
                if self._downloader.is_closed:
                    raise BlockUnavailableError(path, self.where, CLOSED, closed=True)
                self._cached_files[key] = file
                while len(self._cached_files) > _CACHED_BLOCKS:
                    self._cached_files.popitem(last=False)[1].close()
                return map_file(file)

    def has(self, path: str) -> bool:
        """Return whether the git tree of the version has a path.

        Parameters
        ----------
        path
            The path in the version.

        Returns
        -------
        bool
            Whether it has a file or folder there.
        """
        return self._tree.entry(path) is not None

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder, each with whether it is a folder.

        Parameters
        ----------
        folder
            The path of the folder; empty for the top.

        Yields
        ------
        tuple[str, bool]
            The name, and whether it is a folder.
        """
        found = self._tree.folder(folder)
        if found is not None:
            yield from ((name.decode(), mode == TREE_MODE) for name, (mode, _) in found.items())

    def close(self) -> None:
        """Cancel requests in progress; nothing can be read afterwards."""
        self._downloader.close()
        with self._cache_lock:
            _release(self._tree, self._cached_files)

    # --- git

    def _known_urls(self, key: str) -> list[str]:
        """Return the URLs that git-annex knows for a key."""
        log = self._tree.find(url_log_path(key).decode(), self._annex_commit)
        return [line.value for line in parse_log(log or b"") if line.status == "1"]

    def _object_locations(self, path: str, key: str) -> list[ByteLocation]:
        """Return the locations of an object, the URLs of an object version first."""
        found = [one for one in self._known_urls(key) if one.startswith(("https://", "http://"))]
        found.sort(key=lambda url: url_version_id(url) is None)
        return self._with_copies(key, found[:_MAX_LOCATIONS])

    def _block_locations(self, path: str, key: str) -> list[ByteLocation]:
        """Return the locations of a block, its own URL first."""
        found: list[BlockUrl] = []
        for address in self._known_urls(key):
            with suppress(NeuromirrorError):
                found.append(parse_url(strip_claim_prefix(address)))
        own = None if self.volume is None else block_box(self.volume, path)
        level = path.partition("/")[0]
        found.sort(key=lambda url: url.level != level or (url.box, url.time) != own)
        return self._with_copies(key, found[:_MAX_LOCATIONS])

    def _with_copies(self, key: str, upstream: Sequence[ByteLocation]) -> list[ByteLocation]:
        """Return locations with those in vaults: after upstream, or first if one is preferred."""
        found = [
            (vault.prefer, vault.copy_path(key) or CopyUrl(vault.copy_url(key)))
            for vault in self._copies.vaults(key)
        ]
        first = [one for is_first, one in found if is_first]
        return [*first, *upstream, *(one for is_first, one in found if not is_first)]


def open_version_files(
    store: Store,
    row: VersionRow,
    *,
    token: Callable[[str], str | None] = token_from_environment,
    limits: RequestLimits = _LIMITS,
    seconds: float | None = None,
) -> VersionFiles:
    """Open the files of a version in the store.

    Parameters
    ----------
    store
        The store that has the version.
    row
        The version, as returned by :meth:`Index.resolve`.
    token
        Returns the token for a host, or None.
    limits
        Timeouts, retries and concurrency limits of the requests.
    seconds
        Seconds after which no further block is fetched; None for no limit.

    Returns
    -------
    VersionFiles
        The files; close them after use.
    """
    repository = store.repository(DatasetRef(row.mirror, row.local_id, row.source_uri))
    host = row.source_uri.partition("://")[2].partition("/")[0]
    given = repository.path, row.commit, row.annex_commit, row.name, host
    return VersionFiles(*given, token=token, limits=limits, seconds=seconds)


def _release(tree: CommitTree, kept: OrderedDict[str, BinaryIO]) -> None:
    while kept:
        kept.popitem()[1].close()
    tree.close()


def _is_host_allowed(
    source_host: str, copies: PublishedCopies, allowed: Sequence[str], host: str
) -> bool:
    """Return whether a host may be this machine or in a private network."""
    named = local_hosts((source_host, *copies.hosts()))
    return host in named or is_private_host_allowed(host, allowed)


# --- A file that passes on what is written to it


class CallbackFile(io.RawIOBase):
    """A file object that passes the bytes written to it to a function, and stores nothing."""

    def __init__(self, take: Callable[[int, memoryview], None]) -> None:
        super().__init__()
        self._take = take
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the offset of the next write."""
        self._at = offset
        return offset

    def truncate(self, size: int | None = None) -> int:
        """Do nothing: bytes that were already passed on are written again."""
        return self._at

    def write(self, data: Any) -> int:
        """Pass the bytes to the function."""
        view = memoryview(data)
        self._take(self._at, view)
        self._at += len(view)
        return len(view)
