"""Policies run on a mirror of the demo archive, with directory vaults."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from neuromirror.config.policy_files import load_policies
from neuromirror.config.vault_files import POLICY_FILE, load_vaults
from neuromirror.custody import lock_sources
from neuromirror.custody.announcements import Announcement
from neuromirror.custody.keep_outcomes import KeepOptions, KeepOutcome
from neuromirror.custody.policies import PolicyRun
from neuromirror.custody.policy_status import PoliciesStatus
from neuromirror.index.ledger import Ledger
from neuromirror.lab import PinRequest, pin
from neuromirror.model import ConfigurationError, DatasetRef
from neuromirror.store import StoreBusyError
from neuromirror.store.custody import published_locations
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness, run_git
from support.pinned_locks import pin_latest
from support.synced_mirror import copy_mirror
from support.vaults import write_vault

DAY = 86_400.0
PINS = """
[[keep]]
name = "papers"
what = "pins"
locks = ["../locks"]
vaults = ["nas", "cloud"]
"""


class Keeper:
    """Runs the policies of a folder."""

    def __init__(self, mirror: MirrorHarness, folder: Path) -> None:
        self.mirror = mirror
        self.vaults = folder / "vaults"
        self.days = 0.0
        for name in ("nas", "cloud"):
            write_vault(self.vaults, name)

    def policies(self, text: str) -> None:
        (self.vaults / POLICY_FILE).write_text(text)

    def pin(self) -> Path:
        """Pin a dataset in a new lock file of the folder of the policies."""
        folder = self.vaults.parent / "locks"
        folder.mkdir()
        return pin_latest(self.mirror, folder / "datasets.lock", "demo:000001")

    def saved(self) -> PoliciesStatus:
        return PoliciesStatus.load(self.mirror.store)

    def clock(self) -> float:
        return datetime.now(UTC).timestamp() + self.days * DAY

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        with Ledger.open(self.mirror.store.ledger_path, self.clock) as opened:
            yield opened

    def run(self, *names: str, **options: object) -> tuple[list[KeepOutcome], list[Announcement]]:
        configs = load_vaults(self.vaults)
        policies = load_policies(self.vaults, configs)
        store = self.mirror.store
        with (
            self.mirror.index() as index,
            self.ledger() as ledger,
            PolicyRun(store, index, ledger, configs, policies, names) as run,
        ):
            run.prepare()
            outcomes = list(run.copy(KeepOptions(**options)))  # type: ignore[arg-type]
            return outcomes, run.finish()

    def status(self, name: str = "papers") -> tuple[int, int, int]:
        one = self.saved().policies[name]
        return one.contents, one.lacking, one.announced

    def published(self, dataset: str) -> dict[str, set[str]]:
        """Return the vaults of each content that the repository of a dataset names."""
        with self.mirror.index() as index, self.ledger() as ledger:
            row = next(one for one in index.datasets() if one.name == dataset)
            names = {one.uuid: one.name for one in ledger.vaults()}
        ref = DatasetRef(row.mirror, row.local_id, row.source_uri)
        found = published_locations(self.mirror.store, ref)
        return {key: {names[one] for one in vaults} for key, vaults in found}

    def copies(self) -> dict[str, int]:
        with self.ledger() as ledger:
            return {one.name: one.copies for one in ledger.vaults()}


@pytest.fixture
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> MirrorHarness:
    """A store; its archive is the test's own if the test changes it."""
    if "demo" not in request.fixturenames:
        return copy_mirror(request.getfixturevalue("still_mirror"), tmp_path / "store")
    harness = MirrorHarness(request.getfixturevalue("demo").mirrors, tmp_path / "store")
    harness.sync("demo:000001", "demo:000002")
    return harness


@pytest.fixture
def keeper(mirror: MirrorHarness, tmp_path: Path) -> Keeper:
    return Keeper(mirror, tmp_path)


def replace_after_pinning(mirror: MirrorHarness, demo: DemoArchive, folder: Path) -> None:
    """Pin a draft, one file of which upstream then replaces."""
    folder.mkdir()
    path = demo.paths("000002")[0]
    demo.change_file("000002", path, "bytes of a draft")
    mirror.sync("demo:000002")
    with mirror.index() as index:
        requests = [PinRequest("demo:000002", "draft")]
        found = list(pin(folder / "datasets.lock", requests, mirror.store, index))
    assert {one.status for one in found} == {"ok"}
    demo.change_file("000002", path, "other bytes")
    mirror.sync("demo:000002")


def test_pins_are_kept_in_both_vaults_and_a_second_run_copies_nothing(
    keeper: Keeper, mirror: MirrorHarness, tmp_path: Path
) -> None:
    keeper.pin()
    keeper.policies(PINS)
    outcomes, announced = keeper.run()
    assert {one.status for one in outcomes} == {"ok"}
    contents, lacking, _ = keeper.status()
    assert contents > 0
    assert (lacking, announced) == (0, [])
    assert len(outcomes) == 2 * contents
    assert keeper.copies() == {"nas": contents, "cloud": contents}
    assert keeper.run() == ([], [])
    # the second copy is of the first vault, without another download
    assert {one.message for one in outcomes if one.vault == "cloud"} == {"from nas"}
    with keeper.ledger() as ledger:
        keys = [one.key or "" for one in outcomes]
        assert ledger.wishes.needed(keys) == set(keys)
    branch = run_git(mirror.repository("demo:000001"), "rev-parse", "custody/git-annex")
    assert len(branch.strip()) == 40


def test_contents_that_may_be_private_are_not_copied_from_a_private_vault_to_one_for_others(
    keeper: Keeper, mirror: MirrorHarness, tmp_path: Path
) -> None:
    other = MirrorHarness(mirror.mirrors, tmp_path / "other")
    other.sync("demo:000004")
    (tmp_path / "locks").mkdir()
    pin_latest(other, tmp_path / "locks" / "datasets.lock", "demo:000004")
    path = str(tmp_path / "vault-nas")
    write_vault(keeper.vaults, "nas", kind="directory", path=path, private=True)
    keeper.policies(PINS)
    outcomes, _ = keeper.run()
    assert {(one.vault, one.status, one.message) for one in outcomes} == {
        ("nas", "ok", ""),
        ("cloud", "ok", ""),
    }


def test_a_vault_that_is_down_is_announced_once_and_filled_from_the_other_one(
    keeper: Keeper, mirror: MirrorHarness, demo: DemoArchive, tmp_path: Path
) -> None:
    replace_after_pinning(mirror, demo, tmp_path / "locks")
    keeper.policies(PINS)
    (keeper.vaults / "cloud.toml").rename(tmp_path / "cloud.toml")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    write_vault(keeper.vaults, "cloud", kind="directory", path=str(blocked / "vault"))
    _, announced = keeper.run()
    contents, lacking, due = keeper.status()
    assert (lacking, due, announced) == (contents, 0, [])
    assert "cloud" in keeper.saved().vaults
    assert demo.expire_blobs() > 0
    # 30 days after the replacement are 14 days from now
    keeper.days = 17
    _, (first,) = keeper.run()
    # the replaced file, and one of the draft, which was not listed for 17 days
    assert (first.reason, first.contents, first.dataset) == ("vault", 2, "demo:000002")
    assert first.horizon is not None
    left = first.horizon - datetime.fromtimestamp(keeper.clock(), UTC)
    assert timedelta(days=12) < left < timedelta(days=14)
    assert keeper.run()[1] == []
    assert keeper.status()[1:] == (contents, 2)
    (tmp_path / "cloud.toml").replace(keeper.vaults / "cloud.toml")
    outcomes, _ = keeper.run()
    assert {(one.status, one.vault, one.message) for one in outcomes} == {
        ("ok", "cloud", "from nas")
    }
    assert keeper.status()[1:] == (0, 0)


def test_content_that_upstream_lost_before_it_was_kept_is_announced_with_the_reason(
    keeper: Keeper, mirror: MirrorHarness, demo: DemoArchive, tmp_path: Path
) -> None:
    replace_after_pinning(mirror, demo, tmp_path / "locks")
    keeper.policies(PINS)
    demo.expire_blobs()
    keeper.days = 17
    outcomes, announced = keeper.run()
    assert [one.key for one in outcomes if one.failed] != []
    assert [(one.reason, one.contents) for one in announced] == [("upstream", 1)]
    assert keeper.status()[1:] == (1, 1)


def test_only_published_files_that_match_are_kept_in_the_first_vault_that_works(
    keeper: Keeper, mirror: MirrorHarness
) -> None:
    keeper.policies(
        '[[keep]]\nname = "nwb"\nwhat = "published"\ndatasets = ["demo:*"]\n'
        'paths = ["*.nwb", "**/*.nwb"]\nvaults = ["cloud", "nas"]\ncopies = 1\n'
    )
    outcomes, _ = keeper.run()
    with mirror.index() as index:
        expected = {
            one.key
            for name in ("demo:000001", "demo:000002")
            for one in index.retained_files(name, published_only=True)
            if one.path.endswith(".nwb")
        }
    assert {one.key for one in outcomes} == expected != set()
    assert keeper.copies() == {"cloud": len(expected)}


def test_a_lock_that_cannot_be_read_is_a_problem_and_its_contents_stay_wanted(
    keeper: Keeper, mirror: MirrorHarness, tmp_path: Path
) -> None:
    lock = keeper.pin()
    keeper.policies(PINS)
    keys = [one.key or "" for one in keeper.run()[0]]
    lock.write_text("lock-version = 1\n[[dataset]]\nname = 7\n")
    keeper.run()
    (problem,) = keeper.saved().policies["papers"].problems
    assert str(lock) in problem
    shutil.rmtree(tmp_path / "locks")
    keeper.run()
    with keeper.ledger() as ledger:
        assert ledger.wishes.needed(keys) == set(keys)
    keeper.policies("")
    with keeper.ledger() as ledger:
        assert ledger.wishes.needed(keys) == set(keys)


def test_a_lock_of_a_newer_release_is_a_problem_and_other_files_are_not(
    keeper: Keeper, tmp_path: Path
) -> None:
    (tmp_path / "locks").mkdir()
    newer = tmp_path / "locks" / "newer.lock"
    newer.write_text("lock-version = 99\n")
    (tmp_path / "locks" / "uv.lock").write_text("version = 1\n")
    keeper.policies(PINS)
    keeper.run()
    (problem,) = keeper.saved().policies["papers"].problems
    assert str(newer) in problem


def test_an_error_in_one_dataset_is_a_problem_and_the_run_goes_on(
    keeper: Keeper, mirror: MirrorHarness, tmp_path: Path
) -> None:
    keeper.pin()
    keeper.policies(PINS)
    busy = mirror.repository("demo:000001") / "packed-refs.lock"
    busy.write_text("git is running")
    outcomes, _ = keeper.run()
    assert {one.vault for one in outcomes if one.path == "."} == {"nas", "cloud"}
    contents, lacking, _ = keeper.status()
    assert (contents > 0, lacking) == (True, 0)
    assert keeper.saved().policies["papers"].problems
    with keeper.ledger() as ledger:
        keys = [one.key for one in outcomes if one.key is not None]
        assert ledger.wishes.needed(keys) == set(keys) != set()
    # the next run publishes the copies
    busy.unlink()
    assert keeper.run() == ([], [])
    assert keeper.saved().policies["papers"].problems == []
    assert run_git(mirror.repository("demo:000001"), "rev-parse", "custody/git-annex").strip()


def test_pins_of_all_branches_and_tags_of_a_repository_are_kept(
    keeper: Keeper, mirror: MirrorHarness, tmp_path: Path
) -> None:
    paper = tmp_path / "paper"
    paper.mkdir()
    run_git(paper, "init", "-q")
    lock = pin_latest(mirror, paper / "datasets.lock", "demo:000001")
    run_git(paper, "add", ".")
    run_git(paper, "commit", "-qm", "first")
    run_git(paper, "tag", "v1")
    lock.unlink()
    pin_latest(mirror, lock, "demo:000002")
    run_git(paper, "add", ".")
    run_git(paper, "commit", "-qm", "second")
    bare = tmp_path / "paper.git"
    run_git(tmp_path, "clone", "-q", "--bare", str(paper), str(bare))
    keeper.policies(PINS.replace("../locks", "../paper.git").replace(', "cloud"', ""))
    datasets = {one.dataset for one in keeper.run()[0]}
    assert datasets == {"demo:000001", "demo:000002"}


def test_the_copies_of_locks_that_no_branch_has_any_more_are_removed(
    keeper: Keeper, paper: Path, mirror: MirrorHarness
) -> None:
    keeper.policies(PINS.replace("../locks", "../paper").replace(', "cloud"', ""))
    (paper / "datasets.lock").unlink()
    pin_latest(mirror, paper / "datasets.lock", "demo:000002")
    run_git(paper, "add", ".")
    run_git(paper, "commit", "-qm", "second")
    run_git(paper, "branch", "old", "HEAD^")
    keeper.run()
    copies = mirror.store.journal_path.parent / "pinned-locks"
    both = set(copies.iterdir())
    run_git(paper, "branch", "-D", "old")
    broken = paper / "newer.lock"
    broken.write_text("lock-version = 99\n")
    keeper.run()
    # what cannot be read may be in use
    assert set(copies.iterdir()) == both
    broken.unlink()
    keeper.run()
    assert len(both) == 2
    (left,) = copies.iterdir()
    assert "demo:000002" in (left / "datasets.lock").read_text()


@pytest.fixture
def paper(mirror: MirrorHarness, tmp_path: Path) -> Path:
    """A git repository with a lock file."""
    paper = tmp_path / "paper"
    paper.mkdir()
    run_git(paper, "init", "-q")
    pin_latest(mirror, paper / "datasets.lock", "demo:000001")
    run_git(paper, "add", ".")
    run_git(paper, "commit", "-qm", "first")
    return paper


def test_no_program_of_a_repository_of_locks_is_run(
    keeper: Keeper, paper: Path, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    for name in ("core.fsmonitor", "filter.a.smudge", "filter.a.process", "core.sshCommand"):
        run_git(paper, "config", name, f"touch {marks}/{name}; cat")
    run_git(paper, "config", "remote.origin.url", f"ext::sh -c touch% {marks}/ext")
    run_git(paper, "config", "remote.origin.promisor", "true")
    run_git(paper, "config", "protocol.ext.allow", "always")
    (paper / ".git" / "info" / "attributes").write_text("* filter=a export-subst\n")
    paper.joinpath("datasets.lock").unlink()  # only the committed one
    keeper.policies(PINS.replace("../locks", "../paper").replace(', "cloud"', ""))
    for mark in marks.iterdir():
        mark.unlink()
    assert {one.dataset for one in keeper.run()[0]} == {"demo:000001"}
    assert keeper.saved().policies["papers"].problems == []
    assert list(marks.iterdir()) == []


def test_committed_locks_of_any_size_and_form_are_not_copied(
    keeper: Keeper, paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = run_git(paper, "rev-parse", "HEAD:datasets.lock").strip()
    entry = f"100644 blob {blob}\t".encode()
    tree = make_tree(paper, entry + b"victim")
    for number, name in enumerate((b"..", b".", b"datasets.lock.d")):
        inner = make_tree(paper, b"40000 tree " + tree.encode() + b"\t" + name)
        top = make_tree(
            paper, entry + b"a.lock\0" + b"40000 tree " + inner.encode() + b"\ta.lock.d"
        )
        commit = run_git(paper, "commit-tree", "-m", "x", top).strip()
        run_git(paper, "branch", f"b{number}", commit)
    monkeypatch.setattr(lock_sources, "_MAX_BYTES", 10_000)
    (paper / "big.lock").write_bytes(b"a" * 20_000)
    run_git(paper, "add", ".")
    run_git(paper, "commit", "-qm", "second")
    run_git(paper, "rm", "-q", "--cached", "big.lock")
    (paper / "big.lock").unlink()
    keeper.policies(PINS.replace("../locks", "../paper").replace(', "cloud"', ""))
    assert {one.dataset for one in keeper.run()[0]} == {"demo:000001"}
    problems = "\n".join(keeper.saved().policies["papers"].problems)
    assert "big.lock in commit" in problems
    assert problems.count("is damaged") == 2
    store = keeper.mirror.store.root
    assert len(list(store.rglob("victim"))) == 1
    assert not list(store.rglob("big.lock"))


def make_tree(repository: Path, entries: bytes) -> str:
    """Write a tree that git itself would refuse; ``entries`` are as for ``git mktree``."""
    content = b""
    for one in entries.split(b"\0"):
        meta, _, name = one.partition(b"\t")
        mode, _, oid = meta.split()
        content += mode + b" " + name + b"\0" + bytes.fromhex(oid.decode())
    done = subprocess.run(
        ["git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
        cwd=repository,
        input=content,
        capture_output=True,
        check=True,
    )
    return done.stdout.decode().strip()


def test_nothing_is_copied_outside_of_the_hours_unless_it_is_urgent(
    keeper: Keeper, mirror: MirrorHarness, demo: DemoArchive, tmp_path: Path
) -> None:
    replace_after_pinning(mirror, demo, tmp_path / "locks")
    hour = (datetime.now(UTC).hour + 12) % 24
    keeper.policies(f'{PINS}hours = "{hour:02d}:00-{hour:02d}:30"\n'.replace(', "cloud"', ""))
    assert keeper.run()[0] == []
    assert keeper.status()[1] > 1
    keeper.days = 17
    assert len(keeper.run()[0]) == 2


def test_a_vault_whose_folder_is_gone_is_not_created_again(
    keeper: Keeper, mirror: MirrorHarness, tmp_path: Path
) -> None:
    keeper.pin()
    keeper.policies(PINS)
    keeper.run()
    (tmp_path / "vault-nas").rename(tmp_path / "unmounted")
    keeper.run()
    assert not (tmp_path / "vault-nas").exists()
    assert "nas" in keeper.saved().vaults


def test_policies_of_another_folder_do_not_end_those_of_the_store(
    keeper: Keeper, mirror: MirrorHarness, tmp_path: Path
) -> None:
    keeper.pin()
    keeper.policies(PINS.replace(', "cloud"', ""))
    keys = [one.key or "" for one in keeper.run()[0]]
    first = keeper.vaults
    keeper.vaults = tmp_path / "other" / "vaults"
    keeper.vaults.parent.mkdir()
    write_vault(keeper.vaults, "nas", kind="directory", path=str(tmp_path / "vault-nas"))
    keeper.policies(PINS.replace(', "cloud"', "").replace("papers", "others"))
    with pytest.raises(ConfigurationError):
        keeper.run()
    assert set(keeper.saved().policies) == {"papers"}
    with keeper.ledger() as ledger:
        assert ledger.wishes.needed(keys) == set(keys) != set()
    # the folder was moved
    first.rename(tmp_path / "away")
    keeper.run()
    assert set(keeper.saved().policies) == {"others"}


def test_copies_that_a_vault_refuses_are_announced_as_its_problem(
    keeper: Keeper,
    mirror: MirrorHarness,
    demo: DemoArchive,
    tmp_path: Path,
    mount_disk: Callable[[str], Path],
) -> None:
    replace_after_pinning(mirror, demo, tmp_path / "locks")
    full = mount_disk("64k")
    write_vault(keeper.vaults, "nas", kind="directory", path=str(full / "vault"))
    keeper.policies(PINS.replace(', "cloud"', ""))
    keeper.days = 17
    outcomes, (first,) = keeper.run()
    assert {one.host for one in outcomes} == {"nas"}
    assert first.reason == "vault"


TWO = """
[[keep]]
name = "papers"
what = "pins"
locks = ["../locks"]
vaults = ["nas"]

[[keep]]
name = "others"
what = "pins"
locks = ["../locks"]
vaults = ["cloud"]
"""


def unpublished(keeper: Keeper) -> None:
    """Make copies for two policies that could not be published yet."""
    keeper.pin()
    keeper.policies(TWO)
    busy = keeper.mirror.repository("demo:000001") / "packed-refs.lock"
    busy.write_text("git is running")
    keeper.run()
    busy.unlink()
    assert all(keeper.copies().values())
    assert keeper.published("demo:000001") == {}


def test_copies_of_an_unavailable_vault_are_published_when_it_is_back(
    keeper: Keeper, tmp_path: Path
) -> None:
    unpublished(keeper)
    (tmp_path / "vault-cloud").rename(tmp_path / "unmounted")
    # a run of one policy leaves the copies of the others to be published
    keeper.run("papers")
    assert set.union(*keeper.published("demo:000001").values()) == {"nas"}
    keeper.run()
    assert set.union(*keeper.published("demo:000001").values()) == {"nas"}
    (tmp_path / "unmounted").rename(tmp_path / "vault-cloud")
    keeper.run()
    assert set.union(*keeper.published("demo:000001").values()) == {"nas", "cloud"}


def test_a_run_of_one_policy_keeps_the_problems_of_the_vaults_of_the_others(
    keeper: Keeper, tmp_path: Path
) -> None:
    unpublished(keeper)
    (tmp_path / "vault-cloud").rename(tmp_path / "unmounted")
    keeper.run()
    keeper.run("papers")
    assert set(keeper.saved().vaults) == {"cloud"}
    # no policy names it any more
    keeper.policies(TWO.replace("cloud", "nas"))
    keeper.run("papers")
    assert keeper.saved().vaults == {}


def test_policies_are_not_run_during_another_run(keeper: Keeper, tmp_path: Path) -> None:
    keeper.pin()
    keeper.policies(TWO)
    busy: list[bool] = []

    def run_during_copy(_: int) -> None:
        with pytest.raises(StoreBusyError):
            keeper.run()
        busy.append(True)

    keeper.run(report_bytes=run_during_copy)
    assert busy
    assert keeper.run() == ([], [])
