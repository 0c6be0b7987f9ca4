"""Lock files that pin versions of a store."""

from pathlib import Path

from neuromirror.lab import PinRequest, pin
from support.mirror_harness import MirrorHarness


def pin_latest(mirror: MirrorHarness, path: Path, *names: str) -> Path:
    """Pin the latest versions of datasets in a new lock file."""
    with mirror.index() as index:
        requests = [PinRequest(name, "latest") for name in names]
        assert {one.status for one in pin(path, requests, mirror.store, index)} == {"ok"}
    return path
