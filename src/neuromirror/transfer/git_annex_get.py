"""Get the files of a clone with git-annex itself."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from neuromirror.model import Evidence
from neuromirror.transfer.annex_clone import AnnexClone
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.content_checks import check_for
from neuromirror.transfer.git_annex_batch import GitAnnexBatch, failure_reason

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
