"""The notebook of the docs runs, in a kernel of this environment, against the demo archive."""

import itertools
import os
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import nbformat
import pytest

from neuromirror_demo import DemoArchive
from support.documented_commands import DOCS, run_page
from support.terminal import ForkedProgram

NOTEBOOK = DOCS / "notebooks" / "pinned-version.ipynb"
VERSION = "demo:000002@0.240301.1055"
SETTING = re.compile(r'os\.environ\.get\("(PINNED_\w+)", "(.*?)"\)')


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(notebook: Any) -> str:
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


def pictures(notebook: Any) -> int:
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_pins_a_version_by_name_and_opens_its_lock_as_the_how_to_says(
    shared_demo: DemoArchive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # without a lock: the cells before the first download, as one program
    named, paper = tmp_path / "named", tmp_path / "paper"
    named.mkdir()
    paper.mkdir()
    program = ForkedProgram()
    with closing(program), monkeypatch.context() as patch:
        patch.setenv("PATH", f"{program.path}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PINNED_VERSION", VERSION)
        patch.setenv("PINNED_API", shared_demo.api_url)
        patch.chdir(named)
        code = [cell.source for cell in read().cells if cell.cell_type == "code"]
        exec("\n".join(itertools.takewhile(lambda one: "restore(" not in one, code)), {})
    output = capsys.readouterr().out
    assert f"{VERSION}: 5 files, 211,122 bytes, swh:1:rev:" in output
    assert "_ecephys.nwb: 52,776 bytes, sha256:" in output

    # the reader of a paper has its lock, and no store
    for path in (named / "datasets.lock", named / "datasets.lock.d"):
        path.rename(paper / path.name)
    named.rename(tmp_path / "gone")
    (paper / NOTEBOOK.name).write_bytes(NOTEBOOK.read_bytes())
    run_page(
        "notebook.md", paper, {"sub-RAT123/sub-RAT123.nwb": "sub-201/sub-201_ses-01_ecephys.nwb"}
    )
    ran = nbformat.read(paper / "result.ipynb", as_version=4)
    output = printed(ran)
    assert f"{VERSION}: 5 files, 211,122 bytes, swh:1:rev:" in output
    assert "sub-201/sub-201_ses-01_ecephys.nwb: 52,776 bytes, sha256:" in output
    assert "sha256 holds: " in output
    for line in ("commit: 1 ok", "state: 1 ok", "file: 1 ok", "file: 4 notneeded"):
        assert f"{line}\n" in output
    assert "Series, (500, " in output
    assert "(Version 0.240301.1055) [Data set]. DANDI Archive." in output
    assert pictures(ran) == 1
    assert not (paper / "store").exists()


def test_the_notebook_is_kept_without_results_and_asks_dandi() -> None:
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell.source
        assert cell.get("execution_count") is None
        assert set(cell.metadata) == set()
    settings = dict(SETTING.findall("".join(cell.source for cell in notebook.cells)))
    assert settings["PINNED_API"] == "https://api.dandiarchive.org/api"
    assert settings["PINNED_VERSION"].startswith("dandi:")
    page = (DOCS / "howto" / "notebook.md").read_text("utf-8")
    assert {name for name in settings if f"`{name}`" not in page} == set()
    assert os.environ["HOME"] not in NOTEBOOK.read_text("utf-8")
