"""What a service says while it runs: a line an event, for people or as JSON, without secrets.

Every line has the time (UTC), a level and an event; and, where they are known, mirror, dataset, the
visit's id (as in the journal), the job's kind, how it ended, how many seconds it took, and a
message in words.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import TracebackType
from typing import Final, TextIO
from urllib.parse import quote

from neuromirror.crawl import Mirror
from neuromirror.model import escape_unprintable, is_secret
from neuromirror.net import redact

LOGGER: Final = "neuromirror.service"

_FIELDS: Final = ("event", "mirror", "dataset", "visit", "kind", "outcome", "seconds")
_SHORTEST_SECRET: Final = 6
"""Characters of a value that can be a secret; to blot out shorter ones would spoil every line."""
_LONGEST_TEXT: Final = 4_000
"""Characters of a message or a trace that are told."""


_ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class Secrets:
    """The secrets of this process's environment, and texts without them.

    Secret is what a mirror's options name (``token_env``), and each variable whose name says so
    (``DANDI_API_KEY``, ``AWS_SECRET_ACCESS_KEY``). ``mirrors`` is looked at each time, so that it
    may change meanwhile.
    """

    def __init__(self, mirrors: Mapping[str, Mirror]) -> None:
        self._mirrors = mirrors

    def names(self) -> set[str]:
        """The variables that have them."""
        named = {
            value
            for mirror in list(self._mirrors.values())
            for name, value in mirror.settings.options.items()
            if name.endswith("_env") and isinstance(value, str)
        }
        return {name for name in os.environ if name in named or is_secret(name)}

    def values(self) -> set[str]:
        """What must not be told, as it is and as it stands in a URL."""
        plain = {os.environ.get(name, "").strip() for name in self.names()}
        plain = {value for value in plain if len(value) >= _SHORTEST_SECRET}
        return plain | {quote(value, safe="") for value in plain}

    def redact(self, text: str) -> str:
        """The text without them, and without what :func:`neuromirror.net.redact` takes out."""
        # a secret may be the beginning of another
        for value in sorted(self.values(), key=len, reverse=True):
            text = text.replace(value, "***")
        return redact(text)


def log_event(
    event: str,
    message: str = "",
    *,
    level: int = logging.INFO,
    mirror: str = "",
    dataset: str = "",
    visit: str = "",
    kind: str = "",
    outcome: str = "",
    seconds: float | None = None,
    error: BaseException | None = None,
) -> None:
    """Logs an event: ``event`` is one or two plain words, the same each time it happens.

    ``error`` adds its trace: for what should not have happened.
    """
    fields = {
        "event": event,
        "mirror": mirror,
        "dataset": dataset,
        "visit": visit,
        "kind": kind,
        "outcome": outcome,
        "seconds": None if seconds is None else round(seconds, 3),
    }
    extra = {name: value for name, value in fields.items() if value not in ("", None)}
    # %-signs of upstream's are no business of the logger's
    logging.getLogger(LOGGER).log(level, "%s", message, extra=extra, exc_info=error)


@contextmanager
def logging_to(
    stream: TextIO | None = None, *, as_json: bool = False, mirrors: Mapping[str, Mirror]
) -> Iterator[None]:
    """Writes all that is logged in the block to a stream (stderr), a line an event.

    Of other packages only warnings and worse are told; what they say is redacted too, and so is
    what kills a thread. ``mirrors`` by name say which variables of the environment are secret.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_formatter(Secrets(mirrors), as_json=as_json))
    root, ours, hook = logging.getLogger(), logging.getLogger("neuromirror"), threading.excepthook
    before = root.level, ours.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    threading.excepthook = _thread_died
    try:
        yield
    finally:
        threading.excepthook = hook
        root.removeHandler(handler)
        root.setLevel(before[0])
        ours.setLevel(before[1])
        handler.close()


@contextmanager
def log_printed_output() -> Iterator[None]:
    """Logs what is printed in the block, a line an event: other packages print their troubles.

    To be used inside of :func:`logging_to`, whose stream stays what it was.
    """
    printed = _PrintedLines()
    with redirect_stdout(printed), redirect_stderr(printed):
        yield


class _PrintedLines(io.TextIOBase):
    """Where lines become events."""

    def __init__(self) -> None:
        self._logging = threading.local()
        self._partial = ""

    def write(self, text: str) -> int:
        """Tells of the lines that are whole now."""
        if getattr(self._logging, "now", False):  # of a line that could not be told
            return len(text)
        *lines, self._partial = (self._partial + text).split("\n")
        self._logging.now = True
        try:
            for line in filter(str.strip, lines):
                log_event("printed", line, level=logging.WARNING)
        finally:
            self._logging.now = False
        return len(text)


def _thread_died(what: threading.ExceptHookArgs) -> None:
    name = what.thread.name if what.thread is not None else "of no name"
    log_event(
        "thread died",
        f"{name}: {what.exc_type.__name__}: {what.exc_value}",
        level=logging.CRITICAL,
        error=what.exc_value,
    )


def _timestamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _event(record: logging.LogRecord) -> str:
    """The event; of another package's line its logger's name."""
    return getattr(record, "event", None) or record.name


def _formatter(secrets: Secrets, *, as_json: bool) -> logging.Formatter:
    return _json_formatter(secrets) if as_json else _TextFormatter(secrets)


class _TextFormatter(logging.Formatter):
    """One line an event, whatever stands in it; the lines of a trace are set in."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """``2026-01-02T03:04:05.678Z info    visited  demo:000001  message  (visit …, 2.3 s)``."""
        subject = getattr(record, "dataset", "") or getattr(record, "mirror", "")
        notes = [
            f"{name} {getattr(record, name)}"
            for name in ("kind", "outcome", "visit")
            if hasattr(record, name)
        ]
        if hasattr(record, "seconds"):
            notes.append(f"{record.seconds} s")
        parts = [
            _event(record),
            subject,
            record.getMessage(),
            f"({', '.join(notes)})" * bool(notes),
        ]
        line = _printable(self._secrets, "  ".join(filter(None, parts)))
        text = f"{_timestamp(record)} {record.levelname.lower():<8} {line}"
        if record.exc_info:
            text += "".join(f"\n    {one}" for one in _trace(self._secrets, record.exc_info))
        return text


def _json_formatter(secrets: Secrets) -> logging.Formatter:
    """One JSON object a line."""
    from pythonjsonlogger.json import JsonFormatter

    class EventFormatter(JsonFormatter):
        """What :func:`tell` was told, and nothing else that a record may hold."""

        def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
            """Each text without secrets, before it is written as JSON."""
            return {
                name: _printable(secrets, value) if isinstance(value, str) else value
                for name, value in log_data.items()
            }

        def add_fields(
            self,
            log_data: dict[str, object],
            record: logging.LogRecord,
            message_dict: dict[str, object],
        ) -> None:
            """Puts the fields in, in the order in which people read them."""
            log_data |= {"time": _timestamp(record), "level": record.levelname.lower()}
            log_data |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
            log_data |= {"event": _event(record), "message": record.getMessage()}
            if record.exc_info:
                log_data["trace"] = _trace(secrets, record.exc_info)

    return EventFormatter()


def _trace(secrets: Secrets, raised: _ExceptionInfo) -> list[str]:
    trace = secrets.redact("".join(traceback.format_exception(*raised)))[-_LONGEST_TEXT:]
    return [escape_unprintable(line) for line in trace.splitlines()]


def _printable(secrets: Secrets, text: str) -> str:
    shown = escape_unprintable(secrets.redact(text))
    return shown if len(shown) <= _LONGEST_TEXT else f"{shown[:_LONGEST_TEXT]}…"
