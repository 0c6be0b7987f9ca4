"""Copies that a vault confirmed, made durable and recorded together."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import Final

from msgspec.structs import replace

from neuromirror.custody.keep_outcomes import KeepOutcome
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import Stored
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.vault.errors import VaultError
from neuromirror.vault.protocol import Vault

_COMMIT_COUNT: Final = 1000
_COMMIT_SECONDS: Final = 5.0


class CopyBatch:
    """Confirmed copies that are not recorded yet.

    Making one copy durable takes as long as making a thousand durable.

    Parameters
    ----------
    vault
        The vault.
    ledger
        The ledger, to which the copies are added.
    """

    def __init__(self, vault: Vault, ledger: Ledger) -> None:
        self._vault = vault
        self._ledger = ledger
        self._confirmed: list[tuple[Stored, KeepOutcome]] = []
        self._committed = time.monotonic()

    def add(self, stored: Stored, outcome: KeepOutcome) -> None:
        """Add a copy.

        Parameters
        ----------
        stored
            The content, as the vault confirmed it.
        outcome
            Its outcome, which is returned with the evidence of the copy once that is recorded.
        """
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

        Parameters
        ----------
        steps
            The steps.

        Yields
        ------
        KeepOutcome
            The outcomes.

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
