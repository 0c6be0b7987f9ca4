"""A pytest plugin: mark tests by what they need and how long they take, and run long ones first."""

import gc
import json
from collections import defaultdict
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

MARKED_FILES = {
    "browser": ("tests/browser/*",),
    "dask": ("tests/service/test_service_executors_dask.py",),
    "kill": (
        "tests/service/test_service_catalogue_process.py",
        "tests/service/test_service_executors.py",
        "tests/service/test_service_serve.py",
        "tests/transfer/test_transfer_stalled_servers.py",
    ),
    "notebook": ("tests/project/test_project_notebook.py",),
    "site": ("tests/project/test_project_site.py",),
}
"""Files of each marker; a test elsewhere may have the marker itself."""

DURATIONS: dict[str, dict[str, Any]] = json.loads(
    (ROOT / "tests" / "durations.json").read_text("utf-8")
)
"""Recorded by ``scripts/durations.py``; a test that is not in it counts as fast."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the markers, and sort folders and their files by seconds, so that no long one is last.

    The tests of a folder stay together, because they share fixtures.
    """
    seconds: dict[Path, float] = defaultdict(float)
    for file, recorded in DURATIONS.items():
        seconds[ROOT / file] = recorded["seconds"]
        seconds[(ROOT / file).parent] += recorded["seconds"]
    order: dict[Path, tuple[Any, ...]] = {}
    for path in {item.path for item in items}:
        order[path] = (-seconds[path.parent], path.parent, -seconds[path], path)
    for item in items:
        file, _, name = item.nodeid.partition("::")
        for marker in _markers_of_file(file):
            item.add_marker(marker)
        if name.partition("[")[0] in DURATIONS.get(file, {}).get("slow", ()):
            item.add_marker("slow")
    # one worker runs all browser tests, so that their catalogue is created once
    items.sort(key=lambda item: (item.get_closest_marker("browser") is None, order[item.path]))


@cache
def _markers_of_file(file: str) -> list[str]:
    return [
        marker
        for marker, patterns in MARKED_FILES.items()
        if any(fnmatch(file, pattern) for pattern in patterns)
    ]


def pytest_configure() -> None:
    """Collect no garbage while tests are collected, which only adds objects."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Exempt modules and tests from garbage collection, and collect less often.

    Walking all objects each time takes 5 % of the processor time; to find the few megabytes of
    garbage among them takes half a second.
    """
    gc.enable()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
