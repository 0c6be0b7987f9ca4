"""Report impossible rows as damage: another program changed the bytes of the index."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from neuromirror.index.errors import REBUILD_HINT, IndexDamagedError
from neuromirror.model import NeuromirrorError

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
