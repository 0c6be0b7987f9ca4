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
    """The store's journal, or the records of a version, are damaged or inconsistent."""


class UnknownMirrorError(ConfigurationError):
    """No mirror of the requested name is in the index."""


class UnknownDatasetError(ConfigurationError):
    """No dataset of the requested name is in the index."""


class DatasetWithdrawnError(UnknownDatasetError):
    """The operator withdrew the requested dataset; the index shows only its tombstone."""


class UnknownVersionError(ConfigurationError):
    """The dataset has no version with the requested label, commit or state digest."""


class UnknownFileError(ConfigurationError):
    """The version has no file at the requested path."""


class UnknownAttributeError(ConfigurationError):
    """No dataset has an attribute of this name."""


class FilesNotIndexedError(NeuromirrorError):
    """The files of the requested version are not in the index but only in the store's records.

    The setting ``index_entries`` of its mirror excludes them.
    """


class UnknownHoldError(ConfigurationError):
    """No hold has the requested id."""


class AmbiguousNameError(ConfigurationError):
    """A shortened commit id or state matches more than one version."""


class MalformedQueryError(ConfigurationError):
    """A user's query is invalid.

    It is not a checksum or key, has no or too many search terms, or names an unknown facet or
    order.
    """
