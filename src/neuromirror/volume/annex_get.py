"""Contents for a clone, through git-annex: one process for as long as a volume is open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from neuromirror.annex import initialize
from neuromirror.model import NeuromirrorError, is_secret
from neuromirror.net import redact
from neuromirror.volume.errors import INSTALL_COMMAND

_JOBS: Final = 4
"""Blocks that git-annex gets at a time; each of its jobs starts a special remote of its own."""

_COMMAND: Final = (
    *("git-annex", "get", "--batch", "--json", "--json-error-messages"),
    f"--jobs={_JOBS}",
)
_REPOSITORY_VARIABLES: Final = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE")
_MAX_STDERR_BYTES: Final = 2000
_EXIT_TIMEOUT: Final = 10.0
"""Seconds that git-annex has to finish when nothing more is asked of it."""


class AnnexNotInitializedError(NeuromirrorError):
    """A clone in which git-annex cannot be initialized."""


class AnnexGet:
    """Gets annexed files of a clone; shared by threads.

    git-annex itself does it, and not we: so every remote that the clone has may give a block, its
    own checks are made, and what was got is there the next time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._process: _AnnexGetProcess | None = None
        self._closed = False

    def get(self, path: str) -> str:
        """Gets a file, and says why it could not be; empty where it could, or was there already."""
        if "\n" in path:
            # git-annex reads one path per line, and with -z answers nothing before its input ends
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
        """Lets git-annex come to its end."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.stop()


def _prepare(folder: Path, environment: Mapping[str, str]) -> None:
    """Initialize git-annex where it is not: left to itself it would enable foreign remotes."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            stderr = redact(done.stderr.strip())
            raise AnnexNotInitializedError(
                f"{folder}: 'git {' '.join(arguments)}' failed: {stderr}"
            )
        return done.stdout

    annexed = False
    with suppress(AnnexNotInitializedError):
        git("config", "--get", "annex.uuid")
        return
    with suppress(AnnexNotInitializedError):
        git("show-ref", "git-annex")
        annexed = True
    if annexed:
        initialize(git)


class _AnnexGetProcess:
    """The process, and who waits for which file."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Future[str]]] = {}
        self._pending_replies = 0
        self.has_exited = False
        self._errors: IO[bytes] = tempfile.TemporaryFile(prefix="neuromirror-")  # noqa: SIM115
        # a notebook's environment may be in use without its programs being on PATH
        programs = os.pathsep.join([os.environ.get("PATH", os.defpath), str(_programs())])
        kept = {
            name: text for name, text in os.environ.items() if name not in _REPOSITORY_VARIABLES
        }
        harmless = {name: text for name, text in kept.items() if not is_secret(name)}
        _prepare(folder, {**harmless, "PATH": programs})
        self._process = subprocess.Popen(
            _COMMAND,
            cwd=folder,
            env={**kept, "PATH": programs},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        threading.Thread(target=self._read_replies, name="annex-get", daemon=True).start()

    def submit(self, path: str) -> Future[str]:
        """What will be said of a file."""
        answer: Future[str] = Future()
        with self._lock:
            if self.has_exited:
                answer.set_result(self._exit_message())
                return answer
            others = self._waiting.setdefault(path, [])
            others.append(answer)
            if len(others) == 1:
                self._pending_replies += 1
                assert self._process.stdin is not None
                with suppress(BrokenPipeError):  # then all that wait are told at its end
                    self._process.stdin.write(os.fsencode(path) + b"\n")
                    self._process.stdin.flush()
        return answer

    def stop(self) -> None:
        """Asks nothing more; what is under way has a little time."""
        with self._lock, suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()

    def _read_replies(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                answer = json.loads(line) if line.strip() else None
                with self._lock:
                    self._pending_replies -= 1
                    self._handle_reply(answer)
        finally:
            self._process.wait()
            with self._lock:
                self.has_exited = True
                for path in list(self._waiting):
                    self._settle(path, self._exit_message())
                self._errors.close()

    def _handle_reply(self, answer: dict[str, Any] | None) -> None:
        """Passes an answer on.

        An empty line stands for a file of which there was nothing to do, and with several jobs does
        not say which: those that are left once every question has its line are settled.
        """
        if answer is not None:
            self._settle(answer["input"][0], "" if answer["success"] else _error_message(answer))
        if not self._pending_replies:
            for path in list(self._waiting):
                self._settle(path, "")

    def _settle(self, path: str, why: str) -> None:
        for one in self._waiting.pop(path, []):
            one.set_result(why)

    def _exit_message(self) -> str:
        stderr = ""
        with suppress(ValueError):  # closed: it was told before
            self._errors.seek(0)
            stderr = redact(
                " ".join(self._errors.read(_MAX_STDERR_BYTES).decode(errors="replace").split())
            )
        return f"git-annex ended without getting it: {stderr or 'it said nothing'}"


def _error_message(answer: dict[str, Any]) -> str:
    notes = [one for one in answer.get("note", "").splitlines() if not one.endswith("...")]
    messages = [" ".join(one.split()) for one in [*answer.get("error-messages", []), *notes]]
    return redact("; ".join(filter(None, messages))) or "it does not say why"


def _programs() -> Path:
    return Path(sys.executable).parent
