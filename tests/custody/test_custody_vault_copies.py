"""Copies from vault to vault are recorded together, and none that was made is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.custody.contents import KeepItem
from neuromirror.custody.copies import KeepOptions
from neuromirror.custody.keep import CopyTask, copy_between
from neuromirror.index.ledger import Ledger
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.errors import VaultError
from support.vaults import CONTENTS, KEYS, directory_vault, filled, key_of


class CountingVault(DirectoryVault):
    """A vault that counts how often it is made durable."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        super().flush()


@pytest.fixture
def target(tmp_path: Path, ledger: Ledger) -> CountingVault:
    made = directory_vault(tmp_path, "cloud")
    vault = CountingVault(made.config, made.path)
    ledger.add_vault(vault.uuid, "cloud", "directory")
    return vault


@pytest.fixture
def tasks(tmp_path: Path, ledger: Ledger) -> list[CopyTask]:
    source = filled(tmp_path, ledger, "nas")
    sizes = zip(KEYS, map(len, CONTENTS), strict=True)
    return [CopyTask(KeepItem("demo:1", "1", "a", key, size, ()), [source]) for key, size in sizes]


def recorded(ledger: Ledger, vault: DirectoryVault) -> set[str]:
    return {one.key for one in ledger.copies_in(vault.uuid)}


def test_copies_are_made_durable_and_recorded_together(
    ledger: Ledger, target: CountingVault, tasks: list[CopyTask]
) -> None:
    found = list(copy_between(tasks, target, ledger, KeepOptions()))
    assert {(one.key, one.status, one.message) for one in found} == {
        (key, "ok", "from nas") for key in KEYS
    }
    assert recorded(ledger, target) == set(KEYS)
    assert target.flushes == 1


def test_copies_are_recorded_also_if_the_caller_stops(
    ledger: Ledger, target: CountingVault, tasks: list[CopyTask]
) -> None:
    lost = KeepItem("demo:1", "1", "lost", key_of(b"lost"), 4, ())
    run = copy_between([*tasks, CopyTask(lost, tasks[0].sources)], target, ledger, KeepOptions())
    assert next(run).status == "error"
    run.close()
    assert recorded(ledger, target) == {key for key, _ in list(target.keys())}


def test_copies_are_not_recorded_if_the_vault_is_gone_before_they_are_durable(
    ledger: Ledger, target: CountingVault, tasks: list[CopyTask], tmp_path: Path
) -> None:
    lost = KeepItem("demo:1", "1", "lost", key_of(b"lost"), 4, ())
    run = copy_between([*tasks, CopyTask(lost, tasks[0].sources)], target, ledger, KeepOptions())
    assert next(run).status == "error"
    target.path.rename(tmp_path / "unmounted")
    with pytest.raises(VaultError):
        list(run)
    assert recorded(ledger, target) == set()
