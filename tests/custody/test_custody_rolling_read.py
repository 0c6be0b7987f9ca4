"""Every byte of a vault is read within some days; damage is found, reported and repaired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.custody.drop import DropChangedError, DropRules, plan_drop, run_drop
from neuromirror.custody.keep import KeepOptions
from neuromirror.custody.keep_plan import KeepItem
from neuromirror.custody.rolling_read import ReadSettings, read_due_copies, repair_copies
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import Wish
from neuromirror.vault import DirectoryVault
from support.vaults import directory_vault, key_of

DAY = 86_400.0
CONTENTS = [b"content %d" % number for number in range(5)]
KEYS = [key_of(content) for content in CONTENTS]


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


def filled(folder: Path, ledger: Ledger, name: str, wish: bool = True) -> DirectoryVault:
    """Return a vault with all contents, which a wish names."""
    vault = directory_vault(folder, name)
    ledger.add_vault(vault.uuid, name, "directory")
    for content, key in zip(CONTENTS, KEYS, strict=True):
        path = folder / "source"
        path.write_bytes(content)
        ledger.record(vault.uuid, [vault.store(key, path)])
    if wish:
        ledger.wishes.put(Wish("policy", "p", vault.uuid), [(key, None) for key in KEYS])
    return vault


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


def read(vault: DirectoryVault, ledger: Ledger, clock: Clock, days: float = 100) -> dict[str, str]:
    """Read what is due; return the status by key."""
    settings = ReadSettings(days, clock=clock)
    return {one.key or "": one.status for one in read_due_copies(vault, ledger, settings)}


def states(ledger: Ledger, vault: DirectoryVault) -> dict[str, str]:
    """Return the state of each copy of a vault."""
    return {one.key: one.state for one in ledger.copies_in(vault.uuid)}


def test_copies_are_read_when_three_quarters_of_the_time_have_passed(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    vault = filled(tmp_path, ledger, "nas")
    clock.now += 74 * DAY
    assert read(vault, ledger, clock) == {}
    clock.now += 2 * DAY
    assert read(vault, ledger, clock) == dict.fromkeys(KEYS, "ok")
    assert read(vault, ledger, clock) == {}


def test_a_read_stops_in_time_and_the_next_one_continues(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    vault = filled(tmp_path, ledger, "nas")
    clock.now += 80 * DAY
    settings = ReadSettings(100, until=0.0, clock=clock)
    assert list(read_due_copies(vault, ledger, settings)) == []
    assert len(read(vault, ledger, clock)) == len(KEYS)


def test_damage_is_found_and_repaired_from_another_vault(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    nas, cloud = filled(tmp_path, ledger, "nas"), filled(tmp_path, ledger, "cloud")
    flip(object_of(nas, KEYS[0]))
    missing = object_of(nas, KEYS[1])
    missing.parent.chmod(0o755)
    missing.unlink()
    clock.now += 80 * DAY
    found = read(nas, ledger, clock)
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
    read(nas, ledger, clock)
    (failed,) = repair_copies(nas, [nas, cloud], ledger, None, KeepOptions())
    assert failed.failed
    assert states(ledger, nas)[KEYS[0]] == "damaged"
    assert states(ledger, cloud)[KEYS[0]] == "damaged"


def test_a_vault_that_is_gone_is_not_counted_as_damaged(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    from neuromirror.vault import VaultError

    vault = filled(tmp_path, ledger, "nas")
    vault.path.rename(tmp_path / "away")
    clock.now += 80 * DAY
    with pytest.raises(VaultError):
        read(vault, ledger, clock)
    assert states(ledger, vault) == dict.fromkeys(KEYS, "present")


def items(*keys: str) -> list[KeepItem]:
    """Return contents to drop."""
    return [KeepItem("demo:000001", "1", f"file-{key[-9:]}", key, None, ()) for key in keys]


def test_a_wanted_copy_or_the_last_one_is_never_dropped(tmp_path: Path, ledger: Ledger) -> None:
    nas, cloud = filled(tmp_path, ledger, "nas"), filled(tmp_path, ledger, "cloud", wish=False)
    plan = plan_drop(items(*KEYS), nas, [nas, cloud], ledger, None, DropRules())
    assert (plan.items, {one.status for one in plan.refused}) == ([], {"impossible"})
    # the ledger counts a copy that the vault has lost behind our back
    lost = object_of(nas, KEYS[0])
    lost.parent.chmod(0o755)
    lost.unlink()
    plan = plan_drop(items(*KEYS), cloud, [nas, cloud], ledger, None, DropRules())
    assert [one.key for one in plan.items] == KEYS[1:]
    alone = plan_drop(items(*KEYS), cloud, [], ledger, None, DropRules())
    assert alone.items == []
    none_needed = plan_drop(items(*KEYS), cloud, [], ledger, None, DropRules(minimum_copies=0))
    assert none_needed.items == []


def test_copies_are_dropped_only_as_they_were_listed(tmp_path: Path, ledger: Ledger) -> None:
    nas, cloud = filled(tmp_path, ledger, "nas"), filled(tmp_path, ledger, "cloud", wish=False)
    listed = plan_drop(items(*KEYS[:2]), cloud, [nas], ledger, None, DropRules())
    more = plan_drop(items(*KEYS), cloud, [nas], ledger, None, DropRules())
    with pytest.raises(DropChangedError):
        list(run_drop(more, ledger, None, None, listed.id))
    assert len(dict(cloud.keys())) == len(KEYS)
    done = list(run_drop(listed, ledger, None, None, listed.id))
    assert [one.status for one in done] == ["ok", "ok"]
    assert set(dict(cloud.keys())) == set(KEYS[2:])
    assert set(states(ledger, cloud)) == set(KEYS[2:])


def test_a_wish_that_the_removal_ends_does_not_protect(tmp_path: Path, ledger: Ledger) -> None:
    nas, cloud = filled(tmp_path, ledger, "nas"), filled(tmp_path, ledger, "cloud", wish=False)
    number = ledger.wishes.put(Wish("version", "demo:000001", cloud.uuid), [(KEYS[0], None)])
    rules = DropRules(released=frozenset({number}))
    assert plan_drop(items(KEYS[0]), cloud, [nas], ledger, None, DropRules()).items == []
    assert len(plan_drop(items(KEYS[0]), cloud, [nas], ledger, None, rules).items) == 1
