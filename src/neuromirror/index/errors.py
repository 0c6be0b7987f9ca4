"""Errors of the index, one class per cause."""

from __future__ import annotations

from neuromirror.model import ConfigurationError, NeuromirrorError

REBUILD_HINT = "run `neuromirror rebuild-index`: it is rebuilt from the store, no data is lost"


class IndexUnusableError(NeuromirrorError):
    """The index file is damaged, not writable, or of another schema version or kind."""


class IndexMissingError(IndexUnusableError):
    """The index file does not exist."""


class IndexDamagedError(IndexUnusableError):
    """The content of the index file is damaged."""


class IndexBusyError(NeuromirrorError):
    """Another process has held the index's write lock for too long."""


class QueryStoppedError(NeuromirrorError):
    """A query was stopped: it exceeded its time limit, or its client disconnected."""


class JournalDamagedError(NeuromirrorError):
    """The store's journal or the records of a version are inconsistent."""


class UnknownMirrorError(ConfigurationError):
    """No mirror of this name is in the index."""


class UnknownDatasetError(ConfigurationError):
    """No dataset of this name is in the index."""


class DatasetWithdrawnError(UnknownDatasetError):
    """The operator withdrew the dataset; nothing else of it is shown."""


class UnknownVersionError(ConfigurationError):
    """The dataset has no version of this label, commit or state."""


class UnknownFileError(ConfigurationError):
    """The version has no file at this path."""


class UnknownAttributeError(ConfigurationError):
    """No dataset has an attribute of this name."""


class FilesNotIndexedError(NeuromirrorError):
    """The files of this version are in the store's records only, by a setting of its mirror."""


class UnknownHoldError(ConfigurationError):
    """No hold has this id."""


class AmbiguousNameError(ConfigurationError):
    """A shortened commit id or state matches more than one version."""


class MalformedQueryError(ConfigurationError):
    """The query is neither a checksum nor a key, or has no search terms."""
