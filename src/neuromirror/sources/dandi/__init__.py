"""DANDI archives: dandisets, their published versions and drafts."""

from neuromirror.sources.dandi.source import DandiOptions, DandiSource

__all__ = ["DandiOptions", "DandiSource"]
