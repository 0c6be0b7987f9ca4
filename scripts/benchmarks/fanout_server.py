"""Serve dandisets of equal size on loopback until terminated: ``DIR DATASETS FILES``.

The first line of output is the address. Responses are cached, so that serving takes little of the
measured time.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

from benchmarks.big_archive import BigArchive, write_mirror
from benchmarks.big_plan import ASSETS, ArchivePlan


class CachingServer(BigArchive):
    """An archive that caches its responses."""

    def __init__(self, plan: ArchivePlan) -> None:
        self._answers: dict[tuple[bytes, bytes], bytes] = {}
        super().__init__(plan)

    def _answer_api(self, method: bytes, target: bytes, head: bytes) -> bytes:
        if target.startswith(b"/_demo/"):
            return super()._answer_api(method, target, head)
        if (method, target) not in self._answers:
            self._answers[method, target] = super()._answer_api(method, target, head)
        return self._answers[method, target]

    def _answer_s3(self, method: bytes, target: bytes, head: bytes) -> bytes:
        if (method, target) not in self._answers:
            self._answers[method, target] = super()._answer_s3(method, target, head)
        return self._answers[method, target]


def main(folder: Path, datasets: int, files: int) -> None:
    """Serve until terminated."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    plan = ArchivePlan(datasets * files / ASSETS, [files] * datasets, [0] * datasets, [])
    with CachingServer(plan) as archive:
        write_mirror(folder, archive.api_url, zarrs=False)
        print(json.dumps(archive.about()), flush=True)
        ended.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
