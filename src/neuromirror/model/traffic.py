"""What it cost to ask archives, host by host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was asked of one host, or of several.

    ``requests`` counts all that were sent, those to where a redirect led and those sent again too;
    ``bytes`` are those of bodies, as they came; ``retries`` counts requests sent again after a
    trouble that passes, ``throttled`` replies that ask to slow down (429, or 503 with a
    Retry-After or S3's ``SlowDown``). ``waited`` are seconds of pauses before requests were sent
    again; those of requests side by side add up.
    """

    requests: int = 0
    bytes: int = 0
    retries: int = 0
    throttled: int = 0
    waited: float = 0.0

    def __add__(self, more: Traffic) -> Traffic:
        return Traffic(
            self.requests + more.requests,
            self.bytes + more.bytes,
            self.retries + more.retries,
            self.throttled + more.throttled,
            self.waited + more.waited,
        )


def total_traffic(hosts: Mapping[str, Traffic]) -> Traffic:
    """What was asked of all hosts together."""
    return sum(hosts.values(), start=Traffic())


def dump_traffic(hosts: Mapping[str, Traffic]) -> dict[str, dict[str, int | float]]:
    """Traffic by host as the journal holds it: without what is zero."""
    return {
        host: {name: count for name, count in asdict(one).items() if count}
        for host, one in sorted(hosts.items())
    }


def load_traffic(found: Mapping[str, Mapping[str, float]]) -> dict[str, Traffic]:
    """What :func:`dump_traffic` gave, as it was; raises TypeError for anything else."""
    return {host: Traffic(**one) for host, one in found.items()}  # type: ignore[arg-type]
