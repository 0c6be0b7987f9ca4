"""Record how long tests take, and write the map of the tests.

``scripts/test --junitxml=FILE`` writes the times of a run; ``scripts/tests_map.py FILE`` puts them
into ``tests/durations.json``, and the sums per folder into ``docs/explanation/tests.md``. The suite
takes the order of its files and the marker ``slow`` from there.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
DURATIONS = ROOT / "tests" / "durations.json"
PAGE = ROOT / "docs" / "explanation" / "tests.md"

FAST_SHARE = 0.1
"""The share of the total time that the tests without the marker ``slow`` take together."""

OTHER_FOLDERS = {
    "browser": "The pages of the catalogue in Chromium: layout, keyboard, themes, accessibility.",
    "datalad_ext": "The DataLad extension, as DataLad calls it.",
    "demo": "The demo archives answer as the real ones do.",
    "fuzz": "Each parser of foreign bytes with generated and with found inputs.",
    "project": "Documentation, packaging, scripts and this suite itself.",
}

HEAD = """\
# Map of the tests

<!-- Written by scripts/tests_map.py: do not edit. -->

`scripts/test` runs all of them. Counts and seconds come from `tests/durations.json`, as of when
that file was last written: tests added since are not counted. Its first contents were put together
from several partial runs. Seconds are elapsed time and include the waiting of tests that run beside
others, so that only their relation to each other is meaningful, and that approximately.
Tests without the markers `slow`, `browser`, `dask`, `kill`, `notebook` and `site` are what
`scripts/test --fast` runs.

| folder | tests | tests that are not slow | seconds | what it tests |
|---|---:|---:|---:|---|
"""


def read_junit(path: Path) -> dict[str, Any]:
    """Return for each test file its tests, seconds, and the names of its slow functions."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    tests: dict[tuple[str, str], int] = defaultdict(int)
    for case in ET.parse(path).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        one = (file, case.attrib["name"].partition("[")[0])
        seconds[one] += float(case.attrib["time"])
        tests[one] += 1
    slow = set(seconds)
    left = sum(seconds.values()) * FAST_SHARE
    for one in sorted(seconds, key=lambda one: seconds[one]):
        left -= seconds[one]
        if left < 0:
            break
        slow.discard(one)
    recorded: dict[str, Any] = {}
    for file, name in sorted(seconds):
        entry = recorded.setdefault(file, {"seconds": 0, "tests": 0, "fast": 0, "slow": []})
        entry["seconds"] += seconds[file, name]
        entry["tests"] += tests[file, name]
        if (file, name) in slow:
            entry["slow"].append(name)
        else:
            entry["fast"] += tests[file, name]
    for entry in recorded.values():
        entry["seconds"] = round(entry["seconds"], 1)
    return recorded


def described(folder: str) -> str:
    """Return the summary of the package that a folder tests."""
    if folder in OTHER_FOLDERS:
        return OTHER_FOLDERS[folder]
    module = ROOT / "src" / "neuromirror" / folder / "__init__.py"
    text = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    summary = text.partition("\n\n")[0].replace("``", "`")
    return " ".join(summary.split())


def page(recorded: dict[str, Any]) -> str:
    """Return the page: one row per folder, the longest first."""
    folders: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
    for file, entry in recorded.items():
        sums = folders[file.split("/")[1]]
        for column, key in enumerate(("tests", "fast", "seconds")):
            sums[column] += entry[key]
    rows = [
        f"| `tests/{folder}` | {tests:.0f} | {fast:.0f} | {seconds:.0f} | {described(folder)} |\n"
        for folder, (tests, fast, seconds) in sorted(folders.items(), key=lambda one: -one[1][2])
    ]
    total = [sum(sums[column] for sums in folders.values()) for column in range(3)]
    last = "| all | {:.0f} | {:.0f} | {:.0f} | |\n".format(*total)
    return HEAD + "".join(rows) + last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("junit", type=Path, nargs="?", help="the JUnit XML of a run of all tests")
    given = parser.parse_args()
    if given.junit:
        recorded = read_junit(given.junit)
        DURATIONS.write_text(json.dumps(recorded, indent=1) + "\n", "utf-8")
    PAGE.write_text(page(json.loads(DURATIONS.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
