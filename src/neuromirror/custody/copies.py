"""Copies in vaults: how they are checked, how they are recorded, and the outcomes of both."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.custody.contents import KeepItem
from neuromirror.index.ledger import CheckMethod, Ledger, LedgerCopy, Stored
from neuromirror.model import NeuromirrorError
from neuromirror.transfer.content_bodies import check_for, key_checksum
from neuromirror.transfer.outcomes import Outcome, Status
from neuromirror.vault.errors import CopyRefusedError, VaultError
from neuromirror.vault.protocol import Presence, Vault

JOBS: Final = 8
"""Default number of concurrent copies."""

_COMMIT_COUNT: Final = 1000
_COMMIT_SECONDS: Final = 5.0
_BLOCK: Final = 1 << 20


def _never() -> bool:
    return False


class KeepOutcome(Outcome, frozen=True):
    """The outcome of ``keep`` for one content, or for the rest of a run.

    Attributes
    ----------
    vault
        The name of the vault.
    method
        How the copy was verified.
    """

    vault: str | None = None
    method: CheckMethod | None = None


class KeepOptions(Struct, frozen=True):
    """The options of a run.

    Attributes
    ----------
    jobs
        Number of concurrent downloads; of copies that the vault makes itself, four times as many.
    allowed_hosts
        Hosts of archives, with their ports, that may be accessed whatever their addresses are.
    with_credentials
        Whether credentials may be used for a vault that others may read: only if all contents are
        those of a public store. For a private vault, they are always used.
    bytes_per_second
        Limit for downloads; None for no limit.
    until
        When to stop, as :func:`time.monotonic`; None for no limit.
    is_stopping
        Returns whether to stop.
    report_bytes
        Called with the number of bytes that were received.
    """

    jobs: int = JOBS
    allowed_hosts: frozenset[str] = frozenset()
    with_credentials: bool = False
    bytes_per_second: float | None = None
    until: float | None = None
    is_stopping: Callable[[], bool] = _never
    report_bytes: Callable[[int], None] = field(default=lambda count: None)

    @property
    def is_over(self) -> bool:
        """Whether to stop now."""
        return (self.until is not None and time.monotonic() >= self.until) or self.is_stopping()


def item_outcome(
    name: str, item: KeepItem, status: Status, message: str, action: str = "keep"
) -> KeepOutcome:
    """Return the outcome for a content."""
    return KeepOutcome(
        *(action, status, item.path, message, item.dataset, item.version),
        key=item.key,
        size=item.size,
        vault=name,
    )


def copy_outcome(
    action: str,
    name: str,
    key: str,
    size: int | None,
    status: Status,
    message: str,
    method: CheckMethod | None = None,
) -> KeepOutcome:
    """Return the outcome for a copy, of which no file is known."""
    found = KeepItem("", "", ".", key, size, ())
    outcome = item_outcome(name, found, status, message, action)
    return replace(outcome, dataset=None, version=None, method=method)


class CopyBatch:
    """Confirmed copies that are not recorded yet.

    Making one copy durable takes as long as making a thousand durable.
    """

    def __init__(self, vault: Vault, ledger: Ledger) -> None:
        self._vault = vault
        self._ledger = ledger
        self._confirmed: list[tuple[Stored, KeepOutcome]] = []
        self._committed = time.monotonic()

    def add(self, stored: Stored, outcome: KeepOutcome) -> None:
        """Add a copy."""
        checksum = key_checksum(stored.key)
        outcome = replace(
            outcome,
            status="ok",
            size=stored.size,
            method=stored.method,
            evidence=checksum.evidence,
            checked="checked" if checksum.algorithm else None,
        )
        self._confirmed.append((stored, outcome))

    def commit_if_due(self) -> list[KeepOutcome]:
        """Commit if there are many copies, or if the last time was some seconds ago."""
        is_due = time.monotonic() - self._committed > _COMMIT_SECONDS
        return self.commit() if is_due or len(self._confirmed) >= _COMMIT_COUNT else []

    def commit(self) -> list[KeepOutcome]:
        """Make the copies durable and record them; return their outcomes.

        Raises
        ------
        VaultError
            The vault cannot be written; nothing is recorded.
        """
        self._committed = time.monotonic()
        confirmed, self._confirmed = self._confirmed, []
        if confirmed:
            # before they are recorded: a crash of the machine may lose what is not on the disk
            self._vault.flush()
            self._ledger.record(self._vault.uuid, [stored for stored, _ in confirmed])
        return [outcome for _, outcome in confirmed]

    def commit_after(
        self, steps: Generator[KeepOutcome, None, None]
    ) -> Generator[KeepOutcome, None, None]:
        """Yield the outcomes of steps that add copies, and at the end those of the last copies.

        The copies are recorded also if the vault fails or the caller stops, so that they are
        not copied again.

        Raises
        ------
        VaultError
            The vault failed in a step or cannot be written.
        """
        failure: VaultError | None = None
        finished: list[KeepOutcome] = []
        try:
            with closing(steps):
                yield from steps
        except VaultError as error:
            failure = error
        finally:
            try:
                finished = self.commit()
            except VaultError as error:
                failure = failure or error
        yield from finished
        if failure is not None:
            raise failure


def read_method(key: str) -> CheckMethod:
    """Return how reading all bytes of a content checks it."""
    return "full-read" if key_checksum(key).algorithm else "size"


def copies_of(vault: Vault, ledger: Ledger, keys: Sequence[str]) -> dict[str, LedgerCopy]:
    """Return the recorded copies of contents in a vault, in any state, by annex key."""
    return {
        one.key: one
        for copies in ledger.copies(keys, all_states=True).values()
        for one in copies
        if one.vault == vault.uuid
    }


def look_up_copies(
    vault: Vault, keys: Sequence[str]
) -> Iterator[tuple[str, Presence | CopyRefusedError]]:
    """Yield what a vault states about contents; one that it refuses to describe is no failure.

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
    """Return whether a vault's own statement shows that a content is right, without reading it."""
    checksum = key_checksum(presence.key)
    return (
        presence.sha256 is not None
        and checksum.algorithm == "sha256"
        and presence.sha256 == checksum.value
        and presence.size == checksum.size
    )
