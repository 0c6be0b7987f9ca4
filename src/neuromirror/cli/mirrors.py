"""``neuromirror mirrors`` and ``check-config``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA_LINE = "#:schema "
"""The first line of a mirror file in the repository; its relative path is valid only there."""


@command(
    "mirrors",
    example="""\
neuromirror mirrors
mkdir -p mirrors; neuromirror mirrors show dandi > mirrors/lab.toml""",
)
@argument(
    "action",
    type=click.Choice(["list", "show"]),
    metavar="[list|show]",
    default="list",
    help="list: one line per mirror (default); show: print the mirror file of NAME, as a template. "
    "A file mirrors/NAME.toml defines the mirror NAME.",
)
@argument("name", required=False, metavar="[NAME]", help="The mirror to show, e.g. dandi.")
@settings_options
def mirrors_command(settings: Settings, action: str, name: str | None) -> None:
    """List the mirrors that can be used, or print a mirror file.

    A file in ./mirrors (or --mirrors) with the name of a built-in mirror overrides it. NEEDS lists
    requirements beyond a base installation. In a folder with ./mirrors, the default store is
    ./store.
    """
    from neuromirror.config.builtin_mirrors import known_mirror_files

    if (action == "show") != (name is not None):
        raise ConfigurationError(
            "specify the mirror to show: neuromirror mirrors show NAME"
            if name is None
            else f"'{name}': 'list' takes no name; write: neuromirror mirrors show {name}"
        )
    found = known_mirror_files(settings.mirrors_folder, required=settings.given_mirrors is not None)
    if name is not None:
        _show(settings, found, name)
    else:
        sys.exit(_list(settings, found))


def _list(settings: Settings, found: dict[str, Path]) -> int:
    """Print one line per mirror; return the exit code."""
    from neuromirror.config.builtin_mirrors import builtin_mirror_files
    from neuromirror.config.mirror_files import load_mirror

    builtin = builtin_mirror_files()
    code, rows = 0, []
    for name, path in found.items():
        is_builtin = builtin.get(name) == path
        overrides = name in builtin and not is_builtin
        record = {"mirror": name, "path": str(path), "builtin": is_builtin, "overrides": overrides}
        try:
            mirror = load_mirror(path)
            needs = mirror.options().requirements()
        except ConfigurationError as error:
            code = 2
            settings.emit(
                "mirrors", {**record, "status": "error", "message": str(error)}, f"error  {error}"
            )
            continue
        title, source = mirror.settings.title or name, mirror.settings.source
        settings.emit("mirrors", {**record, "title": title, "source": source, "needs": list(needs)})
        file = "built-in" if is_builtin else str(path) + " (overrides the built-in one)" * overrides
        rows.append([name, title, file, ", ".join(needs) or "-"])
    settings.print_table(rows, ["MIRROR", "TITLE", "FILE", "NEEDS"])
    return code


def _show(settings: Settings, found: dict[str, Path], name: str) -> None:
    from neuromirror.config.builtin_mirrors import is_builtin
    from neuromirror.config.mirror_files import find_mirror

    path = find_mirror(found, name)
    lines = path.read_text("utf-8", "backslashreplace").splitlines()
    if is_builtin(path):
        lines = [line for line in lines if not line.startswith(_SCHEMA_LINE)]
    settings.emit("mirrors", {"mirror": name, "path": str(path), "text": "\n".join(lines) + "\n"})
    for line in lines:
        settings.print_text(line)


@command("check-config", example="neuromirror check-config --mirrors mirrors")
@settings_options
def check_config_command(settings: Settings) -> None:
    """Check the configuration files of mirrors; send no request.

    If there is neither --mirrors nor ./mirrors, the built-in files are checked.
    """
    from neuromirror.config.builtin_mirrors import builtin_mirror_files
    from neuromirror.config.mirror_files import list_mirror_files, load_mirror

    code = 0
    folder = settings.mirrors_folder
    has_own = settings.given_mirrors is not None or folder.exists()
    for path in list_mirror_files(folder) if has_own else builtin_mirror_files().values():
        try:
            mirror = load_mirror(path)
            source = mirror.open()
        except ConfigurationError as error:
            code = 2
            record = {"path": str(path), "status": "error", "message": str(error)}
            settings.emit("check-config", record, f"error  {error}")
            continue
        kind = mirror.settings.source
        record = {"path": str(path), "mirror": mirror.name, "source": kind, "uri": source.uri}
        settings.emit(
            "check-config", record, f"ok     {mirror.name}: archive of type {kind} at {source.uri}"
        )
    sys.exit(code)
