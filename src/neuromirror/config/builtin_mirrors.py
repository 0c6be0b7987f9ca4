"""The mirror files that are part of the package, and how local ones override them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from glob import escape
from importlib.resources import files
from pathlib import Path

from msgspec.structs import replace

from neuromirror.config.mirror_files import Mirror, list_mirror_files, load_mirror
from neuromirror.model import ConfigurationError


def builtin_mirror_files() -> dict[str, Path]:
    """Return the paths of the built-in mirror files by the name of the mirror."""
    folder = Path(str(files("neuromirror.config"))) / "mirrors"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def is_builtin(path: Path) -> bool:
    """Return whether a mirror file is part of the package."""
    return builtin_mirror_files().get(path.stem) == path


def known_mirror_files(folder: Path, *, required: bool = False) -> dict[str, Path]:
    """Return the mirror files of a folder and the built-in ones that it does not override.

    Parameters
    ----------
    folder
        The folder of local mirror files; it can be missing or empty.
    required
        Whether a missing folder is an error.

    Raises
    ------
    ConfigurationError
        If the folder cannot be read, or is required and missing.
    """
    local = list_mirror_files(folder, allow_empty=True) if folder.exists() or required else []
    return dict(sorted({**builtin_mirror_files(), **{one.stem: one for one in local}}.items()))


def load_known_mirrors(folder: Path, *, required: bool = False) -> dict[str, Mirror]:
    """Load all mirror files that :func:`known_mirror_files` finds; return them by mirror name.

    Parameters
    ----------
    folder, required
        As for :func:`known_mirror_files`.

    Raises
    ------
    ConfigurationError
        If a file is invalid, or :func:`known_mirror_files` raises it.
    """
    found = known_mirror_files(folder, required=required)
    return {name: load_mirror(path) for name, path in found.items()}


def include_named(mirrors: Mapping[str, Mirror], names: Iterable[str]) -> dict[str, Mirror]:
    """Return the mirrors, with the ``include`` of built-in ones extended by the named datasets.

    The ``include`` of a built-in mirror limits only syncs of the whole mirror. The ``include`` of a
    local mirror file also limits syncs of named datasets, and is therefore unchanged.

    Parameters
    ----------
    mirrors
        The mirrors by name.
    names
        Names of mirrors or datasets. Names of unknown mirrors are ignored.
    """
    found = dict(mirrors)
    for name in names:
        mirror_name, _, local_id = name.partition(":")
        mirror = found.get(mirror_name)
        if mirror is None or not local_id or not is_builtin(mirror.path):
            continue
        if chosen := mirror.settings.options.get("include"):
            options = {**mirror.settings.options, "include": [*chosen, escape(local_id)]}
            settings = mirror.settings.model_copy(update={"options": options})
            found[mirror_name] = replace(mirror, settings=settings)
    return found


def mirror_titles(folder: Path) -> dict[str, str]:
    """Return the titles of the known mirrors by name; a mirror without a readable title is omitted.

    Only the titles are read, so that an invalid mirror file is not an error.
    """
    found: dict[str, str] = {}
    try:
        paths = known_mirror_files(folder)
    except ConfigurationError:
        paths = builtin_mirror_files()
    for name, path in paths.items():
        try:
            title = tomllib.loads(path.read_text("utf-8")).get("title")
        except (OSError, ValueError):
            continue
        if isinstance(title, str) and title.strip():
            found[name] = title.strip()
    return found
