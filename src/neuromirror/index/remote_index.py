"""Queries of the index whose answers come from another process, as typed messages.

A job on another machine must not read an SQLite file over a network. Its :class:`RemoteIndex` has
the queries of a crawl, with the types of :class:`Index`; :func:`answer_query` runs one of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from types import GenericAlias
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from neuromirror.index.database import Index
from neuromirror.index.errors import MalformedQueryError
from neuromirror.model.validation import analysed_type

_P = ParamSpec("_P")
_T = TypeVar("_T")


class QuerySender(Protocol):
    """Sends queries to the process that has the index, and returns their encoded results."""

    def query(self, name: str, arguments: dict[str, Any]) -> msgspec.Raw:
        """Send a query to the process that has the index.

        The error of a query is raised here.

        Parameters
        ----------
        name
            The name of a method of :class:`Index`.
        arguments
            The arguments of the method, by name.

        Returns
        -------
        msgspec.Raw
            The encoded result.
        """
        ...


class _RemoteQuery(Generic[_P, _T]):
    """A method of :class:`Index` that another process runs; the result of an iterator is a list.

    Arguments and results are encoded as MessagePack, and decoded as the types of the method.
    """

    def __init__(self, method: Callable[Concatenate[Index, _P], _T]) -> None:
        self._method = method

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, remote: RemoteIndex, owner: type) -> Callable[_P, _T]:
        def query(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            bound = self._signature.bind(None, *args, **kwargs).arguments
            del bound["self"]
            found = self._result.decode(remote.sender.query(self._name, bound))
            result: _T = iter(found) if self._yields else found
            return result

        return query

    def answer(self, index: Index, arguments: dict[str, msgspec.Raw]) -> bytes:
        """Run the query; raises msgspec.ValidationError for arguments of another type."""
        known = {
            name: msgspec.msgpack.decode(value, type=analysed_type(self._types[name]))
            for name, value in arguments.items()
        }
        found = self._method(index, **known)  # type: ignore[call-arg]
        return msgspec.msgpack.encode(list(found) if isinstance(found, Iterator) else found)

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self._method)

    @cached_property
    def _types(self) -> dict[str, Any]:
        return get_type_hints(self._method)

    @cached_property
    def _yields(self) -> bool:
        return get_origin(self._types["return"]) is Iterator

    @cached_property
    def _result(self) -> msgspec.msgpack.Decoder[Any]:
        kind = self._types["return"]
        if self._yields:
            kind = GenericAlias(list, get_args(kind))
        return msgspec.msgpack.Decoder(analysed_type(kind))


class RemoteIndex:
    """The queries of :class:`Index` that a crawl needs, answered by another process.

    A worker uses it: only the writer process has the index open. ``sender`` sends the queries.
    """

    capabilities = _RemoteQuery(Index.capabilities)
    dataset = _RemoteQuery(Index.dataset)
    datasets = _RemoteQuery(Index.datasets)
    events = _RemoteQuery(Index.events)
    exceptions = _RemoteQuery(Index.exceptions)
    exclusive_subdatasets = _RemoteQuery(Index.exclusive_subdatasets)
    failed_tasks = _RemoteQuery(Index.failed_tasks)
    has_failures = _RemoteQuery(Index.has_failures)
    known_contents = _RemoteQuery(Index.known_contents)
    known_locations = _RemoteQuery(Index.known_locations)
    last_version = _RemoteQuery(Index.last_version)
    last_visits = _RemoteQuery(Index.last_visits)
    links = _RemoteQuery(Index.links)
    local_ids_with_versions = _RemoteQuery(Index.local_ids_with_versions)
    mirror_status = _RemoteQuery(Index.mirror_status)
    names_in_other_mirrors = _RemoteQuery(Index.names_in_other_mirrors)
    open_holds = _RemoteQuery(Index.open_holds)
    published_version = _RemoteQuery(Index.published_version)
    released_datasets = _RemoteQuery(Index.released_datasets)
    released_states = _RemoteQuery(Index.released_states)
    resolve = _RemoteQuery(Index.resolve)
    subdatasets = _RemoteQuery(Index.subdatasets)
    superdatasets = _RemoteQuery(Index.superdatasets)
    tombstone = _RemoteQuery(Index.tombstone)
    tombstones = _RemoteQuery(Index.tombstones)
    versions = _RemoteQuery(Index.versions)
    visits = _RemoteQuery(Index.visits)

    def __init__(self, sender: QuerySender) -> None:
        self.sender = sender

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the index belongs to the other process."""


CrawlIndex = Index | RemoteIndex
"""The index as a crawl reads it: the file, or the process that has it."""


def answer_query(index: Index, name: str, arguments: dict[str, msgspec.Raw]) -> bytes:
    """Return the encoded result of a query of a :class:`RemoteIndex`.

    Parameters
    ----------
    index
        The index.
    name
        The name of the query.
    arguments
        The encoded arguments, by name.

    Returns
    -------
    bytes
        The encoded result.

    Raises
    ------
    MalformedQueryError
        If there is no such query, or its arguments have other types.
    NeuromirrorError
        Whatever the query raises.
    """
    query = vars(RemoteIndex).get(name)
    if not isinstance(query, _RemoteQuery):
        raise MalformedQueryError(f"the index has no query {name!r} for jobs")
    try:
        return query.answer(index, arguments)
    except (msgspec.DecodeError, KeyError) as error:
        raise MalformedQueryError(f"the query {name!r} has invalid arguments: {error}") from error
