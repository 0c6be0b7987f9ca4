"""Every byte of a vault is read within some days; damage is found, reported and repaired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.custody.keep_outcomes import KeepOptions
from neuromirror.custody.rolling_read import read_due_copies, repair_copies
from neuromirror.index.ledger import Ledger
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.errors import VaultError
from support.vaults import CONTENTS, KEYS, filled

DAY = 86_400.0


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "custody.sqlite", clock) as opened:
        yield opened


def object_of(vault: DirectoryVault, key: str) -> Path:
    """Return the path of a copy."""
    (path,) = (one for one in vault.path.rglob(key) if one.is_file())
    return path


def flip(path: Path) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def read(vault: DirectoryVault, ledger: Ledger, days: float = 100) -> dict[str, str]:
    """Read what is due; return the status by key."""
    found = read_due_copies(vault, ledger, days, KeepOptions())
    return {one.key or "": one.status for one in found}


def states(ledger: Ledger, vault: DirectoryVault) -> dict[str, str]:
    """Return the state of each copy of a vault."""
    return {one.key: one.state for one in ledger.copies_in(vault.uuid)}


def test_copies_are_read_when_three_quarters_of_the_time_have_passed(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    vault = filled(tmp_path, ledger, "nas")
    clock.now += 74 * DAY
    assert read(vault, ledger) == {}
    clock.now += 2 * DAY
    assert read(vault, ledger) == dict.fromkeys(KEYS, "ok")
    assert read(vault, ledger) == {}


def test_a_read_stops_in_time_and_the_next_one_continues(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    vault = filled(tmp_path, ledger, "nas")
    clock.now += 80 * DAY
    assert list(read_due_copies(vault, ledger, 100, KeepOptions(until=0.0))) == []
    assert len(read(vault, ledger)) == len(KEYS)


def test_damage_is_found_and_repaired_from_another_vault(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    nas, cloud = filled(tmp_path, ledger, "nas"), filled(tmp_path, ledger, "cloud")
    flip(object_of(nas, KEYS[0]))
    missing = object_of(nas, KEYS[1])
    missing.parent.chmod(0o755)
    missing.unlink()
    clock.now += 80 * DAY
    found = read(nas, ledger)
    assert {key for key, status in found.items() if status == "error"} == set(KEYS[:2])
    assert states(ledger, nas) | {} == dict.fromkeys(KEYS, "present") | {
        KEYS[0]: "damaged",
        KEYS[1]: "missing",
    }
    repaired = list(repair_copies(nas, [nas, cloud], ledger, None, KeepOptions()))
    assert {(one.key, one.status, one.action) for one in repaired} == {
        (KEYS[0], "ok", "repair"),
        (KEYS[1], "ok", "repair"),
    }
    assert object_of(nas, KEYS[0]).read_bytes() == CONTENTS[0]
    assert states(ledger, nas) == dict.fromkeys(KEYS, "present")
    kinds = [one.kind for one in ledger.events.latest(9)]
    assert sorted(kinds) == ["damaged", "missing", "repaired", "repaired"]
    assert list(repair_copies(nas, [nas, cloud], ledger, None, KeepOptions())) == []


def test_damage_is_not_repaired_from_a_copy_that_is_damaged_too(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    nas, cloud = filled(tmp_path, ledger, "nas"), filled(tmp_path, ledger, "cloud")
    for vault in (nas, cloud):
        flip(object_of(vault, KEYS[0]))
    clock.now += 80 * DAY
    read(nas, ledger)
    (failed,) = repair_copies(nas, [nas, cloud], ledger, None, KeepOptions())
    assert failed.failed
    assert states(ledger, nas)[KEYS[0]] == "damaged"
    assert states(ledger, cloud)[KEYS[0]] == "damaged"


def test_a_vault_that_is_gone_is_not_counted_as_damaged(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    vault = filled(tmp_path, ledger, "nas")
    vault.path.rename(tmp_path / "away")
    clock.now += 80 * DAY
    with pytest.raises(VaultError):
        read(vault, ledger)
    assert states(ledger, vault) == dict.fromkeys(KEYS, "present")


def test_missing_copies_that_nothing_wants_are_forgotten_and_damaged_ones_stay(
    tmp_path: Path, ledger: Ledger
) -> None:
    nas = filled(tmp_path, ledger, "nas", wish=False)
    ledger.mark(nas.uuid, KEYS[:2], "missing", "listing")
    ledger.mark(nas.uuid, KEYS[2:3], "damaged", "full-read")
    assert list(repair_copies(nas, [nas], ledger, None, KeepOptions())) == []
    assert states(ledger, nas) == dict.fromkeys(KEYS[2:], "present") | {KEYS[2]: "damaged"}


def test_copies_that_were_read_before_the_vault_failed_are_recorded(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    vault = filled(tmp_path, ledger, "nas")
    last = max(KEYS)
    flip(object_of(vault, last))
    clock.now += 80 * DAY
    found: list[str | None] = []

    def read_all() -> None:
        for one in read_due_copies(vault, ledger, 100, KeepOptions()):
            found.append(one.key)
            if len(found) == len(KEYS) - 1:
                vault.path.rename(tmp_path / "away")

    with pytest.raises(VaultError):
        read_all()
    hashed = {one.key for one in ledger.copies_in(vault.uuid) if one.hashed == clock.now}
    assert hashed == set(found) == set(KEYS) - {last}
