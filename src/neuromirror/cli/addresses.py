"""Addresses on the command line: resolved with the mirrors and the index at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuromirror.model.errors import ConfigurationError, UnknownAddressError

if TYPE_CHECKING:
    from neuromirror.cli.common import Settings
    from neuromirror.config.addresses import Address
    from neuromirror.index import Index, VersionRow


DEFAULT_LOCK: Final = Path("datasets.lock")
"""The lock file that commands use by default."""
_URL_SLASH: Final = re.compile(r"^([a-z0-9+]+):/(?!/)")
"""The start of a URL, in which a path has one slash only."""
_ASSET: Final = re.compile(r"_[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}-[0-9]{2}-[0-9]{2}[^/]*\Z")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}\Z")


def may_be_address(text: str) -> bool:
    """Return whether a text that names no file looks like an address."""
    return ":" in text or text.startswith("10.") or bool(_ASSET.search(text) or _COMMIT.match(text))


def refuse_address(path: Path, expected: str, *commands: str) -> None:
    """Reject an address where a command expects a file or folder.

    Parameters
    ----------
    path
        The argument; an existing path is accepted.
    expected
        The expected kind of argument, for the message.
    commands
        Commands that take an address, for suggestions.

    Raises
    ------
    UnknownAddressError
        The argument looks like an address.
    """
    text = _URL_SLASH.sub(r"\1://", str(path))
    if not path.exists() and may_be_address(text):
        raise UnknownAddressError(
            f"{text} is not a file or folder; this command takes {expected}, not an address",
            [f"'neuromirror {command} {text}'" for command in commands],
        )


def find_address(settings: Settings, text: str, index: Index | None = None) -> Address:
    """Resolve an address; commits and digests are looked up in the index, if there is one.

    Raises
    ------
    UnknownAddressError
        The address is not understood.
    """
    from neuromirror.lab.addresses import find_address, indexed_name

    if index is not None and (named := indexed_name(index, text)) is not None:
        return named
    return find_address(text, settings.mirrors_folder, index)


def resolve_version(settings: Settings, index: Index, text: str) -> tuple[Address, VersionRow]:
    """Resolve an address, and look up its version in the index.

    Raises
    ------
    UnknownAddressError
        The address is not understood, or a similar version exists.
    """
    from neuromirror.lab.addresses import version_at

    address = find_address(settings, text, index)
    return address, version_at(index, address)


def resolve_selection(
    settings: Settings, index: Index, target: str, globs: tuple[str, ...]
) -> tuple[VersionRow, tuple[str, ...]]:
    """Return the version at an address, and the globs of its selected files.

    The path in an address selects files as a glob does.

    Raises
    ------
    UnknownAddressError
        The address is not understood, or a similar version exists.
    ConfigurationError
        There are globs and a path.
    """
    from neuromirror.lab.globs import escape

    address, row = resolve_version(settings, index, target)
    if address.path is None:
        return row, globs
    if globs:
        raise ConfigurationError(f"{target} names a file or folder; leave out the globs")
    return row, (escape(address.path),)
