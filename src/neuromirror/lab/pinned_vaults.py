"""The vaults that a lock file names: where copies of the pinned files are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from neuromirror.annex import VaultAddress, VaultKind, is_vault_url, vault_addresses
from neuromirror.model import ConfigurationError
from neuromirror.net import redact

MOST_VAULTS: Final = 16
"""Maximum number of vaults of a pin: for a missing file, each of them is asked."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.()/-]{0,255}")


class PinnedVault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vault that has copies of pinned files.

    Attributes
    ----------
    name
        The name of the vault.
    uuid
        The git-annex UUID of the vault.
    kind
        How the copies are named.
    url
        The base of their URLs: ``http``, ``https``, or ``s3`` for a bucket that needs credentials.
    """

    name: str
    uuid: str
    kind: VaultKind
    url: str

    @property
    def address(self) -> VaultAddress:
        """Where the copies are."""
        return VaultAddress(self.kind, self.url)

    def problem(self) -> str:
        """Return why the values are not valid; empty if they are. They may be untrusted."""
        if not _NAME.fullmatch(self.name):
            return f"{self.name[:80]!r} is not the name of a vault"
        if not _UUID.fullmatch(self.uuid):
            return f"{self.uuid[:80]!r} is not a UUID"
        is_valid = is_vault_url(self.url)
        if self.kind is VaultKind.S3 and self.url.startswith("s3:"):
            parts = urlsplit(self.url)
            bucket, prefix = parts.netloc, parts.path.removeprefix("/")
            is_valid = self.url == f"s3://{bucket}/{prefix}" and bool(
                _BUCKET.fullmatch(bucket) and _PREFIX.fullmatch(prefix)
            )
        if not is_valid:
            allowed = "http, https or s3" if self.kind is VaultKind.S3 else "http or https"
            shown = redact(self.url)[:200]
            return f"{shown!r} is not the URL of a vault ({allowed}, no credentials)"
        return ""


def parse_location(text: str) -> VaultAddress:
    """Return the vault at a location that the user has specified.

    Parameters
    ----------
    text
        The folder of a vault, the URL of such a folder, or ``s3://bucket/prefix``.

    Raises
    ------
    ConfigurationError
        There is no vault at the location.
    """
    if text.startswith("s3:"):
        vault = PinnedVault("vault", "0" * 8 + "-0000" * 3 + "-" + "0" * 12, VaultKind.S3, text)
        if problem := vault.problem():
            raise ConfigurationError(problem)
        return vault.address
    if is_vault_url(text):
        return VaultAddress(VaultKind.DIRECTORY, text)
    folder = Path(text)
    if not (folder / "annex" / "objects").is_dir():
        raise ConfigurationError(
            f"{redact(text)} is no vault: specify its folder (which has annex/objects), the URL of "
            "this folder, or s3://BUCKET/PREFIX"
        )
    return VaultAddress(VaultKind.DIRECTORY, str(folder.absolute()))


def pinned_vaults(
    remotes: Mapping[str, Mapping[str, str]], before: Iterable[PinnedVault] = ()
) -> tuple[PinnedVault, ...]:
    """Return the vaults that a lock file can name, sorted by name.

    Vaults at a path of a machine are omitted: a lock file is used on others.

    Parameters
    ----------
    remotes
        The configurations of remotes in ``remote.log``, by UUID.
    before
        The vaults of an earlier pin. Those that need credentials are kept, since repositories do
        not name them.
    """
    found = {one.uuid: one for one in before if one.url.startswith("s3:")}
    for uuid, vault in vault_addresses(remotes).items():
        if vault.is_url:
            found[uuid] = PinnedVault(remotes[uuid]["name"], uuid, vault.kind, vault.base)
    return tuple(sorted(found.values(), key=lambda one: (one.name, one.uuid))[:MOST_VAULTS])
