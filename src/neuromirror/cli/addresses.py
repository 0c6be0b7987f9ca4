"""Addresses on the command line: resolved with the mirrors and the index at hand."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuromirror.model.errors import UnknownAddressError

if TYPE_CHECKING:
    from neuromirror.cli.common import Settings
    from neuromirror.config.addresses import Address
    from neuromirror.index import Index, VersionRow


_URL_SLASH: Final = re.compile(r"^([a-z0-9+]+):/(?!/)")
"""The start of a URL, in which a path has one slash only."""
_ASSET: Final = re.compile(r"_[0-9]{4}-[0-9]{2}-[0-9]{2}_[0-9]{2}-[0-9]{2}-[0-9]{2}[^/]*\Z")


def may_be_address(text: str) -> bool:
    """Return whether a text that names no file looks like an address."""
    return ":" in text or text.startswith("10.") or bool(_ASSET.search(text))


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
    from neuromirror.config.addresses import enclosing_addresses, parse_address, unknown_address
    from neuromirror.config.builtin_mirrors import load_known_mirrors

    if index is not None and (named := _indexed_name(index, text)) is not None:
        return named
    mirrors = load_known_mirrors(settings.mirrors_folder)
    found = parse_address(text, mirrors)
    if found is not None:
        if index is None or "://" not in text:
            return found
        known = (one for one in enclosing_addresses(found) if _indexed_name(index, one.dataset))
        return next(known, found)
    # an empty label usually comes from an unset variable of a script
    if index is not None and not text.strip().endswith("@"):
        found = _indexed_match(index, text.strip())
    if found is None:
        names = [] if index is None else (one.name for one in index.datasets())
        raise unknown_address(text, mirrors, names)
    return found


def _indexed_match(index: Index, text: str) -> Address | None:
    """Resolve a commit id, a digest, a DOI or the URL of a single file."""
    from neuromirror.config.addresses import Address

    match = index.match_name(text)
    if match is None or not match.dataset:
        return None
    return Address(match.dataset, match.label or None)


def _indexed_name(index: Index, text: str) -> Address | None:
    """Return a name that is in the index as it is, for which no mirror file is read."""
    from neuromirror.config.addresses import Address
    from neuromirror.index import DatasetWithdrawnError, UnknownDatasetError, UnknownMirrorError

    dataset, at, label = text.partition("@")
    if ":" not in dataset or "://" in text or (at and not label):
        return None
    try:
        index.dataset(dataset)
    except DatasetWithdrawnError:
        raise
    except (UnknownDatasetError, UnknownMirrorError):
        return None
    return Address(dataset, label or None)


def resolve_version(settings: Settings, index: Index, text: str) -> tuple[Address, VersionRow]:
    """Resolve an address, and look up its version in the index.

    Raises
    ------
    UnknownAddressError
        The address is not understood, or a similar version exists.
    """
    from neuromirror.index import UnknownVersionError

    address = find_address(settings, text, index)
    try:
        return address, index.resolve(address.dataset, address.label)
    except UnknownVersionError as error:
        labels = [one.label for one in index.versions(address.dataset)]
        plain = address.label.removeprefix("v")
        longer = [label for label in labels if label.startswith(plain)]
        near = [plain] if plain in labels else get_close_matches(plain, labels, 1) or longer[-1:]
        if not near:
            raise
        raise UnknownAddressError(str(error), [f"{address.dataset}@{near[0]}"]) from error
