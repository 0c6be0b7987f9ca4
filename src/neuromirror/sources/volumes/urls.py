"""URLs of blocks, which together with its size define a chunk file.

::

    boss://HOST[:PORT]/[PREFIX/]COLLECTION/EXPERIMENT/CHANNEL/RES/x0:x1/y0:y1/z0:z1[/t][?…]
    ndstore://HOST[:PORT]/[PREFIX/]TOKEN/CHANNEL/RES/x0:x1/y0:y1/z0:z1[/t][?…]

Ranges are half-open, in upstream's voxels of the resolution ``RES``; ``t`` is upstream's time
sample. The query has these parameters, each only if it differs from the default:

- ``chunk=X,Y,Z``: the file's shape, if it is larger than the ranges; the rest is filled with zeros
  at the end of each axis;
- ``dtype=float32``: numpy's name of the type of a voxel, if it is not the unsigned
  integer type that follows from the file's size;
- ``scheme=http`` or ``scheme=https``: the protocol. The default is HTTPS for names and public
  addresses, and HTTP for this machine and private addresses.
"""

from __future__ import annotations

import math
import os
import re
import uuid
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from neuromirror.model import ConfigurationError, NeuromirrorError, SpecialRemote
from neuromirror.net import HttpError, clean_url, is_local_name

_LIKELY_CAUSES: Final = {
    ("boss", 400): "the range may be outside of the channel, or the token wrong",
    ("boss", 404): "the channel may have been removed or marked for deletion",
    ("boss", 413): "the block exceeds the size limit of a request; set a smaller block",
    ("boss", 500): "this may also mean that the token is wrong",
    ("ndstore", 404): "the project or channel may have been removed, or the range be outside",
}
"""Additional meanings of HTTP statuses, by scheme."""


class MalformedUrlError(NeuromirrorError, ValueError):
    """The text is not a valid URL of a block."""


class WrongVoxelsError(NeuromirrorError):
    """A service's reply does not consist of the requested voxels.

    It has another shape or type, is truncated or too long. ``transient`` is whether another attempt
    may help, for example after a truncated body.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class CutoutRefusedError(HttpError):
    """A service replied to a request for a block with an HTTP error.

    The message has the status and the detail of the reply, and its likely cause.
    """

    def __init__(self, scheme: str, block: str, error: HttpError, likely: str = "") -> None:
        likely = likely or _LIKELY_CAUSES.get((scheme, error.status or 0), "")
        super().__init__(
            f"{block}: {error}{f' ({likely})' if likely else ''}",
            url=error.url,
            status=error.status,
            detail=error.detail,
            fields=error.fields,
        )
        self.transient = error.transient


class TokenRefusedError(HttpError):
    """A service refused a token.

    Attributes
    ----------
    host
        The service's host, with its port.
    name
        The origin of the token, usually an environment variable.
    """

    def __init__(self, host: str, name: str, error: HttpError) -> None:
        detail = f" ({error.detail})" if error.detail else ""
        super().__init__(
            f"the token in {name} was refused by {host} (HTTP {error.status}){detail}: it may be"
            " wrong or expired, or lack the permission; set another, or unset it to read public"
            " channels",
            url=error.url,
            status=error.status,
            detail=error.detail,
        )
        self.host = host
        self.name = name


class BlockReadError(NeuromirrorError):
    """A block could not be read, so the volume cannot be listed."""


class TooManyFilesError(ConfigurationError):
    """A volume has more blocks than the mirror's options allow."""


_PROGRAM: Final = "git-annex-remote-neuromirror"

VOLUME_REMOTE: Final = SpecialRemote(
    name="neuromirror",
    externaltype="neuromirror",
    uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, _PROGRAM)),
)
"""The special remote; it is the same in every dataset, because content depends on the URL only."""


Range = tuple[int, int]
Box = tuple[Range, Range, Range]
"""Half-open ranges along x, y and z, in upstream's voxels of one level."""

Triple = tuple[int, int, int]
"""Whole voxels along x, y and z."""

ITEM_SIZES: Final = {
    **{"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8},
    **{"int8": 1, "int16": 2, "int32": 4, "int64": 8},
    **{"float32": 4, "float64": 8},
}
"""The possible types of a voxel, by numpy's names, with their sizes in bytes."""

LARGEST_FILE: Final = 512 << 20
"""Maximum bytes of a chunk file, which one request must be able to return (BOSS: 520 MiB)."""

_UNSIGNED: Final = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
_SHOWN: Final = 300
_NUMBER: Final = r"(?:0|[1-9][0-9]{0,14})"
_RANGE: Final = rf"({_NUMBER}):({_NUMBER})"
_URL: Final = re.compile(
    rf"(boss|ndstore)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{{0,4}})?"
    rf"((?:/[A-Za-z0-9._~!$'()*+,;=@%-]+)+)/({_NUMBER})/{_RANGE}/{_RANGE}/{_RANGE}"
    rf"(?:/({_NUMBER}))?(?:\?(.*))?"
)
_CHUNK: Final = re.compile(rf"({_NUMBER}),({_NUMBER}),({_NUMBER})")


def is_secure(host: str) -> bool:
    """Return whether HTTPS is the default protocol of a host.

    Parameters
    ----------
    host
        The host, with its port if it has one.

    Returns
    -------
    bool
        False for this machine and for hosts in private networks that are named by an address.
    """
    name = host[: host.index("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return not is_local_name(name.strip("[]"))


class BlockUrl(Struct, frozen=True):
    """The parsed URL of a block.

    Attributes
    ----------
    scheme
        ``boss`` or ``ndstore``.
    host
        The host, with its port if there is one.
    path
        The channel's path, without slashes at its ends.
    level
        Upstream's resolution number.
    box
        The ranges of voxels.
    chunk
        The file's shape along x, y, z.
    time
        Upstream's time sample; None without a time axis.
    dtype
        The type of a voxel; None if it follows from the file's size.
    secure
        Whether requests use HTTPS.
    """

    scheme: str
    host: str
    path: str
    level: str
    box: Box
    chunk: Triple
    time: int | None = None
    dtype: str | None = None
    secure: bool = True

    @property
    def shape(self) -> Triple:
        """The shape of the ranges along z, y and x."""
        (x0, x1), (y0, y1), (z0, z1) = self.box
        return z1 - z0, y1 - y0, x1 - x0

    @property
    def origin(self) -> str:
        """The origin of the service: ``https://api.bossdb.io``."""
        return f"{'https' if self.secure else 'http'}://{self.host}"

    def voxel_type(self, size: int) -> str:
        """Return the type of a voxel in a file of ``size`` bytes.

        Parameters
        ----------
        size
            The size of the file in bytes.

        Returns
        -------
        str
            Numpy's name of the type.

        Raises
        ------
        MalformedUrlError
            If no file of this block has this size.
        """
        count = math.prod(self.chunk)
        if size > LARGEST_FILE:
            raise MalformedUrlError(f"a file of {size} bytes is larger than any file of {self}")
        dtype = self.dtype or _UNSIGNED.get(size // count)
        if dtype is None or ITEM_SIZES[dtype] * count != size:
            raise MalformedUrlError(f"no file of {self} has {size} bytes")
        return dtype

    def __str__(self) -> str:
        base = url_base(self.scheme, self.host, self.path, self.level)
        padded = self.chunk != self.shape[::-1]
        return (
            f"{base}{format_box(self.box)}{'' if self.time is None else f'/{self.time}'}"
            f"{query_string(self.chunk if padded else None, self.dtype, scheme_parameter(self))}"
        )


def url_base(scheme: str, host: str, path: str, level: str) -> str:
    """Return the common start of the URLs of a level's blocks, with a final slash."""
    return f"{scheme}://{host}/{path}/{level}/"


def format_box(box: Box) -> str:
    """Return a box in the format of a URL: ``0:512/0:512/1:17``."""
    return "/".join(f"{start}:{stop}" for start, stop in box)


def scheme_parameter(url: BlockUrl) -> str | None:
    """Return the value of a block URL's query parameter ``scheme``: ``http`` or ``https``.

    It returns None for the host's default protocol (:func:`is_secure`).
    """
    if url.secure == is_secure(url.host):
        return None
    return "https" if url.secure else "http"


def query_string(chunk: Triple | None, dtype: str | None, scheme: str | None) -> str:
    """Return the query of a block's URL, with its question mark; empty without any value.

    Parameters
    ----------
    chunk
        The shape of the chunk file along x, y, z, if it differs from the box.
    dtype
        Numpy's name of the type of a voxel, from :func:`dtype_parameter`.
    scheme
        ``http`` or ``https``, from :func:`scheme_parameter`.
    """
    fields = {
        "chunk": None if chunk is None else ",".join(map(str, chunk)),
        "dtype": dtype,
        "scheme": scheme,
    }
    text = "&".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    return f"?{text}" if text else ""


def dtype_parameter(dtype: str) -> str | None:
    """Return the value of a block URL's query parameter ``dtype``; None for an unsigned integer.

    For these the size of the chunk file determines the type.
    """
    return None if dtype in _UNSIGNED.values() else dtype


def parse_url(url: str) -> BlockUrl:
    """Parse the URL of a block.

    Only the canonical spelling, which ``str(BlockUrl)`` returns, is accepted.

    Parameters
    ----------
    url
        The URL, such as ``boss://HOST/COLLECTION/EXPERIMENT/CHANNEL/RES/x0:x1/y0:y1/z0:z1``.

    Returns
    -------
    BlockUrl
        The block.

    Raises
    ------
    MalformedUrlError
        The text is not such a URL.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise MalformedUrlError(
            f"{_shown(url)!r} is no URL of a block; the format is"
            " boss://HOST/COLLECTION/EXPERIMENT/CHANNEL/RES/x0:x1/y0:y1/z0:z1"
        )
    scheme, name, port, path, level, *numbers, time, query = found.groups()
    x0, x1, y0, y1, z0, z1 = map(int, numbers)
    host = name + (port or "")
    fields = dict(field.partition("=")[::2] for field in (query or "").split("&"))
    chunk = _CHUNK.fullmatch(fields.get("chunk", ""))
    secure = is_secure(host)
    made = BlockUrl(
        scheme=scheme,
        host=host,
        path=path[1:],
        level=level,
        box=((x0, x1), (y0, y1), (z0, z1)),
        chunk=(x1 - x0, y1 - y0, z1 - z0) if chunk is None else to_triple(map(int, chunk.groups())),
        time=None if time is None else int(time),
        dtype=fields.get("dtype"),
        secure={"http": False, "https": True}.get(fields.get("scheme", ""), secure),
    )
    _check(made, url)
    return made


def _shown(url: str) -> str:
    try:
        return clean_url(url[:_SHOWN])
    except ValueError:
        return "<no URL>"


def to_triple(numbers: Iterable[int]) -> Triple:
    """Return three numbers as a triple.

    Parameters
    ----------
    numbers
        Three numbers.

    Returns
    -------
    Triple
        The triple.
    """
    x, y, z = numbers
    return x, y, z


def _check(made: BlockUrl, url: str) -> None:
    why = None
    if min(made.shape) < 1:
        why = "one of its ranges is empty"
    elif any(most < size for most, size in zip(made.chunk, made.shape[::-1], strict=True)):
        why = "its chunk is smaller than its ranges"
    elif made.dtype is not None and made.dtype not in ITEM_SIZES:
        why = "its dtype is not supported"
    elif math.prod(made.chunk) * ITEM_SIZES[made.dtype or "uint8"] > LARGEST_FILE:
        why = "its file would be larger than one request can return"
    elif {".", ".."} & set(made.path.split("/")):
        why = "its path has dot segments"
    elif str(made) != url:
        why = f"its canonical spelling is {str(made)[:_SHOWN]!r}"
    if why is not None:
        raise MalformedUrlError(f"{_shown(url)!r} is no URL of a block: {why}")


_JOINS = re.compile("[-_]")
_NOT_IN_NAMES = re.compile("[^A-Z0-9_]")


def token_variable(host: str) -> str:
    """Return the environment variable with a host's token: ``NEUROMIRROR_TOKEN_API_BOSSDB_IO``.

    ``host`` includes its port, if there is one. A hyphen becomes two underscores, so that
    ``api-bossdb.io``, which anybody could register, differs from ``api.bossdb.io``. Hosts come from
    datasets, which anybody can create, so a token must not be sent to other hosts.
    """
    named = _NOT_IN_NAMES.sub("_", _JOINS.sub("__", host.upper().strip("[].")))
    return f"NEUROMIRROR_TOKEN_{named}"


def token_from_environment(host: str) -> str | None:
    """Return the token for a host from :func:`token_variable`; None if it is unset or empty.

    ``host`` includes its port, if there is one.
    """
    return os.environ.get(token_variable(host), "").strip() or None
