"""The places of the crawl's and the lab's tests, for the commands of DataLad."""

from __future__ import annotations

import sys
from pathlib import Path

for room in ("crawl", "lab"):
    sys.path.append(str(Path(__file__).parents[1] / room))
