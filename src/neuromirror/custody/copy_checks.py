"""Read copies in vaults and compare their bytes with their keys."""

from __future__ import annotations

import errno
import threading
from typing import Final

from neuromirror.index.ledger_rows import CheckMethod
from neuromirror.model import NeuromirrorError
from neuromirror.transfer.content_checks import check_for
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.vault import CopyRefusedError, Presence, Vault

_BLOCK: Final = 1 << 20


def read_method(key: str) -> CheckMethod:
    """Return how reading all bytes of a content checks it.

    Parameters
    ----------
    key
        The annex key.

    Returns
    -------
    CheckMethod
        ``full-read``, or ``size`` if the key has no checksum.
    """
    return "full-read" if key_checksum(key).algorithm else "size"


class UncheckedCopyError(NeuromirrorError):
    """A copy was not read to its end, so that nothing is known about its bytes."""


class BadSectorError(UncheckedCopyError):
    """The disk of a vault cannot return the bytes of a copy."""


def find_fault(vault: Vault, key: str, stop: threading.Event | None = None) -> str | None:
    """Read a copy completely; return why its bytes are not those of its key.

    Parameters
    ----------
    vault
        The vault.
    key
        The annex key.
    stop
        Ends the reading when it is set.

    Returns
    -------
    str or None
        The reason: other bytes, or a bad sector of a disk; None if the bytes are right.

    Raises
    ------
    CopyMissingError
        The vault does not have it.
    UncheckedCopyError
        It was not read to its end, or the kind of its key is not supported.
    VaultError
        The vault cannot be read.
    """
    try:
        return find_mismatch(vault, key, stop)
    except BadSectorError as error:
        return str(error)


def find_mismatch(vault: Vault, key: str, stop: threading.Event | None = None) -> str | None:
    """Read a copy completely; return how its bytes differ from those of its key.

    Parameters
    ----------
    vault
        The vault.
    key
        The annex key.
    stop
        Ends the reading when it is set.

    Returns
    -------
    str or None
        The difference; None if the bytes are right.

    Raises
    ------
    CopyMissingError
        The vault does not have it.
    BadSectorError
        The disk cannot return its bytes.
    UncheckedCopyError
        It was not read to its end, or the kind of its key is not supported.
    VaultError
        The vault cannot be read.
    """
    check = check_for(key)
    if check is None:
        raise UncheckedCopyError(f"{key}: keys of this kind cannot be verified")
    try:
        with vault.open(key) as file:
            while block := file.read(_BLOCK):
                check.update(block)
                if stop is not None and stop.is_set():
                    raise UncheckedCopyError(f"{key}: the check was stopped")
    except CopyRefusedError as error:
        raise UncheckedCopyError(str(error)) from error
    except OSError as error:
        vault.check_access()  # a disk that is gone says nothing about its copies
        why = f"its bytes cannot be read: {error}"
        # other errors are those of the network, of this process or of permissions
        raise (BadSectorError if error.errno == errno.EIO else UncheckedCopyError)(why) from error
    return check.mismatch()


def is_proof(presence: Presence) -> bool:
    """Return whether a vault's own statement shows that a content is right, without reading it.

    Parameters
    ----------
    presence
        What the vault states.

    Returns
    -------
    bool
        Whether it computed the sha256 in the key when it stored the bytes.
    """
    checksum = key_checksum(presence.key)
    return (
        presence.sha256 is not None
        and checksum.algorithm == "sha256"
        and presence.sha256 == checksum.value
        and presence.size == checksum.size
    )
