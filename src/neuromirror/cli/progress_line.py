"""The progress of a command, as one line on stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from neuromirror.crawl import Result, Sync

_REFRESH_SECONDS: Final = 0.1
_TICK_SECONDS: Final = 1.0
_STEP: Final = "{desc} [{elapsed}]"


class ProgressLine:
    """A line on stderr, if that is a terminal; a context manager that removes it at the end."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            *(),
            disable=None,
            leave=False,
            file=sys.stderr,
            bar_format=_STEP,
            unit="B",
            unit_scale=True,
            mininterval=_REFRESH_SECONDS,
        )
        self._finished = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        if not self._bar.disable:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the line."""
        self._finished.set()
        if self._ticker.is_alive():
            self._ticker.join()
        self._bar.close()

    def show(self, step: str) -> None:
        """Show a step and the time since its start."""
        self._bar.bar_format = _STEP
        self._bar.reset()
        self._bar.set_description_str(step)

    def show_bytes(self, received: int, total: int) -> None:
        """Show the bytes received and expected so far, instead of the last step."""
        if self._bar.disable:
            return
        if self._bar.bar_format is not None:
            self._bar.bar_format = None
            self._bar.reset(total)
            self._bar.set_description_str("", refresh=False)
        self._bar.total = total
        self._bar.update(received - self._bar.n)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the line while something is printed."""
        if self._bar.disable:
            yield
            return
        with self._bar.external_write_mode(file=sys.stdout):
            yield

    def _tick(self) -> None:
        """Refresh the elapsed time of long steps."""
        while not self._finished.wait(_TICK_SECONDS):
            self._bar.refresh()


@contextmanager
def step_line(verb: str) -> Iterator[Callable[[str], None]]:
    """Show a progress line; yield a function that shows ``verb`` and the object of a step."""
    with ProgressLine() as line:
        yield lambda what: line.show(f"{verb} {what}")


def with_progress_bar(run: Sync, results: Iterator[Result]) -> Iterator[Result]:
    """Yield the results; show a progress bar if stderr is a terminal."""
    from tqdm import tqdm

    finished = threading.Event()

    def tick() -> None:
        # refresh the elapsed time during long visits
        while not finished.wait(1):
            bar.total = run.total or None
            bar.refresh()

    shape = "{desc}{n_fmt}/{total_fmt} datasets [{elapsed}{postfix}]"
    with tqdm(disable=None, leave=False, file=sys.stderr, bar_format=shape, desc="syncing ") as bar:
        ticker = threading.Thread(target=tick, daemon=True)
        if not bar.disable:
            ticker.start()
        try:
            for result in results:
                bar.total = run.total
                bar.update()
                with bar.external_write_mode(file=sys.stdout):
                    yield result
        finally:
            finished.set()
            if ticker.is_alive():
                ticker.join()
