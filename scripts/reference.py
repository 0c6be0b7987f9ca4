"""Write or check the generated pages of ``docs/``; started by ``scripts/docs``."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from neuromirror.cli import main as program
from neuromirror.cli.commands import Argument, CommandGroup
from neuromirror.config.mirror_files import MirrorFile
from neuromirror.config.vault_files import VAULT_FILE
from neuromirror.sources import source_kinds

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

HEAD = """\
# Commands

<!-- Written by scripts/docs from the commands themselves: do not edit. -->

`neuromirror COMMAND --help` prints an example, too. Results go to stdout, progress and errors to
stderr. Every command accepts the options of `neuromirror` itself, before and after its
name. A version without a label (`dandi:000027`) is the latest one.

| exit code | meaning |
|---|---|
| 0 | success, or nothing to do |
| 1 | something failed or was not found, see the message; `diff --exit-code`: the versions differ |
| 2 | wrong usage or configuration |
| 3 | an update is held for approval: `neuromirror holds`, `neuromirror release` |
| 4 | a pin is outdated (`outdated --exit-code`) |
| 130, 143 | interrupted by Ctrl-C or SIGTERM |
"""


def plain(text: str) -> str:
    """Return text in one line, with ``<`` escaped."""
    return " ".join(text.split()).replace("<", r"\<")


def paragraphs(text: str | None) -> str:
    """Convert a docstring to Markdown; blocks marked with ``\\b`` become code blocks."""
    if not text:
        return ""
    shown = inspect.cleandoc(text.split("\f")[0])
    blocks = []
    for block in shown.split("\n\n"):
        if block.lstrip().startswith("\b"):
            kept = block.replace("\b", "").strip("\n").splitlines()
            blocks.append("```text\n" + "\n".join(line.rstrip() for line in kept) + "\n```")
        else:
            blocks.append(plain(block))
    return "\n\n".join(blocks)


def default_of(option: click.Option, context: click.Context) -> str:
    """Return the default as it is typed, or an empty text."""
    if isinstance(option.show_default, str):
        return option.show_default
    if option.secondary_opts and isinstance(option.default, bool):
        return f"`{(option.opts if option.default else option.secondary_opts)[0]}`"
    if option.is_flag or option.multiple or callable(option.default):
        return ""
    default = option.get_default(context, call=False)
    # click marks "no default" with a special value; the help describes an empty default
    is_shown = isinstance(default, str | int | float | Path) and default != ""
    return f"`{default}`" if is_shown else ""


def variables_of(option: click.Option, context: click.Context) -> str:
    """Return the environment variables of an option."""
    names = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
    if not names and context.auto_envvar_prefix and option.allow_from_autoenv and option.name:
        names = [f"{context.auto_envvar_prefix}_{option.name.upper()}"]
    return ", ".join(f"`{name}`" for name in names)


def common(context: click.Context) -> list[tuple[list[str], str | None]]:
    """Return the options of the program itself, which are not repeated for each command."""
    if context.parent is None:
        return []
    return [
        (option.opts, option.help)
        for option in context.parent.command.params
        if isinstance(option, click.Option)
    ]


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the arguments and options as items of a list."""
    for option in command.get_params(context):
        if isinstance(option, Argument):
            metavar, description = option.describe(context)
            yield f"- `{metavar}`: {plain(description)}"
        if not isinstance(option, click.Option) or option.hidden:
            continue
        if "--help" in option.opts or (option.opts, option.help) in common(context):
            continue
        names = ", ".join((*option.opts, *option.secondary_opts))
        if not option.is_flag and not option.count:
            names += f" {option.make_metavar(context)}"
        parts = [plain(option.help or "")]
        if option.required:
            parts.append("Required.")
        if option.multiple and "Repeat" not in parts[0]:
            parts.append("Repeatable.")
        if default := default_of(option, context):
            parts.append(f"Default: {plain(default)}.")
        if variables := variables_of(option, context):
            parts.append(f"Environment: {variables}.")
        yield f"- `{names}`: {' '.join(part for part in parts if part)}"


def section(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the section of a command, and those of its subcommands."""
    yield f"## {context.command_path}"
    # the exit codes of the program are in the table above
    if text := paragraphs((command.help or "").partition("Exit codes:")[0]):
        yield text
    if items := list(options(command, context)):
        yield "\n".join(items)
    if isinstance(command, CommandGroup):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                child = click.Context(
                    inner, parent=context, info_name=name, **inner.context_settings
                )
                yield from section(inner, child)


def reference() -> str:
    """Return the page of all commands."""
    context = click.Context(program, info_name="neuromirror", **program.context_settings)
    return "\n".join([HEAD, "\n\n".join(section(program, context)), ""])


def schema() -> str:
    """Return the JSON Schema of a mirror file, with the options of the built-in sources."""
    made = MirrorFile.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["allOf"] = []
    for name, found in source_kinds().items():
        if found.module.startswith("neuromirror."):
            options = found.load().Options.model_json_schema()
            made.setdefault("$defs", {}).update(options.pop("$defs", {}))
            made["allOf"].append(
                {
                    "if": {"properties": {"source": {"const": name}}},
                    "then": {"properties": {"options": options}, "required": ["options"]},
                }
            )
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def vault_schema() -> str:
    """Return the JSON Schema of vault files."""
    made = VAULT_FILE.json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


PAGES = (
    ("reference/commands.md", reference),
    ("reference/mirror.schema.json", schema),
    ("reference/vault.schema.json", vault_schema),
)


def tests(words: list[str]) -> Iterator[str]:
    """Yield the tests whose file or name contains each word: the name of a test is a claim."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        file = path.relative_to(ROOT).as_posix()
        for name in re.findall(r"^def test_(\w+)\(", path.read_text("utf-8"), re.M):
            line = f"{file}: {name.replace('_', ' ')}"
            if all(word.lower() in line.lower() for word in words):
                yield line


def main() -> int:
    """Write the pages; with ``--check``, print those that are out of date and return 1."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--tests", nargs="*", metavar="WORD", help="list tests, write nothing")
    arguments = parser.parse_args()
    if arguments.tests is not None:
        print(*tests(arguments.tests), sep="\n")
        return 0
    check, stale = arguments.check, 0
    for name, content in PAGES:
        page, text = DOCS / name, content()
        if page.is_file() and page.read_text("utf-8") == text:
            continue
        if check:
            print(f"docs/{name} is out of date: run scripts/docs")
            stale = 1
        else:
            page.write_text(text, "utf-8")
            print(f"docs/{name} written")
    return stale


if __name__ == "__main__":
    sys.exit(main())
