"""What is not spoken here, got by git-annex itself: ``git annex get --batch --json``."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from neuromirror.lab.get.clone import Clone
from neuromirror.net import redact

_JOBS: Final = 8
_MISSING: Final = "git-annex, which alone can get it, is not installed: pip install git-annex"


@dataclass(frozen=True, slots=True)
class Left:
    """A file left to git-annex; ``faults`` say why it could not be had otherwise."""

    path: bytes
    key: str
    faults: Sequence[str] = ()


def get_by_git_annex(
    clone: Clone, files: Sequence[Left], jobs: int, arrived: Callable[[str, int], None]
) -> Iterator[tuple[Left, str | None]]:
    """Has git-annex get files, each of another key; gives each with what went wrong, or None.

    ``arrived(key, bytes)`` is told of what has come.
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
        said: list[bytes] = []
        feeding = threading.Thread(target=_feed, args=(process, files))
        listening = threading.Thread(target=_listen, args=(process, said))
        feeding.start()
        listening.start()
        try:
            for key, record in _records(process, arrived):
                if key in waiting:
                    yield waiting.pop(key), None if record.get("success") else _reason(record)
        finally:
            if process.poll() is None and waiting:
                process.terminate()
            feeding.join()
            listening.join()
    words = b"".join(said).decode(errors="replace").split("\n")
    last = next((line for line in reversed(words) if line.strip()), "it said nothing of it")
    for file in waiting.values():
        why = f"git annex get failed: {redact(last.strip())}"
        yield file, None if clone.present(file.key) else why


def _feed(process: subprocess.Popen[bytes], files: Sequence[Left]) -> None:
    assert process.stdin is not None
    # where it has ended, what it said before that is told
    with suppress(BrokenPipeError):
        for file in files:
            process.stdin.write(file.path + b"\0")
    with suppress(BrokenPipeError):
        process.stdin.close()


def _listen(process: subprocess.Popen[bytes], said: list[bytes]) -> None:
    assert process.stderr is not None
    said.extend(process.stderr)


def _records(
    process: subprocess.Popen[bytes], arrived: Callable[[str, int], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The final records by key; progress is passed on."""
    assert process.stdout is not None
    seen: dict[str, int] = {}
    for line in process.stdout:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # an empty line stands for a file of which nothing is to be done
        action = record.get("action")
        if isinstance(action, dict) and isinstance(action.get("key"), str):
            key = action["key"]
            come = int(record.get("byte-progress") or 0)
            arrived(key, come - seen.get(key, 0))
            seen[key] = come
        elif isinstance(record.get("key"), str):
            yield record["key"], record


def _reason(record: dict[str, Any]) -> str:
    words = [str(word).strip() for word in record.get("error-messages") or []]
    note = str(record.get("note") or "").strip()
    told = [word for word in words if word] or ([note] if note else [])
    # what git-annex says of a signed URL has its signature
    return "git annex get: " + redact("; ".join(told) or "failed")
