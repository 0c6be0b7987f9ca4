"""Files with names that tools stumble over, and folders of very many files."""

import subprocess
import unicodedata
from pathlib import Path

from test_web_hostile import HostileMirror

from support.mirror_harness import run_git
from support.running_catalogue import run_catalogue
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, files

NAMES = [
    *(
        "new\nline",
        "cr\rhere",
        "\x1b[2Jclear",
        "tab\t",
        'quote\'s "q"',
        "\\back\\n",
        " lead",
        "trail ",
    ),
    *("..", "../up", "a/../b", "-rf", "--help", "# comment", "*", "%0A", "\u202egnp.exe", "\u2028"),
    *("x" * 255, "y" * 300, "/".join(["d" * 200] * 18)),
]
ALIKE = ["e\u0301.txt", "\u00e9.txt", "Case.txt", "case.txt", "CASE.TXT", "Dir/a", "dir/a", "DIR/A"]


def test_sha256sum_checks_every_file_by_the_list_whatever_its_name(
    box: ScriptedHarness, tmp_path: Path
) -> None:
    contents: dict[str, ScriptedFile] = {
        name: HostileMirror(b"%d" % number) for number, name in enumerate(NAMES)
    }
    box.datasets["odd"] = ScriptedDataset(contents)
    box.sync()
    with run_catalogue(box.store) as site:
        sums = site.get("/checksums/box:odd@latest").content
        listed = site.api("/datasets/box:odd@latest/files?limit=1000")["files"]
    assert len(listed) == len(NAMES)
    by_digest = {one.record("x").digest("sha256").value: one.content for one in contents.values()}
    for one in listed:
        path = tmp_path / "tree" / one["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(by_digest[one["digests"]["sha256"]])
    (tmp_path / "SUMS").write_bytes(sums)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", str(tmp_path / "SUMS")],
        cwd=tmp_path / "tree", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(": OK\n") == len(NAMES)


def test_names_that_are_alike_for_some_file_systems_are_all_committed(box: ScriptedHarness) -> None:
    box.datasets["alike"] = ScriptedDataset(files(*ALIKE))
    assert box.sync()["box:alike"].visit == "full"
    tree = run_git(box.repository("box:alike"), "ls-tree", "-r", "-z", "--name-only", "main")
    committed = [name for name in tree.split("\0") if not name.startswith(".") and name]
    assert sorted(committed) == sorted(ALIKE)
    folded = {unicodedata.normalize("NFC", name).casefold() for name in committed}
    assert len(folded) == 3
