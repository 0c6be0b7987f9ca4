"""Objects that upstream lists and its bucket refuses, with the time of the first refusal."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from neuromirror.store.memos import MemoFolder, StoredMemo

LASTING_AFTER: Final = timedelta(days=1)
"""How long an object is refused before its dataset is published without its metadata."""

_MEMO_NAME: Final = "refused"
_MAX_OBJECTS: Final = 10_000


class RefusalHistory:
    """The objects of one dataset that upstream lists and refuses to return. Thread-safe.

    The time of each first refusal is kept between visits, in a memo, to distinguish lasting
    refusals from transient ones. ``upstream`` is upstream's name of the version that is read.
    """

    def __init__(self, memos: MemoFolder, dataset_id: str, upstream: str) -> None:
        self._memos = memos
        self._id = dataset_id
        self._upstream = upstream
        self._lock = threading.Lock()
        self._saved: dict[str, dict[str, str]] = {}
        self._seen: dict[str, str] = {}
        memo = memos.read(dataset_id, _MEMO_NAME)
        if memo is not None:
            with suppress(ValueError):
                self._saved = json.loads(memo.content)

    @property
    def has_new(self) -> bool:
        """Whether an object was recorded."""
        return bool(self._seen)

    def record(self, url: str) -> bool:
        """Record a refused object; return whether it has been refused for LASTING_AFTER."""
        now = datetime.now(UTC)
        known = [urls[url] for urls in self._saved.values() if url in urls]
        since = min(known, default=now.isoformat(timespec="seconds"))
        with self._lock:
            if len(self._seen) < _MAX_OBJECTS:
                self._seen[url] = since
        return now - datetime.fromisoformat(since) >= LASTING_AFTER

    def save(self, *, is_complete: bool) -> None:
        """Save the refused objects; those before are kept unless the listing was complete."""
        before = {} if is_complete else self._saved.get(self._upstream, {})
        saved = {**self._saved, self._upstream: {**before, **self._seen}}
        saved = {upstream: urls for upstream, urls in saved.items() if urls}
        if saved != self._saved:
            content = json.dumps(saved, sort_keys=True).encode()
            self._memos.write(self._id, _MEMO_NAME, StoredMemo("", "", content) if saved else None)
