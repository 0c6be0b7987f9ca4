"""What all commands share: common options, output in text or JSON, exit codes.

Nothing but click is imported here before it is needed, so that ``--help`` is quick.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from neuromirror.model.errors import NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.crawl import Mirror
    from neuromirror.index import Index
    from neuromirror.store import Store

_F = TypeVar("_F", bound=Callable[..., Any])

DATASET = "DATASET"
VERSION = "VERSION"


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
        """The store; raises NotAStore."""
        from neuromirror.store import Store

        return Store.open(self.store_folder, create=create)

    def index_path(self, store: Store) -> Path:
        """The index file: the one named, or the store's own."""
        return self.index_file or store.index_path

    @contextmanager
    def index(self) -> Iterator[Index]:
        """The index, read only, closed at the end of the block."""
        from neuromirror.index import Index

        index = Index.open_readonly(self.index_path(self.store()))
        try:
            yield index
        finally:
            index.close()

    def emit(self, action: str, record: Mapping[str, Any], line: str | None = None) -> None:
        """Prints one result: a JSON object a line with ``--json``, else ``line``."""
        if self.json:
            content = {"action": action, "status": "ok", **record}
            click.echo(json.dumps(content, ensure_ascii=False, default=str))
        elif line is not None:
            click.echo(line)

    def table(self, rows: Sequence[Sequence[str]], heads: Sequence[str]) -> None:
        """Prints rows in columns, in text mode only."""
        if self.json or not rows:
            return
        widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
        for row in [heads, *rows]:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            click.echo("  ".join(cells).rstrip())


def settings_options(command: _F) -> _F:
    """Adds the common options to a command; they may stand before or after its name."""

    @click.option(
        "--mirrors",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of mirror files [default: ./mirrors; NEUROMIRROR_MIRRORS].",
    )
    @click.option(
        "--store",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The store [default: ./store; NEUROMIRROR_STORE].",
    )
    @click.option(
        "--index",
        type=click.Path(path_type=Path),
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
        ctx.obj = settings_from_environment()
        try:
            return super().invoke(ctx)
        except NeuromirrorError as error:
            message, code = str(error), error.exit_code
        except BrokenPipeError:
            # the reader of our output went away, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            message, code = f"{error.strerror or error}:{where}".rstrip(":"), 1
        if ctx.obj.json:
            command = ctx.invoked_subcommand or ""
            record = {"action": command, "status": "error", "message": message}
            click.echo(json.dumps(record, ensure_ascii=False))
        click.echo(f"neuromirror: {message}", err=True)
        ctx.exit(code)


def human_bytes(count: int) -> str:
    """A size for people: ``189.5 kB`` (SI units, as archives state them)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"


def split_version(name: str) -> tuple[str, str]:
    """``(dataset, label)`` of ``<dataset>@<label>``; without a label it is ``latest``."""
    dataset, at, label = name.partition("@")
    if not dataset or ":" not in dataset or (at and not label):
        raise click.UsageError(
            f"'{name}' is not a version; write <mirror>:<id>@<label>, for example "
            "dandi:000027@0.210831.2033, dandi:000027@draft or dandi:000027"
        )
    return dataset, label or "latest"
