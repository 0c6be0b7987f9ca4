"""Mirrors of the demo archives with short timeouts, for tests of transient faults."""

from pathlib import Path

from neuromirror.crawl import Mirror
from neuromirror.net import RequestLimits, Session
from neuromirror.sources import Source
from neuromirror.sources.dandi.source import DandiOptions, DandiSource
from neuromirror.sources.s3 import S3Options, S3Source
from support.mirror_harness import MirrorHarness

SHORT_LIMITS = RequestLimits(attempts=2, wait=0.01, wait_max=0.02, connect=2.0, read=0.4, total=5.0)


class QuickMirror(Mirror):
    """A mirror of a DANDI archive or a bucket with short timeouts and few attempts."""

    def open(self) -> Source:
        session = Session(allow_private=True, limits=SHORT_LIMITS)
        if self.settings.source == "s3":
            return S3Source(self.name, S3Options.model_validate(self.settings.options), session)
        return DandiSource(self.name, DandiOptions.model_validate(self.settings.options), session)


def quick_harness(mirrors: Path, folder: Path) -> MirrorHarness:
    """Return a harness whose mirrors have short timeouts."""
    return MirrorHarness(
        mirrors, folder, lambda mirror: QuickMirror(mirror.name, mirror.path, mirror.settings)
    )


def dataset_refs(mirror_harness: MirrorHarness) -> dict[str, str]:
    """Return the refs of all datasets, without superdatasets."""
    return {name: commit for name, commit in mirror_harness.refs().items() if "--" in name}
