"""Addresses on the command line: resolved with the mirrors and the index at hand."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from neuromirror.model.errors import UnknownAddressError

if TYPE_CHECKING:
    from neuromirror.cli.common import Settings
    from neuromirror.config.addresses import Address
    from neuromirror.index import Index, VersionRow


def find_address(settings: Settings, text: str, index: Index | None = None) -> Address:
    """Return what an address names; the index, if there is one, knows commits and digests.

    Raises
    ------
    UnknownAddressError
        The address is not understood.
    """
    from neuromirror.config.addresses import Address, parse_address
    from neuromirror.config.builtin_mirrors import load_known_mirrors

    def lookup(sought: str) -> Address | None:
        match = None if index is None else index.match_name(sought)
        if match is None or not match.dataset:
            return None
        return Address(match.dataset, match.label or None)

    def known() -> Iterator[str]:
        return iter(()) if index is None else (one.name for one in index.datasets())

    if index is not None and (named := _indexed_name(index, text)) is not None:
        return named
    return parse_address(text, load_known_mirrors(settings.mirrors_folder), lookup, known)


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
    """Return what an address names, and its version in the index.

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
        near = [plain] if plain in labels else get_close_matches(plain, labels, 1)
        if not near:
            raise
        raise UnknownAddressError(str(error), [f"{address.dataset}@{near[0]}"]) from error
