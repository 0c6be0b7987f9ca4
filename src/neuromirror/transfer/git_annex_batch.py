"""The driver of ``git annex get --batch``."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from neuromirror.net import redact

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
