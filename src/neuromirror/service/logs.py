"""Logging of a service: one line per event, as text or JSON, with secrets redacted.

Every line has the time (UTC), a level and an event; if known, also the mirror, the dataset, the
visit's id (as in the journal), the job's kind, its outcome, its duration in seconds, and a message.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Final, TextIO
from urllib.parse import quote

from neuromirror.crawl import Mirror
from neuromirror.model import escape_unprintable, is_secret
from neuromirror.net import redact

LOGGER: Final = "neuromirror.service"

_FIELDS: Final = ("event", "mirror", "dataset", "visit", "kind", "outcome", "seconds")
_SHORTEST_SECRET: Final = 6
"""Minimum length of a secret; redacting shorter values would make the log unreadable."""
_LONGEST_TEXT: Final = 4_000
"""Maximum length of a message or a traceback."""


_ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class Secrets:
    """Finds the secrets in this process's environment and redacts them.

    Secrets are the values of variables that a mirror's options name (``token_env``), and of
    variables whose name suggests a secret (``DANDI_API_KEY``, ``AWS_SECRET_ACCESS_KEY``).
    ``mirrors`` is read each time, so that it may change.
    """

    def __init__(self, mirrors: Mapping[str, Mirror]) -> None:
        self._mirrors = mirrors

    def names(self) -> set[str]:
        """Return the names of the environment variables that hold secrets."""
        named = {
            value
            for mirror in list(self._mirrors.values())
            for name, value in mirror.settings.options.items()
            if name.endswith("_env") and isinstance(value, str)
        }
        return {name for name in os.environ if name in named or is_secret(name)}

    def values(self) -> set[str]:
        """Return the secret values, plain and URL-encoded."""
        plain = {os.environ.get(name, "").strip() for name in self.names()}
        plain = {value for value in plain if len(value) >= _SHORTEST_SECRET}
        return plain | {quote(value, safe="") for value in plain}

    def redact(self, text: str) -> str:
        """Return the text without secrets, and redacted by :func:`neuromirror.net.redact`."""
        # a secret may be a prefix of another
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
    """Log an event with the fields that are given; empty ones are left out.

    Parameters
    ----------
    event
        The fixed name of the event, one to three words.
    message
        Text for people.
    level
        The level, as in :mod:`logging`.
    mirror, dataset, visit, kind, outcome
        Names of the mirror and dataset, id of the visit, kind and outcome of the job.
    seconds
        The duration.
    error
        An unexpected error, whose traceback is added.
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
    # the message may contain % signs from upstream
    logging.getLogger(LOGGER).log(level, "%s", message, extra=extra, exc_info=error)


@contextmanager
def logging_to(
    stream: TextIO | None = None, *, as_json: bool = False, mirrors: Mapping[str, Mirror]
) -> Iterator[None]:
    """Write everything that is logged in the block to a stream, one line per event.

    Other packages are logged from level warning on. Secrets are redacted in all lines, including
    uncaught exceptions of threads.

    Parameters
    ----------
    stream
        Where to write; stderr by default.
    as_json
        Write JSON objects instead of text.
    mirrors
        Mirrors by name, whose options name secret environment variables.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_EventFormatter(Secrets(mirrors), as_json=as_json))
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


class _EventFormatter(logging.Formatter):
    """Formats one line per event, as text or as a JSON object.

    ``2026-01-02T03:04:05.678Z info    visited  demo:000001  message  (visit …, 2.3 s)`` is the
    text; lines of a traceback are indented.
    """

    def __init__(self, secrets: Secrets, *, as_json: bool) -> None:
        super().__init__()
        self._secrets, self._as_json = secrets, as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or with a traceback the lines, of an event."""
        moment, level = _timestamp(record), record.levelname.lower()
        fields = {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        # other packages have no events
        fields = {"event": record.name, **fields}
        message = record.getMessage()
        trace = _trace(self._secrets, record.exc_info) if record.exc_info else []
        if self._as_json:
            values = {"time": moment, "level": level, **fields, "message": message}
            document: dict[str, object] = {
                name: _printable(self._secrets, value) if isinstance(value, str) else value
                for name, value in values.items()
            }
            return json.dumps(document | ({"trace": trace} if trace else {}))
        notes = [
            f"{name} {fields[name]}" for name in ("kind", "outcome", "visit") if name in fields
        ]
        notes += [f"{fields['seconds']} s"] if "seconds" in fields else []
        subject = fields.get("dataset") or fields.get("mirror")
        parts = fields["event"], subject, message, f"({', '.join(notes)})" * bool(notes)
        line = _printable(self._secrets, "  ".join(filter(None, parts)))
        return f"{moment} {level:<8} {line}" + "".join(f"\n    {text}" for text in trace)


def _trace(secrets: Secrets, raised: _ExceptionInfo) -> list[str]:
    trace = secrets.redact("".join(traceback.format_exception(*raised)))[-_LONGEST_TEXT:]
    return [escape_unprintable(line) for line in trace.splitlines()]


def _printable(secrets: Secrets, text: str) -> str:
    shown = escape_unprintable(secrets.redact(text))
    return shown if len(shown) <= _LONGEST_TEXT else f"{shown[:_LONGEST_TEXT]}…"
