"""What can go wrong with the index, one class a cause."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError

REBUILD = "run `neuromirror rebuild-index`: it is made again from the store, nothing is lost"


class IndexUnusable(NeuromirrorError):
    """The index file cannot be used: corrupt, of a newer schema, not ours, or not writable."""


class IndexMissing(IndexUnusable):
    """There is no index file where one was to be read."""


class IndexDamaged(IndexUnusable):
    """The index file has bytes that it cannot have."""


class IndexBusy(NeuromirrorError):
    """Another process has held the index's writing lock for too long."""


class QueryStopped(NeuromirrorError):
    """A query that took too long, or whose result nobody waits for any more."""


class JournalBroken(NeuromirrorError):
    """The store's journal or a version's records say what cannot be."""


class UnknownMirror(ConfigurationError):
    """No mirror of this name is in the index."""


class UnknownDataset(ConfigurationError):
    """No dataset of this name is in the index."""


class DatasetWithheld(UnknownDataset):
    """The dataset was taken down by the operator: this is all that is said of it."""


class UnknownVersion(ConfigurationError):
    """The dataset has no version of this label, commit or state."""


class UnknownFile(ConfigurationError):
    """The version has no file at this path."""


class UnknownAttribute(ConfigurationError):
    """No dataset has an attribute of this name."""


class FilesNotIndexed(NeuromirrorError):
    """The index was set not to have the files of this version; the store's records have them."""


class UnknownHold(ConfigurationError):
    """There is no hold of this id."""


class AmbiguousName(ConfigurationError):
    """A shortened commit id or state fits more than one version."""


class MalformedQuery(ConfigurationError):
    """What was asked for is not a checksum, a key, or words to search."""
