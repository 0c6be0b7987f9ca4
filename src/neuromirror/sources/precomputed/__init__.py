"""A source for Neuroglancer precomputed layers in a bucket: each layer is a dataset."""

from neuromirror.sources.precomputed.layer import PrecomputedOptions
from neuromirror.sources.precomputed.source import PrecomputedSource

__all__ = ["PrecomputedOptions", "PrecomputedSource"]
