"""A source for ndstore, NeuroData's former volume service: each channel is a dataset."""

from neuromirror.sources.ndstore.options import NdstoreOptions
from neuromirror.sources.ndstore.source import NdstoreSource

__all__ = ["NdstoreOptions", "NdstoreSource"]
