"""Resolve addresses with the known mirrors and an index; search it for a file on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Final

from neuromirror.annex import MAX_POINTER_BYTES, EtagDigest, parse_link_target, parse_pointer
from neuromirror.annex.keys import Hasher
from neuromirror.config.addresses import Address, enclosing_addresses, parse_addresses
from neuromirror.index import (
    DatasetWithdrawnError,
    FoundFile,
    Index,
    UnknownDatasetError,
    UnknownMirrorError,
    UnknownVersionError,
    VersionRow,
)
from neuromirror.model import USUAL_PART_SIZES, NeuromirrorError, dandi_part_size
from neuromirror.model.errors import UnknownAddressError

_MAX_FILES: Final = 1000
"""Maximum number of places of a file that are compared."""


def find_address(text: str, mirrors_folder: Path, index: Index | None = None) -> Address:
    """Resolve an address; commits and digests are looked up in the index, if there is one.

    Parameters
    ----------
    text
        The address.
    mirrors_folder
        The folder of local mirror files, which may be missing.
    index
        The index.

    Returns
    -------
    Address
        The dataset, with the version and the path that the address names.

    Raises
    ------
    UnknownAddressError
        The address is not understood.
    """
    if index is not None:
        if (named := indexed_name(index, text)) is not None:
            return named
        if (match := index.names.match_doi(text.strip())) is not None:
            return Address(match.dataset, match.label or None)
    # reading mirror files needs modules that take as long to import as all others together
    from neuromirror.config.mirror_files import load_known_mirrors

    mirrors = load_known_mirrors(mirrors_folder)
    found = None
    for address in parse_addresses(text, mirrors):
        if index is None:
            return address
        for known in enclosing_addresses(address) if "://" in text else [address]:
            if indexed_name(index, known.dataset) is not None:
                return known
        found = found or address
    if found is not None:
        return found
    # an empty label usually comes from an unset variable of a script
    if index is not None and not text.strip().endswith("@"):
        found = _indexed_match(index, text.strip())
    if found is None:
        names = [] if index is None else (one.name for one in index.datasets.select())
        from neuromirror.config.addresses import unknown_address

        raise unknown_address(text, mirrors, names)
    return found


def indexed_name(index: Index, text: str) -> Address | None:
    """Return a name that is in the index as it is, for which no mirror file is read.

    Parameters
    ----------
    index
        The index.
    text
        The address.

    Returns
    -------
    Address or None
        The address; None if the index has no dataset of this name.
    """
    dataset, at, label = text.partition("@")
    if ":" not in dataset or "://" in text or (at and not label):
        return None
    try:
        index.datasets.get(dataset)
    except DatasetWithdrawnError:
        raise
    except (UnknownDatasetError, UnknownMirrorError):
        return None
    return Address(dataset, label or None)


def version_at(index: Index, address: Address) -> VersionRow:
    """Return the version that an address names.

    Parameters
    ----------
    index
        The index.
    address
        The address.

    Returns
    -------
    VersionRow
        The version.

    Raises
    ------
    UnknownAddressError
        There is no such version, but a similar one.
    UnknownVersionError
        There is no such version.
    """
    try:
        return index.versions.resolve(address.dataset, address.label)
    except UnknownVersionError as error:
        labels = [one.label for one in index.versions.of(address.dataset)]
        plain = address.label.removeprefix("v")
        longer = [label for label in labels if label.startswith(plain)]
        near = [plain] if plain in labels else get_close_matches(plain, labels, 1) or longer[-1:]
        if not near:
            raise
        raise UnknownAddressError(str(error), [f"{address.dataset}@{near[0]}"]) from error


def _indexed_match(index: Index, text: str) -> Address | None:
    """Resolve a commit id, a digest, a DOI or the URL of a single file.

    Raises
    ------
    UnknownAddressError
        Several files have the content of the URL.
    """
    match = index.names.match(text)
    if match is None:
        return None
    if not match.key:
        return Address(match.dataset, match.label or None)
    found = list(islice(index.files.find(match.key), _MAX_FILES))
    current = [file for file in found if file.current] or found
    if len({(file.dataset, file.path) for file in current}) > 1 or len(found) == _MAX_FILES:
        raise UnknownAddressError(
            f"{text} is the URL of several files with the same content; specify one of them",
            [f"'neuromirror find {match.key}'"],
        )
    return Address(current[-1].dataset, current[-1].last, current[-1].path) if current else None


_MIB: Final = 1 << 20
_BLOCK: Final = 4 * _MIB


class ContentUnavailableError(NeuromirrorError):
    """A file cannot be looked up: it does not exist, or is a broken link that is not annexed."""


def queries_of_file(path: Path) -> list[str]:
    """Return the checksums by which the content of a file may be in the index.

    They are sha256, md5 and the multipart ETags for the usual part sizes, computed in one pass. For
    an annexed file without content, it is the key.

    Parameters
    ----------
    path
        The file; annexed files may have no content.

    Returns
    -------
    list[str]
        Queries for :func:`find_any`.

    Raises
    ------
    ContentUnavailableError
        The file does not exist, or is a broken link that is not annexed.
    OSError
        The file cannot be read.
    """
    key = annexed_key(path)
    try:
        with path.open("rb", buffering=0) as file:
            if (
                key is not None
                and parse_pointer(os.pread(file.fileno(), MAX_POINTER_BYTES, 0)) == key
            ):
                return [key]
            return _checksum_queries(file.fileno())
    except FileNotFoundError as error:
        if key is None:
            raise ContentUnavailableError(f"{path}: no such file, or a broken link") from error
        return [key]


def find_any(index: Index, queries: Iterable[str]) -> Iterator[FoundFile]:
    """Yield the files that match one of the queries, without duplicates.

    Parameters
    ----------
    index
        The index to search.
    queries
        Checksums (with or without the name of the algorithm) or annex keys.

    Yields
    ------
    FoundFile
        A file of a version, once.

    Raises
    ------
    MalformedQueryError
        A query is not a checksum or a key.
    """
    seen: set[FoundFile] = set()
    for query in queries:
        for found in index.files.find(query):
            if found not in seen:
                seen.add(found)
                yield found


def annexed_key(path: Path) -> str | None:
    """Return the key of an annexed file, locked or unlocked; None for any other file."""
    if path.is_symlink():
        return parse_link_target(os.fsencode(os.readlink(path)))
    if path.is_file() and path.stat().st_size <= MAX_POINTER_BYTES:
        return parse_pointer(path.read_bytes())
    return None


def _checksum_queries(descriptor: int) -> list[str]:
    size = os.fstat(descriptor).st_size
    parts = set(USUAL_PART_SIZES) | ({dandi_part_size(size)} if size < 5 << 40 else set())
    # a file of one part has the same ETag for all larger part sizes
    sizes = sorted({min(part, max(size, 1)) for part in parts})
    hashes: dict[str, Hasher] = {
        "sha256": hashlib.sha256(usedforsecurity=False),
        "md5": hashlib.md5(usedforsecurity=False),
        **{f"etag {one}": EtagDigest(one) for one in sizes},
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := os.read(descriptor, _BLOCK):
            for done in [pool.submit(digest.update, block) for digest in hashes.values()]:
                done.result()
    return [f"{name.partition(' ')[0]}:{one.hexdigest()}" for name, one in hashes.items()]
