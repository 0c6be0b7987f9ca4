"""Record how long tests take, for the order of the files and the marker ``slow``.

``scripts/test --numprocesses 7 --dist worksteal --junitxml=FILE`` writes the times of a run;
``scripts/durations.py FILE`` puts them into ``tests/durations.json``: the seconds of each file,
and the names of its slow tests.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

DURATIONS = Path(__file__).resolve().parent.parent / "tests" / "durations.json"

FAST_SHARE = 0.1
"""The share of the total time that the tests without the marker ``slow`` take together."""


def read_junit(path: Path) -> dict[str, Any]:
    """Return for each test file its seconds and the names of its slow functions."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for case in ET.parse(path).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        seconds[file, case.attrib["name"].partition("[")[0]] += float(case.attrib["time"])
    left = sum(seconds.values()) * FAST_SHARE
    recorded: dict[str, Any] = defaultdict(lambda: {"seconds": 0, "slow": []})
    for (file, name), one in sorted(seconds.items(), key=lambda item: item[1]):
        left -= one
        recorded[file]["seconds"] += one
        if left < 0:
            recorded[file]["slow"].append(name)
    return {
        file: {"seconds": round(entry["seconds"], 1), "slow": sorted(entry["slow"])}
        for file, entry in sorted(recorded.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("junit", type=Path, help="the JUnit XML of a run of all tests")
    recorded = read_junit(parser.parse_args().junit)
    DURATIONS.write_text(json.dumps(recorded, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
