"""Addresses: what may be recorded of one, and which may be asked at all."""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from urllib.parse import unquote_plus, urlsplit, urlunsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

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
"""Secret as parameters of a URL, but words of a sentence elsewhere."""
# Azure's shared access signatures: harmless words unless a ``sig`` stands beside them.
_SAS_NAMES: Final = frozenset(
    {"se", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "st", "sv"}
)

_URL_IN_TEXT: Final = re.compile(r"(?i)\b(?:https?|ftp|s3)://[^\s'\"<>]+")
_PARAMETER_IN_TEXT: Final = re.compile(
    r"(?i)(?<![\w-])((?:x-(?:amz|goog|oss)-[a-z0-9-]+|"
    + "|".join(sorted(map(re.escape, _SECRET_NAMES - _AMBIGUOUS_NAMES)))
    + r")\s*[=:]\s*)(?:(?:token|bearer|basic)\s+)?[^\s&'\"<>,;)]+"
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
"""Where clouds serve credentials outside of link-local networks."""
_METADATA_NAMES: Final = frozenset(
    {
        *("instance-data", "instance-data.ec2.internal", "metadata", "metadata.azure.internal"),
        *("metadata.goog", "metadata.google.internal", "metadata.tencentyun.com"),
    }
)
_SITE_LOCAL: Final = ipaddress.ip_network("fec0::/10")  # given up, and routed by some all the same

_SERVICE: Final = "a cloud's metadata service"


def _is_secret(name: str, *, shared_access: bool) -> bool:
    name = unquote_plus(name).strip().casefold()
    return (
        name in _SECRET_NAMES
        or name.startswith(_SECRET_PREFIXES)
        or (shared_access and name in _SAS_NAMES)
    )


def clean_url(url: str) -> str:
    """The address without user info, signed query parameters and fragment.

    What stays (``versionId`` too) is kept byte for byte and in order. Raises ValueError for text
    that is no URL.
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
    return urlunsplit((parts.scheme, host, parts.path, "&".join(kept), ""))


def redact(text: str) -> str:
    """A text (or URL) fit for messages, logs and records.

    URLs in it are cleaned as by :func:`clean_url`; values of signed parameters, ``Authorization``
    headers and bearer tokens that stand outside a URL become ``***``.
    """

    def clean_match(found: re.Match[str]) -> str:
        url = found.group()
        bare = url.rstrip(_TRAILING)
        try:
            return clean_url(bare) + url[len(bare) :]
        except ValueError:
            return "<an address that is no URL>"

    text = _URL_IN_TEXT.sub(clean_match, text)
    text = _PARAMETER_IN_TEXT.sub(r"\1***", text)
    return _CREDENTIAL_IN_TEXT.sub(r"\1***", text)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http(s) URL, lower case, the port filled in.

    Raises ValueError for anything else.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        raise ValueError(f"not an http or https address: {redact(url)}")
    if not parts.hostname:
        raise ValueError(f"an address without a host: {redact(url)}")
    if any(char <= " " or char == "\x7f" for char in parts.hostname):
        raise ValueError(f"an address with a space or control character: {redact(url)!r}")
    return scheme, parts.hostname.lower(), parts.port or (443 if scheme == "https" else 80)


def only_host_of(url: str) -> Callable[[str, int], bool]:
    """Says of a host and port whether they are those of an http(s) URL.

    For ``is_private_allowed`` of a session: whoever may ask one address of a private network must
    not be
    redirected to its neighbours.
    """
    _, *its = origin(url)
    return lambda host, port: [host, port] == its


def display_host(url: str) -> str:
    """The host of an http(s) URL as people write it, with a port that is not the usual one."""
    scheme, host, port = origin(url)
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port == (443 if scheme == "https" else 80) else f"{bracketed}:{port}"


def _normalize_host(host: str) -> str:
    """Return a host as resolvers read it: folded, without brackets, zone and trailing dots."""
    name = unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower()
    return name.strip("[]").partition("%")[0].rstrip(".")


def literal_address(host: str) -> IPAddress | None:
    """Return the IP address that a host name spells out, or None for a real name.

    IPv4 addresses have all spellings that resolvers know: ``127.1``, ``0x7f000001``, ``0177.0.1``.
    """
    name = _normalize_host(host)
    with suppress(ValueError):
        return ipaddress.ip_address(name)
    if name.isascii() and not any(map(str.isspace, name)):
        with suppress(OSError):
            return ipaddress.IPv4Address(socket.inet_aton(name))
    return None


def is_local_name(host: str) -> bool:
    """Whether a host name or literal is this machine or a private network, without asking DNS."""
    name = _normalize_host(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = literal_address(name)
    return address is not None and not _embedded_ipv4(address).is_global


def _embedded_ipv4(address: IPAddress) -> IPAddress:
    """The IPv4 address inside a mapped, 6to4, Teredo or NAT64 IPv6 address, else itself."""
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
    """Return why a host must not be asked whatever its address is, or None.

    A resolver or proxy may know the name of a metadata service at an address that no list has.
    """
    return _SERVICE if _normalize_host(host) in _METADATA_NAMES else None


def permanent_refusal(url: str) -> str | None:
    """Return why no setting lets the host be asked that a URL spells out, or None."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    address = literal_address(host)
    return (
        host_name_refusal(host) if address is None else address_refusal(address, allow_private=True)
    )


def address_refusal(address: IPAddress, *, allow_private: bool) -> str | None:
    """Why an address must not be asked, or None.

    Link-local addresses, the others where clouds serve credentials, multicast and reserved ones
    never; loopback and private ones only with ``allow_private``.
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
    if not inner.is_global or inner in _SITE_LOCAL:
        return None if allow_private else "a private network"
    return None
