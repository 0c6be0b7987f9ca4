"""What all commands share: common options, output in text or JSON, exit codes.

Nothing but click is imported here before it is needed, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from neuromirror.cli.process import forbid_core_dumps
from neuromirror.model.display import UNPRINTABLE, escape_unprintable, format_bytes
from neuromirror.model.errors import ConfigurationError, NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.crawl import FailureLog, Mirror
    from neuromirror.index import Index
    from neuromirror.model import Traffic
    from neuromirror.store import Store
    from neuromirror.transfer.outcomes import Outcome

_F = TypeVar("_F", bound=Callable[..., Any])

_FAILURES = ("error", "impossible")
_MIN_COLUMN = 12
"""Characters of a last column that are worth showing."""
_MAX_HOSTS = 5
"""Hosts that are named; the JSON output names all."""
INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it."""


@dataclass(slots=True)
class HostMessages:
    """Messages that are about a host: each is printed once, with a count at the end."""

    action: str
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def is_first(self, outcome: Outcome) -> bool:
        """Count an outcome; return whether its message was not printed yet."""
        if outcome.host is None:
            return True
        self.counts[outcome.host, outcome.status] += 1
        return self.counts[outcome.host, outcome.status] == 1

    def print_counts(self, settings: Settings) -> None:
        """Print how many files or locations each message is about."""
        for (host, status), count in self.counts.items():
            record = {"what": "host", "host": host, "status": status, "count": count}
            line = f"{status:<10} {host}  in all {count} times" if count > 1 else None
            settings.emit(self.action, record, line)


@dataclass(slots=True)
class Settings:
    """Where mirrors, store and index are, and how results are printed."""

    mirrors_folder: Path = Path("mirrors")
    store_folder: Path = Path("store")
    index_file: Path | None = None
    json: bool = False

    def mirrors(self) -> dict[str, Mirror]:
        """The declared mirrors by name; raises ConfigurationError."""
        from neuromirror.crawl import load_mirrors

        return load_mirrors(self.mirrors_folder)

    def store(self, *, create: bool = False) -> Store:
        """The store; raises NotAStoreError."""
        from neuromirror.store import Store

        return Store.open(self.store_folder, create=create)

    def index_path(self, store: Store) -> Path:
        """The index file: the one named, or the store's own; of a private store only that."""
        from neuromirror.store.private_store import is_private_store

        return (
            store.index_path
            if is_private_store(store.root)
            else self.index_file or store.index_path
        )

    @contextmanager
    def index(self) -> Iterator[Index]:
        """The index, read only, closed at the end of the block.

        Values of a wrong type that a damaged one gives raise IndexDamagedError where they are used.
        """
        from neuromirror.index import Index, raise_if_damaged

        index = Index.open_readonly(self.index_path(self.store()))
        try:
            yield index
        except (AttributeError, TypeError, ValueError, LookupError) as error:
            raise_if_damaged(index.path, error)
            raise
        finally:
            index.close()

    @contextmanager
    def failure_log(self, store: Store) -> Iterator[FailureLog | None]:
        """The store's record of failures; None where journal or index cannot be written."""
        from neuromirror.crawl import FailureLog, open_recorder

        with ExitStack() as stack:
            try:
                recorder = stack.enter_context(open_recorder(store, self.index_path(store)))
            except (OSError, NeuromirrorError) as error:
                click.echo(
                    printable(f"neuromirror: success or failure is not recorded: {error}"), err=True
                )
                yield None
                return
            yield FailureLog(recorder)

    def emit(self, action: str, record: Mapping[str, Any], line: str | None = None) -> None:
        """Prints one result: a JSON object a line with ``--json``, else ``line``.

        The line of a failure (status ``error`` or ``impossible``) goes to stderr, with ``--json``
        too, so that it is seen wherever the results go.
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
        """Prints a line in text mode only."""
        if not self.json:
            click.echo(printable(line))

    def print_table(
        self, rows: Sequence[Sequence[str]], heads: Sequence[str], numbers: Sequence[str] = ()
    ) -> None:
        """Prints rows in columns, in text mode only; ``numbers`` are heads of columns set right.

        On a terminal the last column is cut where the line would not fit.
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
    """Text from upstream as it may be shown: control characters as escapes (``\\x1b``).

    So are characters that stdout's encoding lacks, and bytes that are not UTF-8.
    """
    encoding = sys.stdout.encoding or "utf-8"
    return escape_unprintable(text).encode(encoding, "backslashreplace").decode(encoding)


def json_line(content: Mapping[str, Any]) -> str:
    """JSON in one line of text, however lines are split; what cannot be shown is escaped."""
    line = json.dumps(content, ensure_ascii=False, default=str)
    return line if printable(line) == line else json.dumps(content, default=str)


class NamedPath(click.Path):
    """A path that is not empty: an unset variable of a script must not mean this folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; fails as click's own types do."""
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


def settings_options(command: _F) -> _F:
    """Adds the common options to a command; they may stand before or after its name."""

    @click.option(
        "--mirrors",
        type=NamedPath(),
        metavar="DIR",
        help="Folder of mirror files [default: ./mirrors; NEUROMIRROR_MIRRORS].",
    )
    @click.option(
        "--store",
        type=NamedPath(),
        metavar="DIR",
        help="The store [default: ./store; NEUROMIRROR_STORE].",
    )
    @click.option(
        "--index",
        type=NamedPath(),
        metavar="FILE",
        help="The index [default: inside the store; NEUROMIRROR_INDEX].",
    )
    @click.option("--json", "as_json", is_flag=True, help="One JSON record a line on stdout.")
    @click.pass_context
    @functools.wraps(command)
    def wrapped(context: click.Context, *args: Any, **kwargs: Any) -> Any:
        settings = context.ensure_object(Settings)
        settings.mirrors_folder = kwargs.pop("mirrors") or settings.mirrors_folder
        settings.store_folder = kwargs.pop("store") or settings.store_folder
        settings.index_file = kwargs.pop("index") or settings.index_file
        settings.json = kwargs.pop("as_json") or settings.json
        for value in kwargs.values():
            for name in value if isinstance(value, tuple) else (value,):
                if isinstance(name, str) and UNPRINTABLE.search(name):
                    raise ConfigurationError(f"{name!a} holds characters that no name has")
        return command(settings, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


def settings_from_environment() -> Settings:
    """The settings that the environment gives."""
    settings = Settings()
    if folder := os.environ.get("NEUROMIRROR_MIRRORS"):
        settings.mirrors_folder = Path(folder)
    if folder := os.environ.get("NEUROMIRROR_STORE"):
        settings.store_folder = Path(folder)
    if file := os.environ.get("NEUROMIRROR_INDEX"):
        settings.index_file = Path(file)
    return settings


class Commands(click.Group):
    """The group of all commands: turns our own errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a person meets them, not by letter."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; see the class."""
        forbid_core_dumps()
        ctx.obj = settings_from_environment()
        try:
            return super().invoke(ctx)
        except NeuromirrorError as error:
            message, code = str(error), error.exit_code
        except BrokenPipeError:
            # the reader of our output went away, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except KeyboardInterrupt:
            message, code = "interrupted", INTERRUPTED
        except OSError as error:
            message, code = _os_error_message(error, ctx.obj), 1
        if ctx.obj.json:
            record = {"action": ctx.invoked_subcommand or "", "status": "error"}
            click.echo(json_line({**record, "message": message}))
        click.echo("\n".join(map(printable, f"neuromirror: {message}".splitlines())), err=True)
        ctx.exit(code)


def _os_error_message(error: OSError, settings: Settings) -> str:
    """What the system refused, where, and what to do about it."""
    advice = {
        errno.ENOSPC: "free some space there and run the command again",
        errno.EDQUOT: "free some space there and run the command again",
        errno.EFBIG: "see to the limits of the system (ulimit -f)",
        errno.EROFS: "name another folder with --store or --index",
        errno.EACCES: "see to its permissions, or name another with --store or --index",
        errno.EPERM: "see to its permissions, or name another with --store or --index",
    }.get(error.errno or 0)
    what, where = error.strerror or str(error), error.filename or settings.store_folder
    return f"{what}: {where}{f'; {advice}' if advice else ''}"


def format_traffic(hosts: Mapping[str, Traffic]) -> str:
    """What was asked, for people: ``12 requests, 3.4 MB received (api.example.org 2, …)``."""
    from neuromirror.model import total_traffic

    total = total_traffic(hosts)
    parts = [
        "1 request" if total.requests == 1 else f"{total.requests} requests",
        f"{format_bytes(total.bytes)} received",
    ]
    if total.retries:
        parts.append(f"{total.retries} sent again after {total.waited:.0f} s of waiting")
    if total.throttled:
        times = "once" if total.throttled == 1 else f"{total.throttled} times"
        parts.append(f"told {times} to slow down")
    most = sorted(hosts, key=lambda host: (-hosts[host].requests, host))
    named = [f"{host} {hosts[host].requests}" for host in most[:_MAX_HOSTS]]
    named += [f"{len(most) - _MAX_HOSTS} more hosts"] * (len(most) > _MAX_HOSTS)
    return ", ".join(parts) + (f" ({', '.join(named)})" if named else "")


def split_condition(text: str) -> tuple[str, str]:
    """``(name, value)`` of ``<name>=<value>``."""
    name, equals, value = text.partition("=")
    if not name.strip() or not equals or not value.strip():
        raise ConfigurationError(
            f"'{text}' is not a condition; write <attribute>=<value>, for example subject=625749 "
            "or modality=eph*"
        )
    return name.strip(), value.strip()


def split_version(name: str) -> tuple[str, str]:
    """``(dataset, label)`` of ``<dataset>@<label>``; without a label it is ``latest``."""
    dataset, at, label = name.partition("@")
    if not dataset or ":" not in dataset or (at and not label):
        raise ConfigurationError(
            f"'{name}' is not a version; write <mirror>:<id>@<label>, for example "
            "dandi:000027@0.210831.2033, dandi:000027@draft or dandi:000027"
        )
    return dataset, label or "latest"
