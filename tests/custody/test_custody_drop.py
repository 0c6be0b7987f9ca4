"""Copies are removed only where nothing is lost, and what was not removed still counts."""

from pathlib import Path

import pytest

from neuromirror.custody.copies import KeepItem
from neuromirror.custody.drop import DropChangedError, DropRules, plan_drop, run_drop
from neuromirror.index.ledger import CopyState, Ledger, Wish
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.protocol import VaultError
from neuromirror.vault.s3 import S3Vault
from support.faulty_s3 import FaultyS3
from support.vaults import CONTENTS, KEYS, filled


@pytest.fixture
def cloud(bucket: S3Vault, ledger: Ledger) -> S3Vault:
    """A vault in S3 with all contents."""
    ledger.add_vault(bucket.uuid, "cloud", "s3")
    for content, key in zip(CONTENTS, KEYS, strict=True):
        ledger.record(bucket.uuid, [bucket.store_bytes(key, memoryview(content))])
    return bucket


def object_of(vault: DirectoryVault, key: str) -> Path:
    """Return the path of a copy."""
    (path,) = (one for one in vault.path.rglob(key) if one.is_file())
    return path


def states(ledger: Ledger, uuid: str) -> dict[str, str]:
    """Return the state of each copy of a vault."""
    return {copy.key: copy.state for copy in ledger.copies_in(uuid)}


def items(*keys: str) -> list[KeepItem]:
    """Return contents to drop."""
    return [KeepItem("demo:000001", "1", f"file-{key[-9:]}", key, None, ()) for key in keys]


def test_a_wanted_copy_or_the_last_one_is_never_dropped(tmp_path: Path, ledger: Ledger) -> None:
    nas, cloud = filled(tmp_path, ledger, "nas"), filled(tmp_path, ledger, "cloud", wish=False)
    plan = plan_drop(items(*KEYS), nas, [nas, cloud], ledger, None, DropRules())
    assert (plan.items, {one.status for one in plan.refused}) == ([], {"impossible"})
    # the ledger counts a copy that the vault has lost without the knowledge of neuromirror
    lost = object_of(nas, KEYS[0])
    lost.parent.chmod(0o755)
    lost.unlink()
    plan = plan_drop(items(*KEYS), cloud, [nas, cloud], ledger, None, DropRules())
    assert [item.key for item in plan.items] == KEYS[1:]
    without_others = plan_drop(items(*KEYS), cloud, [], ledger, None, DropRules())
    assert without_others.items == []


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
    assert set(states(ledger, cloud.uuid)) == set(KEYS[2:])


def test_a_wish_that_the_removal_ends_does_not_protect(tmp_path: Path, ledger: Ledger) -> None:
    nas, cloud = filled(tmp_path, ledger, "nas"), filled(tmp_path, ledger, "cloud", wish=False)
    number = ledger.wishes.put(Wish("version", "demo:000001", cloud.uuid), [(KEYS[0], None)])
    rules = DropRules(released=frozenset({number}))
    assert plan_drop(items(KEYS[0]), cloud, [nas], ledger, None, DropRules()).items == []
    assert len(plan_drop(items(KEYS[0]), cloud, [nas], ledger, None, rules).items) == 1


@pytest.mark.parametrize("state", ["damaged", "missing"])
def test_a_copy_that_is_damaged_or_missing_can_be_dropped_unless_it_is_wanted(
    tmp_path: Path, ledger: Ledger, state: CopyState
) -> None:
    nas = filled(tmp_path, ledger, "nas", wish=False)
    for key in KEYS[:2]:
        path = object_of(nas, key)
        path.parent.chmod(0o755)
        if state == "missing":
            path.unlink()
        else:
            path.chmod(0o644)
            path.write_bytes(bytes(path.stat().st_size))
    ledger.mark(nas.uuid, KEYS[:2], state, "full-read")
    ledger.wishes.put(Wish("lock", "p.lock", nas.uuid), [(KEYS[1], None)])
    plan = plan_drop(items(*KEYS), nas, [], ledger, None, DropRules())
    assert [item.key for item in plan.items] == KEYS[:1]
    list(run_drop(plan, ledger, None, None, plan.id))
    assert set(states(ledger, nas.uuid)) == set(KEYS[1:])


@pytest.mark.parametrize("state", ["damaged", "missing"])
def test_the_last_copy_stays_if_it_is_right_again(
    tmp_path: Path, ledger: Ledger, state: CopyState
) -> None:
    nas = filled(tmp_path, ledger, "nas", wish=False)
    ledger.mark(nas.uuid, KEYS[:1], state, "full-read")
    plan = plan_drop(items(*KEYS[:1]), nas, [], ledger, None, DropRules())
    assert plan.items == []


def test_a_copy_that_a_vault_refuses_to_remove_still_counts(
    tmp_path: Path, ledger: Ledger, cloud: S3Vault, s3_server: FaultyS3
) -> None:
    nas = filled(tmp_path, ledger, "nas")
    ledger.mark(cloud.uuid, KEYS[:1], "damaged", "full-read")
    plan = plan_drop(items(*KEYS), cloud, [nas], ledger, None, DropRules())
    refused = KEYS[:2]

    def refuse(method: str, path: str) -> tuple[int, str] | None:
        is_refused = method == "DELETE" and path.endswith(tuple(refused))
        return (409, "InvalidRequest") if is_refused else None

    with s3_server.failing(refuse):
        found = {one.key: one.status for one in run_drop(plan, ledger, None, None, plan.id)}
    assert {key for key, status in found.items() if status == "error"} == set(refused)
    assert states(ledger, cloud.uuid) == {KEYS[0]: "damaged", KEYS[1]: "present"}


def test_a_vault_that_fails_half_way_keeps_the_records_of_its_other_copies(
    tmp_path: Path, ledger: Ledger, cloud: S3Vault, s3_server: FaultyS3
) -> None:
    nas = filled(tmp_path, ledger, "nas")
    plan = plan_drop(items(*KEYS), cloud, [nas], ledger, None, DropRules())
    first = plan.items[0].key

    def refuse(method: str, path: str) -> tuple[int, str] | None:
        is_refused = method == "DELETE" and not path.endswith(first)
        return (403, "ExpiredToken") if is_refused else None

    with s3_server.failing(refuse), pytest.raises(VaultError):
        list(run_drop(plan, ledger, None, None, plan.id))
    assert states(ledger, cloud.uuid) == dict.fromkeys(set(KEYS) - {first}, "present")
    # the caller stops after the first content
    plan = plan_drop(items(*KEYS), cloud, [nas], ledger, None, DropRules())
    outcomes = run_drop(plan, ledger, None, None, plan.id)
    second = next(outcomes).key
    outcomes.close()
    assert set(states(ledger, cloud.uuid)) == set(KEYS) - {first, second}
