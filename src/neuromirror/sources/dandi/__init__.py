"""DANDI archives: dandisets, their published versions and drafts."""

from neuromirror.sources.dandi.digests import dandi_part_size
from neuromirror.sources.dandi.source import DandiOptions, DandiSource

__all__ = ["DandiOptions", "DandiSource", "dandi_part_size"]
