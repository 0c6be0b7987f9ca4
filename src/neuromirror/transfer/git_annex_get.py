"""Get files with git-annex itself: ``git annex get --batch --json``."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from neuromirror.net import redact
from neuromirror.transfer.annex_clone import AnnexClone

_JOBS: Final = 8
_MISSING: Final = "only git-annex can get it, and git-annex is not installed; pip install git-annex"


@dataclass(frozen=True, slots=True)
class DelegatedFile:
    """A file that git-annex has to get; ``reasons`` says why other downloads of it failed."""

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
    with subprocess.Popen(
        [
            *("git", "annex", "get", "--batch", "-z", f"-J{min(jobs, _JOBS)}"),
            *("--json", "--json-progress", "--json-error-messages"),
        ],
        cwd=clone.top,
        env=clone.annex_environment(credentials=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        stderr_lines: list[bytes] = []
        feeding = threading.Thread(target=_send_paths, args=(process, files))
        listening = threading.Thread(target=_collect_stderr, args=(process, stderr_lines))
        feeding.start()
        listening.start()
        try:
            for key, record in _records(process, report_bytes):
                if key in waiting:
                    yield waiting.pop(key), None if record.get("success") else _reason(record)
        finally:
            if process.poll() is None and waiting:
                process.terminate()
            feeding.join()
            listening.join()
    lines = b"".join(stderr_lines).decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no error message")
    for file in waiting.values():
        why = f"git annex get failed: {redact(last.strip())}"
        yield file, None if clone.find_object(file.key) else why


def _send_paths(process: subprocess.Popen[bytes], files: Sequence[DelegatedFile]) -> None:
    assert process.stdin is not None
    # if git-annex has exited, its own error message is reported
    with suppress(BrokenPipeError):
        for file in files:
            process.stdin.write(file.path + b"\0")
    with suppress(BrokenPipeError):
        process.stdin.close()


def _collect_stderr(process: subprocess.Popen[bytes], stderr_lines: list[bytes]) -> None:
    assert process.stderr is not None
    stderr_lines.extend(process.stderr)


def _records(
    process: subprocess.Popen[bytes], report_bytes: Callable[[str, int], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the final JSON records with their keys; report progress."""
    assert process.stdout is not None
    seen: dict[str, int] = {}
    for line in process.stdout:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # git-annex prints an empty line for a file it has nothing to do for
        action = record.get("action")
        if isinstance(action, dict) and isinstance(action.get("key"), str):
            key = action["key"]
            received = int(record.get("byte-progress") or 0)
            report_bytes(key, received - seen.get(key, 0))
            seen[key] = received
        elif isinstance(record.get("key"), str):
            yield record["key"], record


def _reason(record: dict[str, Any]) -> str:
    messages = [str(message).strip() for message in record.get("error-messages") or []]
    note = str(record.get("note") or "").strip()
    reasons = [message for message in messages if message] or ([note] if note else [])
    # git-annex prints signed URLs with their signatures
    return "git annex get: " + redact("; ".join(reasons) or "failed")
