"""The click classes of the command line: groups, help texts, errors and exit codes."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from neuromirror.cli.common import (
    INTERRUPTED,
    NamedPath,
    Settings,
    json_line,
    printable,
    settings_from_environment,
)
from neuromirror.model.errors import UNPRINTABLE, ConfigurationError, NeuromirrorError
from neuromirror.model.programs import missing_program_message

_COMMON_OPTIONS = {"--mirrors", "--store", "--index", "--json", "--help"}
"""Options that every command has; its help shows them last."""

_OTHER_NAMES = {
    "download": "'neuromirror get'",
    "ls": "'neuromirror list' or 'neuromirror files VERSION'",
    "update": "'neuromirror sync'",
    "checksum": "'neuromirror verify'",
    "info": "'neuromirror show'",
}
"""Names that other programs have for commands."""

_MODULES = {
    "datasets": "events list search show versions",
    "files": "diff files find",
    "get": "cache clone export get",
    "maintenance": "backup doctor fsck holds housekeeping rebuild-index release repair"
    " restore-index takedown",
    "pin": "cite export-lock outdated pin reproduce",
    "restore": "audit digest restore verify",
    "serve": "catalogue publish serve",
    "sync": "check-config demo mirrors status sync",
    "vault": "drill drop keep vault",
}
"""The commands in each module."""

_FREE_SPACE = "Free some disk space and run the command again."
_PERMISSIONS = "Change its permissions, or choose another location with --store or --index."
_ADVICE = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f).",
    errno.EROFS: "Choose another location with --store or --index.",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
}


class Argument(click.Argument):
    """An argument with a description of its own, shown by ``--help``."""

    def __init__(self, *arguments: Any, help: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.description = help

    def describe(self, ctx: click.Context) -> tuple[str, str]:
        """Return the argument as the usage line shows it, and its description."""
        return self.make_metavar(ctx).strip("[]."), self.description


class Command(click.Command):
    """A command whose help is one sentence, its arguments and options, and an example.

    Further paragraphs of the docstring are part of the reference page only.
    """

    def __init__(self, *arguments: Any, example: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.example = example

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first paragraph of the docstring."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text((self.help or "").strip().split("\n\n")[0])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, the options of the command and the common options."""
        arguments: list[tuple[str, str]] = []
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if isinstance(parameter, Argument):
                arguments.append(parameter.describe(ctx))
            elif (record := parameter.get_help_record(ctx)) is not None:
                (own if _COMMON_OPTIONS.isdisjoint(parameter.opts) else common).append(record)
        sections = {"Arguments": arguments, "Options": own, "Common options": common}
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, line by line."""
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Adds an argument or an option to a command."""


def command(name: str, *, example: str) -> Callable[[Callable[..., Any]], Command]:
    """Return a decorator that makes a :class:`Command` of a function."""
    return click.command(name, cls=Command, example=example)


def argument(name: str, *, help: str, **attributes: Any) -> Decorator:
    """Return a decorator that adds an :class:`Argument` to a command."""
    return click.argument(name, cls=Argument, help=help, **attributes)


def many(name: str, metavar: str, help: str, **attributes: Any) -> Decorator:
    """Return a decorator that adds an argument with any number of values."""
    return argument(name, nargs=-1, metavar=metavar, help=help, **attributes)


def globs_argument(help: str) -> Decorator:
    """Return a decorator that adds the argument ``globs``."""
    return many("globs", "[GLOB]...", help)


def option(words: str, help: str, **attributes: Any) -> Decorator:
    """Return a decorator that adds an option.

    ``words`` are its names, the name of the parameter in lower case if it is another one, and the
    name of its value in the help: ``-o --output target FILE``. The help shows a default.
    """
    names = [word for word in words.split() if word[0] == "-" or word.islower()]
    value = " ".join(words.split()[len(names) :]) or None
    attributes.setdefault("show_default", attributes.get("default", "") != "")
    return click.option(*names, metavar=value, help=help, **attributes)


def flag(words: str, help: str) -> Decorator:
    """Return a decorator that adds an option without a value."""
    return option(words, help, is_flag=True)


def path_option(words: str, help: str, **attributes: Any) -> Decorator:
    """Return a decorator that adds an option with a path."""
    return option(words, help, type=NamedPath(), **attributes)


def repeatable(words: str, help: str, **attributes: Any) -> Decorator:
    """Return a decorator that adds an option that can be repeated."""
    return option(words, help, multiple=True, **attributes)


def choice_option(words: str, choices: Sequence[str], help: str, **attributes: Any) -> Decorator:
    """Return a decorator that adds an option with one of some values."""
    return option(words, help, type=click.Choice(choices), **attributes)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the common options, which are accepted before and after the name of a command."""

    @path_option(
        "--mirrors given_mirrors DIR",
        "Folder with your own mirror files (NAME.toml, one per mirror), used in addition to "
        "the built-in mirrors [default: $NEUROMIRROR_MIRRORS, else ./mirrors].",
    )
    @path_option(
        "--store given_store DIR",
        "Store: folder with all mirrored datasets "
        "[default: $NEUROMIRROR_STORE, else ./store if ./store or ./mirrors exists, else "
        "neuromirror/store in your data folder, such as ~/.local/share].",
    )
    @path_option(
        "--index index_file FILE",
        "Index: database of the store's datasets and files "
        "[default: $NEUROMIRROR_INDEX, else inside the store].",
    )
    @flag("--json json", "Print one JSON record per line.")
    @click.pass_context
    @functools.wraps(command)
    def wrapped(context: click.Context, *args: Any, **kwargs: Any) -> Any:
        settings = context.ensure_object(Settings)
        for name in Settings.__struct_fields__:
            setattr(settings, name, kwargs.pop(name) or getattr(settings, name))
        for value in kwargs.values():
            for name in value if isinstance(value, tuple) else (value,):
                if isinstance(name, str) and UNPRINTABLE.search(name):
                    raise ConfigurationError(
                        f"{name!a}: names cannot contain control characters; check for a copy-and-"
                        "paste error"
                    )
        return command(settings, *args, **kwargs)

    return wrapped


def jobs_option(help: str, *names: str, most: int | None = 64, **attributes: Any) -> Decorator:
    """Return a decorator that adds the option ``--jobs``, also with other ``names``."""
    words = " ".join([*names, "--jobs N"])
    return option(words, help, type=click.IntRange(1, most), **attributes)


class ImportedCommands(Mapping[str, click.Command]):
    """Commands by name, of which each is imported when it is looked up: ``a-b`` is ``a_b_command``.

    They are in the order of ``sections``, which are names of commands by title.
    """

    def __init__(self, sections: Mapping[str, str]) -> None:
        modules = {name: module for module in _MODULES for name in _MODULES[module].split()}
        self._modules = {
            name: modules[name] for names in sections.values() for name in names.split()
        }

    def __getitem__(self, name: str) -> click.Command:
        module = import_module(f"neuromirror.cli.{self._modules[name]}")
        command: click.Command = getattr(module, f"{name.replace('-', '_')}_command")
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


class CommandGroup(click.Group):
    """The group of all commands; it turns exceptions into one message and an exit code.

    ``sections`` are the names of the commands by title.
    """

    def __init__(self, *arguments: Any, sections: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.sections = {title: names.split() for title, names in sections.items()}
        self.commands = ImportedCommands(sections)  # type: ignore[assignment] # click only reads it

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; for a name that other programs use, the error suggests the command."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            usual = _OTHER_NAMES.get(args[0])
            near = [usual] if usual else get_close_matches(args[0], self.commands, 2)
            if not near:
                raise
            message = f"{args[0]!r} is not a command; did you mean {' or '.join(near)}?"
            raise click.UsageError(message, ctx) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, section by section."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their one-sentence help, section by section."""
        width = max(map(len, self.commands))
        for title, names in self.sections.items():
            helps = {name: self.commands[name].get_short_help_str(100) for name in names}
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in helps.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print its error to stderr and exit with the code of the error."""
        forbid_core_dumps()
        ctx.obj = settings_from_environment()
        suggestions: tuple[str, ...] = ()
        try:
            return super().invoke(ctx)
        except NeuromirrorError as error:
            message, code, suggestions = str(error), error.exit_code, error.suggestions
        except BrokenPipeError:
            # the reader of the output exited, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except KeyboardInterrupt:
            message, code = "interrupted", INTERRUPTED
        except OSError as error:
            path, reason = error.filename or ctx.obj.store_folder, error.strerror or str(error)
            advice = f". {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
            message = missing_program_message(error) or f"{path}: {reason}{advice}"
            code = 1
        if ctx.obj.json:
            record: Mapping[str, Any] = {
                "action": ctx.invoked_subcommand or "",
                "status": "error",
                "message": message,
                **({"suggestions": list(suggestions)} if suggestions else {}),
            }
            click.echo(json_line(record))
        click.echo("\n".join(map(printable, f"neuromirror: {message}".splitlines())), err=True)
        ctx.exit(code)


def forbid_core_dumps() -> None:
    """Forbid core dumps of this process and its children, whose memory holds tokens.

    Only the soft limit is lowered, so that it can be raised again to debug a child.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource  # missing on some systems

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
