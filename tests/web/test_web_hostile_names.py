"""Files with names that tools stumble over, and folders of very many files."""

from __future__ import annotations

import subprocess
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit

from test_web_hostile import HostileMirror

from support.mirror_harness import run_git
from support.running_catalogue import links, run_catalogue
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


def test_a_folder_is_shown_in_pages_of_one_size_however_many_files_it_has(
    box: ScriptedHarness,
) -> None:
    names = [f"many/{number:05}.txt" for number in range(1_300)]
    box.datasets["a"] = ScriptedDataset(files(*names))
    box.sync()
    with run_catalogue(box.store) as site:
        found: list[str] = []
        following: str | None = "/datasets/box:a@latest/files?limit=1000"
        while following:
            page = site.api(following)
            assert len(page["files"]) <= 1000
            found += [one["path"] for one in page["files"]]
            at = urlsplit(page["next"] or "")
            following = f"{at.path.removeprefix('/api/v1')}?{at.query}" if page["next"] else None
        assert found == names
        shown: list[str] = []
        address: str | None = "/dataset/box:a@latest?under=many/"
        while address:
            led = links(site.page(address))
            rows = [one for one in led if one.startswith("/file/")]
            assert 0 < len(rows) <= 200
            shown += rows
            address = next((one for one in led if "start=" in one), None)
        assert len(shown) == len(names)
