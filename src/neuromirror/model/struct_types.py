"""Types that msgspec decodes, for use in several threads."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")

_lock = threading.Lock()
_analysed: set[Any] = set()


def analysed_type(kind: type[_T]) -> type[_T]:
    """Return a type after msgspec has analysed it completely.

    msgspec analyses a type when it is used for the first time. Another thread that uses the type
    meanwhile reads incomplete data, and the process crashes. A decoder that is made when its module
    is imported does not need this function.

    Parameters
    ----------
    kind
        The type of a value to decode or convert, such as a ``msgspec.Struct``.

    Returns
    -------
    type
        The same type.
    """
    if kind not in _analysed:
        with _lock:
            msgspec.msgpack.Decoder(kind)
            _analysed.add(kind)
    return kind
