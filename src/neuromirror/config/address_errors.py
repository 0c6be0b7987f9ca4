"""The error for an address that names no dataset: what is understood, and what is nearest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from neuromirror.config.addresses import Address, parse_addresses, unwrap
from neuromirror.model import ConfigurationError
from neuromirror.model.errors import UnknownAddressError

if TYPE_CHECKING:
    from neuromirror.config.mirror_files import Mirror

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
