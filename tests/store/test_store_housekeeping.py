import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from neuromirror.store import HousekeepingPolicy, HousekeepingResult, Store, run_housekeeping
from neuromirror.store.repack import PackRecord, active_pack_names, pack_names
from support.disk_states import disk_states
from support.store_publisher import (
    Publisher,
    dataset,
    exit_code,
    fork_child,
    git,
    git_refs,
    packed_objects,
    read_files,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
EAGER = HousekeepingPolicy(max_packs=0, max_bytes=1, min_bitmap_objects=1)


def run(
    store: Store, policy: HousekeepingPolicy = EAGER, now: datetime = NOW, *, dry_run: bool = False
) -> HousekeepingResult:
    """Run housekeeping; return the result for the store's only repository."""
    (kept,) = run_housekeeping(store, policy=policy, dry_run=dry_run, clock=lambda: now)
    return kept


def history(store: Store, versions: int, files: int = 40) -> Publisher:
    """A dataset with published versions, each with one changed file."""
    publisher = Publisher(store)
    listed = {f"sub-{number:03}/a.nwb": number for number in range(files)}
    for version in range(versions):
        listed[f"sub-{version:03}/a.nwb"] = 1000 + version
        publisher.publish(f"0.{version}", dict(listed))
    return publisher


def objects(repository: Path) -> set[str]:
    """Ids of all objects, reachable or not."""
    form = "--batch-check=%(objectname)"
    return set(git(repository, "cat-file", "--batch-all-objects", form).split())


def is_whole(repository: Path) -> bool:
    """Run ``git fsck``; fail with its messages."""
    git(repository, "fsck", "--full", "--strict")
    if (repository / "objects/pack/multi-pack-index").exists():
        git(repository, "multi-pack-index", "verify")
    return True


def pack_files(repository: Path) -> set[str]:
    return {path.name for path in (repository / "objects" / "pack").iterdir()}


def listed_packs(repository: Path) -> list[str]:
    lines = (repository / "objects" / "info" / "packs").read_text().splitlines()
    return [line.removeprefix("P ").removesuffix(".pack") for line in lines if line]


def clone(address: str, target: Path) -> dict[str, str]:
    """Make a mirror clone and check it; return its refs."""
    git(target.parent, "clone", "-q", "--mirror", address, str(target))
    git(target, "fsck", "--full")
    return git_refs(target)


def test_many_packs_become_one_that_holds_the_same_objects_and_no_ref_moves(store: Store) -> None:
    repository = history(store, 6).repository.path
    refs, before = (repository / "packed-refs").read_bytes(), objects(repository)
    packs = set(pack_names(repository))
    size = sum((repository / f"objects/pack/{name}.pack").stat().st_size for name in packs)
    kept = run(store)
    assert (kept.status, kept.packs_before, kept.packs_after) == ("ok", len(packs), 1)
    (new,) = active_pack_names(repository)
    assert new not in packs
    assert (repository / f"objects/pack/{new}.pack").stat().st_size < size / 2
    assert (repository / "packed-refs").read_bytes() == refs
    run(store, now=NOW + DAY)
    assert pack_names(repository) == [new]
    assert objects(repository) == before
    assert is_whole(repository)


def test_replaced_packs_stay_for_the_grace_period_but_are_not_listed(store: Store) -> None:
    repository = history(store, 3).repository.path
    old = pack_names(repository)
    contents = {name: (repository / f"objects/pack/{name}.pack").read_bytes() for name in old}
    run(store)
    (new,) = listed_packs(repository)
    assert new not in old
    almost = NOW + DAY - timedelta(seconds=1)
    assert run(store, now=almost).status == "notneeded"
    for name in old:
        assert (repository / f"objects/pack/{name}.pack").read_bytes() == contents[name]
        assert (repository / f"objects/pack/{name}.idx").exists()
    assert run(store, now=NOW + DAY).deleted == len(old)
    assert {name for name in pack_files(repository) if name.endswith((".pack", ".idx"))} == {
        f"{new}.pack",
        f"{new}.idx",
    }
    assert PackRecord.load(repository).retired_packs == {}
    assert is_whole(repository)


def test_clone_over_plain_http_works_before_during_and_after_the_grace_period(
    store: Store, serve_directory: Callable[[Path], str], tmp_path: Path
) -> None:
    publisher = history(store, 3)
    address = f"{serve_directory(store.root)}/alias/{publisher.dataset.alias}"
    refs = git_refs(publisher.repository.path)
    assert clone(address, tmp_path / "before") == refs
    run(store)
    assert clone(address, tmp_path / "during") == refs
    packs = list((tmp_path / "during" / "objects" / "pack").glob("*.pack"))
    assert [path.stem for path in packs] == active_pack_names(publisher.repository.path)
    run(store, now=NOW + DAY)
    assert clone(address, tmp_path / "after") == refs


def test_clone_with_the_old_pack_list_finds_every_pack(
    store: Store, serve_directory: Callable[[Path], str], tmp_path: Path
) -> None:
    publisher = history(store, 3)
    repository = publisher.repository.path
    address = f"{serve_directory(store.root)}/alias/{publisher.dataset.alias}"
    before = (repository / "objects/info/packs").read_bytes()
    run(store)
    (repository / "objects/info/packs").write_bytes(before)
    assert clone(address, tmp_path / "clone") == git_refs(repository)


def test_a_visit_after_housekeeping_builds_on_it_and_keeps_its_work(store: Store) -> None:
    publisher = history(store, 3)
    repository = publisher.repository.path
    run(store)
    (made,) = active_pack_names(repository)
    publisher.publish("0.9", {"a.nwb": 1, "sub-001/a.nwb": 1001})
    run(store, now=NOW + DAY)
    assert len(active_pack_names(repository)) == 2
    assert made in active_pack_names(repository)
    run(store, now=NOW + 2 * DAY)
    assert git_refs(repository)["refs/tags/0.9"] == publisher.minted[-1].commit
    assert is_whole(repository)


def test_unreachable_objects_are_kept_for_later_mints(store: Store) -> None:
    publisher = history(store, 2)
    repository = publisher.repository.path
    before = objects(repository)
    git(repository, "update-ref", "-d", "refs/tags/0.1")
    git(repository, "update-ref", "refs/heads/main", publisher.minted[0].commit)
    git(repository, "update-ref", "refs/heads/git-annex", publisher.minted[0].annex_commit)
    run(store)
    run(store, now=NOW + DAY)
    assert objects(repository) == before


def test_few_small_packs_are_not_consolidated_and_many_are(store: Store) -> None:
    publisher = history(store, 2, files=3)
    repository = publisher.repository.path
    before = read_files(repository)
    assert run(store, HousekeepingPolicy()).status == "notneeded"
    assert read_files(repository) == before
    count = len(pack_names(repository))
    assert run(store, HousekeepingPolicy(max_packs=count)).status == "notneeded"
    assert run(store, HousekeepingPolicy(max_packs=count - 1)).status == "ok"


def test_large_old_packs_are_not_repacked_for_small_new_ones(store: Store) -> None:
    publisher = history(store, 2, files=80)
    repository = publisher.repository.path
    run(store)
    (large,) = active_pack_names(repository)
    files = {f"sub-{number:03}/a.nwb": number for number in range(80)}
    for version in range(8):
        publisher.publish(f"1.{version}", {**files, "sub-000/a.nwb": 5000 + version})
        run(store)
        if version == 0:
            assert large in active_pack_names(repository)
    sizes = sorted(_count(repository, name) for name in active_pack_names(repository))
    assert len(sizes) <= 6
    assert all(two >= 2 * one for one, two in pairwise(sizes))
    assert is_whole(repository)


def _count(repository: Path, name: str) -> int:
    """Number of objects in a pack index: the last number of its fan-out table."""
    data = (repository / f"objects/pack/{name}.idx").read_bytes()
    return int.from_bytes(data[8 + 255 * 4 : 8 + 256 * 4], "big")


def test_dry_run_reports_the_work_and_writes_nothing(store: Store) -> None:
    history(store, 3)
    before = read_files(store.root)
    kept = run(store, dry_run=True)
    assert kept.status == "ok"
    assert kept.packs_after == kept.packs_before > 1
    assert read_files(store.root) == before


def test_dataset_being_visited_is_skipped_and_the_others_are_processed(store: Store) -> None:
    history(store, 3)
    other = Publisher(store, dataset(2))
    other.publish("1.0", {"a.nwb": 1})
    other.publish("2.0", {"a.nwb": 2})
    before = read_files(store.repositories.of(dataset()).path)
    with store.lock(dataset().dataset_id, "a visit"):
        kept = {one.alias: one for one in run_housekeeping(store, policy=EAGER)}
    assert kept["demo--000001"].status == "impossible"
    assert kept["demo--000001"].message.startswith("busy")
    assert kept["demo--000002"].status == "ok"
    assert read_files(store.repositories.of(dataset()).path) == before


@pytest.mark.parametrize("where", ["middle", "index"])
def test_damaged_pack_is_never_consolidated(store: Store, where: str) -> None:
    repository = history(store, 3).repository.path
    other = Publisher(store, dataset(2))
    other.publish("1.0", {"a.nwb": 1})
    largest = max((repository / "objects/pack").glob("*.pack"), key=lambda one: one.stat().st_size)
    damaged = largest if where == "middle" else largest.with_suffix(".idx")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2 if where == "middle" else 1100] ^= 0x55
    damaged.chmod(0o644)
    damaged.write_bytes(content)
    before = read_files(repository)
    kept = {one.alias: one for one in run_housekeeping(store, policy=EAGER)}
    assert kept["demo--000001"].status == "error"
    assert str(repository) in kept["demo--000001"].message
    assert kept["demo--000002"].status == "ok"
    assert read_files(repository) == before


def test_retired_pack_with_the_only_copy_of_an_object_returns_to_use(store: Store) -> None:
    repository = history(store, 3).repository.path
    before, old = objects(repository), pack_names(repository)
    run(store)
    (new,) = active_pack_names(repository)
    for path in (repository / "objects/pack").glob("*"):
        if path.name.startswith(("multi-pack-index", new)):
            path.unlink()
    run(store, now=NOW + DAY)
    assert active_pack_names(repository) == listed_packs(repository) == old
    run(store, now=NOW + DAY)
    run(store, now=NOW + 2 * DAY)
    assert len(pack_names(repository)) == 1
    assert objects(repository) == before
    assert is_whole(repository)


def test_dangling_alias_is_reported_as_an_error(store: Store) -> None:
    history(store, 3)
    (store.root / "alias" / "demo--lost").symlink_to("../abc/lost")
    kept = {one.alias: one.status for one in run_housekeeping(store, policy=EAGER)}
    assert kept == {"demo--000001": "ok", "demo--lost": "error"}


def test_pack_with_a_keep_file_is_not_touched(store: Store) -> None:
    repository = history(store, 3).repository.path
    kept_name = pack_names(repository)[0]
    (repository / f"objects/pack/{kept_name}.keep").touch()
    run(store)
    run(store, now=NOW + DAY)
    assert kept_name in active_pack_names(repository)
    assert len(active_pack_names(repository)) == 2
    assert is_whole(repository)


def test_without_its_record_housekeeping_loses_nothing(store: Store) -> None:
    repository = history(store, 3).repository.path
    before = objects(repository)
    run(store)
    for content in (b"", b"[]", b'{"format": 2, "consolidated": 3, "retired": {"x": "y"}}'):
        (repository / "housekeeping.json").write_bytes(content)
        assert run(store).packs_after == 1
    (repository / "housekeeping.json").unlink()
    run(store)
    run(store, now=NOW + DAY)
    assert len(pack_names(repository)) == 1
    assert objects(repository) == before
    assert is_whole(repository)


def test_files_of_killed_processes_are_removed_after_the_grace_period(store: Store) -> None:
    repository = history(store, 3).repository.path
    folder = repository / "objects" / "pack"
    left = ["tmp_pack_abc", "tmp_idx_abc", "multi-pack-index.lock", f"pack-{'0' * 40}.pack"]
    for name in left:
        (folder / name).write_bytes(b"left")
    moment = datetime.now(UTC)
    run(store, now=moment)
    assert set(left) <= pack_files(repository)
    run(store, now=moment + 2 * DAY)
    assert not set(left) & pack_files(repository)
    assert is_whole(repository)


def test_the_multi_pack_index_names_the_packs_in_use_and_lets_git_count_by_bitmap(
    store: Store,
) -> None:
    publisher = history(store, 3)
    repository = publisher.repository.path
    run(store)
    assert any(name.endswith(".bitmap") for name in pack_files(repository))
    counted = git(repository, "rev-list", "--use-bitmap-index", "--count", "--objects", "--all")
    assert int(counted) == len(objects(repository))
    data = (repository / "objects/pack/multi-pack-index").read_bytes()
    assert all(name.encode() in data for name in active_pack_names(repository))
    assert not any(name.encode() in data for name in PackRecord.load(repository).retired_packs)
    run(store, HousekeepingPolicy())
    assert not any("multi-pack-index" in name for name in pack_files(repository))
    assert is_whole(repository)


def test_repository_is_intact_after_a_kill_at_any_step_and_the_next_run_finishes(
    store: Store,
) -> None:
    root = store.root
    publisher = history(store, 3)
    repository = publisher.repository.path
    before = set(packed_objects(repository))
    refs = git_refs(repository)
    first = HousekeepingPolicy(
        grace_period=timedelta(0), max_packs=0, max_bytes=1, min_bitmap_objects=1
    )

    def work() -> None:
        # the second run deletes the packs that the first retired
        assert [one.status for one in run_housekeeping(store, policy=first)] == ["ok"]
        assert [one.status for one in run_housekeeping(store, policy=first)] == ["ok"]

    for _ in disk_states(root, work, at_least=10):
        assert is_whole(repository)
        assert set(listed_packs(repository)) <= set(pack_names(repository))
        for _ in range(3):
            assert all(
                one.status != "error" for one in run_housekeeping(Store.open(root), policy=first)
            )
        assert [one.status for one in run_housekeeping(Store.open(root), policy=first)] == [
            "notneeded"
        ]
        (pack,) = pack_names(repository)
        assert pack_files(repository) <= {f"{pack}.pack", f"{pack}.idx"} | {
            one for one in pack_files(repository) if one.startswith("multi-pack-index")
        }
        assert listed_packs(repository) == [pack]
        assert set(packed_objects(repository)) == before
        assert publisher.repository.refs() == refs
        assert not any((root / "neuromirror" / "tmp").iterdir())


def test_run_after_a_kill_during_repacking_finishes(store: Store) -> None:
    repository = history(store, 3, files=600).repository.path
    before = objects(repository)
    killed = 0
    for delay in (0.0, 0.02, 0.05):
        child = fork_child(lambda: list(run_housekeeping(Store.open(store.root), policy=EAGER)))
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        killed += exit_code(child) == -signal.SIGKILL
        assert is_whole(repository)
    assert killed
    run(store, now=datetime.now(UTC))
    run(store, now=datetime.now(UTC) + DAY)
    assert len(pack_names(repository)) == 1
    assert objects(repository) == before
    assert is_whole(repository)


def test_housekeeping_record_matches_its_format_page(store: Store) -> None:
    repository = history(store, 2).repository.path
    old = pack_names(repository)
    run(store)
    record = json.loads((repository / "housekeeping.json").read_text())
    assert record["format"] == 2
    assert record["consolidated"] == active_pack_names(repository)
    assert record["retired"] == dict.fromkeys(old, NOW.isoformat())
