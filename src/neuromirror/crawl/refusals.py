"""Objects that upstream lists and its bucket refuses, and since when."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from neuromirror.store.memos import Memo, MemoFolder

LASTING: Final = timedelta(days=1)
"""How long an object is refused before its dataset goes on without what the object would say."""

_WORD: Final = "refused"
_MOST: Final = 10_000


class Refusals:
    """The refused objects of one dataset, by version; shared by threads.

    They are kept from visit to visit, so that a refusal that passes can be told from one that
    lasts. ``upstream`` is upstream's name of the version that is read.
    """

    def __init__(self, memos: MemoFolder, dataset_id: str, upstream: str) -> None:
        self._memos = memos
        self._id = dataset_id
        self._upstream = upstream
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, str]] = {}
        self._seen: dict[str, str] = {}
        memo = memos.read(dataset_id, _WORD)
        if memo is not None:
            with suppress(ValueError):
                self._kept = json.loads(memo.content)

    def note(self, url: str) -> bool:
        """Record that an object is refused; return whether it has been for :data:`LASTING`."""
        now = datetime.now(UTC)
        known = [urls[url] for urls in self._kept.values() if url in urls]
        since = min(known, default=now.isoformat(timespec="seconds"))
        with self._lock:
            if len(self._seen) < _MOST:
                self._seen[url] = since
        return now - datetime.fromisoformat(since) >= LASTING

    def keep(self, *, whole: bool) -> None:
        """Keep what was refused; ``whole`` says that the listing was read to its end."""
        before = {} if whole else self._kept.get(self._upstream, {})
        kept = {**self._kept, self._upstream: {**before, **self._seen}}
        kept = {upstream: urls for upstream, urls in kept.items() if urls}
        if kept != self._kept:
            content = json.dumps(kept, sort_keys=True).encode()
            self._memos.keep(self._id, _WORD, Memo("", "", content) if kept else None)
