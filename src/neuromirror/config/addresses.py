"""Addresses: the names and URLs that identify a dataset, a version or a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from msgspec import Struct

if TYPE_CHECKING:
    from neuromirror.config.mirror_files import Mirror

_PAGES: Final = frozenset(
    {"dataset", "file", "volume", "checksums", "cite", "badge", "cutout", "slice"}
)
"""First components of the catalogue's pages that name a dataset or version."""

_NEUROGLANCER_KINDS: Final = ("precomputed://", "zarr://", "zarr2://", "zarr3://", "boss://")


class Address(Struct, frozen=True):
    """A resolved address.

    Attributes
    ----------
    dataset
        The name of the dataset: ``dandi:000027``.
    version
        The label of the version, or another name of it that the index resolves; None if the address
        has none.
    path
        The path of a file or folder in the dataset, without a final slash; None for the whole
        dataset. It is a literal path, not a glob.
    """

    dataset: str
    version: str | None = None
    path: str | None = None

    @property
    def mirror(self) -> str:
        """The name of the mirror."""
        return self.dataset.partition(":")[0]

    @property
    def label(self) -> str:
        """The label of the version; ``latest`` if the address has none."""
        return self.version or "latest"


def parse_addresses(text: str, mirrors: Mapping[str, Mirror]) -> Iterator[Address]:
    """Resolve an address, without a request.

    Commit ids, digests, DOIs and URLs of single files are in the index only. The name of an asset
    can be that of a dataset of several mirrors.

    Parameters
    ----------
    text
        The address.
    mirrors
        The known mirrors by name.

    Yields
    ------
    Address
        A name; nothing if no mirror has such addresses.
    """
    for candidate in unwrap(text.strip()):
        try:
            urlsplit(candidate)
        except ValueError:  # an incomplete IPv6 address
            continue
        first = _catalogue_page(candidate) or _own_name(candidate, mirrors)
        located = iter([first]) if first is not None else _locate(candidate, mirrors)
        if (found := next(located, None)) is not None:
            yield found
            yield from located
            return


def enclosing_addresses(address: Address) -> Iterator[Address]:
    """Yield the address, and the same file in each dataset that may contain this one.

    A URL can name a path in a dataset, such as a scale of a layer.

    Parameters
    ----------
    address
        The address from a URL.

    Yields
    ------
    Address
        An address, the innermost dataset first.
    """
    names = address.dataset.split("/")
    for end in range(len(names), 0, -1):
        path = "/".join([*names[end:], *filter(None, [address.path])])
        yield Address("/".join(names[:end]), address.version, path or None)


def _own_name(text: str, mirrors: Mapping[str, Mirror]) -> Address | None:
    """Parse ``dandi:000027`` and ``dandi:000027@0.210831.2033``."""
    name, at, label = text.partition("@")
    mirror, colon, local_id = name.partition(":")
    if not colon or local_id.startswith("//") or mirror not in mirrors or (at and not label):
        return None
    try:
        mirrors[mirror].open().dataset(local_id)
    except ValueError:
        return None
    return Address(name, label or None)


def _locate(text: str, mirrors: Mapping[str, Mirror]) -> Iterator[Address]:
    from neuromirror.sources import SupportsLocate  # not needed for names in an index

    for name, mirror in mirrors.items():
        source = mirror.open()
        if isinstance(source, SupportsLocate):
            found = source.locate(text)
            if found is not None:
                yield Address(f"{name}:{found.local_id}", found.version, found.path)


def catalogue_page(text: str) -> tuple[str, Address] | None:
    """Return the URL of a catalogue and what its page shows; None if it is not such a URL.

    Parameters
    ----------
    text
        A text, such as ``https://host/dataset/dandi:000027@draft``.

    Returns
    -------
    tuple[str, Address] | None
        The URL without the path of the page, and the dataset, version or file.
    """
    if not text.startswith(("https://", "http://")):
        return None
    parts = urlsplit(text)
    # without a host, the slashes at the start of the path would be read as the start of one
    pieces = parts.path.split("/") if parts.netloc else []
    for index, piece in enumerate(pieces[:-1]):
        if piece not in _PAGES or ":" not in unquote(pieces[index + 1]):
            continue
        name = unquote("/".join(one for one in pieces[index + 1 :] if one))
        query = parse_qs(parts.query)
        path = (query.get("path") or query.get("under") or [""])[0].strip("/")
        dataset, _, label = name.partition("@")
        base = urlunsplit((parts.scheme, parts.netloc, "/".join(pieces[:index]), "", ""))
        return base, Address(dataset, label or None, path or None)
    return None


def _catalogue_page(text: str) -> Address | None:
    """Parse the URL of a page such as ``/dataset/dandi:000027@draft``."""
    found = catalogue_page(text)
    return None if found is None else found[1]


def unwrap(text: str) -> Iterator[str]:
    """Yield an address and those within it: ``precomputed://s3://…``, Neuroglancer links.

    Parameters
    ----------
    text
        The address.

    Yields
    ------
    str
        An address, the outermost first.
    """
    yield text
    for kind in _NEUROGLANCER_KINDS:
        if text.startswith(kind) and "://" in text.removeprefix(kind):
            yield from unwrap(text.removeprefix(kind))
    if text.startswith(("https://", "http://")) and "#!" in text:
        try:
            state = json.loads(unquote(text.partition("#!")[2]))
        except (ValueError, RecursionError):
            return
        for source in _layer_sources(state):
            yield from unwrap(source)


def _layer_sources(state: Any) -> Iterator[str]:
    """Yield the sources of the layers of a Neuroglancer state, in their order."""
    layers = state.get("layers") if isinstance(state, dict) else None
    values = layers.values() if isinstance(layers, dict) else layers
    for layer in values if isinstance(values, (list, type({}.values()))) else ():
        source = layer.get("source") if isinstance(layer, dict) else layer
        for one in source if isinstance(source, list) else [source]:
            url = one.get("url") if isinstance(one, dict) else one
            if isinstance(url, str):
                yield re.split(r"\|", url)[0]
