"""Vaults as git-annex remotes: their lines in ``remote.log``, and the URLs of the copies in them.

A vault in a directory is a bare repository (``type=git``), whose copies have the paths of bare
repositories. A vault in S3 that is publicly readable is an S3 special remote without credentials
(``signature=anonymous``, ``publicurl``); the object of a key is named by the key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

from neuromirror.annex.key_paths import hash_lower, key_file_name

LONGEST_VAULT_URL: Final = 2048

_PRINTABLE: Final = re.compile(r"[!-~]+")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.()/-]*")
_COST: Final = {False: "300", True: "150"}
"""git-annex's web remote has the cost 200, and the remote of URLs without a version 250."""


class VaultKind(StrEnum):
    """How the copies in a vault are named."""

    DIRECTORY = "directory"
    S3 = "s3"


class BucketAccess(Struct, frozen=True):
    """How to request the objects of a bucket, as its user configured.

    Attributes
    ----------
    endpoint, region, profile
        The URL of the server, the region, and the profile in the AWS configuration; empty for what
        git and the AWS configuration state.
    is_signed
        Whether requests are signed.
    """

    endpoint: str = ""
    region: str = ""
    profile: str = ""
    is_signed: bool = True


class VaultAddress(Struct, frozen=True):
    """Where readers find the copies in a vault.

    Attributes
    ----------
    kind
        How the copies are named.
    base
        For a directory, the URL or the absolute path of the bare repository. For S3, the URL to
        which the key is appended; it ends with the prefix of the object names.
    prefer
        Whether to use the copies before upstream.
    access
        For a bucket at ``s3://``, how to request its objects. Set it from the user's own settings
        only: it selects credentials, and where the requests that they sign are sent.
    """

    kind: VaultKind
    base: str
    prefer: bool = False
    access: BucketAccess | None = None

    @property
    def cost(self) -> float:
        """git-annex's cost of the vault: remotes of lower costs are tried first."""
        return float(_COST[self.prefer])

    @property
    def is_url(self) -> bool:
        """Whether the base is a URL, not a path on this machine."""
        return not self.base.startswith("/")

    @property
    def is_web(self) -> bool:
        """Whether copies can be requested without credentials, from a web server."""
        return self.base.startswith(("https://", "http://"))

    def copy_url(self, key: str) -> str:
        """Return the URL of the copy of a key; for a vault at a path, a URL with ``file``."""
        if self.kind is VaultKind.S3:
            return self.base + quote(key, safe="")
        path = self.copy_path(key)
        if path is not None:
            return "file://" + quote(os.fsencode(path))
        name = quote(key_file_name(key), safe="")
        folder = f"/annex/objects/{os.fsdecode(hash_lower(key))}"
        return f"{self.base.rstrip('/')}{folder}/{name}/{name}"

    def copy_path(self, key: str) -> Path | None:
        """Return the path of the copy of a key; None for a vault at a URL."""
        if self.is_url:
            return None
        name = os.fsdecode(key_file_name(key))
        return Path(self.base, "annex", "objects", os.fsdecode(hash_lower(key)), name, name)


def directory_vault_config(name: str, location: str, *, prefer: bool = False) -> dict[str, str]:
    """Return the configuration of a vault in a directory, for ``remote.log``.

    ``git annex initremote NAME type=git location=LOCATION cost=COST autoenable=true`` writes it.
    """
    return {
        "autoenable": "true",
        "cost": _COST[prefer],
        "location": location,
        "name": name,
        "type": "git",
    }


def s3_vault_config(
    name: str, public_url: str, bucket: str, prefix: str = "", *, prefer: bool = False
) -> dict[str, str]:
    """Return the configuration of a publicly readable vault in S3, for ``remote.log``.

    Raises
    ------
    ValueError
        The URL is not one of a web server.
    """
    parts = urlsplit(public_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{public_url!r} is not an http or https URL")
    return {
        "autoenable": "true",
        "bucket": bucket,
        "cost": _COST[prefer],
        "datacenter": "US",
        "encryption": "none",
        "fileprefix": prefix,
        "host": parts.hostname,
        "name": name,
        "port": str(parts.port or (443 if parts.scheme == "https" else 80)),
        "protocol": parts.scheme,
        "publicurl": public_url.rstrip("/") + "/",
        "requeststyle": "path",
        "signature": "anonymous",
        "type": "S3",
    }


def private_vault_config(name: str, remote_type: str) -> dict[str, str]:
    """Return the configuration of a vault that clones can no longer read, for ``remote.log``.

    It replaces one with a location. git-annex does not enable it automatically.
    """
    return {"autoenable": "false", "name": name, "type": remote_type}


def vault_address(config: Mapping[str, str]) -> VaultAddress | None:
    """Return where the copies of a vault are, from its configuration in ``remote.log``."""
    name, prefer = config.get("name", ""), config.get("cost") == _COST[True]
    if config.get("type") == "git":
        location = config.get("location", "")
        own = directory_vault_config(name, location, prefer=prefer)
        is_valid = is_vault_url(location) or _is_plain_path(location)
        found = VaultAddress(VaultKind.DIRECTORY, location, prefer)
        return found if is_valid and config == own else None
    public, prefix = config.get("publicurl", ""), config.get("fileprefix", "")
    bucket = config.get("bucket", "")
    if config.get("type") != "S3" or not is_vault_url(public):
        return None
    if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix):
        return None
    if config != s3_vault_config(name, public, bucket, prefix, prefer=prefer):
        return None
    return VaultAddress(VaultKind.S3, public + prefix, prefer)


def vault_addresses(configs: Mapping[str, Mapping[str, str]]) -> dict[str, VaultAddress]:
    """Return the vaults among the remotes in ``remote.log``."""
    found = {uuid: vault_address(config) for uuid, config in configs.items()}
    return {uuid: vault for uuid, vault in found.items() if vault is not None}


def find_local_copy(key: str, vaults: Iterable[VaultAddress]) -> Path | None:
    """Return the path of a copy on this machine."""
    paths = (vault.copy_path(key) for vault in vaults if key)
    return next((path for path in paths if path is not None and path.is_file()), None)


def urls_with_copies(
    key: str, urls: Sequence[str], vaults: Iterable[VaultAddress]
) -> tuple[str, ...]:
    """Return the URLs of a content at upstream and in vaults, in the order in which to try them."""
    found = sorted(vaults, key=lambda one: one.cost)
    first = [one.copy_url(key) for one in found if one.prefer]
    last = [one.copy_url(key) for one in found if not one.prefer]
    return tuple(dict.fromkeys((*first, *urls, *last)))


def is_vault_url(url: str) -> bool:
    """Return whether a text is the URL of a web server at which a vault can be.

    It has no user, query or fragment. The address of the host is not looked up.
    """
    if len(url) > LONGEST_VAULT_URL or not _PRINTABLE.fullmatch(url) or set(url) & set('?#"\\<>'):
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and port != 0
        and ".." not in parts.path.split("/")
    )


def is_private_address(url: str) -> bool:
    """Return whether the host of a URL is ``localhost`` or an address of a private network."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ip_address(host).is_global
    except ValueError:
        # inet_aton(3) reads "127.1" and "0x7f.1" as addresses
        last = host.rstrip(".").rpartition(".")[2]
        return last.isdigit() or last.startswith("0x")


def _is_plain_path(path: str) -> bool:
    return path.startswith("/") and path.isprintable() and ".." not in path.split("/")
