"""Rows that no index can have: its bytes were changed from outside, and that is reported."""

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
"""What rows of a wrong type, or text that is no UTF-8, no JSON or no name, lead to."""


def damage_error(path: Path, error: BaseException) -> IndexDamagedError:
    """Return the error of an index that cannot be read for what is in it."""
    return IndexDamagedError(
        f"the index {path} is damaged ({type(error).__name__}: {error}); {REBUILD_HINT}"
    )


def wrap_query_methods(reader: type) -> None:
    """Make the methods that a class of queries defines raise IndexDamagedError for rows that
    cannot be.

    Also for what they return to be iterated, where they are generators.
    """
    for name, function in list(vars(reader).items()):
        if inspect.isfunction(function) and not name.startswith("__"):
            setattr(reader, name, _wrap_function(function))
        elif isinstance(function, property) and function.fget is not None:
            setattr(reader, name, property(_wrap_function(function.fget), doc=function.__doc__))


def _wrap_function(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(self: Any, *given: Any, **named: Any) -> Any:
        try:
            found = function(self, *given, **named)
        except (NeuromirrorError, UnicodeEncodeError):
            raise  # the latter is of what the caller gave
        except _DAMAGE_SYMPTOMS as error:
            raise damage_error(self.path, error) from error
        return _wrap_iterator(self, found) if isinstance(found, Iterator) else found

    return wrapped


def _wrap_iterator(reader: Any, found: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from found
    except (NeuromirrorError, UnicodeEncodeError):
        raise
    except _DAMAGE_SYMPTOMS as error:
        raise damage_error(reader.path, error) from error
