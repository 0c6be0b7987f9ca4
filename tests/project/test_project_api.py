"""Every example of the page on Python runs, one after the other, beside the demo archive."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from neuromirror import lab
from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
from neuromirror.store import Store
from neuromirror_demo import DemoArchive

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def blocks() -> list[str]:
    return _BLOCK.findall(PAGE.read_text("utf-8"))


@pytest.fixture
def folder(shared_demo: DemoArchive, tmp_path: Path) -> Path:
    """The folder of the tutorial, as far as these examples need it."""
    store = Store.open(tmp_path / "store", create=True)
    requests = parse_sync_requests(
        ["demo:000002", "demo:000005"], load_mirrors(shared_demo.mirrors)
    )
    done = list(Sync(store, store.index_path).results(requests))
    assert {one.status for one in done} == {"ok"}
    return tmp_path


def test_the_examples_of_the_page_run_in_order(folder: Path) -> None:
    code = "\n".join(blocks())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output = done.stdout
    assert "demo:000002@0.240301.1055 5 " in output
    assert "ok demo:000005 " in output
    assert "notneeded sub-201/" in output
    assert "removed sub-202/sub-202_ses-01_behavior.nwb" in output
    assert "@dataset{" in output
    assert "no.lock" in output


def test_the_page_shows_each_verb_and_names_only_what_there_is() -> None:
    text = PAGE.read_text("utf-8")
    imported = {
        name.strip()
        for line in re.findall(r"^from neuromirror\.lab import (.*)$", text, re.M)
        for name in line.split(",")
    }
    assert imported <= set(lab.__all__)
    assert {"pin", "restore", "get", "verify", "diff", "find_any", "cite"} <= imported
