"""The demo's precomputed layers, and a store that mirrors them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuromirror_demo import DemoBuckets
from support.mirror_harness import MirrorHarness

LAYER_MIRROR = "demo-precomputed"


@dataclass
class LayerMirror:
    """The demo's layers, and a store that mirrors them."""

    buckets: DemoBuckets
    harness: MirrorHarness

    @property
    def store(self) -> Path:
        return self.harness.folder

    @staticmethod
    def version(layer: str) -> str:
        return f"{LAYER_MIRROR}:{layer}@latest"


@contextmanager
def layer_mirror(folder: Path) -> Iterator[LayerMirror]:
    """Serve and mirror the layers."""
    with DemoBuckets(folder / "buckets", layers=True) as running:
        for path in running.mirrors.iterdir():
            if path.stem != LAYER_MIRROR:
                path.unlink()
        harness = MirrorHarness(running.mirrors, folder / "store")
        harness.sync()
        yield LayerMirror(running, harness)
