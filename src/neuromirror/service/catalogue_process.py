"""The status of catalogues: each saves its own in the store, for ``status`` and metrics."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from neuromirror.model.validation import analysed_type
from neuromirror.store import Store, write_atomically
from neuromirror.store.durable_files import make_folder

_PREFIX: Final = "catalogue-"
_SAVE_SECONDS: Final = 60.0
"""Seconds between two saved states of a catalogue."""
_LOST_SECONDS: Final = 180.0
_FORGOTTEN_SECONDS: Final = 7 * 86400.0
"""Seconds after its last saved state until a catalogue counts as lost."""
_RESULTS: Final = ("document", "download", "folder", "redirect", "proxy", "bytes")
"""Results of the gateway that are no failures."""


class CatalogueStatus(msgspec.Struct, forbid_unknown_fields=True):
    """The status of a catalogue.

    Attributes
    ----------
    url
        The URL at which it listens.
    gateway
        The mode of the gateway by mirror; that of all other mirrors has the name ``""``.
    counts
        Refused requests by kind, and responses of the gateway (``gateway <result>``), since the
        start.
    saved_at
        When this status was saved, in POSIX seconds.
    host
        The host on which it runs; catalogues on several hosts may have the same URL.
    """

    url: str
    gateway: dict[str, str]
    counts: dict[str, int] = {}
    saved_at: float = 0.0
    host: str = ""

    @property
    def name(self) -> str:
        """The URL and the host, for messages."""
        return f"{self.url} on {self.host}" if self.host else self.url

    @property
    def gateway_failures(self) -> dict[str, int]:
        """Number of responses of the gateway that failed, by reason."""
        found = {
            name.removeprefix("gateway "): count
            for name, count in self.counts.items()
            if name.startswith("gateway ")
        }
        return {name: count for name, count in sorted(found.items()) if name not in _RESULTS}

    @property
    def is_lost(self) -> bool:
        """Whether it no longer runs, although it was not stopped."""
        return time.time() - self.saved_at > _LOST_SECONDS

    def problems(self) -> Iterator[str]:
        """Yield a message for everything that an operator has to look at."""
        if self.is_lost:
            yield (
                f"catalogue {self.name}: not running since {_moment(self.saved_at)}, although it "
                "was not stopped; see its log, and start it again"
            )


class CatalogueStatusFile:
    """Saves the status of a catalogue from time to time; thread-compatible.

    Parameters
    ----------
    store
        The store. If it cannot be written, nothing is saved.
    url
        The URL at which the catalogue listens.
    gateway
        The mode of the gateway by mirror.
    """

    def __init__(self, store: Store, url: str, gateway: Mapping[str, str]) -> None:
        self.status = CatalogueStatus(url, dict(gateway), host=socket.gethostname())
        name = re.sub(r"[^\w.-]+", "-", f"{self.status.host}-{url.partition('://')[2]}")
        self._path = store.task_state_path(_PREFIX + name)

    def update(self, counts: Mapping[str, int]) -> None:
        """Set the counts; save the status if a minute has passed."""
        now, found = time.time(), self.status
        found.counts = dict(counts)
        if now - found.saved_at > _SAVE_SECONDS:
            found.saved_at = now
            with suppress(OSError):
                make_folder(self._path.parent)
                write_atomically(self._path, msgspec.json.encode(found) + b"\n", durable=False)

    def remove(self) -> None:
        """Remove the file of a catalogue that was stopped."""
        with suppress(OSError):
            self._path.unlink()


def catalogue_statuses(store: Store) -> list[CatalogueStatus]:
    """Return the status of each catalogue that was not stopped, and that ran in the last week.

    Parameters
    ----------
    store
        The store.
    """
    found = []
    for path in sorted(store.task_state_path(_PREFIX).parent.glob(f"{_PREFIX}*.json")):
        with suppress(OSError, msgspec.DecodeError):
            status = msgspec.json.decode(path.read_bytes(), type=analysed_type(CatalogueStatus))
            if time.time() - status.saved_at < _FORGOTTEN_SECONDS:
                found.append(status)
    return found


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
