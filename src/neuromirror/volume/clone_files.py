"""The files of a volume in a clone, fetched with git-annex where missing."""

from __future__ import annotations

import mmap
import os
import stat
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from neuromirror.annex import POINTER_PREFIX, find_pointer_key, initialize, is_pointer
from neuromirror.git import CommitTree, ObjectMissingError, ObjectReader, call_git
from neuromirror.model import NeuromirrorError, is_secret
from neuromirror.net import redact
from neuromirror.transfer.git_annex_get import GitAnnexBatch, failure_reason
from neuromirror.volume.contents import (
    MAX_SHARD,
    check_content,
    map_file,
    slice_content,
)
from neuromirror.volume.errors import INSTALL_COMMAND, BlockUnavailableError

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
