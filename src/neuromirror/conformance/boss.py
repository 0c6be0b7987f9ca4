"""Checks of a BOSS (BossDB): lists, documents and cutouts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from neuromirror.conformance.report import Check, ConformanceFinding, name_checks
from neuromirror.net import HttpError
from neuromirror.sources.boss import BossSource
from neuromirror.sources.boss.client import BossClient, url_path

_CUBE: Final = 16
_MOST: Final = 1 << 20
_TRIED: Final = 5
"""Maximum number of collections, and of experiments, searched for a channel."""


def checks(source: BossSource) -> Iterator[tuple[str, Check]]:
    """Return the name and the function of each check of a BOSS, in the order in which they run."""
    made = BossChecks(source)
    return name_checks("boss", made.lists, made.documents, made.cutouts)


class BossChecks:
    """The checks of one BOSS, all on the same channel."""

    def __init__(self, source: BossSource) -> None:
        self._session = source.session
        self._api = source.options.base
        self._client = BossClient(source.session, self._api, source.options.token)

    @cached_property
    def _channel(self) -> tuple[str, str, str] | None:
        """The first channel that can be read without a token."""
        for collection in self._client.collections()[:_TRIED]:
            for experiment in self._client.experiments(collection)[:_TRIED]:
                for channel in self._client.channels(collection, experiment)[:1]:
                    if self._client.may_read(collection, experiment, channel):
                        return collection, experiment, channel
        return None

    def lists(self) -> Iterator[ConformanceFinding]:
        """Check that collections, experiments and channels are listed."""
        count = len(self._client.collections())
        yield ConformanceFinding("boss.lists", "ok" if count else "limited", f"{count} collections")
        found = self._channel
        yield ConformanceFinding(
            "boss.channels",
            "ok" if found else "unknown",
            "/".join(found) if found else "no channel is readable without a token",
        )

    def documents(self) -> Iterator[ConformanceFinding]:
        """Check that a channel states its data type, and its levels their extents."""
        if self._channel is None:
            return
        channel = self._client.channel(*self._channel)
        datatype = channel.get("datatype")
        yield ConformanceFinding(
            "boss.datatype",
            "ok" if datatype in ("uint8", "uint16", "uint32", "uint64") else "broken",
            f"datatype {datatype}",
        )
        levels = self._client.downsample_info(*self._channel)
        yield ConformanceFinding(
            "boss.levels",
            "ok" if levels else "limited",
            f"downsampling: {channel.get('downsample_status', 'unspecified')}",
            "" if levels else "the levels are computed from the coordinate frame",
        )

    def cutouts(self) -> Iterator[ConformanceFinding]:
        """Check that a cutout is available in each encoding, and repeatable."""
        if self._channel is None:
            return
        box = "/".join(["0", *[f"0:{_CUBE}"] * 3])
        url = f"{self._api}/{url_path('cutout', *self._channel)}/{box}/"
        for kind in ("application/npygz", "application/blosc"):
            try:
                bodies = [
                    self._session.get_bytes(url, limit=_MOST, accept=kind, parse=lambda got: got)
                    for _ in range(2)
                ]
            except HttpError as error:
                status, seen = "limited", f"HTTP {error.status}"
            else:
                same = len({hashlib.sha256(body.content).digest() for body in bodies}) == 1
                status = "ok"
                seen = (
                    f"{len(bodies[0].content)} bytes as "
                    f"{bodies[0].headers.get('Content-Type', 'no type')}, "
                    f"{'identical' if same else 'encoded differently'} when requested again"
                )
            rule = f"boss.cutout-{kind.rpartition('/')[2]}"
            yield ConformanceFinding(rule, status, seen, "decoded voxels are compared, not bytes")  # type: ignore[arg-type]
