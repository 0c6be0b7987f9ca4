"""ndstore, NeuroData's older service of volumes, read through its REST interface."""

from neuromirror.sources.ndstore.options import NdstoreOptions
from neuromirror.sources.ndstore.source import NdstoreSource

__all__ = ["NdstoreOptions", "NdstoreSource"]
