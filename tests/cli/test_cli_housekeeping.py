from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli.common import Settings
from neuromirror.cli.housekeeping import housekeeping_command
from neuromirror.index import UnknownDatasetError
from neuromirror.store import Store, file_lock
from neuromirror.store.retired_packs import pack_names
from support.command_shell import STATUS, CommandResult, Shell, folder_snapshot


def run(shell: Shell, *arguments: str, code: int = 0) -> CommandResult:
    """Run the command without its group, so that exceptions are raised."""
    done = CliRunner().invoke(
        housekeeping_command,
        arguments,
        obj=Settings(shell.mirrors, shell.store),
        catch_exceptions=False,
    )
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr)
    return CommandResult.from_output(done.exit_code, done.stdout, done.stderr)


def records(shell: Shell, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in run(shell, "--json", *arguments, code=code).lines]
    for record in found:
        assert record["action"] == "housekeeping"
        assert record["status"] in STATUS
    return found


def damage(shell: Shell, alias: str) -> None:
    """Make the largest pack of a repository unreadable, and large enough for housekeeping."""
    repository = (shell.store / "alias" / alias).resolve()
    pack = max((repository / "objects/pack").glob("*.pack"), key=lambda one: one.stat().st_size)
    content = pack.read_bytes()
    pack.chmod(0o644)
    pack.write_bytes(content[:12] + bytes(2 << 20) + content[12:])


def test_small_repositories_are_reported_as_needing_nothing(copied: Shell) -> None:
    before = folder_snapshot(copied.store / "alias")
    found = records(copied)
    assert {record["status"] for record in found} == {"notneeded"}
    assert {"dandi", "neuromirror"} & {record["dataset"] for record in found}
    assert folder_snapshot(copied.store / "alias") == before
    (line,) = run(copied).lines
    assert line.split()[:2] == ["notneeded", str(len(found))]


def test_a_name_chooses_a_dataset_or_a_mirror_with_its_datasets(copied: Shell) -> None:
    every = {record["dataset"] for record in records(copied)}
    one = next(name for name in sorted(every) if ":" in name)
    mirror = one.partition(":")[0]
    assert {record["dataset"] for record in records(copied, one)} == {one}
    assert {record["dataset"] for record in records(copied, mirror)} == {
        name for name in every if name == mirror or name.startswith(f"{mirror}:")
    }
    with pytest.raises(UnknownDatasetError, match="nosuch:1"):
        run(copied, "nosuch:1")


def test_a_failure_is_reported_with_exit_code_1(copied: Shell) -> None:
    name = next(record["dataset"] for record in records(copied) if ":" in record["dataset"])
    damage(copied, name.replace(":", "--"))
    found = {record["dataset"]: record for record in records(copied, code=1)}
    assert found[name]["status"] == "error"
    assert "fsck" in found[name]["message"]
    assert {one["status"] for other, one in found.items() if other != name} == {"notneeded"}
    assert name in run(copied, code=1).err


def test_a_dry_run_writes_nothing_and_a_busy_dataset_is_reported_without_failure(
    copied: Shell,
) -> None:
    name = next(record["dataset"] for record in records(copied) if ":" in record["dataset"])
    damage(copied, name.replace(":", "--"))
    before = folder_snapshot(copied.store)
    (line,) = run(copied, "--dry-run", name).lines
    assert line.startswith(f"ok         {name}  ")
    assert "would become one" in line
    assert folder_snapshot(copied.store) == before
    repository = (copied.store / "alias" / name.replace(":", "--")).resolve()
    lock = f"{repository.parent.name}{repository.name}.lock"
    with file_lock(copied.store / "neuromirror" / "locks" / lock, "a visit"):
        assert "busy" in run(copied, name).err
    assert pack_names(repository)
    assert Store.open(copied.store)
