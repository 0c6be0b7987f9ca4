"""Questions to the index from a loop that must not wait: in threads, each with a connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from neuromirror.index import Index

if TYPE_CHECKING:
    from datasette.app import Datasette

_T = TypeVar("_T")
_THREADS = 4
_DATABASE = "index"


class Reader:
    """Reads the index at ``path``, and the new one where a rebuild has put another in its place.

    Raises IndexMissing where there is none.
    """

    def __init__(self, path: Path) -> None:
        Index.open_readonly(path).close()
        self._path = path
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="catalogue")
        self._shown: tuple[Datasette, tuple[int, int]] | None = None

    async def ask(self, question: Callable[[Index], _T]) -> _T:
        """The answer to a question about the index as it is now; no iterator may come out."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, question)

    def _ask(self, question: Callable[[Index], _T]) -> _T:
        index: Index | None = getattr(self._own, "index", None)
        if index is not None and index.replaced:
            index.close()
            index = None
        if index is None:
            index = self._own.index = Index.open_readonly(self._path)
        return question(index)

    async def do(self, work: Callable[[], _T]) -> _T:
        """Something that waits, for a disk or a program."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def show_in(self, datasette: Datasette) -> None:
        """Makes the index the database ``index`` of a Datasette, and keeps it that."""
        from datasette.database import Database

        found = self._path.stat()
        datasette.add_database(
            Database(datasette, path=str(self._path), is_mutable=True), name=_DATABASE
        )
        self._shown = datasette, (found.st_dev, found.st_ino)

    def refresh(self) -> None:
        """Shows the new index where the old one was replaced; before a page of Datasette's own."""
        if self._shown is None:
            return
        datasette, shown = self._shown
        found = self._path.stat()
        if (found.st_dev, found.st_ino) != shown:
            datasette.remove_database(_DATABASE)
            self.show_in(datasette)
