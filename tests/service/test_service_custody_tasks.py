"""The service runs policies and reads vaults; failures are in the journal, status and metrics."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from neuromirror.crawl import FailureLog, open_recorder
from neuromirror.custody import drill
from neuromirror.custody.drill_records import DrillRecords, DrillResult
from neuromirror.index import Schedule
from neuromirror.model import EventRaised
from neuromirror.service.custody_status import CustodyStatus
from neuromirror.service.custody_tasks import CustodyTasks
from neuromirror.service.housekeeping_scheduler import HousekeepingScheduler
from neuromirror.service.housekeeping_tasks import (
    HousekeepingSettings,
    HousekeepingTask,
    housekeeping_tasks,
)
from neuromirror.service.metrics import Metrics
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest
from support.vaults import write_vault

NAMES = ("policies", "vaults")
POLICY = """
[[keep]]
name = "papers"
what = "pins"
locks = ["../locks"]
vaults = ["nas"]
"""


@pytest.fixture
def mirror(copied_harness: MirrorHarness, tmp_path: Path) -> MirrorHarness:
    (tmp_path / "locks").mkdir()
    pin_latest(copied_harness, tmp_path / "locks" / "datasets.lock", "demo:000002")
    write_vault(tmp_path / "vaults", "nas")
    (tmp_path / "vaults" / "policies.toml").write_text(POLICY)
    return copied_harness


class Service:
    """Runs the tasks for vaults as a service does."""

    def __init__(self, mirror: MirrorHarness, vaults: Path) -> None:
        self.mirror = mirror
        self.settings = HousekeepingSettings(audit_days=0, vaults_folder=vaults)

    def run(self, *names: str) -> tuple[int, list[tuple[str, str]], str]:
        """Run tasks; return how many failed, the recorded failures, and the metrics."""
        store = self.mirror.store
        with (
            open_recorder(store, store.index_path) as recorder,
            Schedule.open(store.schedule_path) as schedule,
        ):
            all_tasks = housekeeping_tasks(
                *(store, store.index_path, recorder, schedule), self.settings
            )
            tasks = [
                HousekeepingTask(one.name, 0, one.run) for one in all_tasks if one.name in names
            ]
            assert len(tasks) == len(names)
            metrics = Metrics(store, store.index_path, schedule, ["demo"])
            scheduler = HousekeepingScheduler(tasks, schedule, metrics, FailureLog(recorder))
            failed = scheduler.run_due()
            page = metrics.page().decode()
        with self.mirror.index() as index:
            rows = [(one.task, one.message) for one in index.failures()]
        return failed, rows, page


@pytest.fixture
def service(mirror: MirrorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    # a drill of less than the usual half second asks whether to stop, too
    monkeypatch.setattr(drill, "_POLL", 0.01)
    return Service(mirror, tmp_path / "vaults")


def test_policies_are_run_and_damage_is_repaired(service: Service, tmp_path: Path) -> None:
    failed, failures, page = service.run(*NAMES)
    contents = CustodyStatus.load(service.mirror.store).policies.policies["papers"].contents
    assert (failed, failures) == (0, [])
    assert contents > 0
    assert f'neuromirror_vault_copies{{vault="nas"}} {contents}.0' in page
    assert 'neuromirror_policy_lacking_contents{policy="papers"} 0.0' in page
    # every content is due at once
    policies = tmp_path / "vaults" / "policies.toml"
    policies.write_text(f"full_read_days = 0.0000001\n{POLICY}")
    copies = sorted(one for one in tmp_path.rglob("vault-nas/annex/objects/**/*") if one.is_file())
    right = copies[0].read_bytes()
    copies[0].chmod(0o644)
    copies[0].write_bytes(bytes([right[0] ^ 1]) + right[1:])
    assert service.run("vaults")[:2] == (0, [])
    assert copies[0].read_bytes() == right


def test_a_vault_that_cannot_be_used_is_a_failure_until_it_can(
    service: Service, tmp_path: Path
) -> None:
    nas = tmp_path / "vaults" / "nas.toml"
    good = nas.read_text()
    (tmp_path / "file").write_text("")
    nas.write_text(f'kind = "directory"\npath = "{tmp_path}/file/vault"\n')
    failed, failures, page = service.run(*NAMES)
    assert failed == 2
    assert {task for task, _ in failures} == set(NAMES)
    assert all("nas" in message for _, message in failures)
    assert 'neuromirror_vault_unusable{vault="nas"} 1.0' in page
    assert list(CustodyStatus.load(service.mirror.store).problems())
    nas.write_text(good)
    assert service.run(*NAMES)[:2] == (0, [])
    assert not list(CustodyStatus.load(service.mirror.store).problems())


def test_what_cannot_be_kept_in_time_is_an_event_and_a_failure(
    service: Service, tmp_path: Path
) -> None:
    policies = tmp_path / "vaults" / "policies.toml"
    policies.write_text(f"{POLICY}max_gigabytes = 1e-9\n")
    failed, failures, page = service.run("policies")
    assert (failed, [task for task, _ in failures]) == (1, ["policies"])
    (event,) = [one for one in service.mirror.entries(EventRaised) if one.kind == "shortage"]
    assert (event.local_id, event.data["reason"]) == ("000002", "budget")
    assert 'neuromirror_policy_announced_contents{policy="papers"} 0.0' not in page
    service.run("policies")
    events = [one for one in service.mirror.entries(EventRaised) if one.kind == "shortage"]
    assert len(events) == 1


def test_lock_files_of_policies_are_drilled_and_a_failed_drill_is_a_failure(
    service: Service, tmp_path: Path
) -> None:
    service.run("policies")
    assert service.run("drill")[:2] == (0, [])
    lock = tmp_path / "locks" / "datasets.lock"
    (path, record), *_ = CustodyStatus.load(service.mirror.store).drills.items()
    assert (path, record.ok) == (str(lock), True)
    policies = tmp_path / "vaults" / "policies.toml"
    policies.write_text(f"drill_days = 0.0000001\n{POLICY}")
    (lost, *_) = (one for one in tmp_path.rglob("vault-nas/annex/objects/**/*") if one.is_file())
    lost.parent.chmod(0o755)
    lost.unlink()
    # a drill without all files, and one whose process fails
    for content in (lock.read_text(), "not a lock file"):
        lock.write_text(content)
        failed, failures, page = service.run("drill")
        assert (failed, [task for task, _ in failures]) == (1, ["drill"])
        assert "neuromirror_failed_drills 1.0" in page
        (record,) = CustodyStatus.load(service.mirror.store).drills.values()
        assert (record.ok, record.vaults) == (False, ["nas"])
    assert "exit code" in record.message


def test_a_failed_drill_is_repeated_after_a_day_and_keeps_the_results_of_other_lock_files(
    service: Service, tmp_path: Path
) -> None:
    service.run("policies")
    store, lock = service.mirror.store, str(tmp_path / "locks" / "datasets.lock")
    other = tmp_path / "other.lock"
    other.write_text("drilled by another process at the same time")

    def failed_drill(hours: float) -> DrillResult:
        return DrillResult(time.time() - hours * 3600, ok=False, message="vault down")

    def record_other() -> bool:
        records = DrillRecords.load(store)
        records.drills[str(other)] = DrillResult(1.0, ok=True)
        records.drills[str(tmp_path / "gone.lock")] = failed_drill(1)
        records.save(store)
        return False

    DrillRecords({lock: failed_drill(20)}).save(store)
    assert service.run("drill")[0] == 1
    DrillRecords({lock: failed_drill(25)}).save(store)
    with open_recorder(store, store.index_path) as recorder:
        vaults = tmp_path / "vaults"
        CustodyTasks(store, store.index_path, recorder, vaults, record_other).run_drills()
    found = DrillRecords.load(store).drills
    assert {name: one.ok for name, one in found.items()} == {lock: True, str(other): True}


def test_a_stopped_drill_is_no_result(service: Service, tmp_path: Path) -> None:
    service.run("policies")
    store = service.mirror.store
    with open_recorder(store, store.index_path) as recorder:
        tasks = CustodyTasks(store, store.index_path, recorder, tmp_path / "vaults", lambda: True)
        tasks.run_drills()
    assert DrillRecords.load(store).drills == {}
