"""Versioned, bit-reproducible DataLad mirrors of neuroscience archives."""

__version__ = "0.1.0"
