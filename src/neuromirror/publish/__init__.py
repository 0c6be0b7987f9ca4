"""Publish the repositories of a store to forges and other git servers."""

from neuromirror.publish.publishing import forget, publish, record_outcome, sibling_datasets

__all__ = ["forget", "publish", "record_outcome", "sibling_datasets"]
