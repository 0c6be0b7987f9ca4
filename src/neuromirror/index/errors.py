"""Errors of the index, one class per cause."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

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


_DAMAGE_SYMPTOMS = (
    AssertionError,
    AttributeError,
    KeyError,
    StopIteration,
    IndexError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
)
"""Exceptions raised for values of a wrong type, or text that is not UTF-8, JSON or a known name."""


def damage_error(path: Path, error: BaseException) -> IndexDamagedError:
    """Return the IndexDamagedError for an index at a path, with an error that reading it caused.

    The message names the path and asks the operator to rebuild the index.
    """
    return IndexDamagedError(
        f"the index {path} is damaged ({type(error).__name__}: {error}); {REBUILD_HINT}"
    )


def wrap_query_methods(reader: type) -> None:
    """Make the methods of a query class raise IndexDamagedError if a row cannot be decoded.

    A row that SQLite returns but that has impossible values is a sign of a damaged database. The
    error is also raised while a generator that a method returned is iterated.
    """
    for name, function in list(vars(reader).items()):
        if inspect.isfunction(function) and not name.startswith("__"):
            setattr(reader, name, _wrap_function(function))
        elif isinstance(function, property) and function.fget is not None:
            setattr(reader, name, property(_wrap_function(function.fget), doc=function.__doc__))


def _wrap_function(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            found = function(self, *args, **kwargs)
        except (NeuromirrorError, UnicodeEncodeError):
            raise  # UnicodeEncodeError is caused by an argument
        except _DAMAGE_SYMPTOMS as error:
            raise damage_error(self.path, error) from error
        return _wrap_iterator(self, found) if hasattr(found, "__next__") else found

    return wrapped


def _wrap_iterator(reader: Any, found: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from found
    except (NeuromirrorError, UnicodeEncodeError):
        raise
    except _DAMAGE_SYMPTOMS as error:
        raise damage_error(reader.path, error) from error
