"""Costs of visits and lists: measured figures, and a function to measure them again.

``scripts/simulate --costs`` crawls the demo archives and prints their requests beside those of the
table.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = 1000
"""Assets, or objects, per page of a list (DANDI and S3 alike)."""

ROUND_TRIP = 0.1
"""Seconds from a request to its reply: assumed, because a demo archive has no latency."""

START = 0.3
"""Seconds of a job in addition to its requests and files: 'dandiset' of the benchmarks."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Requests and seconds of one kind of archive.

    A visit takes ``requests``, one per page of ``PAGE`` files (if ``pages``), and for the first
    visit ``first`` more. ``file_seconds`` are the processing time per listed file, ``new_seconds``
    per new one. A list takes ``listing``, and ``listing_each`` per dataset.
    """

    requests: int
    pages: bool
    first: int
    file_seconds: float
    new_seconds: float
    listing: int
    listing_each: float

    def visit(self, files: int, *, first: bool = False) -> tuple[int, float]:
        """Return the requests and seconds of a visit."""
        pages = -(-files // PAGE) if self.pages else 0
        requests = self.requests + pages + (self.first if first else 0)
        seconds = START + requests * ROUND_TRIP + files * self.file_seconds
        return requests, seconds + (files * self.new_seconds if first else 0.0)

    def list(self, datasets: int) -> int:
        """Return the requests of a list of this many datasets."""
        return self.listing + round(datasets * self.listing_each)


COSTS = {
    # seconds: 'archive', unchanged and deep, and first crawl
    "dandi": Cost(2, True, 1, 6.5e-5, 3.2e-4, 1, 1 / PAGE),
    # seconds: 'recrawl' and 's3'; a list by prefixes, and what the bucket allows
    "s3": Cost(0, True, 16, 2.5e-6, 6.8e-5, 11, 1 / PAGE),
    # the same, with the pages of DocDB's list
    "docdb": Cost(0, True, 16, 2.5e-6, 6.8e-5, 11, 2 / PAGE),
    # with hash = "fetch": samples of the voxels at each visit; seconds: 'volume', crawl
    "boss": Cost(84, False, 100, 3.2e-5, 2.9e-4, 1, 1.0),
    # layers of buckets; each is searched for in its folders
    "precomputed": Cost(0, True, 40, 2.5e-6, 6.8e-5, 2, 8.0),
}
"""Requests are those of the demo archives, seconds those in benchmarks.md with this name."""


def measured(cache: Path | None = None) -> Iterator[dict[str, Any]]:
    """Crawl the demo archives: requests and seconds of lists and visits, first and unchanged.

    ``cache`` is the folder of their NWB files. The BOSS has images only.
    """
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.store import Store
    from neuromirror_demo import DemoArchive
    from neuromirror_demo.boss import CELLS, SKETCH, DemoBoss

    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with tempfile.TemporaryDirectory(prefix="simulate-") as name, ExitStack() as stack:
        folder = Path(name)
        archive = DemoArchive(folder / "demo", buckets=True, layers=True, cache=cache)
        for demo in (archive, DemoBoss(folder / "boss")):
            stack.enter_context(demo)
            if isinstance(demo, DemoBoss):
                for path in (CELLS, SKETCH):
                    demo.soft_delete(path)
                # channels of this size have too few of the demo's blocks for the sample of a visit
                for file in demo.mirrors.glob("*.toml"):
                    small = file.read_text().replace("[128, 128, 16]", "[64, 64, 16]")
                    file.write_text(small)
            mirrors = load_mirrors(demo.mirrors)
            store = Store.open(folder / "store", create=True)
            for mirror in mirrors.values():
                if mirror.name == "demo-hostile":
                    continue
                line: dict[str, Any] = {"source": mirror.settings.source, "mirror": mirror.name}
                # if the overview reports changes, only a deep visit can be unnecessary
                is_dandi = mirror.settings.source == "dandi"
                for what, deep in (("first", False), ("unchanged", is_dandi)):
                    sync = Sync(store, store.index_path, deep=deep, jobs=1)
                    began = time.perf_counter()
                    requests = parse_sync_requests([mirror.name], mirrors)
                    found = [one for one in sync.results(requests) if one.visit]
                    took = time.perf_counter() - began
                    visits = sum(_request_count(one.traffic) for one in found)
                    line.setdefault("datasets", len(found))
                    line |= {
                        f"{what}_requests": round(visits / len(found), 1),
                        f"{what}_seconds": round(took / len(found), 3),
                        "list_requests": _request_count(sync.traffic()[mirror.name]) - visits,
                    }
                yield line


def _request_count(traffic: Any) -> int:
    return sum(one.requests for one in traffic.values())
