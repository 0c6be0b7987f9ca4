"""Layers of Neuroglancer's precomputed format in a bucket: every layer is a dataset."""

from neuromirror.sources.precomputed.options import PrecomputedOptions
from neuromirror.sources.precomputed.source import PrecomputedSource

__all__ = ["PrecomputedOptions", "PrecomputedSource"]
