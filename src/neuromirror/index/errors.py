"""What can go wrong with the index, one class a cause."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError

REBUILD_HINT = "run `neuromirror rebuild-index`: it is made again from the store, nothing is lost"


class IndexUnusableError(NeuromirrorError):
    """The index file cannot be used: corrupt, of a newer schema, not ours, or not writable."""


class IndexMissingError(IndexUnusableError):
    """There is no index file where one was to be read."""


class IndexDamagedError(IndexUnusableError):
    """The index file has bytes that it cannot have."""


class IndexBusyError(NeuromirrorError):
    """Another process has held the index's writing lock for too long."""


class QueryStoppedError(NeuromirrorError):
    """A query that took too long, or whose result nobody waits for any more."""


class JournalDamagedError(NeuromirrorError):
    """The store's journal or a version's records say what cannot be."""


class UnknownMirrorError(ConfigurationError):
    """No mirror of this name is in the index."""


class UnknownDatasetError(ConfigurationError):
    """No dataset of this name is in the index."""


class DatasetWithdrawnError(UnknownDatasetError):
    """The dataset was taken down by the operator: this is all that is said of it."""


class UnknownVersionError(ConfigurationError):
    """The dataset has no version of this label, commit or state."""


class UnknownFileError(ConfigurationError):
    """The version has no file at this path."""


class UnknownAttributeError(ConfigurationError):
    """No dataset has an attribute of this name."""


class FilesNotIndexedError(NeuromirrorError):
    """The index was set not to have the files of this version; the store's records have them."""


class UnknownHoldError(ConfigurationError):
    """There is no hold of this id."""


class AmbiguousNameError(ConfigurationError):
    """A shortened commit id or state fits more than one version."""


class MalformedQueryError(ConfigurationError):
    """What was asked for is not a checksum, a key, or words to search."""
