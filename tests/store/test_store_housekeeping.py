from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from store_world import Publisher, dataset, files_of, git, git_refs, kill_steps

from neuromirror.store import Store
from neuromirror.store.housekeeping import Kept, Rules, keep_house
from neuromirror.store.retired import PackRecord, pack_names, packs_in_use

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
EAGER = Rules(packs=0, bytes=1, bitmap_objects=1)


def tidy(store: Store, rules: Rules = EAGER, now: datetime = NOW, *, dry_run: bool = False) -> Kept:
    """How the store's only repository fared."""
    (kept,) = keep_house(store, rules=rules, dry_run=dry_run, clock=lambda: now)
    return kept


def history(store: Store, versions: int, files: int = 40) -> Publisher:
    """A dataset of which some versions were published, each with one file changed."""
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
    """Whether git finds nothing wrong; fails with git's words else."""
    git(repository, "fsck", "--full", "--strict")
    if (repository / "objects/pack/multi-pack-index").exists():
        git(repository, "multi-pack-index", "verify")
    return True


def pack_files(repository: Path) -> set[str]:
    return {path.name for path in (repository / "objects" / "pack").iterdir()}


def listed(repository: Path) -> list[str]:
    lines = (repository / "objects" / "info" / "packs").read_text().splitlines()
    return [line.removeprefix("P ").removesuffix(".pack") for line in lines if line]


def clone(address: str, target: Path) -> dict[str, str]:
    """The refs of a mirror clone, which must be whole."""
    git(target.parent, "clone", "-q", "--mirror", address, str(target))
    git(target, "fsck", "--full")
    return git_refs(target)


def test_many_packs_become_one_that_holds_the_same_objects_and_no_ref_moves(store: Store) -> None:
    repository = history(store, 6).repository.path
    refs, before = (repository / "packed-refs").read_bytes(), objects(repository)
    packs = set(pack_names(repository))
    size = sum((repository / f"objects/pack/{name}.pack").stat().st_size for name in packs)
    kept = tidy(store)
    assert (kept.status, kept.packs_before, kept.packs_after) == ("ok", len(packs), 1)
    (new,) = packs_in_use(repository)
    assert new not in packs
    assert (repository / f"objects/pack/{new}.pack").stat().st_size < size / 2
    assert (repository / "packed-refs").read_bytes() == refs
    tidy(store, now=NOW + DAY)
    assert pack_names(repository) == [new]
    assert objects(repository) == before
    assert is_whole(repository)


def test_replaced_packs_stay_for_the_grace_time_but_are_named_to_nobody_new(store: Store) -> None:
    repository = history(store, 3).repository.path
    old = pack_names(repository)
    contents = {name: (repository / f"objects/pack/{name}.pack").read_bytes() for name in old}
    tidy(store)
    (new,) = listed(repository)
    assert new not in old
    almost = NOW + DAY - timedelta(seconds=1)
    assert tidy(store, now=almost).status == "notneeded"
    for name in old:
        assert (repository / f"objects/pack/{name}.pack").read_bytes() == contents[name]
        assert (repository / f"objects/pack/{name}.idx").exists()
    assert tidy(store, now=NOW + DAY).deleted == len(old)
    assert {name for name in pack_files(repository) if name.endswith((".pack", ".idx"))} == {
        f"{new}.pack",
        f"{new}.idx",
    }
    assert PackRecord.load(repository).retired == {}
    assert is_whole(repository)


def test_a_clone_over_plain_http_works_before_during_and_after_the_grace_time(
    store: Store, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    publisher = history(store, 3)
    address = f"{serve(store.root)}/alias/{publisher.dataset.alias}"
    refs = git_refs(publisher.repository.path)
    assert clone(address, tmp_path / "before") == refs
    tidy(store)
    assert clone(address, tmp_path / "during") == refs
    packs = list((tmp_path / "during" / "objects" / "pack").glob("*.pack"))
    assert [path.stem for path in packs] == packs_in_use(publisher.repository.path)
    tidy(store, now=NOW + DAY)
    assert clone(address, tmp_path / "after") == refs


def test_a_clone_of_who_read_the_old_list_finds_every_pack_on_it(
    store: Store, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    publisher = history(store, 3)
    repository = publisher.repository.path
    address = f"{serve(store.root)}/alias/{publisher.dataset.alias}"
    before = (repository / "objects/info/packs").read_bytes()
    tidy(store)
    (repository / "objects/info/packs").write_bytes(before)
    assert clone(address, tmp_path / "clone") == git_refs(repository)


def test_a_visit_after_housekeeping_builds_on_it_and_keeps_its_work(store: Store) -> None:
    publisher = history(store, 3)
    repository = publisher.repository.path
    tidy(store)
    (made,) = packs_in_use(repository)
    publisher.publish("0.9", {"a.nwb": 1, "sub-001/a.nwb": 1001})
    tidy(store, now=NOW + DAY)
    assert len(packs_in_use(repository)) == 2
    assert made in packs_in_use(repository)
    tidy(store, now=NOW + 2 * DAY)
    assert git_refs(repository)["refs/tags/0.9"] == publisher.made[-1].commit
    assert is_whole(repository)


def test_what_no_ref_reaches_is_kept_since_a_later_mint_may_count_on_it(store: Store) -> None:
    publisher = history(store, 2)
    repository = publisher.repository.path
    before = objects(repository)
    git(repository, "update-ref", "-d", "refs/tags/0.1")
    git(repository, "update-ref", "refs/heads/main", publisher.made[0].commit)
    git(repository, "update-ref", "refs/heads/git-annex", publisher.made[0].annex_commit)
    tidy(store)
    tidy(store, now=NOW + DAY)
    assert objects(repository) == before


def test_few_small_packs_are_left_alone_and_many_are_not(store: Store) -> None:
    publisher = history(store, 2, files=3)
    repository = publisher.repository.path
    before = files_of(repository)
    assert tidy(store, Rules()).status == "notneeded"
    assert files_of(repository) == before
    count = len(pack_names(repository))
    assert tidy(store, Rules(packs=count)).status == "notneeded"
    assert tidy(store, Rules(packs=count - 1)).status == "ok"


def test_large_old_packs_are_not_packed_anew_for_small_new_ones(store: Store) -> None:
    publisher = history(store, 2, files=300)
    repository = publisher.repository.path
    tidy(store)
    (large,) = packs_in_use(repository)
    files = {f"sub-{number:03}/a.nwb": number for number in range(300)}
    for version in range(12):
        publisher.publish(f"1.{version}", {**files, "sub-000/a.nwb": 5000 + version})
        tidy(store)
        if version == 0:
            assert large in packs_in_use(repository)
    sizes = sorted(_count(repository, name) for name in packs_in_use(repository))
    assert len(sizes) <= 10
    assert all(two >= 2 * one for one, two in pairwise(sizes))
    assert is_whole(repository)


def _count(repository: Path, name: str) -> int:
    """How many objects a pack's index names: the last number of its fan-out."""
    data = (repository / f"objects/pack/{name}.idx").read_bytes()
    return int.from_bytes(data[8 + 255 * 4 : 8 + 256 * 4], "big")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(store: Store) -> None:
    history(store, 3)
    before = files_of(store.root)
    kept = tidy(store, dry_run=True)
    assert kept.status == "ok"
    assert kept.packs_after == kept.packs_before > 1
    assert files_of(store.root) == before


def test_a_dataset_that_is_visited_is_passed_over_and_the_others_are_done(store: Store) -> None:
    history(store, 3)
    other = Publisher(store, dataset(2))
    other.publish("1.0", {"a.nwb": 1})
    other.publish("2.0", {"a.nwb": 2})
    before = files_of(store.repository(dataset()).path)
    with store.lock(dataset().dataset_id, "a visit"):
        kept = {one.alias: one for one in keep_house(store, rules=EAGER)}
    assert kept["demo--000001"].status == "impossible"
    assert kept["demo--000001"].message.startswith("busy")
    assert kept["demo--000002"].status == "ok"
    assert files_of(store.repository(dataset()).path) == before


@pytest.mark.parametrize("where", ["middle", "index"])
def test_a_damaged_pack_is_never_packed_away(store: Store, where: str) -> None:
    repository = history(store, 3).repository.path
    other = Publisher(store, dataset(2))
    other.publish("1.0", {"a.nwb": 1})
    largest = max((repository / "objects/pack").glob("*.pack"), key=lambda one: one.stat().st_size)
    damaged = largest if where == "middle" else largest.with_suffix(".idx")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2 if where == "middle" else 1100] ^= 0x55
    damaged.chmod(0o644)
    damaged.write_bytes(content)
    before = files_of(repository)
    kept = {one.alias: one for one in keep_house(store, rules=EAGER)}
    assert kept["demo--000001"].status == "error"
    assert str(repository) in kept["demo--000001"].message
    assert kept["demo--000002"].status == "ok"
    assert files_of(repository) == before


def test_a_retired_pack_that_came_to_hold_something_alone_is_in_use_again(store: Store) -> None:
    repository = history(store, 3).repository.path
    before, old = objects(repository), pack_names(repository)
    tidy(store)
    (new,) = packs_in_use(repository)
    for path in (repository / "objects/pack").glob("*"):
        if path.name.startswith(("multi-pack-index", new)):
            path.unlink()
    tidy(store, now=NOW + DAY)
    assert packs_in_use(repository) == listed(repository) == old
    tidy(store, now=NOW + DAY)
    tidy(store, now=NOW + 2 * DAY)
    assert len(pack_names(repository)) == 1
    assert objects(repository) == before
    assert is_whole(repository)


def test_an_alias_that_leads_nowhere_is_an_error_of_its_own(store: Store) -> None:
    history(store, 3)
    (store.root / "alias" / "demo--lost").symlink_to("../abc/lost")
    kept = {one.alias: one.status for one in keep_house(store, rules=EAGER)}
    assert kept == {"demo--000001": "ok", "demo--lost": "error"}


def test_a_pack_that_somebody_asked_git_to_keep_is_not_touched(store: Store) -> None:
    repository = history(store, 3).repository.path
    kept_name = pack_names(repository)[0]
    (repository / f"objects/pack/{kept_name}.keep").touch()
    tidy(store)
    tidy(store, now=NOW + DAY)
    assert kept_name in packs_in_use(repository)
    assert len(packs_in_use(repository)) == 2
    assert is_whole(repository)


def test_without_its_record_housekeeping_loses_nothing(store: Store) -> None:
    repository = history(store, 3).repository.path
    before = objects(repository)
    tidy(store)
    for content in (b"", b"[]", b'{"format": 1, "made": 3, "retired": {"x": "y"}}'):
        (repository / "housekeeping.json").write_bytes(content)
        assert tidy(store).packs_after == 1
    (repository / "housekeeping.json").unlink()
    tidy(store)
    tidy(store, now=NOW + DAY)
    assert len(pack_names(repository)) == 1
    assert objects(repository) == before
    assert is_whole(repository)


def test_what_killed_processes_left_goes_when_it_is_old_enough(store: Store) -> None:
    repository = history(store, 3).repository.path
    folder = repository / "objects" / "pack"
    left = ["tmp_pack_abc", "tmp_idx_abc", "multi-pack-index.lock", f"pack-{'0' * 40}.pack"]
    for name in left:
        (folder / name).write_bytes(b"left")
    moment = datetime.now(UTC)
    tidy(store, now=moment)
    assert set(left) <= pack_files(repository)
    tidy(store, now=moment + 2 * DAY)
    assert not set(left) & pack_files(repository)
    assert is_whole(repository)


def test_the_multi_pack_index_names_the_packs_in_use_and_lets_git_count_by_bitmap(
    store: Store,
) -> None:
    publisher = history(store, 3)
    repository = publisher.repository.path
    tidy(store)
    assert any(name.endswith(".bitmap") for name in pack_files(repository))
    counted = git(repository, "rev-list", "--use-bitmap-index", "--count", "--objects", "--all")
    assert int(counted) == len(objects(repository))
    data = (repository / "objects/pack/multi-pack-index").read_bytes()
    assert all(name.encode() in data for name in packs_in_use(repository))
    assert not any(name.encode() in data for name in PackRecord.load(repository).retired)
    tidy(store, Rules())
    assert not any("multi-pack-index" in name for name in pack_files(repository))
    assert is_whole(repository)


def test_killed_at_any_step_the_repository_is_whole_and_the_next_run_finishes(
    tmp_path: Path,
) -> None:
    template = Store.open(tmp_path / "template", create=True)
    name = history(template, 3).repository.path.relative_to(template.root)
    before = objects(template.root / name)
    refs = git_refs(template.root / name)
    first = Rules(grace=timedelta(0), packs=0, bytes=1, bitmap_objects=1)
    place = tmp_path / "store"

    def prepare(step: int) -> Callable[[], object]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template.root, place, symlinks=True)
        store = Store.open(place)

        def work() -> None:
            # the second run deletes what the first has retired
            assert [one.status for one in keep_house(store, rules=first)] == ["ok"]
            assert [one.status for one in keep_house(store, rules=first)] == ["ok"]

        return work

    steps = 0
    for _ in kill_steps(prepare):
        steps += 1
        repository = place / name
        assert is_whole(repository)
        assert set(listed(repository)) <= set(pack_names(repository))
        for _ in range(3):
            assert all(one.status != "error" for one in keep_house(Store.open(place), rules=first))
        assert [one.status for one in keep_house(Store.open(place), rules=first)] == ["notneeded"]
        (pack,) = pack_names(repository)
        assert pack_files(repository) <= {f"{pack}.pack", f"{pack}.idx"} | {
            one for one in pack_files(repository) if one.startswith("multi-pack-index")
        }
        assert listed(repository) == [pack]
        assert objects(repository) == before
        assert git_refs(repository) == refs
        assert not any((place / "neuromirror" / "tmp").iterdir())
    assert steps > 10


_RUN = """
import sys
from pathlib import Path
from neuromirror.store import Store
from neuromirror.store.housekeeping import Rules, keep_house
print("begin", flush=True)
list(keep_house(Store.open(Path(sys.argv[1])), rules=Rules(packs=0, bytes=1, bitmap_objects=1)))
"""


def test_killed_while_git_is_at_work_the_next_run_finishes(store: Store) -> None:
    repository = history(store, 3, files=3000).repository.path
    before = objects(repository)
    killed = 0
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        command = [sys.executable, "-c", _RUN, str(store.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        assert is_whole(repository)
    assert killed
    tidy(store, now=datetime.now(UTC))
    tidy(store, now=datetime.now(UTC) + DAY)
    assert len(pack_names(repository)) == 1
    assert objects(repository) == before
    assert is_whole(repository)


def test_the_record_says_what_its_page_says(store: Store) -> None:
    repository = history(store, 2).repository.path
    old = pack_names(repository)
    tidy(store)
    record = json.loads((repository / "housekeeping.json").read_text())
    assert record["format"] == 1
    assert record["made"] == packs_in_use(repository)
    assert record["retired"] == dict.fromkeys(old, NOW.isoformat())
