"""What a vault is: its operations, their results and errors."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from msgspec import Struct

from neuromirror.model import ConfigurationError, NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.config.vault_files import VaultConfig
    from neuromirror.index.ledger import CheckMethod, Stored


def parse_uuid(text: str) -> str | None:
    """Return the UUID of a vault; None for other texts and for UUIDs that git-annex reserves."""
    try:
        found = uuid.UUID(text)
    except ValueError:
        return None
    # those of git-annex's own remotes, such as the web, are 1 and 2
    return str(found) if found.int >> 64 else None


class Presence(Struct, frozen=True):
    """The statement of a vault about a content, without reading it.

    Attributes
    ----------
    key
        The annex key.
    size
        The size in bytes; None if the vault does not have it.
    method
        How the vault was asked.
    sha256
        The sha256 in hex that the vault computed when it stored the bytes; None if unknown.
    """

    key: str
    size: int | None
    method: CheckMethod
    sha256: str | None = None

    def agrees_with(self, size: int | None) -> bool:
        """Return whether the vault has the content, and states no other size than this one."""
        if self.size is None:
            return False
        return size is None or self.size == size


CHANGED: Final = "the file was changed while it was read; it was not stored"
ContentTest = Callable[[BinaryIO], bool]
"""Returns whether the bytes of a file, read to its end, are those of a content."""


class Vault(ABC):
    """A place with copies of content, named by annex keys. Thread-safe.

    A content is visible under its key only when it is complete. Methods raise a subclass of
    :class:`~neuromirror.vault.protocol.VaultError` if the whole vault cannot be used, and
    :class:`~neuromirror.vault.protocol.CopyRefusedError` for a problem with one content.

    Attributes
    ----------
    config
        The configured vault.
    uuid
        The git-annex UUID of the vault.
    """

    config: VaultConfig
    uuid: str

    @property
    def is_checked_at_once(self) -> bool:
        """Whether :meth:`presence` of any number of keys is fast and free of charge."""
        return False

    @abstractmethod
    def remote_config(self) -> dict[str, str] | None:
        """Return the parameters of the git-annex remote with which clones read the vault."""

    @abstractmethod
    def presence(self, keys: Sequence[str]) -> Iterator[Presence]:
        """Yield what the vault states about contents, without reading them."""

    @abstractmethod
    def store(self, key: str, path: Path, test: ContentTest | None = None) -> Stored:
        """Store the content of a file; the bytes that are stored must pass the test.

        Without ``test`` the caller has verified them, and no other process writes the file.
        """

    @abstractmethod
    def store_bytes(self, key: str, content: memoryview) -> Stored:
        """Store a content that is in memory, and which the caller has verified with the key."""

    def can_copy(self, url: str) -> bool:
        """Return whether :meth:`copy_from` may succeed for a URL; nothing is requested."""
        return False

    def copy_from(self, key: str, url: str) -> Stored | None:
        """Copy a content from a URL without transferring it to this machine, and verify it."""
        return None

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open a content for reading; close it after use.

        Raises
        ------
        CopyMissingError
            The vault does not have it.
        """

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove a content; it is no error if the vault does not have it."""

    @abstractmethod
    def keys(self) -> Iterator[tuple[str, int]]:
        """Yield the annex key and the size in bytes of all contents, as the vault lists them."""

    @abstractmethod
    def check_access(self, *, write: bool = False) -> None:
        """Raise an error that states why the vault cannot be used."""

    def flush(self) -> None:  # noqa: B027 - not abstract: most vaults need nothing here
        """Make everything that was stored durable, before it is recorded."""

    def close(self) -> None:  # noqa: B027 - as flush
        """Close connections and helper processes."""


class VaultError(NeuromirrorError):
    """A vault cannot be read or written as a whole."""


class VaultUnavailableError(VaultError):
    """A vault does not respond, or its folder is missing."""


class VaultCredentialsError(VaultError):
    """The credentials for a vault are missing, expired or not sufficient."""


class VaultFullError(VaultError):
    """A vault has no space for the content."""


class VaultReadOnlyError(ConfigurationError):
    """The configuration of a vault forbids to change it."""


class CopyRefusedError(NeuromirrorError):
    """A vault did not store one content, or stored other bytes; nothing was recorded."""


class CopyMissingError(NeuromirrorError):
    """A vault does not have a content."""
