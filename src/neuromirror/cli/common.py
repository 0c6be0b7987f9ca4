"""What commands share: settings, output, progress and reports of outcomes.

Shared by all commands: common options, and output as text or JSON.

Heavy packages are imported inside functions, so that ``--help`` is fast.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import click
from msgspec import Struct, field

from neuromirror.annex.remotes import host_without_port
from neuromirror.model.errors import (
    ConfigurationError,
    NeuromirrorError,
    count_of,
    escape_unprintable,
    format_bytes,
)

if TYPE_CHECKING:
    from tqdm import tqdm

    from neuromirror.crawl import FailureLog, JournalRecorder, Mirror, Result, Sync
    from neuromirror.index import Index
    from neuromirror.model import Traffic
    from neuromirror.store import Store
    from neuromirror.transfer.outcomes import Outcome

_LOCAL_MIRRORS = Path("mirrors")
_LOCAL_STORE = Path("store")
_FAILURES = ("error", "impossible")
_MIN_COLUMN = 12
"""Minimum width in characters of a truncated last column."""
_MAX_HOSTS = 5
"""Maximum number of hosts listed in text output; the JSON output has all of them."""
_IN_MEMORY = 1 << 20
"""Size in bytes above which a printed document is spooled to disk."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 plus the number of SIGINT, as in shells."""
PRIVATE_STORE = "NEUROMIRROR_PRIVATE_STORE"
"""The environment variable with the folder of the private store."""


class Settings(Struct):
    """Paths of the mirror files, the store and the index, and the output format.

    ``given_mirrors`` and ``given_store`` are None unless an option or a variable sets them.
    """

    given_mirrors: Path | None = None
    given_store: Path | None = None
    index_file: Path | None = None
    json: bool = False

    @property
    def mirrors_folder(self) -> Path:
        """The folder of local mirror files; it need not exist.

        Raises
        ------
        ConfigurationError
            It is the default, and a file in it sends a credential to a host of its choice.
        """
        if self.given_mirrors is not None:
            return self.given_mirrors
        if _LOCAL_MIRRORS.is_dir():
            from neuromirror.config.mirror_files import refuse_unbound_credentials

            refuse_unbound_credentials(_LOCAL_MIRRORS)
        return _LOCAL_MIRRORS

    @property
    def store_folder(self) -> Path:
        """The folder of the store: the given one, else the local one, else that of the user.

        A folder with mirror files belongs to an operator, whose store is beside it.
        """
        if self.given_store is not None:
            return self.given_store
        from neuromirror.store import store_folder

        return store_folder(is_operator=self.given_mirrors is not None)

    def mirrors(self) -> dict[str, Mirror]:
        """Load the local mirrors, and the built-in ones that they do not override, by name.

        Raises
        ------
        ConfigurationError
            A mirror file is invalid, or the given folder is missing.
        """
        from neuromirror.config.mirror_files import load_known_mirrors

        return load_known_mirrors(self.mirrors_folder, required=self.given_mirrors is not None)

    def local_mirrors(self) -> dict[str, Mirror]:
        """Load the local mirrors by name.

        Raises
        ------
        ConfigurationError
            There are none, or a file is invalid.
        """
        from neuromirror.config.mirror_files import load_mirrors

        return load_mirrors(self.mirrors_folder)

    def store(self, *, create: bool = False) -> Store:
        """Open the store; print its path on stderr if it is the user's default store.

        Raises
        ------
        NotAStoreError
            The folder is not a store.
        """
        from neuromirror.store import Store

        folder = self.store_folder
        if create and self.given_store is None and folder != _LOCAL_STORE:
            click.echo(printable(f"neuromirror: the store is {folder}"), err=True)
        return Store.open(folder, create=create)

    def store_if_any(self) -> Store | None:
        """Open the store if there is one."""
        return self.store() if (self.store_folder / "neuromirror").is_dir() else None

    def index_path(self, store: Store) -> Path:
        """Return the path of the index: the given one or, always for a private store, its own."""
        from neuromirror.index import index_path

        return index_path(store, self.index_file)

    @contextmanager
    def index(self, *addresses: str) -> Iterator[Index]:
        """Open the index read-only for the duration of the block.

        Parameters
        ----------
        addresses
            Addresses that the block looks up. Without a store, the error suggests how to mirror
            the first of them, or what it may mean.

        Raises
        ------
        NotAStoreError
            There is no store.
        UnknownAddressError
            There is no store, and the first address is not understood.
        IndexDamagedError
            Also for a value of a wrong type that the block reads from a damaged index.
        """
        from neuromirror.index import Index, raise_if_damaged
        from neuromirror.store import NotAStoreError

        try:
            store = self.store()
        except NotAStoreError as error:
            if not (addresses and error.hint):
                raise
            from neuromirror.lab.addresses import find_address

            name = find_address(addresses[0], self.mirrors_folder).dataset
            hint = f"'neuromirror sync {name}' creates one with this dataset"
            raise NotAStoreError(error.problem, hint=hint) from error
        index = Index.open_readonly(self.index_path(store))
        try:
            yield index
        except (AttributeError, TypeError, ValueError, LookupError) as error:
            raise_if_damaged(index.path, error)
            raise
        finally:
            index.close()

    @contextmanager
    def recorder(self, store: Store, results: str) -> Iterator[JournalRecorder | None]:
        """Open the store for results; print a warning and yield None if it cannot be written."""
        from neuromirror.crawl import open_recorder

        with ExitStack() as stack:
            try:
                recorder = stack.enter_context(open_recorder(store, self.index_path(store)))
            except (OSError, NeuromirrorError) as error:
                warning = f"neuromirror: warning: {results} not recorded in the store: {error}"
                click.echo(printable(warning), err=True)
                yield None
                return
            yield recorder

    @contextmanager
    def failure_log(self, store: Store) -> Iterator[FailureLog | None]:
        """Open the store's log of failed tasks; None and a warning if it cannot be written."""
        from neuromirror.crawl import FailureLog

        with self.recorder(store, "the result is") as recorder:
            yield None if recorder is None else FailureLog(recorder)

    def emit(self, action: str, record: Mapping[str, Any], line: str | None = None) -> None:
        """Print one result: one JSON object per line with ``--json``, else ``line``.

        The line of a failure (status ``error`` or ``impossible``) goes to stderr, also with
        ``--json``, so that it is visible when stdout is redirected.
        """
        content = {"action": action, "status": "ok", "message": "", **record}
        failed = content["status"] in _FAILURES
        if self.json:
            click.echo(json_line(content))
        if line is not None and failed:
            click.echo(printable(line), err=True)
        elif line is not None:
            self.print_text(line)

    def print_text(self, line: str) -> None:
        """Print a line, in text mode only."""
        if not self.json:
            click.echo(printable(line))

    def print_table(
        self, rows: Sequence[Sequence[str]], heads: Sequence[str], numbers: Sequence[str] = ()
    ) -> None:
        """Print rows in columns, in text mode only; columns in ``numbers`` are right-aligned.

        On a terminal, lines that do not fit are truncated in the last column.
        """
        if self.json or not rows:
            return
        lines = [heads, *([printable(cell) for cell in row] for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        terminal_width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
        if terminal_width < sum(widths[:-1]) + 2 * len(widths) + _MIN_COLUMN:
            terminal_width = sys.maxsize
        for line in lines:
            cells = [
                cell.rjust(width) if head in numbers else cell.ljust(width)
                for cell, width, head in zip(line, widths, heads, strict=True)
            ]
            text = "  ".join(cells).rstrip()
            click.echo(text if len(text) <= terminal_width else f"{text[: terminal_width - 1]}…")


def printable(text: str) -> str:
    """Escape control characters in text from upstream (``\\x1b``).

    Bytes that are not UTF-8 and characters missing from the encoding of stdout are escaped too.
    """
    encoding = sys.stdout.encoding or "utf-8"
    return escape_unprintable(text).encode(encoding, "backslashreplace").decode(encoding)


def json_line(content: Mapping[str, Any]) -> str:
    """Encode as one line of JSON; line separators and unprintable characters are escaped."""
    line = json.dumps(content, ensure_ascii=False, default=str)
    return line if printable(line) == line else json.dumps(content, default=str)


def print_pieces(pieces: Iterable[str]) -> None:
    """Print a UTF-8 document to stdout; nothing if an error occurs halfway."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as whole:
        for piece in pieces:
            # the formats require UTF-8, whatever the encoding of the terminal
            whole.write(piece.encode("utf-8"))
        whole.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(whole, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class NamedPath(click.Path):
    """A path that is not empty, so that an unset shell variable is not the current folder."""

    def __init__(self, path_type: type[str] | type[Path] = Path) -> None:
        super().__init__(path_type=path_type)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert to a path; an empty name is a usage error."""
        if value == "":
            self.fail("the path is empty; is a variable of your script unset?", param, ctx)
        return super().convert(value, param, ctx)


def path_from_environment(name: str) -> Path | None:
    """Return the path in an environment variable; None if the variable is unset or empty."""
    value = os.environ.get(name)
    return Path(value) if value else None


def settings_from_environment() -> Settings:
    """Return the settings from the environment variables."""
    return Settings(
        given_mirrors=path_from_environment("NEUROMIRROR_MIRRORS"),
        given_store=path_from_environment("NEUROMIRROR_STORE"),
        index_file=path_from_environment("NEUROMIRROR_INDEX"),
    )


@contextmanager
def exit_on_interrupt(
    stack: ExitStack, advice: str = "; run the command again to continue"
) -> Iterator[None]:
    """On Ctrl-C in the block, close ``stack`` and exit, without waiting for slow servers."""
    try:
        yield
    except KeyboardInterrupt:
        stack.close()
        click.echo(f"neuromirror: interrupted{advice}", err=True)
        sys.stdout.flush()
        os._exit(INTERRUPTED)


def format_traffic(hosts: Mapping[str, Traffic]) -> str:
    """Format traffic: ``12 requests, 3.4 MB received (api.example.org 2, …)``."""
    from neuromirror.model import total_traffic

    total = total_traffic(hosts)
    parts = [
        "1 request" if total.requests == 1 else f"{total.requests} requests",
        f"{format_bytes(total.bytes)} received",
    ]
    if total.retries:
        parts.append(f"{total.retries} retried after {total.waited:.0f} s of waiting")
    if total.throttled:
        times = "once" if total.throttled == 1 else f"{total.throttled} times"
        parts.append(f"throttled {times}")
    most = sorted(hosts, key=lambda host: (-hosts[host].requests, host))
    named = [f"{host} {hosts[host].requests}" for host in most[:_MAX_HOSTS]]
    named += [f"{len(most) - _MAX_HOSTS} more hosts"] * (len(most) > _MAX_HOSTS)
    return ", ".join(parts) + (f" ({', '.join(named)})" if named else "")


def split_condition(text: str) -> tuple[str, str]:
    """Split ``<name>=<value>`` into name and value."""
    name, equals, value = text.partition("=")
    if not name.strip() or not equals or not value.strip():
        raise ConfigurationError(
            f"--where '{text}': not a condition; write NAME=VALUE, for example subject=625749 or "
            "modality=eph*"
        )
    return name.strip(), value.strip()


def size_of_option(name: str, text: str) -> int:
    """Return the bytes in a size that is given as an option, such as ``10MB``."""
    from neuromirror.cache import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None


_REFRESH_SECONDS: Final = 0.1
_TICK_SECONDS: Final = 1.0
_STEP: Final = "{desc} [{elapsed}]"


class ProgressLine:
    """A line on stderr, if that is a terminal; a context manager that removes it at the end."""

    def __init__(self) -> None:
        options: dict[str, Any] = {"unit": "B", "unit_scale": True}
        self._bar = progress_bar(bar_format=_STEP, mininterval=_REFRESH_SECONDS, **options)
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


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """Return a bar of tqdm on stderr, if that is a terminal; it is removed at the end."""
    from tqdm import tqdm

    return tqdm(items, disable=None, leave=False, file=sys.stderr, **options)


def with_progress_bar(run: Sync, results: Iterator[Result]) -> Iterator[Result]:
    """Yield the results; show a progress bar if stderr is a terminal."""
    finished = threading.Event()

    def tick() -> None:
        # refresh the elapsed time during long visits
        while not finished.wait(1):
            bar.total = run.total or None
            bar.refresh()

    shape = "{desc}{n_fmt}/{total_fmt} datasets [{elapsed}{postfix}]"
    with progress_bar(bar_format=shape, desc="syncing ") as bar:
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


def outcome_text(outcome: Outcome) -> str:
    """Return the message of an outcome, after its host or path unless it starts with the host."""
    if outcome.host is not None and outcome.message.startswith(host_without_port(outcome.host)):
        return outcome.message
    return f"{outcome.host or outcome.path}  {outcome.message}"


class HostMessages(Struct):
    """Prints each message about a host once, and the number of occurrences at the end."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def is_first(self, outcome: Outcome) -> bool:
        """Count an outcome and return whether its message has not been printed yet."""
        if outcome.host is None:
            return True
        self.counts[outcome.host, outcome.status] += 1
        return self.counts[outcome.host, outcome.status] == 1

    def print_counts(self, action: str, settings: Settings) -> None:
        """Print the number of files or URLs that each message applies to."""
        for (host, status), count in self.counts.items():
            record = {"kind": "host", "host": host, "status": status, "count": count}
            line = f"{status:<10} {host} failed {count} times in total" if count > 1 else None
            settings.emit(action, record, line)


class OutcomeReport(Struct):
    """Prints the outcomes of an action on contents, and counts them by status."""

    action: str
    settings: Settings
    line: ProgressLine
    total: int = 0
    bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    hosts: HostMessages = field(default_factory=HostMessages)

    @property
    def failures(self) -> int:
        """The number of contents that failed."""
        return self.counts["error"] + self.counts["impossible"]

    def add(self, outcome: Outcome) -> None:
        """Print and count an outcome; contents that need nothing are printed as JSON only."""
        self.counts[outcome.status] += 1
        if outcome.status == "ok":
            self.bytes += outcome.size or 0
        elif outcome.status == "notneeded" and not self.settings.json:
            return
        text = f"{outcome.status:<10} {outcome_text(outcome)}"
        is_shown = outcome.status == "ok" or (outcome.failed and self.hosts.is_first(outcome))
        with self.line.paused():
            self.settings.emit(self.action, outcome.to_json(), text.rstrip() if is_shown else None)

    def print_totals(
        self, done: str, text: str, others: Sequence[str], *, is_dry_run: bool, **more: object
    ) -> None:
        """Print the totals: as ``text``, and as JSON with the number of contents as ``done``."""
        self.hosts.print_counts(self.action, self.settings)
        count = self.counts["ok"]
        problems = [count_of(self.failures, "problem")] if self.failures else []
        record = {"kind": "summary", "status": "error" if self.failures else "ok", **more}
        record |= {done: 0 if is_dry_run else count, "planned": count if is_dry_run else 0}
        record |= {"notneeded": self.counts["notneeded"], "failed": self.failures}
        parts = [f"{text} ({format_bytes(self.bytes)})", *others, *problems]
        self.settings.emit(self.action, record | {"bytes": self.bytes}, "; ".join(parts))
