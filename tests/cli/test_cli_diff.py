"""``neuromirror diff``: output and exit codes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.command_shell import Shell

OLD, NEW = "demo:000002@0.240301.1026", "demo:000002@0.240301.1055"


def test_records_are_of_changes_and_the_last_of_all(synced: Shell) -> None:
    *changes, last = synced.records("diff", OLD, NEW)
    assert {one["type"] for one in changes} == {"change"}
    assert changes[0]["old_digest"] != changes[0]["new_digest"]
    assert (last["type"], last["old"], last["new"]) == ("summary", OLD, NEW)
    assert last["files"] == {"changed": 1, "removed": 1, "added": 1, "document": 2}
    assert last["bytes"]["removed"] == changes[1]["old_size"]


def test_changes_of_metadata_are_summarised_and_name_their_fields(synced: Shell) -> None:
    published, draft = NEW, "demo:000002@draft"
    lines = synced.run("diff", draft, published).lines
    (summary,) = (line for line in lines if line.startswith("metadata"))
    assert summary.split(None, 2)[2] == "5 files (retention; list: --metadata)"
    (document,) = (line for line in synced.run("diff", OLD, NEW).lines if ".jsonl" in line)
    changed = "(changed: blobDateModified, identifier of sub-201/sub-201_ses-02_ecephys.nwb)"
    assert document.endswith(changed)
    listed = synced.run("diff", "--metadata", draft, published).lines
    assert [line for line in lines if line != summary] == [
        line for line in listed if not line.startswith("metadata")
    ]
    assert sum(line.endswith(" (retention)") for line in listed) == 5
    changes = synced.records("diff", draft, published)
    assert sum(one.get("kind") == "metadata" for one in changes) == 5


def test_the_exit_code_reports_differences_only_with_the_option(synced: Shell) -> None:
    for code in (0, 1):
        more = ["--exit-code"] * code
        synced.run("diff", *more, OLD, NEW, code=code)
        assert "no difference" in synced.run("diff", *more, OLD, OLD).out


def test_a_clone_is_compared_without_a_store_of_its_own(synced: Shell, tmp_path: Path) -> None:
    folders = []
    for version in (OLD, NEW):
        folder = tmp_path / version.partition("@")[2]
        source = (synced.store / "alias" / "demo--000002").resolve()
        subprocess.run(["git", "clone", "-q", str(source), str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", "-q", folder.name], check=True)
        folders.append(str(folder))
    assert "no difference" in synced.run("diff", "--exit-code", folders[0], OLD).out
    nowhere = synced.with_changes(store=tmp_path / "nowhere")
    ran = nowhere.run("diff", *folders)
    assert ran.lines[:-1] == synced.run("diff", OLD, NEW).lines[:-1]
