"""Malformed objects are an error message without a traceback."""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.lab.cite import state_of_clone
from neuromirror.lab.cite.states import cited_files
from neuromirror.lab.cite.works import NotCitableError
from support.crafted_repositories import (
    FILE,
    FOLDER,
    LINK,
    SUBDATASET,
    CraftedRepository,
    deep_tree,
    file_at,
    state_of,
)


def _tree(crafted: CraftedRepository, name: str) -> str:
    """Create a root tree with one defect."""
    blob, link = crafted.blob(b"x\n"), crafted.link()
    inner = crafted.tree((FILE, b"z", blob))
    described = crafted.description_entry(state_of(file_at("x")))
    x = (LINK, b"x", link)
    if name == "truncated":
        raw = b"100644 a\0" + bytes.fromhex(blob)[:7]
        return crafted.write("tree", raw)
    if name == "garbage":
        return crafted.tree(described, (FOLDER, b"a", crafted.write("tree", b"\xff" * 40)), x)
    entries = {
        "file and folder": [(FILE, b"a", blob), (FOLDER, b"a", inner)],
        "twice": [(FILE, b"a", blob), (FILE, b"a", link)],
        "parent": [(FOLDER, b"..", inner)],
        "slash": [(FILE, b"a/../../b", blob)],
        "no name": [(FILE, b"", blob)],
        "no utf-8": [(FILE, b"\xff\xfe", blob)],
        "link without utf-8": [(LINK, b"\xff\xfe", link)],
        "blob as a folder": [(FOLDER, b"a", blob)],
        "folder as a file": [(FILE, b"a", inner)],
        "missing": [(FILE, b"a", "12" * 20)],
        "missing folder": [(FOLDER, b"a", "12" * 20)],
        "odd mode": [("7", b"a", blob)],
        "link elsewhere": [(LINK, b"a", crafted.blob(b"../../../etc/passwd"))],
        "odd key": [(LINK, b"a", crafted.blob(b".git/annex/objects/aa/bb/\xff/\xff"))],
        "deep": [(FOLDER, b"a", deep_tree(crafted.path, inner, 1500) if name == "deep" else inner)],
        "part without utf-8": [(SUBDATASET, b"\xff\xfe", "12" * 20)],
        "unknown part": [(SUBDATASET, b"a", "12" * 20)],
    }[name]
    early = [entry for entry in entries if entry[1] < b".n"]
    late = [entry for entry in entries if entry not in early]
    yaml = (FILE, b"dandiset.yaml", crafted.blob(b"name: x\nidentifier: DANDI:000002\n"))
    return crafted.tree(*early, described, *late, yaml, x)


NAMES = [
    *("truncated", "garbage", "file and folder", "twice", "parent", "slash", "no name"),
    *("no utf-8", "link without utf-8", "blob as a folder", "folder as a file", "missing"),
    *("missing folder", "odd mode", "link elsewhere", "odd key", "unknown part"),
    *("part without utf-8", "deep"),
]


@pytest.fixture
def crafted(description: dict[str, Any], tmp_path: Path) -> CraftedRepository:
    """An empty repository with a work tree, for a dataset with a valid description."""
    return CraftedRepository(tmp_path / "work" / ".git", description)


@pytest.mark.parametrize("name", NAMES)
def test_a_malformed_repository_is_an_error_without_traceback(
    tmp_path: Path, crafted: CraftedRepository, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    crafted.refs(crafted.commit(_tree(crafted, name)))
    with suppress(subprocess.CalledProcessError):
        crafted.git("read-tree", "main")
    folder = crafted.path.parent
    monkeypatch.chdir(folder)
    for arguments in (
        ("verify", "FOLDER"),
        ("cite", "FOLDER", "--format", "croissant", "-o", "OUT"),
        ("cite", "FOLDER", "--format", "ro-crate"),
        ("diff", "FOLDER", "FOLDER"),
        ("get", "FOLDER"),
    ):
        names = {"FOLDER": str(folder), "OUT": str(tmp_path / "out")}
        command = [names.get(argument, argument) for argument in arguments]
        done = CliRunner().invoke(main, ["--store", "none", *command])
        assert done.exit_code in (0, 1, 2)
        assert done.exception is None or type(done.exception) is SystemExit, repr(done.exception)
        if done.exit_code and arguments[0] == "cite":
            assert done.stdout == ""  # no partial output
        assert {path.name for path in tmp_path.iterdir()} <= {"work", "out", "home"}
        assert [path.name for path in folder.iterdir()] == [".git"]


@pytest.mark.parametrize("name", ["file and folder", "twice"])
def test_colliding_paths_are_not_cited(crafted: CraftedRepository, name: str) -> None:
    crafted.refs(crafted.commit(_tree(crafted, name)))
    with pytest.raises(NotCitableError):
        list(cited_files(state_of_clone(crafted.path.parent)))
