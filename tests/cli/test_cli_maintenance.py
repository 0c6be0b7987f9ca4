"""backup, restore-index, fsck, audit, doctor, takedown, housekeeping, and their results."""

import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neuromirror.index import Index
from neuromirror.lab.audit import AuditSettings
from neuromirror.service import housekeeping
from neuromirror.store import Store, file_lock
from neuromirror.store.repack import pack_names
from neuromirror_demo import DemoArchive
from support.command_shell import Shell, folder_snapshot

ONE = "demo:000002"


def damage_manifest(shell: Shell) -> Path:
    """Flip a bit in the manifest of the newest version of a dataset; return its path."""
    with Index.open_readonly(Store.open(shell.store).index_path) as index:
        state = index.versions.resolve(ONE).state
    path = Store.open(shell.store).manifest_path(state)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    return path


# --- backup, restore-index, fsck


def test_a_backup_is_made_restored_and_counted(copied: Shell, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (made,) = copied.records("backup", str(kept), "--keep", "1")
    assert Path(made["path"]).parent == kept
    assert made["bytes"] > made["position"] > 0
    assert copied.run("backup", str(kept), "--keep", "1").out.startswith(f"ok         {kept}/")
    assert len(list(kept.glob("2*"))) == 1
    index = copied.store / "neuromirror" / "index.sqlite"
    index.unlink()
    (done,) = copied.records("restore-index", str(kept))
    assert (done["path"], done["entries"]) == (str(index), 0)
    assert copied.run("list").lines
    assert "restored" in copied.run("restore-index", str(kept)).out


def test_a_copy_of_a_store_continues_as_another_mirror(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    shell.run("sync", ONE)
    (before,) = shell.records("list")
    # as the recipe's rsync
    ignore = shutil.ignore_patterns("*.sqlite*", "locks", "tmp", "workspaces")
    shutil.copytree(shell.store, tmp_path / "copy", symlinks=True, ignore=ignore)
    other = shell.with_changes(store=tmp_path / "copy")
    other.run("rebuild-index")
    assert {record["status"] for record in other.records("fsck")} == {"ok"}
    assert other.records("list") == [before]
    (result,) = other.records("sync", ONE)
    assert (result["status"], result["message"]) == ("notneeded", "unchanged")


def test_fsck_finds_no_damage_in_an_intact_store_and_names_a_damaged_manifest(
    copied: Shell,
) -> None:
    assert copied.run("fsck").lines[-1].endswith(" 0 damaged or not checked")
    assert {record["status"] for record in copied.records("fsck")} == {"ok"}
    path = damage_manifest(copied)
    ran = copied.run("fsck", code=1)
    assert str(path) in ran.error_line
    assert "'neuromirror repair demo:000002'" in ran.error_line
    bad = [record for record in copied.records("fsck", ONE, code=1) if record["status"] != "ok"]
    assert [(one["subject"], one["path"].partition("@")[0]) for one in bad] == [("manifest", ONE)]
    assert copied.run("fsck", "demo:000001").code == 0
    # status and doctor report known damage
    assert str(path) in copied.run("status", code=1).err
    assert str(path) in copied.run("doctor", "--offline", code=1).err


def test_fsck_names_an_unknown_dataset(copied: Shell) -> None:
    assert "demo:000099" in copied.run("fsck", "demo:000099", code=2).error_line


# --- audit


def test_an_audit_checks_the_oldest_locations_first_and_shows_the_findings(
    shell: Shell, demo: DemoArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AuditSettings(allowed=("127.0.0.1",), per_second=1000.0)
    monkeypatch.setattr(housekeeping, "audit_settings_of", lambda *_: settings)
    shell.run("sync", ONE, "demo:000001")
    with Index.open_readonly(Store.open(shell.store).index_path) as index:
        count = len(index.locations.due(10_000, "2000"))
    first = shell.records("audit", "--budget", "10")
    assert [one["health"] for one in first] == ["ok"] * 10
    rest = shell.records("audit")
    assert len(rest) == count - 10
    assert not {one["url"] for one in first} & {one["url"] for one in rest}
    assert shell.run("audit").out == "0 URLs checked\n"
    assert "locations" not in shell.run("status").out
    # the object of one file is deleted, for its S3 URL and for the redirect of the API
    gone = next(one for one in rest if one["dataset"] == ONE and "versionId" in one["url"])
    demo.bucket.expire(urlsplit(gone["url"]).path.split("/", 2)[2])
    time.sleep(1.1)
    ran = shell.run("audit", "--older-than", "0", ONE, code=1)
    assert "not-found" in ran.out
    assert all(gone["path"] in line for line in ran.err.splitlines())
    status, failure = shell.records("status", code=1)
    assert list(status["location_health"]) == ["not-found"]
    assert (failure["task"], failure["status"]) == ("locations", "error")
    assert "locations" in shell.run("status", code=1).out
    (shown,) = shell.records("show", f"{ONE}@draft")
    assert list(shown["location_health"]) == ["not-found"]
    (other,) = shell.records("show", "demo:000001")
    assert other["location_health"] == {}
    # a rebuilt index has the results too
    shell.run("rebuild-index")
    assert shell.records("status", code=1)[0]["location_health"] == status["location_health"]


# --- doctor


def test_doctor_prints_a_line_per_check_and_sends_no_request_offline(synced: Shell) -> None:
    checks = {record["check"]: record for record in synced.records("doctor", "--offline")}
    assert {"git", "sqlite", "store", "store format", "index", "mirror demo"} <= set(checks)
    assert "clock" not in checks
    online = {record["check"]: record["level"] for record in synced.records("doctor")}
    assert (online["mirror demo"], online["clock"]) == ("ok", "ok")
    lines = synced.run("doctor", "--offline").lines
    assert all(line.split()[0] in ("ok", "warning") for line in lines)


# --- takedown


def test_a_takedown_is_shown_by_every_command_and_undone(copied: Shell) -> None:
    before = copied.run("list").lines
    (done, *_) = copied.records("takedown", ONE, "--reason", "withdrawn by its authors")
    assert (done["dataset"], done["status"]) == (ONE, "ok")
    for command in (["versions", ONE], ["show", ONE], ["files", ONE], ["pin", ONE, "-o", "x.lock"]):
        message = copied.run(*command, code=2).error_line
        assert "withdrawn by its authors" in message
    listed = copied.run("list").lines
    assert [line for line in listed if line.startswith(ONE)] == []
    assert f"taken down  {ONE}" in " ".join(listed)
    (status,) = copied.records("status")
    assert status["taken_down"] == [ONE]
    assert next(record["kind"] for record in copied.records("events")) == "takedown"
    assert copied.run("fsck").code == 0
    assert "withdrawn by its authors" in copied.run("sync", "--dry-run", ONE).out
    assert copied.run("takedown", ONE, "--reason", "again").out.startswith("notneeded")
    assert copied.run("takedown", ONE, "--undo").out.startswith(f"ok         {ONE}  ")
    assert copied.run("list").lines == before
    assert ONE in copied.run("takedown", ONE, "--undo", code=2).error_line


def test_a_takedown_without_a_reason_or_a_dataset_changes_nothing(copied: Shell) -> None:
    before = folder_snapshot(copied.store)
    for arguments in (
        [ONE],
        [ONE, "--undo", "--reason", "x"],
        ["demo", "--reason", "x"],
        [f"{ONE}@draft", "--reason", "x"],
        ["demo:000099", "--reason", "x"],
    ):
        copied.run("takedown", *arguments, code=2)
    assert folder_snapshot(copied.store) == before


def damage(shell: Shell, alias: str) -> None:
    """Make the largest pack of a repository unreadable, and large enough for housekeeping."""
    repository = (shell.store / "alias" / alias).resolve()
    pack = max((repository / "objects/pack").glob("*.pack"), key=lambda one: one.stat().st_size)
    content = pack.read_bytes()
    pack.chmod(0o644)
    pack.write_bytes(content[:12] + bytes(2 << 20) + content[12:])


def test_a_name_chooses_a_dataset_or_a_mirror_with_its_datasets(copied: Shell) -> None:
    every = {record["dataset"] for record in copied.records("housekeeping")}
    one = next(name for name in sorted(every) if ":" in name)
    mirror = one.partition(":")[0]
    assert {record["dataset"] for record in copied.records("housekeeping", one)} == {one}
    assert {record["dataset"] for record in copied.records("housekeeping", mirror)} == {
        name for name in every if name == mirror or name.startswith(f"{mirror}:")
    }
    assert "nosuch:1" in copied.run("housekeeping", "nosuch:1", code=2).error_line


def test_a_failure_is_reported_with_exit_code_1(copied: Shell) -> None:
    name = next(
        record["dataset"] for record in copied.records("housekeeping") if ":" in record["dataset"]
    )
    damage(copied, name.replace(":", "--"))
    found = {record["dataset"]: record for record in copied.records("housekeeping", code=1)}
    assert found[name]["status"] == "error"
    assert "fsck" in found[name]["message"]
    assert {one["status"] for other, one in found.items() if other != name} == {"notneeded"}
    assert name in copied.run("housekeeping", code=1).err


def test_a_dry_run_writes_nothing_and_a_busy_dataset_is_reported_without_failure(
    copied: Shell,
) -> None:
    name = next(
        record["dataset"] for record in copied.records("housekeeping") if ":" in record["dataset"]
    )
    damage(copied, name.replace(":", "--"))
    before = folder_snapshot(copied.store)
    (line,) = copied.run("housekeeping", "--dry-run", name).lines
    assert line.startswith(f"ok         {name}  ")
    assert "would become one" in line
    assert folder_snapshot(copied.store) == before
    repository = (copied.store / "alias" / name.replace(":", "--")).resolve()
    lock = f"{repository.parent.name}{repository.name}.lock"
    with file_lock(copied.store / "neuromirror" / "locks" / lock, "a visit"):
        assert "busy" in copied.run("housekeeping", name).err
    assert pack_names(repository)
    assert Store.open(copied.store)
