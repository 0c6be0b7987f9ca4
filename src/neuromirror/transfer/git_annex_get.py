"""Content that only git-annex can get, with one process per clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from msgspec import Struct

from neuromirror.model import Evidence
from neuromirror.net import redact
from neuromirror.transfer.annex_clone import AnnexClone
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.content_checks import check_for

_MAX_STDERR_BYTES: Final = 2000


class GitAnnexBatch:
    """A running ``git annex get --batch --json`` in a clone.

    Parameters
    ----------
    folder
        A folder of the clone.
    environment
        Environment of the process.
    jobs
        Number of concurrent downloads.
    is_interactive
        Whether replies are needed before the input ends. Paths are then separated by line breaks,
        which they must not contain; otherwise by NUL, for which git-annex replies at the end only.
    has_progress
        Whether to report progress records, too.

    Raises
    ------
    OSError
        git-annex cannot be started.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        jobs: int,
        *,
        is_interactive: bool,
        has_progress: bool = False,
    ) -> None:
        self._separator = b"\n" if is_interactive else b"\0"
        options = [f"--jobs={jobs}", "--json", "--json-error-messages"]
        options += [] if is_interactive else ["-z"]
        options += ["--json-progress"] if has_progress else []
        # a file: a pipe that is not read could fill up and block git-annex
        self._stderr: IO[bytes] = tempfile.TemporaryFile(prefix="neuromirror-")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                ["git-annex", "get", "--batch", *options],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
            )
        except BaseException:
            self._stderr.close()
            raise

    def send(self, paths: Iterable[bytes]) -> None:
        """Request files; ignored if git-annex has exited, which ends :meth:`replies`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # ValueError: finish() has closed the pipe
            for path in paths:
                self._process.stdin.write(path + self._separator)
            self._process.stdin.flush()

    def end_input(self) -> None:
        """Let git-annex exit after the files requested so far."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def replies(self) -> Iterator[dict[str, Any] | None]:
        """Yield the replies; None for an empty line: there was nothing to do for some file."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield record if isinstance(record, dict) else None

    def stop(self, timeout: float) -> None:
        """End the input, and terminate git-annex if it does not exit within ``timeout`` seconds."""
        self.end_input()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.terminate()

    def terminate(self) -> None:
        """Terminate git-annex, and wait for its exit."""
        self._process.terminate()
        self._process.wait()

    def finish(self) -> str:
        """Wait for the exit of git-annex; return the end of its error output, redacted."""
        self.end_input()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        with self._stderr as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MAX_STDERR_BYTES))
            return redact(" ".join(file.read().decode(errors="replace").split()))


def failure_reason(reply: Mapping[str, Any]) -> str:
    """Return why git-annex failed to get a file, without the signatures of signed URLs."""
    notes = [line for line in str(reply.get("note") or "").splitlines() if not line.endswith("...")]
    messages = map(str, [*(reply.get("error-messages") or []), *notes])
    reasons = [" ".join(message.split()) for message in messages]
    return redact("; ".join(filter(None, reasons))) or "no reason given"


_JOBS: Final = 8
_ETAG_BACKEND: Final = "git-annex-backend-XS3ETAG"
_MISSING: Final = "only git-annex can get it, and git-annex is not installed; pip install git-annex"


class DelegatedFile(Struct, frozen=True):
    """A file that git-annex has to get.

    Attributes
    ----------
    path
        The path in the clone.
    key
        The annex key.
    reasons
        Why other downloads of it failed.
    """

    path: bytes
    key: str
    reasons: Sequence[str] = ()


def get_with_git_annex(
    clone: AnnexClone,
    files: Sequence[DelegatedFile],
    jobs: int,
    report_bytes: Callable[[str, int], None],
) -> Iterator[tuple[DelegatedFile, str | None]]:
    """Have git-annex get files, each with a different key.

    Parameters
    ----------
    clone
        The clone.
    files
        The files to get.
    jobs
        Maximum number of concurrent downloads.
    report_bytes
        Called with a key and the number of bytes received.

    Yields
    ------
    tuple of DelegatedFile and str or None
        A file and why it failed, None if git-annex got it.
    """
    if not files:
        return
    if shutil.which("git-annex") is None:
        for file in files:
            yield file, _MISSING
        return
    waiting = {file.key: file for file in files}
    environment = clone.annex_environment(credentials=True)
    batch = GitAnnexBatch(
        clone.top, environment, min(jobs, _JOBS), is_interactive=False, has_progress=True
    )
    sender = threading.Thread(target=_send, args=(batch, files))
    sender.start()
    is_complete = False
    try:
        for key, reply in _final_replies(batch, report_bytes):
            if key in waiting:
                failed = f"git annex get: {failure_reason(reply)}"
                yield waiting.pop(key), None if reply.get("success") else failed
        is_complete = True
    finally:
        if not is_complete:
            batch.terminate()
        sender.join()
        stderr = batch.finish()
    for file in waiting.values():
        why = f"git annex get failed: {stderr or 'no error message'}"
        yield file, None if clone.find_object(file.key) else why


def _send(batch: GitAnnexBatch, files: Sequence[DelegatedFile]) -> None:
    batch.send(file.path for file in files)
    batch.end_input()


def _final_replies(
    batch: GitAnnexBatch, report_bytes: Callable[[str, int], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the final replies with their keys; report progress."""
    seen: dict[str, int] = {}
    for reply in batch.replies():
        if reply is None:
            continue
        action = reply.get("action")
        if isinstance(action, dict) and isinstance(action.get("key"), str):
            key = action["key"]
            received = int(reply.get("byte-progress") or 0)
            report_bytes(key, received - seen.get(key, 0))
            seen[key] = received
        elif isinstance(reply.get("key"), str):
            yield reply["key"], reply


def checked_evidence(key: str, settings: AnnexSettings) -> Evidence | None:
    """Return the evidence for a content that git-annex has downloaded: the checksum in its key.

    Return None if git-annex may not have verified the content.
    """
    check = check_for(key)
    if check is None or not check.has_digest or not settings.verifies_content:
        return None
    if check.evidence is Evidence.ETAG and shutil.which(_ETAG_BACKEND) is None:
        return None
    return check.evidence
