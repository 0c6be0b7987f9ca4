"""``neuromirror housekeeping``: what is repacked, and what is reported."""

from __future__ import annotations

from neuromirror.store import Store, file_lock
from neuromirror.store.repack import pack_names
from support.command_shell import Shell, folder_snapshot


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
