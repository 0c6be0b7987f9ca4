"""A source for DANDI archives: dandisets with their published versions and drafts."""

from neuromirror.sources.dandi.options import DandiOptions
from neuromirror.sources.dandi.source import DandiSource

__all__ = ["DandiOptions", "DandiSource"]
