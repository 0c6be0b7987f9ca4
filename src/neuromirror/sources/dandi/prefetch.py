"""First pages of asset lists, requested while the previous version is being read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from neuromirror.model import VersionRef

_T = TypeVar("_T")


class PrefetchedPages:
    """Requests for the first page of the version that a visit reads next. Thread-safe.

    While a thread reads one version, it sends the request for the next one. At most one request per
    dandiset is kept, and each is returned once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, tuple[str, Future[Any]]] = {}

    def add(self, version: VersionRef, page: Future[Any]) -> None:
        """Keep the request for the first page of a version."""
        with self._lock:
            self._pages[version.dataset.local_id] = version.upstream, page

    def pop(self, version: VersionRef) -> Future[Any] | None:
        """Return the request for the first page of a version; drop any other of its dandiset."""
        with self._lock:
            upstream, page = self._pages.pop(version.dataset.local_id, ("", None))
        return page if upstream == version.upstream else None


def yield_then_call(items: Iterable[_T], step: Callable[[], object]) -> Iterator[_T]:
    """Yield all items, then call ``step``."""
    yield from items
    step()
