"""The service keeps lock files in vaults, reads the copies, and reports what it could not keep."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import FailureLog, open_recorder
from neuromirror.index import Schedule
from neuromirror.index.ledger import Ledger
from neuromirror.service.custody_tasks import CustodyError, CustodyStatus, run_keeps
from neuromirror.service.housekeeping import (
    HousekeepingScheduler,
    HousekeepingSettings,
    HousekeepingTask,
    housekeeping_tasks,
)
from neuromirror.service.metrics import Metrics
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest
from support.vaults import write_vault

KEEP = '[[keep]]\nlocks = "../papers/*/datasets.lock"\nvault = "nas"\n'


@pytest.fixture
def mirror(copied_harness: MirrorHarness, tmp_path: Path) -> MirrorHarness:
    """A store, a lock file of a paper, a vault file and a list of what to keep."""
    (tmp_path / "papers" / "a").mkdir(parents=True)
    pin_latest(copied_harness, tmp_path / "papers" / "a" / "datasets.lock", "demo:000002")
    write_vault(tmp_path / "vaults", "nas")
    (tmp_path / "vaults" / "keep.toml").write_text(KEEP)
    return copied_harness


@pytest.fixture
def run(mirror: MirrorHarness, tmp_path: Path) -> Callable[[], tuple[int, list[str], str]]:
    """Run the task as a service does; return how often it failed, its failures and the metrics."""
    store = mirror.store

    def run_task() -> tuple[int, list[str], str]:
        settings = HousekeepingSettings(audit_days=0, vaults_folder=tmp_path / "vaults")
        with (
            open_recorder(store, store.index_path) as recorder,
            Schedule.open(store.schedule_path) as schedule,
        ):
            (task,) = (
                HousekeepingTask(one.name, 0, one.run)
                for one in housekeeping_tasks(
                    *(store, store.index_path, recorder, schedule), settings
                )
                if one.name == "keep"
            )
            metrics = Metrics(store, store.index_path, schedule, ["demo"])
            scheduler = HousekeepingScheduler([task], schedule, metrics, FailureLog(recorder))
            failed = scheduler.run_due()
            page = metrics.page().decode()
        with mirror.index() as index:
            return (
                failed,
                [failure.message for failure in index.crawl.failures() if failure.task == "keep"],
                page,
            )

    return run_task


Run = Callable[[], tuple[int, list[str], str]]


def copies(tmp_path: Path) -> list[Path]:
    """Return the copies in the vault."""
    objects = tmp_path / "vault-nas" / "annex" / "objects"
    return sorted(one for one in objects.rglob("*") if one.is_file())


def status(mirror: MirrorHarness) -> tuple[int, list[dict[str, object]], str]:
    """Return the exit code of ``status``, its records and its text."""
    command = ["status", "--store", str(mirror.store.root)]
    shown = CliRunner().invoke(main, [*command, "--json"])
    text = CliRunner().invoke(main, command)
    assert text.exit_code == shown.exit_code
    return text.exit_code, [json.loads(line) for line in shown.stdout.splitlines()], text.output


def test_lock_files_are_kept_as_by_the_command_and_damage_is_repaired(
    mirror: MirrorHarness, run: Run, tmp_path: Path
) -> None:
    failed, failures, page = run()
    (kept,) = CustodyStatus.load(mirror.store).keeps
    assert (failed, failures, kept.problems, kept.lacking) == (0, [], [], 0)
    assert kept.contents == len(copies(tmp_path)) > 0
    assert f'neuromirror_vault_copies{{vault="nas"}} {kept.contents}.0' in page
    assert f'neuromirror_keep_contents{{vault="nas"}} {kept.contents}.0' in page
    assert 'neuromirror_keep_lacking_contents{vault="nas"} 0.0' in page
    code, records, _ = status(mirror)
    (record,) = (one for one in records if one.get("kind") == "keep")
    assert (code, record["status"], record["contents"]) == (0, "ok", kept.contents)
    # the command finds everything kept, and a drop releases what the service keeps
    lock = str(tmp_path / "papers" / "a" / "datasets.lock")
    more = ["--store", str(mirror.store.root), "--vaults", str(tmp_path / "vaults"), "--json"]
    done = CliRunner().invoke(main, ["keep", lock, "--in", "nas", *more])
    assert json.loads(done.stdout.splitlines()[-1])["notneeded"] == kept.contents
    with Ledger.open(mirror.store.ledger_path) as ledger:
        assert [wish.what for wish in ledger.wishes.all()] == [lock]
    # wrong bytes are found when the copies are due, and missing ones at once
    damaged, lost, *_ = copies(tmp_path)
    right = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(bytes([right[0] ^ 1]) + right[1:])
    lost.parent.chmod(0o755)
    lost.unlink()
    assert run()[0] == 0
    assert lost.is_file()
    assert damaged.read_bytes() != right
    (tmp_path / "vaults" / "keep.toml").write_text(f"{KEEP}check_days = 0.0000001\n")
    assert run()[:2] == (0, [])
    assert damaged.read_bytes() == right


def test_what_cannot_be_kept_is_a_failure_in_status_until_it_can(
    mirror: MirrorHarness, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "vaults" / "keep.toml").write_text(
        f'{KEEP}[[keep]]\nlocks = "../theses/*.lock"\nvault = "nas"\n'
    )
    failed, (message,), _ = run()
    assert (failed, "../theses/*.lock" in message) == (1, True)
    code, records, text = status(mirror)
    found = {record["locks"]: record for record in records if record.get("kind") == "keep"}
    assert {locks: one["status"] for locks, one in found.items()} == {
        "../papers/*/datasets.lock": "ok",
        "../theses/*.lock": "error",
    }
    assert (code, "no lock file matches" in text) == (1, True)
    (tmp_path / "theses").mkdir()
    (tmp_path / "theses" / "b.lock").write_text("this is no lock file")
    assert run()[0] == 1
    (tmp_path / "vaults" / "keep.toml").write_text(KEEP)
    assert run()[:2] == (0, [])
    assert status(mirror)[0] == 0
    # a vault whose disk is not mounted is not created once more
    (tmp_path / "vault-nas").rename(tmp_path / "unmounted")
    failed, (message,), _ = run()
    assert (failed, "nas" in message, "mounted" in message) == (1, True, True)
    assert status(mirror)[0] == 1
    (tmp_path / "unmounted").rename(tmp_path / "vault-nas")
    assert run()[:2] == (0, [])
    assert status(mirror)[0] == 0


def test_one_content_that_cannot_be_stored_does_not_keep_the_others_out(
    mirror: MirrorHarness, run: Run, tmp_path: Path
) -> None:
    assert run()[0] == 0
    victim, *others = copies(tmp_path)
    folder = victim.parent
    folder.chmod(0o755)
    victim.unlink()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    for other in others[:1]:
        other.parent.chmod(0o755)
        other.unlink()
    failed, (message,), _ = run()
    assert (failed, victim.name in message or "symbolic link" in message) == (1, True)
    assert others[0].is_file()
    (kept,) = CustodyStatus.load(mirror.store).keeps
    assert (kept.lacking, len(kept.problems)) == (1, 1)


def test_data_of_a_private_store_is_kept_in_a_private_vault_only(
    mirror: MirrorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.custody.copies.is_private_store", lambda root: True)
    arguments = mirror.store, mirror.store.index_path, tmp_path / "vaults", 60.0
    with pytest.raises(CustodyError, match="is private"):
        run_keeps(*arguments)
    assert not os.path.exists(tmp_path / "vault-nas")
    path = str(tmp_path / "vault-nas")
    write_vault(tmp_path / "vaults", "nas", kind="directory", path=path, private=True)
    run_keeps(*arguments)
    assert copies(tmp_path)


def test_serve_once_keeps_and_its_exit_code_is_that_of_a_failed_task(
    mirror: MirrorHarness, tmp_path: Path
) -> None:
    vaults = tmp_path / "vaults"
    command = ["serve", "--once", "--store", str(mirror.store.root), "--mirrors"]
    command += [str(mirror.mirrors), "--vaults", str(vaults)]
    (vaults / "keep.toml").write_text(KEEP.replace("papers", "theses"))
    assert CliRunner().invoke(main, command).exit_code == 1
    (vaults / "keep.toml").write_text(f"{KEEP}hours = 1\n")
    wrong = CliRunner().invoke(main, command)
    assert (wrong.exit_code, "keep.0.hours" in wrong.output, "keep.toml" in wrong.output) == (
        2,
        True,
        True,
    )
