"""A source for ndstore, NeuroData's former volume service: each channel is a dataset."""

from neuromirror.sources.ndstore.source import NdstoreOptions, NdstoreSource

__all__ = ["NdstoreOptions", "NdstoreSource"]
