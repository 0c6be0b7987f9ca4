"""The notebook of the docs runs, in a kernel of this environment, against the demo archive."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
from neuromirror.index import Index
from neuromirror.lab import PinRequest, pin
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.documented_commands import DOCS, run_page

NOTEBOOK = DOCS / "notebooks" / "pinned-version.ipynb"
VERSION = "demo:000002@0.240301.1055"
SETTING = re.compile(r'os\.environ\.get\("(PINNED_\w+)", "(.*?)"\)')


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(notebook: Any) -> str:
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    return "".join(one.get("text", "") for one in outputs)


def pictures(notebook: Any) -> int:
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    return sum("image/png" in one.get("data", {}) for one in outputs)


@pytest.fixture
def paper(shared_demo: DemoArchive, tmp_path: Path) -> Path:
    """A lock with a bundle beside it, whose store is gone."""
    store = Store.open(tmp_path / "gone", create=True)
    requests = parse_sync_requests(["demo:000002"], load_mirrors(shared_demo.mirrors))
    assert {one.status for one in Sync(store, store.index_path).results(requests)} == {"ok"}
    folder = tmp_path / "paper"
    folder.mkdir()
    with Index.open_readonly(store.index_path) as index:
        pin_requests = [PinRequest("demo:000002", "0.240301.1055", bundle=True)]
        assert {
            one.status for one in pin(folder / "datasets.lock", pin_requests, store, index)
        } == {"ok"}
    return folder


def test_the_notebook_opens_a_version_from_nothing_but_its_name(
    shared_demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PINNED_VERSION", VERSION)
    monkeypatch.setenv("PINNED_API", shared_demo.api_url)
    ran = read()
    NotebookClient(
        ran, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    output = printed(ran)
    assert f"{VERSION}: 5 files, 211,122 bytes, swh:1:rev:" in output
    assert "sha256 holds: " in output
    for line in ("commit: 1 ok", "state: 1 ok", "file: 1 ok", "file: 4 notneeded"):
        assert f"{line}\n" in output
    assert "Series, (500, " in output
    assert "(Version 0.240301.1055) [Data set]. DANDI Archive." in output
    assert pictures(ran) == 1


def test_a_lock_is_opened_as_the_how_to_says(paper: Path) -> None:
    copy = paper / "pinned-version.ipynb"
    copy.write_bytes(NOTEBOOK.read_bytes())
    run_page(
        "notebook.md", paper, {"sub-RAT123/sub-RAT123.nwb": "sub-201/sub-201_ses-01_ecephys.nwb"}
    )
    ran = nbformat.read(paper / "result.ipynb", as_version=4)
    assert "sub-201/sub-201_ses-01_ecephys.nwb: 52,776 bytes, sha256:" in printed(ran)
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
