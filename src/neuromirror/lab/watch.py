"""Watch datasets, pins and searches of a store for new versions, new datasets and incidents.

A watch remembers known items by ids that every index of the store has: commits, names of datasets,
and digests of incidents. A rebuilt, repaired or restored index neither loses nor repeats news. News
that a channel did not accept is kept for that channel and sent by the next run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from neuromirror.index import Index, UnknownVersionError, VersionRow
from neuromirror.lab.lockfile import load_lock
from neuromirror.model import ConfigurationError, NeuromirrorError, escape_unprintable
from neuromirror.model.struct_types import analysed_type
from neuromirror.store import file_lock, write_atomically
from neuromirror.store.regular_files import NotARegularFileError, open_regular

NewsKind = Literal["version", "dataset", "incident"]

_STATE_VERSION: Final = 1
_DRAFT: Final = "draft"
_OWNER_ONLY: Final = 0o600
_LONGEST_STATE: Final = 1 << 28
"""A state file has about 100 bytes per known dataset, version and incident."""


class WatchStateError(ConfigurationError):
    """The state file of a watch is invalid, or in a folder that does not exist."""


class Watch(msgspec.Struct, frozen=True):
    """A dataset, a pinned version, or a search.

    Attributes
    ----------
    name
        The key of the watch in the state file.
    dataset
        The dataset; empty for a search.
    label
        The version in use: newer ones count as news in the first run too. Empty if only versions
        after the first run count as news.
    is_draft
        Whether to report new states of the draft instead of new published versions.
    where, text
        The search, as of ``neuromirror list``.
    """

    name: str
    dataset: str = ""
    label: str = ""
    is_draft: bool = False
    where: tuple[tuple[str, str], ...] = ()
    text: str | None = None


class News(msgspec.Struct, frozen=True):
    """A message of a watch: a new version, a new dataset, or an incident."""

    watch: str
    kind: NewsKind
    dataset: str
    version: str
    message: str


class WatchState(msgspec.Struct):
    """The state of a watch after a run, so that the next run reports only later changes.

    Attributes
    ----------
    commit
        The commit id of the newest version.
    datasets
        Names of the datasets that a search has found.
    incidents
        Digests of incidents.
    """

    commit: str = ""
    datasets: list[str] = []
    incidents: list[str] = []


class WatchFile(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """The content of the state file of ``neuromirror watch``.

    Attributes
    ----------
    watch_version
        The version of the format.
    watches
        The state of each watch after the last run, by the name of the watch.
    undelivered
        The news that a channel did not accept, by the id of the channel.
    """

    watch_version: int = _STATE_VERSION
    watches: dict[str, WatchState] = {}
    undelivered: dict[str, list[News]] = {}


class Channel(Protocol):
    """Sends news: by mail, to a webhook, or to a command."""

    @property
    def name(self) -> str:
        """The name for messages, without secrets."""
        ...

    @property
    def id(self) -> str:
        """A stable id, from which no secret can be read."""
        ...

    def send(self, news: Sequence[News]) -> None:
        """Send news in one message; raises NeuromirrorError or OSError."""
        ...


def parse_watch(text: str) -> list[Watch]:
    """Return the watches of an argument of the command line.

    ``dandi:000027`` is a dataset, ``dandi:000027@0.210831.2033`` a version in use, the path of a
    lock file all its pins, ``modality=eph*`` a condition, and anything else a search for words.

    Raises
    ------
    ConfigurationError
        The text is empty or not a watch.
    """
    if not text.strip():
        raise ConfigurationError("a watch is empty; is a variable of your script unset?")
    path = Path(text)
    if path.suffix == ".lock" or _is_file(path):
        pins = load_lock(path).datasets
        if not pins:
            raise ConfigurationError(f"{path} has no pins; add one with 'neuromirror pin'")
        return [
            Watch(f"pin {pin.name}", pin.name, pin.commit, pin.requested == _DRAFT) for pin in pins
        ]
    name, equals, value = (part.strip() for part in text.partition("="))
    if equals:
        if not name or not value:
            raise ConfigurationError(
                f"{text!r} is not a condition; write NAME=VALUE, for example modality=eph*"
            )
        return [Watch(f"{name}={value}", where=((name, value),))]
    if ":" in text and " " not in text:
        dataset, at, label = text.partition("@")
        if at and not label:
            raise ConfigurationError(f"{text!r} has no label after the @")
        return [Watch(text, dataset, "" if label == _DRAFT else label, label == _DRAFT)]
    return [Watch(text, text=text)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a name
        return False


def check_watch(
    watch: Watch, index: Index, known: WatchState | None
) -> tuple[list[News], WatchState]:
    """Return the news of a watch, oldest first, and its new state.

    Parameters
    ----------
    watch
        The watch.
    index
        The index of the store.
    known
        The state after the last run; None at the first run.

    Raises
    ------
    NeuromirrorError
        The dataset, its version or an attribute is unknown.
    """
    if not watch.dataset:
        return _check_search(watch, index, known)
    newest = index.resolve(watch.dataset, _DRAFT if watch.is_draft else "latest")
    in_use = index.resolve(watch.dataset, watch.label) if watch.label else None
    news: list[News] = []
    if _is_news(newest, in_use, None if known is None else _known_version(index, watch, known)):
        message = f"{newest.label}, recorded {newest.recorded_at}, is new"
        news.append(News(watch.name, "version", watch.dataset, newest.label, message))
    incidents = {
        _digest(one.dataset, one.at, one.message): one
        for one in index.events(watch.dataset, "incident")
    }
    old = set(() if known is None else known.incidents)
    if known is None and in_use is None:
        # incidents before the first run count as news for a version in use only
        old = set(incidents)
    for digest, incident in reversed(incidents.items()):
        if digest not in old:
            message = f"incident of {incident.at}: {incident.message}"
            news.append(News(watch.name, "incident", watch.dataset, "", message))
    return news, WatchState(newest.commit, [], sorted(old | incidents.keys()))


def _known_version(index: Index, watch: Watch, known: WatchState) -> VersionRow | str:
    """Return the known version, or its commit if the index no longer has it."""
    try:
        return index.resolve(watch.dataset, known.commit)
    except UnknownVersionError:
        return known.commit


def _is_news(newest: VersionRow, in_use: VersionRow | None, known: VersionRow | str | None) -> bool:
    if isinstance(known, str):
        return newest.commit != known
    seen = [one.seq for one in (in_use, known) if one is not None]
    return bool(seen) and newest.seq > max(seen)


def _check_search(
    watch: Watch, index: Index, known: WatchState | None
) -> tuple[list[News], WatchState]:
    found = {
        row.name: row
        for row in index.datasets(where=watch.where, text=watch.text, subdatasets=False)
        if row.version is not None
    }
    old = found.keys() if known is None else set(known.datasets)
    news = [
        News(watch.name, "dataset", name, row.version or "", f"matches {watch.name!r}: {row.title}")
        for name, row in found.items()
        if name not in old
    ]
    return news, WatchState(datasets=sorted(found.keys() | set(old)))


def _digest(*values: str | None) -> str:
    return hashlib.sha256("\0".join(one or "" for one in values).encode()).hexdigest()[:32]


def channel_id(kind: str, address: str) -> str:
    """Return the id by which the state file names a channel; its address cannot be read from it."""
    return _digest(kind, address)


@contextmanager
def open_watch_file(path: Path) -> Iterator[WatchFile]:
    """Yield the content of a state file, and write it at the end of the block, not after an error.

    Raises
    ------
    WatchStateError
        The file is invalid, or in a folder that does not exist.
    StoreBusyError
        Another process uses it.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise WatchStateError(f"{path.parent}: no such folder; choose another file with --state")
    with file_lock(path.with_name(f".{path.name}.lock"), f"watching with {path}"):
        content = read_watch_file(path)
        yield content
        # not after an error: the next run then repeats the news and loses none
        text = msgspec.json.format(msgspec.json.encode(content)) + b"\n"
        # a watched store may be private
        write_atomically(path, text, mode=_OWNER_ONLY)


def read_watch_file(path: Path) -> WatchFile:
    """Read the state file of ``neuromirror watch``; return an empty state if there is no file."""
    try:
        with open_regular(path) as file:
            text = file.read(_LONGEST_STATE + 1)
        if len(text) > _LONGEST_STATE:
            raise WatchStateError(
                f"{path} has more than {_LONGEST_STATE} bytes; specify another file with --state"
            )
        found = msgspec.json.decode(text, type=analysed_type(WatchFile))
    except FileNotFoundError:
        return WatchFile()
    except (msgspec.DecodeError, IsADirectoryError, NotARegularFileError) as error:
        raise WatchStateError(
            f"{path} is not a state file of 'neuromirror watch' ({error}); move it away, or "
            f"choose another file with --state"
        ) from error
    if found.watch_version != _STATE_VERSION:
        raise WatchStateError(f"{path} was written by a newer neuromirror; install that version")
    return found


def deliver(
    news: Sequence[News], channels: Iterable[Channel], content: WatchFile
) -> dict[str, str]:
    """Send news, including earlier news that was not accepted, to every channel.

    Returns
    -------
    dict
        The failed channels with the reasons, by name; their news stays in ``content``.
    """
    failed: dict[str, str] = {}
    for channel in channels:
        due = [*content.undelivered.pop(channel.id, ()), *news]
        if not due:
            continue
        try:
            channel.send(due)
        except (NeuromirrorError, OSError) as error:
            failed[channel.name] = str(error)
            content.undelivered[channel.id] = due
    return failed


def news_text(news: Sequence[News]) -> str:
    """Return the news as text, one per line."""
    lines = [escape_unprintable(f"{one.dataset}: {one.message}") for one in news]
    return "\n".join(lines) + "\n"


def news_subject(news: Sequence[News]) -> str:
    """Return a title for the news."""
    if len(news) == 1:
        return escape_unprintable(f"neuromirror: {news[0].kind} in {news[0].dataset}")
    datasets = len({one.dataset for one in news})
    return f"neuromirror: {len(news)} news of {datasets} dataset{'s' * (datasets > 1)}"
