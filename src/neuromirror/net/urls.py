"""URLs: redaction, and the rules for which hosts and addresses may be requested."""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_plus, urlsplit, urlunsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_ORIGINS: Final = 1024
"""Number of origins that are parsed once."""

_SECRET_PREFIXES: Final = ("x-amz-", "x-goog-", "x-oss-", "response-")
_SECRET_NAMES: Final = frozenset(
    {
        *("access_key", "accesskey", "awsaccesskeyid", "googleaccessid", "key-pair-id", "policy"),
        *("api-key", "api_key", "apikey", "auth", "authorization", "client_secret", "code"),
        *("access_token", "auth_token", "id_token", "private_token", "refresh_token", "token"),
        *("security-token", "session_token", "session", "sessionid", "jwt", "secret"),
        *("credential", "credentials", "pass", "passwd", "password", "pwd"),
        *("expires", "sig", "signature"),
    }
)
_AMBIGUOUS_NAMES: Final = frozenset(
    {"auth", "code", "expires", "pass", "policy", "secret", "session"}
)
"""Names of parameters that are secret in URLs, but ordinary words in text."""
# Parameters of Azure's shared access signatures, secret only together with ``sig``.
_SAS_NAMES: Final = frozenset(
    {"se", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "st", "sv"}
)

_URL_IN_TEXT: Final = re.compile(r"(?i)\b(?:https?|ftp|s3)://[^\s'\"<>]+")
# inside a parameter of another URL, these characters are encoded once or several times
_QUOTED: Final = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_PARAMETER_IN_TEXT: Final = re.compile(
    r"(?i)(?:(?<![\w-])|(?<=%3f)|(?<=%26)|(?<=253f)|(?<=2526))((?:x-(?:amz|goog|oss)-[a-z0-9-]+|"
    + "|".join(sorted(map(re.escape, _SECRET_NAMES - _AMBIGUOUS_NAMES)))
    + r")(?:['\"]?\s*[=:]\s*|%(?:25)*3d))(?:(?:token|bearer|basic)\s+)?"
    + rf"(?:{_QUOTED}|(?:(?!%(?:25)*26)[^\s&'\"<>,;)])+)"
)
_PASSWORD_IN_TEXT: Final = re.compile(
    r"(?i)((?::|%(?:25)*3a)(?://|(?:%(?:25)*2f){2})[^\s/:@'\"<>%]*(?::|%(?:25)*3a))"
    r"[^\s/'\"<>@]+?(@|%(?:25)*40)"
)
_CREDENTIAL_IN_TEXT: Final = re.compile(r"(?i)\b((?:bearer|basic|token)\s+)(?=\S*\d)[\w.~+/=-]{8,}")
_TRAILING: Final = ".,;:!?)]}"

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_METADATA: Final = tuple(
    ipaddress.ip_network(one)
    for one in (
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure, its host agent
        "192.0.0.192/32",  # Oracle Cloud Classic
        "fd00:42::42/128",  # Scaleway
        "fd00:100::100:200/128",  # Alibaba Cloud
        "fd00:a9fe:a9fe::1/128",  # Akamai
        "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud
        "fd00:ec2::/32",  # AWS: instance metadata, credentials of pods
        "fd20:ce::254/128",  # Google Cloud
    )
)
"""Metadata services of clouds outside of link-local networks."""
_METADATA_NAMES: Final = frozenset(
    {
        *("instance-data", "instance-data.ec2.internal", "metadata", "metadata.azure.internal"),
        *("metadata.goog", "metadata.google.internal", "metadata.tencentyun.com"),
    }
)
_SITE_LOCAL: Final = ipaddress.ip_network("fec0::/10")  # deprecated, but still routed by some

_SERVICE: Final = "a cloud's metadata service"


def _is_secret(name: str, *, shared_access: bool) -> bool:
    name = unquote_plus(name).strip().casefold()
    return (
        name in _SECRET_NAMES
        or name.startswith(_SECRET_PREFIXES)
        or (shared_access and name in _SAS_NAMES)
    )


def clean_url(url: str) -> str:
    """Return a URL without user info, secret query parameters and fragment.

    Other parameters (including ``versionId``) keep their bytes and order.

    Parameters
    ----------
    url
        The URL.

    Returns
    -------
    str
        The URL that may be shown and stored.

    Raises
    ------
    ValueError
        If the text is not a URL.
    """
    parts = urlsplit(url)
    fields = [field for field in parts.query.split("&") if field]
    names = [field.partition("=")[0] for field in fields]
    shared_access = any(unquote_plus(name).casefold() == "sig" for name in names)
    kept = [
        field
        for field, name in zip(fields, names, strict=True)
        if not _is_secret(name, shared_access=shared_access)
    ]
    host = parts.netloc.rpartition("@")[2]
    # without a host, two slashes at the start of the path would be read as the start of a host
    path = parts.path if host else re.sub(r"\A//+", "/", parts.path)
    return urlunsplit((parts.scheme, host, path, "&".join(kept), ""))


def redact(text: str) -> str:
    """Return a text without secrets, for messages, logs and records.

    URLs are cleaned as by :func:`clean_url`. Values of secret parameters, also in quotes or within
    the parameter of a URL, passwords in other URLs, ``Authorization`` headers and bearer tokens are
    replaced by ``***``.

    Parameters
    ----------
    text
        The text.

    Returns
    -------
    str
        The text without secrets.
    """

    def clean_match(found: re.Match[str]) -> str:
        url = found.group()
        bare = url.rstrip(_TRAILING)
        try:
            return clean_url(bare) + url[len(bare) :]
        except ValueError:
            return "<invalid URL>"

    text = _URL_IN_TEXT.sub(clean_match, text)
    text = _PASSWORD_IN_TEXT.sub(r"\1***\2", text)
    text = _PARAMETER_IN_TEXT.sub(r"\1***", text)
    return _CREDENTIAL_IN_TEXT.sub(r"\1***", text)


def origin(url: str) -> tuple[str, str, int]:
    """Return the scheme, host and port of an HTTP(S) URL, in lower case, with the default port.

    Parameters
    ----------
    url
        The URL.

    Returns
    -------
    tuple[str, str, int]
        Scheme, host and port.

    Raises
    ------
    ValueError
        If it is not a valid HTTP(S) URL.
    """
    parts = urlsplit(url)
    try:
        return _origin_of(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        return _origin_of.__wrapped__(url)  # for the message


@lru_cache(_ORIGINS)
def _origin_of(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        raise ValueError(f"not an http or https URL: {redact(url)}")
    if not parts.hostname:
        raise ValueError(f"URL without a host: {redact(url)}")
    if any(char <= " " or char == "\x7f" for char in parts.hostname):
        raise ValueError(f"host name with a space or control character: {redact(url)!r}")
    return scheme, parts.hostname.lower(), parts.port or (443 if scheme == "https" else 80)


def only_host_of(url: str) -> Callable[[str, int], bool]:
    """Return a predicate that is true for the host and port of an HTTP(S) URL only.

    As ``is_private_allowed`` of a session, it allows one host of a private network and refuses
    redirects to other ones.

    Parameters
    ----------
    url
        The URL.

    Returns
    -------
    Callable[[str, int], bool]
        The predicate, called with host and port.
    """
    _, *its = origin(url)
    return lambda host, port: [host, port] == its


def display_host(url: str) -> str:
    """Return the host of an HTTP(S) URL for display, with its port unless it is the default."""
    scheme, host, port = origin(url)
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port == (443 if scheme == "https" else 80) else f"{bracketed}:{port}"


def _normalize_host(host: str) -> str:
    """Normalize a host as resolvers do: lower case, no brackets, zone or trailing dots."""
    name = unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower()
    return name.strip("[]").partition("%")[0].rstrip(".")


def literal_address(host: str) -> IPAddress | None:
    """Parse a host as an IP address; None for a name.

    Accepts every form of IPv4 address that resolvers accept: ``127.1``, ``0x7f000001``,
    ``0177.0.1``.
    """
    name = _normalize_host(host)
    with suppress(ValueError):
        return ipaddress.ip_address(name)
    if name.isascii() and not any(map(str.isspace, name)):
        with suppress(OSError):
            return ipaddress.IPv4Address(socket.inet_aton(name))
    return None


def is_local_name(host: str) -> bool:
    """Return whether a host is ``localhost`` or a non-global IP address, without a DNS lookup.

    Parameters
    ----------
    host
        The host of a URL, without port.

    Returns
    -------
    bool
        Whether the host is this machine or on a private network.
    """
    name = _normalize_host(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = literal_address(name)
    return address is not None and _is_private(_embedded_ipv4(address))


def _is_private(address: IPAddress) -> bool:
    """Return whether an address is this machine or on a private network."""
    return not address.is_global or address in _SITE_LOCAL


def _embedded_ipv4(address: IPAddress) -> IPAddress:
    """Return the IPv4 address in a mapped, 6to4, Teredo or NAT64 address, else the address."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def host_name_refusal(host: str) -> str | None:
    """Return why a host name must never be requested; None if it may be.

    The metadata services of clouds are refused by name, too, because a name may resolve to an
    address that the check of addresses allows.
    """
    return _SERVICE if _normalize_host(host) in _METADATA_NAMES else None


def permanent_refusal(url: str) -> str | None:
    """Return why no setting can allow a request to the host of a URL; None if one can.

    Parameters
    ----------
    url
        The URL.

    Returns
    -------
    str | None
        The reason, for an error message.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    return _permanent_refusal_of_host(host)


@lru_cache(maxsize=256)
def _permanent_refusal_of_host(host: str) -> str | None:
    """Return the reason for a host; the URLs of a dataset have few hosts."""
    address = literal_address(host)
    return (
        host_name_refusal(host) if address is None else address_refusal(address, allow_private=True)
    )


def address_refusal(address: IPAddress, *, allow_private: bool) -> str | None:
    """Return why an IP address must not be requested; None if it may be.

    Link-local addresses, metadata services of clouds, multicast and reserved addresses are always
    refused; loopback and private ones are allowed with ``allow_private``.
    """
    inner = _embedded_ipv4(address)
    if inner.is_link_local:
        return "link-local, where clouds serve credentials"
    if any(inner in network for network in _METADATA):
        return _SERVICE
    if inner.is_multicast:
        return "multicast"
    if inner.is_unspecified:
        return "unspecified"
    if inner.is_loopback:
        return None if allow_private else "this machine itself"
    if inner.is_reserved:
        return "reserved"
    if _is_private(inner):
        return None if allow_private else "a private network"
    return None


_HOST: Final = re.compile(
    r"(?:(?P<bucket>[a-z0-9][a-z0-9._-]{0,253})\.)?"
    r"s3(?:-(?P<kind>[a-z0-9-]+))?(?:\.dualstack)?(?:\.(?P<region>[a-z0-9-]+))?"
    r"\.amazonaws\.com(?:\.cn)?"
)
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]+")


class AwsHost(NamedTuple):
    """A host of AWS S3.

    Attributes
    ----------
    bucket
        The bucket that the host names; None if the path of the URL does.
    region
        The region; None if the host does not name it.
    """

    bucket: str | None
    region: str | None


def parse_aws_host(host: str) -> AwsHost | None:
    """Return what a host of AWS S3 names.

    Parameters
    ----------
    host
        The host of a URL, in lower case and without a port.

    Returns
    -------
    AwsHost or None
        Bucket and region; None for the host of another service.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    # s3-us-west-2 was the form before s3.us-west-2; s3-fips and s3-accelerate name no region
    region = found["region"] or found["kind"] or ""
    return AwsHost(found["bucket"], region if _REGION.fullmatch(region) else None)


_ENDS: Final = r"\s'\"<>"


class SignedUrlPattern:
    """Finds URLs that contain user info or the query parameter of a signature, in long texts.

    Parameters
    ----------
    schemes
        Regular expression of the URL schemes.
    names
        Regular expression of the names of signing parameters.
    marks
        The characters that may precede a parameter.
    """

    def __init__(self, schemes: str, names: str, *, marks: str = "?&") -> None:
        self._address = re.compile(rf"(?i)(?:{schemes})://[^{_ENDS}]*")
        self._with_user = re.compile(rf"(?i)(?:{schemes})://[^/@{_ENDS}]+@")
        self._parameter = re.compile(rf"(?i)[{marks}](?:{names})=")

    def search(self, text: str) -> bool:
        """Return whether a text contains such a URL.

        Parameters
        ----------
        text
            The text.

        Returns
        -------
        bool
            Whether there is at least one.
        """
        return any(self._start(found.group()) is not None for found in self._address.finditer(text))

    def sub(self, clean: Callable[[str], str], text: str) -> str:
        """Return the text with each such URL replaced.

        Parameters
        ----------
        clean
            Returns the replacement of a URL.
        text
            The text.

        Returns
        -------
        str
            The text with the replacements.
        """

        def replacement(found: re.Match[str]) -> str:
            address = found.group()
            start = self._start(address)
            return address if start is None else address[:start] + clean(address[start:])

        return self._address.sub(replacement, text)

    def _start(self, address: str) -> int | None:
        """Return the offset of the URL to clean; None if there is nothing to clean.

        A match may contain several URLs without spaces between them, a later one with user info.
        """
        if self._parameter.search(address):
            return 0
        found = self._with_user.search(address)
        return None if found is None else found.start()
