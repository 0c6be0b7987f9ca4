"""That contents are here now, told to git-annex: on its branch, or in its journal.

git-annex would write a file for each key into its journal and stage them one by one; here the
branch gets one commit by ``git fast-import``, under the lock of the journal, as if it had been
fetched: git-annex brings its own index up to date when it next looks. Where its settings ask for
more (a private repository, no commits, hooks) the journal is written instead (git-annex:
internals; Annex.Journal, Annex.Branch).

What was put in its place and is not told yet stands in a file of this process, so that the next run
after one that was killed can tell it.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from neuromirror.annex import hash_lower, key_file_name, merge_url_log
from neuromirror.git import GitError, git_environment
from neuromirror.transfer.annex_branch import (
    EQUIVALENT_KEYS,
    LOCATIONS,
    AnnexBranchReader,
    BatchObjectReader,
    KeyLogs,
    journal_file,
    read_journal,
)
from neuromirror.transfer.annex_clone import BRANCH, FALLBACK_IDENTITY, AnnexClone
from neuromirror.transfer.annex_objects import AnnexObjectStore

_MAX_UNRECORDED: Final = 50_000
"""Contents that are told at once, at most."""

_FLUSH_INTERVAL: Final = 300.0
"""Seconds after which what is untold is told."""

_MESSAGE: Final = "update"
_MAX_ERROR_BYTES: Final = 1 << 12
"""Bytes of the end of git's messages that are read."""


class PendingKeys:
    """The keys whose contents are being put in their places, in a file of this process.

    Shared by threads; a context manager.
    """

    def __init__(self, clone: AnnexClone) -> None:
        self._folder = clone.git_dir / "neuromirror"
        self._path = self._folder / f"get-{os.getpid()}.keys"
        self._file = -1
        self._lock = threading.Lock()
        self._pending: set[str] = set()

    def __enter__(self) -> PendingKeys:
        self._file = self._open(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        if not os.fstat(self._file).st_size:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        with suppress(OSError):
            self._folder.rmdir()

    def _open(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        while True:
            self._folder.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                file = os.open(path, flags, 0o666)
                fcntl.flock(file, fcntl.LOCK_EX)
                # another run may have taken it for one left behind, before it was locked
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
                os.close(file)

    def add(self, key: str) -> None:
        """One more."""
        with self._lock:
            self._pending.add(key)
            os.write(self._file, key.encode() + b"\n")

    def remove(self, keys: Iterable[str]) -> None:
        """These are told; those that were added meanwhile are not."""
        with self._lock:
            self._pending.difference_update(keys)
            if not self._pending:
                os.ftruncate(self._file, 0)
                return
            draft = self._path.with_name(f"new-{self._path.name}")
            file = self._open(draft)
            os.write(file, "".join(f"{key}\n" for key in self._pending).encode())
            os.rename(draft, self._path)
            os.close(self._file)
            self._file = file

    def recover(self, is_here: Callable[[str], bool]) -> list[str]:
        """Those of runs that were killed, if their contents are here: they are now this one's."""
        found: list[str] = []
        for path in sorted(self._folder.glob("get-*.keys")):
            with path.open("r+") as file:
                if path != self._path:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                keys = file.read().split("\n")[:-1]
                here = [key for key in dict.fromkeys(keys) if is_here(key)]
                for key in here:
                    self.add(key)
                found += here
                if path != self._path:
                    path.unlink(missing_ok=True)
        return found


class LocationRecorder:
    """Tells git-annex what is here; ``branch`` is what was read of its branch, ``commit`` when."""

    def __init__(self, clone: AnnexClone, commit: str, intentions: PendingKeys) -> None:
        self._clone = clone
        self._commit = commit
        self._pending_keys = intentions
        self._unrecorded: dict[str, tuple[KeyLogs, str | None]] = {}
        self._since = time.monotonic()
        settings = clone.settings
        self._private = settings.is_true("annex.private")
        self._uses_journal = not settings.is_true("annex.alwayscommit", default=True)
        self._commits_directly = settings.can_commit_directly(clone.git_dir)

    def add(self, key: str, logs: KeyLogs, equivalent_key: str | None = None) -> None:
        """A content that is here; ``logs`` are the key's, ``learnt`` what its bytes are."""
        self._unrecorded[key] = (logs, equivalent_key)

    def recover(self, store: AnnexObjectStore, branch: AnnexBranchReader) -> None:
        """Takes in what runs that were killed had not told."""
        there = self._pending_keys.recover(store.repair)
        for key, logs in branch.logs(there).items():
            self.add(key, logs)

    @property
    def is_flush_due(self) -> bool:
        """Whether it is time to tell."""
        if len(self._unrecorded) >= _MAX_UNRECORDED:
            return True
        return bool(self._unrecorded) and time.monotonic() - self._since > _FLUSH_INTERVAL

    def flush(self) -> None:
        """Tells all that is not told yet; raises GitError."""
        self._since = time.monotonic()
        if not self._unrecorded:
            return
        with self._journal_lock():
            changed = self._changes()
            if self._uses_journal or not self._commits_directly:
                self._write_journal(changed, self._clone.annex_dir / "journal")
            elif changed:
                self._commit = self._write_branch(changed)
        self._pending_keys.remove(self._unrecorded)
        self._unrecorded.clear()
        if changed and not self._uses_journal and not self._commits_directly:
            self._clone.git_annex("wanted", "here")

    @contextmanager
    def _journal_lock(self) -> Iterator[None]:
        path = self._clone.annex_dir / "journal.lck"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _changes(self) -> dict[bytes, bytes]:
        """The new contents of files of the branch that have no file in the journal.

        Those that have get a new one there at once, as have all that tell of a private repository.
        """
        self._refresh_logs()
        journal = self._clone.annex_dir / "journal"
        journaled = frozenset(_file_names(journal))
        changed: dict[bytes, bytes] = {}
        in_journal: dict[bytes, bytes] = {}
        private: dict[bytes, bytes] = {}
        now = int(time.time())
        for key, (logs, learnt) in self._unrecorded.items():
            news = [(LOCATIONS, self._clone.uuid)]
            if learnt is not None:
                news.append((EQUIVALENT_KEYS, learnt))
            for ending, value in news:
                path = b"%s/%s%s" % (hash_lower(key), key_file_name(key), ending)
                name = journal_file(path)
                old = logs.content(ending)
                if name in journaled:
                    old = read_journal(journal, name) or old
                if self._private and ending == LOCATIONS:
                    old += read_journal(self._clone.annex_dir / "journal-private", name) or b""
                    target = private
                elif name in journaled:
                    target = in_journal
                else:
                    target = changed
                new = merge_url_log(old, [value], now)
                if new != old:
                    target[path] = new
        self._write_journal(in_journal, journal)
        self._write_journal(private, self._clone.annex_dir / "journal-private")
        return changed

    def _refresh_logs(self) -> None:
        """Reads the logs once more where the branch has moved on since."""
        commit = self._clone.annex_branch_commit()
        if commit is None:
            raise GitError(f"{self._clone.top} has lost its git-annex branch; see 'git reflog'")
        if commit == self._commit:
            return
        with BatchObjectReader(self._clone.git_dir) as objects:
            found = AnnexBranchReader(objects, commit, self._clone.annex_dir).logs(
                list(self._unrecorded)
            )
        self._unrecorded = {
            key: (found[key], learnt) for key, (_, learnt) in self._unrecorded.items()
        }
        self._commit = commit

    def _write_journal(self, files: dict[bytes, bytes], journal: os.PathLike[str]) -> None:
        if not files:
            return
        os.makedirs(journal, exist_ok=True)
        temporary = os.fsencode(self._clone.annex_dir / "othertmp")
        folder = os.fsencode(journal)
        for path, content in files.items():
            name = journal_file(path)
            draft = b"%s/neuromirror-%d-%s" % (temporary, os.getpid(), name[:100])
            with open(draft, "wb") as file:
                file.write(content)
            os.rename(draft, b"%s/%s" % (folder, name))

    def _write_branch(self, files: dict[bytes, bytes]) -> str:
        """Commits files to the branch; gives the commit."""
        message = self._clone.settings.get("annex.commitmessage", _MESSAGE).encode()
        head = b"feature done\ncommit %s\ncommitter %s now\ndata %d\n%s\nfrom %s\n" % (
            *(BRANCH.encode(), self._committer(), len(message), message),
            self._commit.encode(),
        )
        # a file, because a pipe that is read only at the end would fill up
        with tempfile.TemporaryFile(prefix="neuromirror-") as errors:
            process = subprocess.Popen(
                ["git", "fast-import", "--quiet", "--done", "--date-format=now"],
                env=git_environment(self._clone.git_dir, fetch_missing=True),
                stdin=subprocess.PIPE,
                stderr=errors,
                bufsize=1 << 20,
            )
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.write(head)
                process.stdin.writelines(
                    b"M 100644 inline %s\ndata %d\n%s\n" % (_quoted(path), len(content), content)
                    for path, content in files.items()
                )
                process.stdin.write(b"done\n")
            process.communicate()
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _MAX_ERROR_BYTES))
            output = errors.read()
        commit = self._clone.annex_branch_commit()
        if process.returncode or commit is None or commit == self._commit:
            why = output.decode(errors="replace").strip().splitlines()
            raise GitError(
                f"{self._clone.top}: the git-annex branch could not be brought up to date: "
                f"{why[-1] if why else 'git fast-import failed'}; the contents are here, and the "
                "next run tells of them"
            )
        return commit

    def _committer(self) -> bytes:
        try:
            found = self._clone.git("var", "GIT_COMMITTER_IDENT")
        except GitError:
            # as git-annex, which commits whether or not git knows who is at it
            name, address = FALLBACK_IDENTITY
            return f"{name} <{address}>".encode()
        return found.rstrip(b"\n").rsplit(b" ", 2)[0]


def _quoted(path: bytes) -> bytes:
    """A path as fast-import takes it."""
    if path.startswith(b'"') or b"\n" in path:
        return b'"%s"' % path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return path


def _file_names(folder: os.PathLike[str]) -> Sequence[bytes]:
    try:
        return os.listdir(os.fsencode(folder))
    except FileNotFoundError:
        return ()
