"""Read copies in vaults and compare their bytes with their keys."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import (
    CheckMethod,
    CopyState,
    LedgerCopy,
    LedgerEvent,
)
from neuromirror.model import NeuromirrorError
from neuromirror.transfer.content_checks import check_for
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.vault.errors import CopyRefusedError
from neuromirror.vault.protocol import Presence, Vault

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


class Fault(NamedTuple):
    """A recorded copy that is damaged or missing.

    Attributes
    ----------
    key
        The annex key.
    state
        The state of the copy.
    message
        The result of the check, as text.
    dataset
        The name of a dataset that has the content; None if unknown.
    """

    key: str
    state: CopyState
    message: str
    dataset: str | None = None


def record_faults(
    vault: Vault, ledger: Ledger, faults: Sequence[Fault], method: CheckMethod = "full-read"
) -> None:
    """Record faults of recorded copies, with an event for each that was not known.

    Parameters
    ----------
    vault
        The vault.
    ledger
        The ledger.
    faults
        The faults.
    method
        How damaged copies were found; missing ones are always found by a listing.
    """
    copies = copies_of(vault, ledger, [one.key for one in faults])
    before = {key: one.state for key, one in copies.items()}
    recorded = [one for one in faults if one.key in before]
    for state, how in (("damaged", method), ("missing", "listing")):
        keys = [one.key for one in recorded if one.state == state]
        ledger.mark(vault.uuid, keys, state, how)  # type: ignore[arg-type]
    now, name = ledger.clock(), vault.config.name
    ledger.events.add(
        LedgerEvent(now, one.state, f"{name}: {one.message}", name, one.key, one.dataset)
        for one in recorded
        if one.state != before[one.key] and one.state != "present"
    )


def copies_of(vault: Vault, ledger: Ledger, keys: Sequence[str]) -> dict[str, LedgerCopy]:
    """Return the recorded copies of contents in a vault, in any state, by annex key.

    Parameters
    ----------
    vault
        The vault.
    ledger
        The ledger.
    keys
        The annex keys.

    Returns
    -------
    dict of str to LedgerCopy
        The copies.
    """
    return {
        one.key: one
        for copies in ledger.copies(keys, all_states=True).values()
        for one in copies
        if one.vault == vault.uuid
    }


def recorded_copies(
    vault: Vault, ledger: Ledger, state: CopyState | None = None
) -> Iterator[LedgerCopy]:
    """Yield the recorded copies of a vault, sorted by key.

    Parameters
    ----------
    vault
        The vault.
    ledger
        The ledger.
    state
        The state of the copies; None for all.

    Yields
    ------
    LedgerCopy
        The copies.
    """
    last = ""
    while copies := ledger.copies_in(vault.uuid, after=last, state=state):
        last = copies[-1].key
        yield from copies


def look_up_copies(
    vault: Vault, keys: Sequence[str]
) -> Iterator[tuple[str, Presence | CopyRefusedError]]:
    """Yield what a vault states about contents; one that it refuses to describe is no failure.

    Parameters
    ----------
    vault
        The vault.
    keys
        The annex keys.

    Yields
    ------
    tuple of str and Presence or CopyRefusedError
        Each key with the statement, or the reason why there is none.

    Raises
    ------
    VaultError
        The vault does not respond.
    """
    left = dict.fromkeys(keys)
    try:
        for one in vault.presence(keys):
            del left[one.key]
            yield one.key, one
    except CopyRefusedError:
        for key in left:
            try:
                (found,) = vault.presence([key])
            except CopyRefusedError as error:
                yield key, error
            else:
                yield key, found


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
                if check.is_too_long:
                    break
                if stop is not None and stop.is_set():
                    raise UncheckedCopyError(f"{key}: the check was stopped")
    except CopyRefusedError as error:
        raise UncheckedCopyError(str(error)) from error
    except OSError as error:
        vault.check_access()  # an unavailable disk does not show that its copies are damaged
        why = f"its bytes cannot be read: {error}"
        # other errors are those of the network, of this process or of permissions
        raise (BadSectorError if error.errno == errno.EIO else UncheckedCopyError)(why) from error
    return check.mismatch()


def is_proof(presence: Presence) -> bool:
    """Return whether a vault's own statement shows that a content is right, without reading it.

    Parameters
    ----------
    presence
        The statement of the vault.

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
