"""A mirror of the demo archive with short timeouts, for tests of transient faults."""

from __future__ import annotations

from pathlib import Path

from neuromirror.crawl import Mirror
from neuromirror.net import RequestLimits, Session
from neuromirror.sources import Source
from neuromirror.sources.dandi.source import DandiOptions, DandiSource
from support.mirror_harness import MirrorHarness

SHORT_LIMITS = RequestLimits(attempts=2, wait=0.01, wait_max=0.02, connect=2.0, read=0.4, total=5.0)


class QuickMirror(Mirror):
    """A mirror of a DANDI archive with short timeouts and few attempts."""

    def open(self) -> Source:
        options = DandiOptions.model_validate(self.settings.options)
        source: Source = DandiSource(
            self.name, options, Session(allow_private=True, limits=SHORT_LIMITS)
        )
        return source


def quick_harness(mirrors: Path, folder: Path) -> MirrorHarness:
    """Return a harness whose mirrors have short timeouts."""
    return MirrorHarness(
        mirrors, folder, lambda mirror: QuickMirror(mirror.name, mirror.path, mirror.settings)
    )


def dataset_refs(mirror_harness: MirrorHarness) -> dict[str, str]:
    """Return the refs of all datasets, without superdatasets."""
    return {name: commit for name, commit in mirror_harness.refs().items() if "--" in name}
