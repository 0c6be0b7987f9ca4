"""Fetch missing content of a clone, with one git-annex process per open volume."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from neuromirror.annex import initialize
from neuromirror.git import call_git
from neuromirror.model import NeuromirrorError, is_secret
from neuromirror.net import redact
from neuromirror.transfer.git_annex_batch import GitAnnexBatch, failure_reason
from neuromirror.volume.errors import INSTALL_COMMAND

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
