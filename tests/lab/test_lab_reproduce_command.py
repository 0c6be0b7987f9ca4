"""``neuromirror reproduce``: output and exit codes."""

import json
from pathlib import Path
from typing import Any

from click.testing import Result

from neuromirror_demo import DemoArchive
from support.lab_store import LabStore
from support.lock_folders import LockFolder


def run(lab: LabStore, *arguments: str) -> Result:
    return LockFolder(lab.mirror_harness, lab.folder).command("reproduce", *arguments)


def records(done: Result) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for one in found:
        assert one["action"] == "reproduce"
        assert one["status"] in ("ok", "impossible", "error")
        assert isinstance(one["message"], str)
    return found


def test_equal_versions_exit_with_0(still_lab: LabStore) -> None:
    labels = still_lab.labels("demo:000002")
    names = [f"demo:000002@{label}" for label in labels]
    done = run(still_lab, *names, "demo:000002", "demo:000001@draft")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines() if not line.startswith(" ")]
    # two names of one version give one result
    assert [one[:2] for one in lines[:2]] == [["ok", name] for name in names]
    assert len(lines) == 3
    with still_lab.mirror_harness.index() as index:
        commit = index.versions.resolve("demo:000002").commit
    assert f"  commit {commit}  equal" in done.stdout.splitlines()


def test_a_difference_does_not_stop_the_other_comparisons(lab: LabStore, demo: DemoArchive) -> None:
    lab.mirror_harness.sync()
    (label, _) = lab.labels("demo:000002")
    path = demo.paths("000002", label)[0]
    demo.tamper_published("000002", label, path)
    demo.add_file("000004", "new.txt", "new")
    demo.delete_dandiset("000003")
    done = run(lab, "--json", f"demo:000002@{label}", "demo:000003", "demo:000004", "demo:000008")
    assert done.exit_code == 1
    wrong, gone, moved, same = records(done)
    assert [one["status"] for one in (wrong, gone, moved, same)] == [
        "error",
        "impossible",
        "impossible",
        "ok",
    ]
    assert wrong["first"] == wrong["version"] == label
    assert wrong["differences"]["other_bytes"] == {"count": 1, "first": [path]}
    assert wrong["stored"]["commit"] != wrong["minted"]["commit"]
    assert gone["minted"] is None
    assert same["stored"] == same["minted"]
    assert same["promised"] == ["commit", "tree", "state"]
    complaints = done.stderr.splitlines()
    assert [line.split()[:2] for line in complaints] == [
        ["error", wrong["name"]],
        ["impossible", gone["name"]],
        ["impossible", moved["name"]],
    ]


def test_keep_retains_the_new_commits(still_lab: LabStore, tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    done = run(still_lab, "--json", "--keep", str(keep), "demo:000002")
    (record,) = records(done)
    folder = Path(record["folder"])
    assert folder.parent == keep
    (repository,) = folder.glob("*/alias/demo--000002")
    assert record["minted"]["commit"] in (repository / "packed-refs").read_text()
    done = run(still_lab, "--keep", str(keep), "demo:000002")
    assert (done.exit_code, str(keep) in done.stderr) == (2, True)


def test_keep_folder_must_not_be_in_the_store(still_lab: LabStore) -> None:
    before = still_lab.file_states()
    done = run(still_lab, "--keep", str(still_lab.mirror_harness.folder), "demo:000002")
    assert (done.exit_code, still_lab.file_states()) == (2, before)
