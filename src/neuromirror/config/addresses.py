"""Addresses: the names and URLs that identify a dataset, a version or a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from msgspec import Struct

from neuromirror.model import ConfigurationError
from neuromirror.model.errors import UnknownAddressError

if TYPE_CHECKING:
    from neuromirror.config.mirror_files import Mirror

_PAGES: Final = frozenset(
    {"dataset", "file", "volume", "checksums", "cite", "badge", "cutout", "slice"}
)
"""First components of the catalogue's pages that name a dataset or version."""

_NEUROGLANCER: Final = re.compile(r"(?:precomputed|n5|zarr[23]?|boss)://(?=.*://)", re.DOTALL)


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
        dataset = mirrors[mirror].open().dataset(local_id)
    except ValueError:
        return None
    return Address(dataset.name, label or None)


def _locate(text: str, mirrors: Mapping[str, Mirror]) -> Iterator[Address]:
    from neuromirror.sources import SupportsLocate  # not needed for names in an index

    excluded = []
    for name, mirror in mirrors.items():
        source = mirror.open()
        found = source.locate(text) if isinstance(source, SupportsLocate) else None
        if found is not None:
            address = Address(f"{name}:{found.local_id}", found.version, found.path)
            if found.is_included:
                yield address
            else:
                excluded.append(address)
    yield from excluded


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
    if (scheme := _NEUROGLANCER.match(text)) is not None:
        yield from unwrap(text[scheme.end() :])
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


UNDERSTOOD: Final = (
    "dandi:000027, dandi:000027@draft, a DOI, or a URL of the archive, its bucket (s3://…) or a "
    "catalogue"
)
"""Examples of the addresses that :func:`parse_addresses` understands, for messages."""

_ID_DIGITS: Final = 6
_SHORT_ID: Final = re.compile(rf"(?<=[/:.])[0-9]{{1,{_ID_DIGITS - 1}}}(?=[/@?#]|\Z)")
"""A number in an address that may be the id of a dandiset without its leading zeros."""
_BARE_ID: Final = re.compile(rf"(?:(?:dandi|dandiset)[-_:/ ]*)?([0-9]{{1,{_ID_DIGITS}}})/?\Z", re.I)
_DANDISET: Final = re.compile(rf"(?<![0-9])[0-9]{{{_ID_DIGITS}}}(?![0-9])")
_CHANNELS: Final = re.compile(
    r"(?:https?://(?:www\.)?bossdb\.org/project/|bossdb://|boss://[^/]+/"
    r"|https?://[^/]+/(?:v[0-9]+|latest)/collection/)"
    r"([^/?#]+)(?:/(?:experiment/)?([^/?#]+))?/?(?:[?#].*)?\Z"
)
"""A project of BossDB, and a collection or experiment of any BOSS."""
_NAME: Final = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*):[^:/@\s][^:@\s]*(?:@\S+)?\Z", re.IGNORECASE)
_STATE: Final = re.compile(
    r"(?:swh:1:(?:rev|dir):)?[0-9a-f]{40}\Z|(?:state:)?(?:sha256:)?[0-9a-f]{64}\Z", re.IGNORECASE
)
"""A commit id, the SWHID of a commit or tree, and a state digest."""
_DOI: Final = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?10\.[0-9]{4,9}/", re.IGNORECASE)
_SCHEMES: Final = frozenset({"doi", "md5", "sha256", "state", "swh"})
_MAX_NAMED: Final = 3
"""Maximum number of suggestions."""
_MIN_SIMILARITY: Final = 0.72
"""Minimum similarity of a host or bucket and that of a mirror."""
_MIN_PART: Final = 4
"""Minimum length of a part of a name that is looked for in the known names."""


def unknown_address(
    text: str, mirrors: Mapping[str, Mirror], names: Iterable[str]
) -> UnknownAddressError:
    """Return the error for an unsupported or unknown address.

    Parameters
    ----------
    text
        The address.
    mirrors
        The known mirrors by name.
    names
        The names of the datasets in a store, for suggestions.

    Returns
    -------
    UnknownAddressError
        The error, with suggestions.
    """
    address, known = text.strip(), list(names)
    if (above := _CHANNELS.match(address)) is not None:
        return _above_channels(text, above, known)
    if _STATE.match(address):
        return UnknownAddressError(
            f"{address}: no version in this store has this commit or state digest; sync the "
            "dataset by its name or URL first, or specify the store that has it with --store"
        )
    if (mirror := address.rstrip(":")) in mirrors:
        return UnknownAddressError(
            f"{text!r} is a mirror, not a dataset; 'neuromirror list {mirror}' prints the datasets "
            f"that the store has, 'neuromirror sync {mirror} --dry-run' those of the archive"
        )
    if _DOI.match(address):
        return UnknownAddressError(
            f"{text!r}: no mirror has a dataset with this DOI; archives with DANDI's API have DOIs "
            "such as 10.48324/dandi.000027/0.210831.2033",
            list(_with_zeros(address, mirrors)),
        )
    if "://" in address:
        return _unknown_url(list(unwrap(address))[-1], mirrors, text)
    suggestions = list(dict.fromkeys(_suggestions(address, mirrors, known)))[:_MAX_NAMED]
    named = _NAME.match(address)
    if named is not None and named[1].lower() not in {*mirrors, *_SCHEMES}:
        return UnknownAddressError(
            f"{text!r}: there is no mirror {named[1]!r}; 'neuromirror mirrors' lists all, and "
            "--mirrors specifies a folder with more",
            suggestions,
        )
    return UnknownAddressError(
        f"{text!r} is not a dataset or version. Write, for example, {UNDERSTOOD}", suggestions
    )


def _unknown_url(url: str, mirrors: Mapping[str, Mirror], text: str) -> UnknownAddressError:
    """Return the error for a URL, with the mirror whose archive or bucket is nearest."""
    archives = {
        location: name for name, one in mirrors.items() for location in _archive_locations(one)
    }
    location = _location(url)
    near = get_close_matches(location, archives, 1, _MIN_SIMILARITY)
    padded = list(_with_zeros(url, mirrors))
    if not near:
        return UnknownAddressError(
            f"{text!r}: no mirror has {repr(location) if location else 'this address'}; "
            "'neuromirror mirrors' lists the archives and buckets that are mirrored, and a mirror "
            "file adds one ('neuromirror mirrors show aind' prints an example); a catalogue's "
            "address is that of the page of a dataset (…/dataset/dandi:000027)",
            padded,
        )
    name = archives[near[0]]
    corrected = next(parse_addresses(url.replace(location, near[0], 1), mirrors), None)
    suggestions = [] if corrected is None else [_name(corrected)]
    if mirrors[name].settings.source == "dandi" and (found := _DANDISET.search(url)):
        suggestions.append(f"{name}:{found[0]}")
    return UnknownAddressError(
        f"{text!r} names no dataset of a mirror; the nearest mirror is {name!r} "
        f"({mirrors[name].open().uri}), and 'neuromirror list {name}' prints its datasets that "
        "the store has",
        (padded or suggestions)[:1],
    )


def _location(url: str) -> str:
    """Return the bucket or host of a URL in lower case; empty if it has none."""
    from neuromirror.net import parse_aws_host

    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    aws = parse_aws_host(parts.netloc.lower())
    if aws is None:
        return parts.netloc.lower()
    return aws.bucket or parts.path.strip("/").partition("/")[0]


def _archive_locations(mirror: Mirror) -> Iterator[str]:
    """Yield the bucket and the host of a mirror's archive, and its name in ``dandi://`` URLs."""
    if mirror.settings.source == "dandi":
        yield mirror.name
    if isinstance(bucket := mirror.settings.options.get("bucket"), str):
        yield bucket
    yield _location(mirror.open().uri)


def _with_zeros(text: str, mirrors: Mapping[str, Mirror]) -> Iterator[str]:
    """Yield the name of the dandiset of an address whose id lacks leading zeros."""
    for short in _SHORT_ID.finditer(text):
        padded = text[: short.start()] + short[0].zfill(_ID_DIGITS) + text[short.end() :]
        if (found := next(parse_addresses(padded, mirrors), None)) is not None:
            yield _name(found)
            return


def _name(address: Address) -> str:
    return f"{address.dataset}@{address.version}" if address.version else address.dataset


def _above_channels(text: str, found: re.Match[str], known: list[str]) -> UnknownAddressError:
    """Return the error for an address above channels, with the known channels as suggestions."""
    start = "/".join(filter(None, found.groups())).lower() + "/"
    names = [one for one in known if one.partition(":")[2].lower().startswith(start)]
    kind = "a project or collection" if found[2] is None else "an experiment"
    experiment = found[2] or "<experiment>"
    return UnknownAddressError(
        f"{text!r}: {kind} of a BOSS has several channels, each a dataset; specify one, such as "
        f"bossdb://{found[1]}/{experiment}/<channel>",
        names[:_MAX_NAMED],
    )


def _suggestions(text: str, mirrors: Mapping[str, Mirror], known: list[str]) -> Iterator[str]:
    """Yield names near to a name, identifier or DOI."""
    name, _, label = text.partition("@")
    mirror, colon, local_id = name.partition(":")
    if (bare := _BARE_ID.match(text)) is not None:
        number = bare[1].zfill(_ID_DIGITS)
        stored = [one for one in known if one.endswith(f":{number}")]
        archives = (name for name, one in mirrors.items() if one.settings.source == "dandi")
        yield from stored or (f"{archive}:{number}" for archive in islice(archives, 1))
        return
    if not colon:
        yield from _with_zeros(text, mirrors)
        yield from get_close_matches(text, known, _MAX_NAMED)
        if len(text) >= _MIN_PART:
            yield from (one for one in known if text.lower() in one.lower())
        return
    near = (
        mirror
        if mirror in mirrors
        else next(iter(get_close_matches(mirror.lower(), list(mirrors), 1)), None)
    )
    if near is None:
        yield from get_close_matches(name, known, _MAX_NAMED)
        return
    source = mirrors[near].open()
    for guess in dict.fromkeys((local_id, local_id.zfill(_ID_DIGITS))) if local_id else ():
        try:
            source.dataset(guess)
        except (ValueError, ConfigurationError):
            continue
        yield f"{near}:{guess}" + f"@{label}" * bool(label)
        return
    yield from _with_zeros(text, mirrors)
    yield from get_close_matches(f"{near}:{local_id}", known, _MAX_NAMED)
