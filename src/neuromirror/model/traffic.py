"""Counts of requests and bytes per host."""

from __future__ import annotations

from collections.abc import Mapping
from operator import add

from msgspec import Struct, to_builtins
from msgspec.structs import astuple


class Traffic(Struct, frozen=True):
    """The traffic with one or several hosts.

    Attributes
    ----------
    requests
        Requests sent, including redirects and retries.
    bytes
        Bytes of response bodies, before decompression.
    retries
        Requests repeated after a transient error.
    throttled
        Responses that ask the client to slow down (429, or 503 with a Retry-After or S3's
        ``SlowDown``).
    waited
        Seconds spent waiting before retries, added up over concurrent requests.
    """

    requests: int = 0
    bytes: int = 0
    retries: int = 0
    throttled: int = 0
    waited: float = 0.0

    def __add__(self, more: Traffic) -> Traffic:
        return Traffic(*map(add, astuple(self), astuple(more)))


def total_traffic(hosts: Mapping[str, Traffic]) -> Traffic:
    """Return the sum over all hosts.

    Parameters
    ----------
    hosts
        Traffic by host.

    Returns
    -------
    Traffic
        The sum.
    """
    return sum(hosts.values(), start=Traffic())


def dump_traffic(hosts: Mapping[str, Traffic]) -> dict[str, dict[str, int | float]]:
    """Return traffic by host as stored in the journal, without zero values.

    Parameters
    ----------
    hosts
        Traffic by host.

    Returns
    -------
    dict[str, dict[str, int | float]]
        Counters by name, by host.
    """
    return {
        host: {name: count for name, count in to_builtins(one).items() if count}
        for host, one in sorted(hosts.items())
    }


def load_traffic(found: Mapping[str, Mapping[str, float]]) -> dict[str, Traffic]:
    """Parse the result of :func:`dump_traffic`.

    Parameters
    ----------
    found
        Counters by name, by host.

    Returns
    -------
    dict[str, Traffic]
        Traffic by host.

    Raises
    ------
    TypeError
        A counter is unknown or invalid.
    """
    return {host: Traffic(**one) for host, one in found.items()}  # type: ignore[arg-type]
